"""Draw docs/live.svg: the terminal of a short training of the demo, in the middle of an evaluation.

python -m benchmarks.live_picture
"""

import contextlib
import io
import itertools
import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pyte
from pyte.screens import Char
from rich.console import Console
from rich.style import Style
from rich.text import Text

from convnext_dense.data.shapes.coco import write_coco

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs/live.svg"
SIZE = (24, 96)  # lines and columns
CONFIG = "configs/demo/mask_rcnn_convnext_atto_scratch.py"
ARGUMENTS = ["--data", "data/shapes", "--epochs", "3", "--cfg-options", "train_cfg.val_interval=1"]
MOMENT = re.compile(r"Epoch 2/3, batch (\d+)/\1.*Validation 1[0-9]/20", re.DOTALL)


def main() -> None:
    """Train, take the picture, and write it."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "configs").symlink_to(ROOT / "configs")
        write_coco(Path(folder, "data/shapes"), 120, num_val=20, image_size=(128, 128))
        screen = watch([sys.executable, str(ROOT / "tools/train.py"), CONFIG, *ARGUMENTS], Path(folder))
    console = Console(record=True, width=SIZE[1], file=io.StringIO(), force_terminal=True)
    for line in to_lines(screen):
        console.print(line, soft_wrap=True)
    svg = console.export_svg(title=f"python tools/train.py {CONFIG} --data data/shapes")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # a page must not fetch fonts from elsewhere
    PICTURE.write_text(svg, encoding="utf-8")
    print(PICTURE)


def watch(command: list[str], folder: Path) -> pyte.Screen:
    """Run a command on a terminal until ``MOMENT`` stands on it, and return its screen."""
    height, width = SIZE
    screen = pyte.Screen(width, height)
    stream = pyte.ByteStream(screen)
    master, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "LINES": str(height), "COLUMNS": str(width)}
    environment |= dict(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    )
    os.close(terminal)
    with contextlib.suppress(OSError):  # the other end is closed
        while written := os.read(master, 65536):
            for piece in re.split(rb"(?=\r\x1b\[J)", written):
                stream.feed(piece)
                if MOMENT.search("\n".join(screen.display)):
                    process.kill()
                    process.wait()
                    return screen
    raise RuntimeError("\n".join(["The training ended before the moment of the picture:", *screen.display]))


def to_lines(screen: pyte.Screen) -> list[Text]:
    """Return what is on a screen, without the empty lines at its end."""
    lines = []
    for number in range(screen.lines):
        line = Text()
        chars = [screen.buffer[number][column] for column in range(screen.columns)]
        for style, alike in itertools.groupby(chars, to_style):
            line.append("".join(char.data for char in alike), style)
        line.rstrip()
        lines.append(line)
    while lines and not lines[-1]:
        lines.pop()
    return lines


def to_style(char: Char) -> Style:
    """Return the style of a character; pyte has hexadecimal colours or names of its own."""
    names = {"default": None, "brown": "yellow"}
    color = names.get(char.fg, char.fg)
    return Style(color=f"#{color}" if color and re.fullmatch("[0-9a-f]{6}", color) else color, bold=char.bold)


if __name__ == "__main__":
    main()
