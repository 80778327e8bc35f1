"""Preparing and launching runs on mmengine's Runner."""

from convnext_dense.engine.checkpoint_guard import CheckpointGuardHook
from convnext_dense.engine.compile_hook import CompileBackboneHook
from convnext_dense.engine.config import read_config
from convnext_dense.engine.epoch_seed import EpochSeedHook
from convnext_dense.engine.launch import evaluate_model, train_model

__all__ = [
    "CheckpointGuardHook",
    "CompileBackboneHook",
    "EpochSeedHook",
    "evaluate_model",
    "read_config",
    "train_model",
]
