"""Stops a run whose checkpoint does not fill the model."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from convnext_dense.checkpoints import compare, unwrap
from convnext_dense.registry import HOOKS


@HOOKS.register_module()
class CheckpointGuardHook(Hook):
    """Compares every checkpoint that the runner loads or resumes with the model before mmengine copies it.

    mmengine itself only warns when tensors are missing or have another shape, and goes on with random weights. What
    was loaded is logged in one line.
    """

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Raises ValueError when a tensor of the model is missing in the checkpoint or has another shape there."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        report = compare(model.state_dict(), unwrap(checkpoint), runner.cfg.get("load_from") or "the last checkpoint")
        report.raise_if_incomplete()
        runner.logger.info(str(report))
