"""One view of runs with one optimizer and with several."""

from typing import Any

from mmengine.optim import OptimWrapper, OptimWrapperDict


def optim_wrappers(runner: Any) -> dict[str, OptimWrapper]:
    """Return the optimizer wrappers of a run by name; the name of a single one is empty."""
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, OptimWrapperDict):
        return dict(wrapper.items())
    return {} if wrapper is None else {"": wrapper}


def is_between_steps(runner: Any) -> bool:
    """Whether no optimizer has gradients of batches that wait for more batches before it steps."""
    return all(wrapper.should_update() for wrapper in optim_wrappers(runner).values())


def accumulative_counts(runner: Any) -> int:
    """Return the number of batches per step, the largest one of several optimizers."""
    return max((wrapper._accumulative_counts for wrapper in optim_wrappers(runner).values()), default=1)
