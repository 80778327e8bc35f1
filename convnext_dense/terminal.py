"""What a terminal shows while something runs: lines that stay, and below them a display that is drawn again and again.

The cursor rests on an empty line above the display. Before a line is printed or the display is drawn, everything from
there down is erased. Whatever worker processes and C libraries write by themselves therefore stands above the display
and stays. The cursor is never hidden, so nothing has to be put back when a process is killed.

Where standard output is no terminal, nothing is shown.
"""

import functools
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from datetime import timedelta
from types import TracebackType
from typing import TextIO, TypeVar

from rich.console import Console, ConsoleOptions, ConsoleRenderable, Group, RenderableType, RenderHook, RenderResult
from rich.control import Control
from rich.file_proxy import FileProxy
from rich.filesize import decimal
from rich.progress_bar import ProgressBar
from rich.segment import ControlType, Segment, Segments
from rich.table import Table
from rich.text import Text

Item = TypeVar("Item")

_SECONDS = 0.5  # between two drawings, and before the first: what is done by then needs none
_STOP = 10  # columns from one tab stop to the next: most facts take two, so that 40 columns hold two of them
_ERASE_CODES = "\r\x1b[J"  # to the begin of the line; erase from there to the end of the screen
_ERASE = Segments([Segment(_ERASE_CODES, None, [(ControlType.CARRIAGE_RETURN,)])])
_displays: list["Display"] = []  # the one that is shown


def is_live() -> bool:
    """Return whether standard output is a terminal on which text can be drawn again."""
    return sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


@functools.cache
def console() -> Console:
    """Return the console on standard output, which stays there if somebody redirects ``sys.stdout``."""
    return Console(file=sys.stdout, highlight=False)


class _TerminalProxy(FileProxy):
    """Stands for a stream of the terminal while something is drawn; that of rich before 15 says that it is none."""

    def isatty(self) -> bool:
        return True


class Display(RenderHook):
    """Something that is drawn below all lines of a terminal, from ``start`` to ``stop``; one at a time.

    Args:
        render: Returns what is drawn. It is called for each drawing.
    """

    def __init__(self, render: Callable[[], RenderableType]) -> None:
        self._render = render
        self._drawn = 0.0
        self._streams: dict[str, TextIO] = {}

    def start(self) -> None:
        """Show the display if there is a terminal that shows no other; what is printed then goes above it."""
        if _displays or not is_live():
            return
        _displays.append(self)
        self._drawn = time.monotonic()
        console().push_render_hook(self)
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream.isatty():  # errors that go to a file do not belong on the screen
                self._streams[name] = stream
                setattr(sys, name, _TerminalProxy(console(), stream))

    def draw(self, *, now: bool = False) -> None:
        """Draw the display if the last time was long enough ago, or ``now``."""
        if self in _displays and (now or time.monotonic() - self._drawn >= _SECONDS):
            console().print(Control())
            self._drawn = time.monotonic()

    def stop(self, *, is_kept: bool = False) -> None:
        """Take the display away; if it ``is_kept``, its last state stays as lines."""
        if self not in _displays:
            return
        for name, stream in self._streams.items():
            getattr(sys, name).flush()
            setattr(sys, name, stream)
        self._streams = {}
        console().pop_render_hook()
        _displays.remove(self)
        console().print(_ERASE, *([self._render()] if is_kept else []), end="")

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Put what is printed between erasing and drawing the display."""
        return [_ERASE, *renderables, self]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._render(), options, pad=False)[: max(options.size.height - 1, 1)]
        for line in lines:
            yield Segment.line()
            yield from line
        yield Control(ControlType.CARRIAGE_RETURN, (ControlType.CURSOR_UP, len(lines)))


def write_at_once(text: str) -> None:
    """Write to standard error past Python's streams, as a signal handler must; the next drawing goes below it."""
    is_shown = _displays and os.isatty(2)
    os.write(2, f"{_ERASE_CODES if is_shown else ''}{text}".encode())


