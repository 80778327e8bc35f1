"""Prepare and launch runs with mmengine's Runner."""

from convnext_dense.config.reading import read_config
from convnext_dense.engine.batch_sampler import PositionedBatchSampler
from convnext_dense.engine.checkpoint_guard import CheckpointGuardHook
from convnext_dense.engine.checkpoint_hook import CheckpointHook
from convnext_dense.engine.compile_hook import CompileBackboneHook
from convnext_dense.engine.early_stopping_hook import EarlyStoppingHook
from convnext_dense.engine.interrupt_hook import InterruptHook
from convnext_dense.engine.launch import evaluate_model, train_model
from convnext_dense.engine.live_display_hook import LiveDisplayHook
from convnext_dense.engine.local_checkpoints import read_local_checkpoint
from convnext_dense.engine.loops import EpochBasedTrainLoop, IterBasedTrainLoop
from convnext_dense.engine.named_images_hook import NamedImagesHook
from convnext_dense.engine.nonfinite_hook import NonFiniteHook
from convnext_dense.engine.pictures_hook import PicturesHook
from convnext_dense.engine.reconstructions_hook import ReconstructionsHook
from convnext_dense.engine.show_hook import ShowHook
from convnext_dense.engine.single_value_hook import SingleValueHook
from convnext_dense.engine.summary_hook import SummaryHook
from convnext_dense.engine.trackers import WandbVisBackend
from convnext_dense.engine.validation_hook import ValidationHook

__all__ = [
    "CheckpointGuardHook",
    "CheckpointHook",
    "CompileBackboneHook",
    "EarlyStoppingHook",
    "EpochBasedTrainLoop",
    "InterruptHook",
    "IterBasedTrainLoop",
    "LiveDisplayHook",
    "NamedImagesHook",
    "NonFiniteHook",
    "PicturesHook",
    "PositionedBatchSampler",
    "ReconstructionsHook",
    "ShowHook",
    "SingleValueHook",
    "SummaryHook",
    "ValidationHook",
    "WandbVisBackend",
    "evaluate_model",
    "read_config",
    "read_local_checkpoint",
    "train_model",
]
