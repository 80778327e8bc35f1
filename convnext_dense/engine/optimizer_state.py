"""Reshape the optimizer state of a checkpoint to the current shapes of the parameters."""

from collections.abc import Mapping
from typing import Any

from mmengine.optim import OptimWrapperDict
from torch import Tensor
from torch.optim import Optimizer


def fit_optimizer_state(optim_wrapper: Any, saved: Mapping[str, Any]) -> None:
    """Reshape the state of parameters that have lost dimensions of length 1 since the checkpoint was written.

    Global response normalisation used to keep its parameters as ``(1, 1, 1, C)`` and now keeps them as ``(C,)``. torch
    does not check shapes when it loads a state, and would fail at the first step.

    Args:
        optim_wrapper: mmengine's wrapper of one or several optimizers.
        saved: The ``optimizer`` entry of a checkpoint; changed in place.
    """
    if isinstance(optim_wrapper, OptimWrapperDict):
        for name, wrapper in optim_wrapper.items():
            _fit(wrapper.optimizer, saved.get(name, {}))
    else:
        _fit(optim_wrapper.optimizer, saved)


def _fit(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    params = [param for group in optimizer.param_groups for param in group["params"]]
    indices = [index for group in saved.get("param_groups", ()) for index in group["params"]]
    for index, param in zip(indices, params, strict=False):  # a different number of parameters is an error later
        state = saved["state"].get(index, {})
        for name, value in state.items():
            if isinstance(value, Tensor) and value.dim() > param.dim() and _without_ones(value) == _without_ones(param):
                state[name] = value.reshape(param.shape)


def _without_ones(tensor: Tensor) -> list[int]:
    return [length for length in tensor.shape if length != 1]
