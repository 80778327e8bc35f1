"""Uniform access to the optimizers of a run, be it one or several."""

from typing import Any

from mmengine.optim import OptimWrapper, OptimWrapperDict


def optim_wrappers(runner: Any) -> dict[str, OptimWrapper]:
    """Return the optimizer wrappers of a run by name; a single one has an empty name."""
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, OptimWrapperDict):
        return dict(wrapper.items())
    return {} if wrapper is None else {"": wrapper}


def is_between_steps(runner: Any) -> bool:
    """Return whether no optimizer is in the middle of accumulating gradients."""
    return all(wrapper.should_update() for wrapper in optim_wrappers(runner).values())


def accumulative_counts(runner: Any) -> int:
    """Return the number of batches per optimizer step; the largest one if there are several optimizers."""
    return max((wrapper._accumulative_counts for wrapper in optim_wrappers(runner).values()), default=1)
