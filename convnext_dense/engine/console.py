"""What of a run's log reaches standard output; the log file has all of it.

While a run is built, mmengine logs the environment, the config, the hooks, and hundreds of learning rates. They are for
the file. Our own lines, warnings and errors reach standard output at any time.
"""

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmengine.runner import FlexibleRunner as MMEngineFlexibleRunner
from mmengine.runner import Runner as MMEngineRunner

from convnext_dense import terminal

_PACKAGE = str(Path(__file__).parents[1])
_SHOWN_BY_DISPLAY = {"logger_hook", "checkpoint_hook"}  # mmengine's modules
# Warnings of mmengine about itself, in every training.
_ABOUT_ITSELF = ('"FileClient" will be deprecated', '"HardDiskBackend" is the alias')
_STYLES = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}


class ConsoleFilter(logging.Filter):
    """Decides which records of a run reach standard output.

    Attributes:
        is_building: Whether the run is still being built.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_building = True

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is printed."""
        if record.levelno >= logging.WARNING:
            return not record.getMessage().startswith(_ABOUT_ITSELF)
        if record.pathname.startswith(_PACKAGE):
            return True
        return not self.is_building and not (terminal.is_live() and record.module in _SHOWN_BY_DISPLAY)


class TerminalHandler(logging.Handler):
    """Prints log messages on a terminal, above what is drawn there."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.stream = sys.stdout  # mmengine's backend of MLflow asks every handler whether its stream is open
        terminal.console()  # finds the terminal now, where standard output is not redirected

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message; a warning or an error says what it is."""
        level = f"{record.levelname.capitalize()}: " if record.levelno >= logging.WARNING else ""
        terminal.print_line(level + self.format(record), _STYLES.get(record.levelno, ""))


class QuietRunner:
    """What our runners have in common: standard output gets what ``ConsoleFilter`` lets through."""

    logger: logging.Logger

    def _log_env(self, *args: Any) -> None:
        """Fit the logger, which is there by now, and log the environment and the config."""
        _fit_console(self.logger)
        super()._log_env(*args)  # type: ignore[misc]

    def build_evaluator(self, *args: Any, **kwargs: Any) -> Any:
        """Build an evaluator, and log what its metrics print."""
        with _prints_logged():
            return super().build_evaluator(*args, **kwargs)  # type: ignore[misc]


class Runner(QuietRunner, MMEngineRunner):
    """mmengine's Runner, with less on standard output."""

    @staticmethod
    def build_dataloader(*args: Any, **kwargs: Any) -> Any:
        """Build a data loader, and log what its data set prints."""
        with _prints_logged():
            return MMEngineRunner.build_dataloader(*args, **kwargs)


class FlexibleRunner(QuietRunner, MMEngineFlexibleRunner):
    """mmengine's FlexibleRunner, with less on standard output."""

    @staticmethod
    def build_dataloader(*args: Any, **kwargs: Any) -> Any:
        """Build a data loader, and log what its data set prints."""
        with _prints_logged():
            return MMEngineFlexibleRunner.build_dataloader(*args, **kwargs)


def end_building(logger: logging.Logger) -> None:
    """Let the rest of a run's log reach standard output."""
    for handler in logger.handlers:
        for one in handler.filters:
            if isinstance(one, ConsoleFilter):
                one.is_building = False


def _fit_console(logger: logging.Logger) -> None:
    """Put a ``ConsoleFilter`` on the handler of standard output, which is another one on a terminal."""
    for number, handler in enumerate(logger.handlers):
        if type(handler) is not logging.StreamHandler:
            continue
        if is_main_process() and terminal.is_live():
            shown = TerminalHandler(handler.level)
            shown.filters = list(handler.filters)
            logger.handlers[number] = handler = shown
        handler.addFilter(ConsoleFilter())


@contextlib.contextmanager
def _prints_logged() -> Iterator[None]:
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        if printed.getvalue().strip():
            print_log(printed.getvalue().strip(), logger="current")
