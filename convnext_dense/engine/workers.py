"""Keep the worker processes of a run alive when a signal is sent to all of its processes."""

import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from torch.utils.data import DataLoader

from convnext_dense.signals import EXIT_CODES


def shield_workers(loader: Any) -> None:
    """Keep the workers of a data loader alive if a signal is sent to the whole process group.

    The parent process ends its workers when it no longer needs them; a worker that does not react gets SIGTERM from
    torch, which still ends it. If the parent process is gone, torch makes the workers end by themselves.

    Args:
        loader: Data loader, changed in place before it is iterated over. Anything that is not a torch ``DataLoader``
            with workers is left unchanged.
    """
    if not isinstance(loader, DataLoader) or not loader.num_workers or not hasattr(signal, "pthread_sigmask"):
        return
    if getattr(loader.worker_init_fn, "func", None) is _init_worker:
        return
    loader.worker_init_fn = partial(_init_worker, loader.worker_init_fn)
    loader._get_iterator = partial(_start_workers, loader._get_iterator)  # type: ignore[method-assign]


def _start_workers(start: Callable[[], Any]) -> Any:
    """Start workers with the signals blocked. Workers inherit this, so no signal can end them while they start."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, EXIT_CODES)
    try:
        return start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _init_worker(init: Callable[[int], None] | None, number: int) -> None:
    threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()
    if init is not None:
        init(number)


def _leave_with_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
