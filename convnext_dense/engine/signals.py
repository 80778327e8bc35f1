"""What a run does with the signals that batch systems, `timeout` and terminals send, before and beside its hooks."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader

# What a process leaves with: sysexits.h's EX_TEMPFAIL, "try again later", or the shell's number for Ctrl-C.
EXIT_CODES = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130}


@contextlib.contextmanager
def leaving_on_signals() -> Iterator[None]:
    """Leave at once on a signal, by its exit code. In threads other than the main one nothing is changed.

    Raises:
        SystemExit: A signal came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, _leave) for number in EXIT_CODES}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def shield_workers(loader: Any) -> None:
    """Keep the workers of a data loader alive when the whole process group is sent a signal.

    Their process decides when they are needed no more: it tells them, and torch sends SIGTERM to one that does not
    listen, which is obeyed. Without their process they end by themselves, as torch sees to.

    Args:
        loader: Changed in place, before it is iterated over. What is no data loader of torch's, or has no workers,
            stays as it is.
    """
    if not isinstance(loader, DataLoader) or not loader.num_workers or not hasattr(signal, "pthread_sigmask"):
        return
    if getattr(loader.worker_init_fn, "func", None) is _init_worker:
        return
    loader.worker_init_fn = partial(_init_worker, loader.worker_init_fn)
    loader._get_iterator = partial(_start_workers, loader._get_iterator)  # type: ignore[method-assign]


def _start_workers(start: Callable[[], Any]) -> Any:
    """Start workers with the signals blocked, which they inherit: there is no moment in which one would end them."""
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


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(EXIT_CODES[signal.Signals(number)])
