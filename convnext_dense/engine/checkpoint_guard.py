"""Stops a run whose checkpoint does not fill the model, or does not go on with the schedule of the config."""

from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import find_latest_checkpoint
from torch import Tensor
from torch.distributed.fsdp import FullStateDictConfig, FullyShardedDataParallel, StateDictType

from convnext_dense.checkpoints import hash_in_background, match_weights
from convnext_dense.engine.optimizer_state import fit_optimizer_state
from convnext_dense.engine.resuming import check_schedule
from convnext_dense.registry import HOOKS


@HOOKS.register_module()
class CheckpointGuardHook(Hook):
    """Compares every checkpoint that the runner loads or resumes with the model before mmengine copies it.

    mmengine itself only warns when tensors are missing or have another shape, and goes on with random weights. Here
    that is an error, a backbone in another layout is renamed on the way, and what was loaded is logged in one line.
    """

    priority = "VERY_HIGH"  # before the moving average, which takes its copy from the renamed checkpoint

    def after_load_checkpoint(self, runner, checkpoint: dict[str, Any]) -> None:
        """Puts the model's own names into the checkpoint.

        Raises:
            ValueError: A tensor of the model is missing in the checkpoint or has another shape there, or a run that is
                resumed from it was made with another schedule.
        """
        # runner.cfg lacks load_from when the runner was not built from a config
        source = runner._load_from or find_latest_checkpoint(runner.work_dir) or "the checkpoint"
        digest = hash_in_background(Path(source)) if Path(source).is_file() else None
        report, tensors = match_weights(_whole_state_dict(runner.model), checkpoint, source, digest=digest)
        report.raise_if_incomplete()
        checkpoint["state_dict"] = tensors
        runner.logger.info(str(report))
        if runner._resume:
            fit_optimizer_state(runner.optim_wrapper, checkpoint.get("optimizer", {}))
            check_schedule(runner, checkpoint, source)


def _whole_state_dict(model: Any) -> dict[str, Tensor]:
    """The state dict of the model within wrappers, in every process also where it is sharded."""
    while not isinstance(model, FullyShardedDataParallel) and (
        is_model_wrapper(model) or isinstance(model, BaseTTAModel)
    ):
        model = model.module
    if not isinstance(model, FullyShardedDataParallel):
        return model.state_dict()
    whole = StateDictType.FULL_STATE_DICT
    with FullyShardedDataParallel.state_dict_type(model, whole, FullStateDictConfig(offload_to_cpu=True)):
        return model.state_dict()
