"""Stops a run whose checkpoint does not fill the model, or does not go on with the schedule of the config."""

import copy
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import MODELS
from mmengine.runner import BaseLoop, find_latest_checkpoint
from torch import Tensor
from torch.distributed.fsdp import FullStateDictConfig, FullyShardedDataParallel, StateDictType

from convnext_dense.checkpoints import Checkpoint, ClassDim, ClassRows, measure_class_dims
from convnext_dense.config.class_counts import set_num_classes
from convnext_dense.engine.optimizer_state import fit_optimizer_state
from convnext_dense.engine.resuming import check_schedule
from convnext_dense.registry import HOOKS


@HOOKS.register_module()
class CheckpointGuardHook(Hook):
    """Compares every checkpoint that the runner loads or resumes with the model before mmengine copies it.

    mmengine itself only warns when tensors are missing or have another shape, and goes on with random weights. Here
    that is an error, a backbone in another layout is renamed on the way, and what was loaded is logged in one line.
    Where a training starts from a model of other classes, a class of the same name starts from its rows, and others
    are new.
    """

    priority = "VERY_HIGH"  # before the moving average, which takes its copy from the renamed checkpoint

    def after_load_checkpoint(self, runner, checkpoint: dict[str, Any]) -> None:
        """Put the model's own names into the checkpoint.

        Raises:
            UserError: A tensor of the model is missing in the checkpoint or has another shape there, or a run that is
                resumed from it was made with another schedule.
        """
        # runner.cfg lacks load_from when the runner was not built from a config
        source = runner._load_from or find_latest_checkpoint(runner.work_dir) or "the checkpoint"
        opened = Checkpoint(source, checkpoint)
        wanted = _whole_state_dict(runner.model)
        report, tensors = opened.fit(wanted, classes=_class_rows(runner, opened))
        report.raise_if_incomplete()
        checkpoint["state_dict"] = wanted | tensors if report.left_new else tensors
        runner.logger.info(str(report))
        if runner._resume:
            fit_optimizer_state(runner.optim_wrapper, checkpoint.get("optimizer", {}))
            check_schedule(runner, checkpoint, source)


def _class_rows(runner: Any, checkpoint: Checkpoint) -> ClassRows | None:
    """Return what a training takes over from a model of other classes; None where they are, or have to be, the same."""
    is_training = isinstance(runner.__dict__.get("_train_loop"), BaseLoop)  # mmengine builds the loop that it runs
    if runner._resume or not is_training or runner.cfg.get("model") is None:
        return None
    names = (getattr(runner.train_loop.dataloader.dataset, "metainfo", None) or {}).get("classes")
    names = (names,) if isinstance(names, str) else tuple(names or ())
    names_in_file = checkpoint.class_names
    if not names or names == names_in_file:
        return None
    return ClassRows(find_class_dims(runner.cfg.model, len(names)), names, names_in_file)


def find_class_dims(model: ConfigDict, num_classes: int) -> dict[str, tuple[ClassDim, ...]]:
    """Find the tensors of a model that count classes, by building it for one class more.

    Args:
        model: The model's config, for ``num_classes``.
        num_classes: The number of classes of its data.
    """
    more = copy.deepcopy(model)
    set_num_classes(more, num_classes + 1, current=num_classes)
    return measure_class_dims(_shapes(model), _shapes(more), num_classes)


def _shapes(model: ConfigDict) -> dict[str, tuple[int, ...]]:
    try:
        with torch.device("meta"):
            built = MODELS.build(copy.deepcopy(model))
    except Exception:  # some constructors calculate with the values of tensors
        built = MODELS.build(copy.deepcopy(model))
    return {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()}


def _whole_state_dict(model: Any) -> dict[str, Tensor]:
    """Return the state dict of the model within wrappers, in every process also where it is sharded."""
    while not isinstance(model, FullyShardedDataParallel) and (
        is_model_wrapper(model) or isinstance(model, BaseTTAModel)
    ):
        model = model.module
    if not isinstance(model, FullyShardedDataParallel):
        return model.state_dict()
    whole = StateDictType.FULL_STATE_DICT
    with FullyShardedDataParallel.state_dict_type(model, whole, FullStateDictConfig(offload_to_cpu=True)):
        return model.state_dict()
