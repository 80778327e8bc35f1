"""The signals of batch systems, ``timeout`` and terminals, and the exit codes of what they end."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

# Exit codes: EX_TEMPFAIL of sysexits.h, "try again later", or the shell's code for Ctrl-C.
EXIT_CODES = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130}


@contextlib.contextmanager
def leaving_on_signals() -> Iterator[None]:
    """Exit at once on a signal, with its exit code. Does nothing in threads other than the main one.

    Raises:
        SystemExit: A signal was received.
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


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(EXIT_CODES[signal.Signals(number)])
