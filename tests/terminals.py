"""A terminal of one's own for a function: it runs in a fork, and pyte renders what it writes."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
import traceback

import pyte
from mmengine.logging import MMLogger

from convnext_dense import terminal
from convnext_dense.cli.command_line import run_command


class Terminal:
    """Runs a function as a command on a terminal, from the start to the end.

    Attributes:
        frames: The screen before each drawing.
        text: What stands on the screen at the end, with what has been scrolled off its top.
        words: The same with single spaces instead of the ends of lines.
        raw: All that was written.
        code: The exit code.
        is_cursor_hidden: Whether the cursor is hidden at the end.
        cursor: Line and column of the cursor at the end.
    """

    def __init__(self, function, *, width=80, height=40, term="xterm-256color", react=None):
        self.frames, self.raw = [], b""
        self._screen = pyte.HistoryScreen(width, height, history=5000, ratio=0.5)
        stream = pyte.ByteStream(self._screen)
        process, master = pty.fork()
        if process == 0:
            _run(function, width, height, term)
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            if react is not None:
                react(self, master)
            if select.select([master], [], [], 0.2)[0]:
                try:
                    written = os.read(master, 65536)
                except OSError:  # the other end is closed
                    break
                self.raw += written
                for piece in re.split(rb"(?=\r\x1b\[J)", written):  # several drawings may arrive at once
                    stream.feed(piece)
                    self.frames.append("\n".join(line.rstrip() for line in self._screen.display).rstrip())
        else:
            os.kill(process, signal.SIGKILL)
        self.code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        os.close(master)
        above = ["".join(line[x].data for x in range(width)).rstrip() for line in self._screen.history.top]
        self.text = "\n".join([*above, self.frames[-1]])
        self.words = " ".join(self.text.split())
        self.is_cursor_hidden = self._screen.cursor.hidden
        self.cursor = (self._screen.cursor.y, self._screen.cursor.x)

    def showed(self, *texts):
        """Whether all texts stood on the screen at the same time."""
        return any(all(text in frame for text in texts) for frame in self.frames)


def _run(function, width, height, term):
    code = 1
    try:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
            os.environ.pop(name, None)
        os.environ["TERM"] = term
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        terminal.console.cache_clear()
        MMLogger._instance_dict.clear()  # a run of the same second would write into the log of the one before
        run_command(function)
        code = 0
    except SystemExit as leaving:
        code = leaving.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