def end_display() -> None:
    """Take away the display that an error has left on the terminal."""
    for display in list(_displays):
        display.stop()


def bar_line(label: str, done: int, total: int | None, *facts: str) -> RenderableType:
    """Return a line with a progress bar: ``label``, the bar, and ``facts``.

    Args:
        label: What is in progress.
        done: How much is done.
        total: Of how much; None if that is not known.
        *facts: What stands behind the bar.
    """
    line = Table.grid(padding=(0, 2, 0, 0), expand=True)
    line.add_column(no_wrap=True)
    line.add_column(ratio=1, min_width=2)
    for _ in facts:
        line.add_column(no_wrap=True)
    line.add_row(Text(label, "bold"), ProgressBar(total, done, pulse=total is None), *facts)
    return line


class FactLines:
    """Facts, pairs of a name and a value, in as few lines as there is room for, each at a tab stop.

    Args:
        facts: The pairs; a name may be empty.
    """

    def __init__(self, facts: Sequence[tuple[str, str]]) -> None:
        self.facts = facts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = Text()
        for name, value in self.facts:
            fact = Text.assemble((name, "cyan"), " " if name else "", value)
            fact.pad_right(-(fact.cell_len + 2) % _STOP + 2)
            if line and line.cell_len + fact.cell_len - 2 > options.max_width:
                yield line
                line = Text()
            line.append_text(fact)
        line.rstrip()
        yield line


def left(seconds: float) -> str:
    """Return how much time is left, such as ``'1:02:03 left'``."""
    return f"{timedelta(seconds=round(seconds))} left"


class Progress:
    """A progress bar, to be used in a ``with`` block.

    Args:
        what: What is in progress.
        total: How much there is to do; None if that is not known.
        is_bytes: Whether bytes are counted.
        plain_seconds: Without a terminal, seconds between two lines on standard error; by default there are none.
    """

    def __init__(
        self, what: str, total: int | None = None, *, is_bytes: bool = False, plain_seconds: float | None = None
    ) -> None:
        self.what = what
        self.total = total
        self.done = 0
        self._write = decimal if is_bytes else str
        self._plain_seconds = None if is_live() else plain_seconds
        self._begin = self._said = time.monotonic()
        self._skipped = 0
        self._display = Display(self._render)

    def __enter__(self) -> "Progress":
        self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.stop()
        if self._plain_seconds is not None:
            self._say()

    def skip(self, number: int) -> None:
        """Count what was done before, which says nothing about the speed."""
        self.done += number
        self._skipped += number

    def advance(self, number: int = 1) -> None:
        """Count what has been done."""
        self.done += number
        self._display.draw()
        if self._plain_seconds is not None and time.monotonic() - self._said >= self._plain_seconds:
            self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        print(f"{self.what}: {self._counted()}", file=sys.stderr, flush=True)

    def _counted(self) -> str:
        return self._write(self.done) + ("" if self.total is None else f" of {self._write(self.total)}")

    def _render(self) -> RenderableType:
        speed = (self.done - self._skipped) / max(time.monotonic() - self._begin, 1e-9)
        facts = [("", f"{decimal(int(speed))}/s" if self._write is decimal else f"{speed:.1f}/s")]
        if self.total is not None and speed > 0:
            facts.insert(0, ("", left(max(self.total - self.done, 0) / speed)))
        return Group(bar_line(f"{self.what} {self._counted()}", self.done, self.total), FactLines(facts))


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Yield ``items`` and show how many of them are done. See ``Progress``; a sequence knows its ``total``."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(what, total) as progress:
        for item in items:
            yield item
            progress.advance()


def print_line(text: str, style: str = "") -> None:
    """Print text on the terminal, above the display; paths that are longer than a line stay in one piece."""
    width = console().width
    lines = [
        textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False) if len(line) > width else line
        for line in text.splitlines()
    ]
    console().print(Text("\n".join(lines), style), soft_wrap=True)
