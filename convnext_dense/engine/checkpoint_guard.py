"""Stop a run whose checkpoint does not fill the model or was written with another schedule than the config's."""

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
from convnext_dense.checkpoints.detector_layouts import check_settings
from convnext_dense.config.class_counts import set_num_classes
from convnext_dense.engine.optimizer_state import fit_optimizer_state
from convnext_dense.engine.resuming import check_schedule
from convnext_dense.registry import HOOKS


@HOOKS.register_module()
class CheckpointGuardHook(Hook):
    """Checks every checkpoint that the runner loads or resumes against the model before mmengine copies it.

    mmengine itself only warns if tensors are missing or have another shape, and continues with random weights. This
    hook raises an error instead, renames a backbone of another layout, and logs what was loaded in one line. If
    training starts from a model with other classes, a class of the same name starts from its rows in the checkpoint,
    and all others start from random values.
    """

    priority = "VERY_HIGH"  # before the moving average, which copies the renamed checkpoint

    def after_load_checkpoint(self, runner, checkpoint: dict[str, Any]) -> None:
        """Rename the tensors of the checkpoint to those of the model.

        Raises:
            UserError: A tensor of the model is missing in the checkpoint or has another shape there, or the checkpoint
                of a resumed run was written with another schedule.
        """
        # runner.cfg lacks load_from when the runner was not built from a config
        source = runner._load_from or find_latest_checkpoint(runner.work_dir) or "the checkpoint"
        opened = Checkpoint(source, checkpoint)
        wanted = _whole_state_dict(runner.model)
        report, tensors = opened.fit(wanted, classes=_class_rows(runner, opened))
        report.raise_if_incomplete()
        check_settings(_unwrapped(runner.model), report.layout)
        checkpoint["state_dict"] = wanted | tensors if report.left_new else tensors
        runner.logger.info(str(report))
        if runner._resume:
            fit_optimizer_state(runner.optim_wrapper, checkpoint.get("optimizer", {}))
            check_schedule(runner, checkpoint, source)


def _class_rows(runner: Any, checkpoint: Checkpoint) -> ClassRows | None:
    """Return how training takes over rows from a model with other classes; None if the classes are or must be equal."""
    is_training = isinstance(runner.__dict__.get("_train_loop"), BaseLoop)  # only the loop that runs is built
    if runner._resume or not is_training or runner.cfg.get("model") is None:
        return None
    names = (getattr(runner.train_loop.dataloader.dataset, "metainfo", None) or {}).get("classes")
    names = (names,) if isinstance(names, str) else tuple(names or ())
    names_in_file = checkpoint.class_names
    if not names or names == names_in_file:
        return None
    return ClassRows(find_class_dims(runner.cfg.model, len(names)), names, names_in_file)


def find_class_dims(model: ConfigDict, num_classes: int) -> dict[str, tuple[ClassDim, ...]]:
    """Find the tensors of a model that have entries per class, by building it for one class more.

    Args:
        model: Config of the model, for ``num_classes`` classes.
        num_classes: Number of classes of the data.
    """
    more = copy.deepcopy(model)
    set_num_classes(more, num_classes + 1, current=num_classes)
    return measure_class_dims(_shapes(model), _shapes(more), num_classes)


def _shapes(model: ConfigDict) -> dict[str, tuple[int, ...]]:
    try:
        with torch.device("meta"):
            built = MODELS.build(copy.deepcopy(model))
    except Exception:  # some constructors compute with the values of tensors
        built = MODELS.build(copy.deepcopy(model))
    return {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()}


def _unwrapped(model: Any) -> Any:
    """Return the model inside its wrappers, or its wrapper that shards it, which passes attributes on."""
    while not isinstance(model, FullyShardedDataParallel) and (
        is_model_wrapper(model) or isinstance(model, BaseTTAModel)
    ):
        model = model.module
    return model


def _whole_state_dict(model: Any) -> dict[str, Tensor]:
    """Return the full state dict of the model inside its wrappers, in every process even if it is sharded."""
    model = _unwrapped(model)
    if not isinstance(model, FullyShardedDataParallel):
        return model.state_dict()
    whole = StateDictType.FULL_STATE_DICT
    with FullyShardedDataParallel.state_dict_type(model, whole, FullStateDictConfig(offload_to_cpu=True)):
        return model.state_dict()
