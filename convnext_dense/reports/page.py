"""A report as one HTML file that needs nothing else: no network, no other file."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from convnext_dense.errors import UserError
from convnext_dense.files import names_unwritable, written_whole

_QUALITY = 80  # of JPEG pictures


class Picture(NamedTuple):
    """A picture of a page.

    Attributes:
        source: Its content as a data address.
        text: What is written below.
    """

    source: str
    text: str


@dataclass
class Section:
    """A part of a page.

    Attributes:
        title: The heading.
        note: A sentence below it.
        points: A list of sentences.
        header: Of a table.
        rows: Of the table.
        figures: Bokeh figures.
        pictures: Pictures.
    """

    title: str
    note: str = ""
    points: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    figures: Sequence[Any] = ()
    pictures: Sequence[Picture] = ()
    divs: Sequence[str] = field(default=(), init=False)


def as_picture(pixels: np.ndarray, text: str) -> Picture:
    """Return an (H, W, 3) BGR picture for a page."""
    _, content = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return Picture(f"data:image/jpeg;base64,{base64.b64encode(content.tobytes()).decode()}", text)


def write_page(path: Path, title: str, subtitle: str, sections: Sequence[Section]) -> None:
    """Write a page.

    Raises:
        UserError: Bokeh is not installed, or the file cannot be written.
    """
    require_bokeh()
    import jinja2
    from bokeh.embed import components
    from bokeh.resources import Resources

    script, divs = components([figure for section in sections for figure in section.figures])
    remaining = iter(divs)
    for section in sections:
        section.divs = [next(remaining) for _ in section.figures]
    template = jinja2.Environment(autoescape=True).from_string(
        Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    )
    text = template.render(
        title=title,
        subtitle=subtitle,
        sections=sections,
        scripts=Resources(mode="inline", components=["bokeh"]).render(),
        figures_script=script,
    )
    with names_unwritable(path), written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def require_bokeh() -> None:
    """Raise ``UserError`` where Bokeh is not installed."""
    try:
        import bokeh  # noqa: F401
    except ImportError as error:
        raise UserError("A report needs Bokeh: pip install 'convnext-dense[report]'.") from error


def number(value: Any, digits: int = 3) -> str:
    """Return a number as it stands in a table; a dash for none."""
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
