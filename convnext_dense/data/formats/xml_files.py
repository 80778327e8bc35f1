"""Reads XML files, and remembers the line of every element."""

import re
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from convnext_dense.data.formats.finding import start_of
from convnext_dense.errors import UserError

_LINE = "line of the file"


def read_xml(path: Path) -> Element:
    """Read an XML file and return its root. Entities, which could grow without bound, are refused.

    Raises:
        UserError: The file is missing or not XML; the message names the line.
    """
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        builder.start(tag, attributes | {_LINE: str(parser.CurrentLineNumber)})

    def refuse(*_: object) -> None:
        raise UserError(f"File {path}, line {parser.CurrentLineNumber}, declares an entity; write its text instead.")

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, lambda tag: builder.end(tag)
    parser.CharacterDataHandler, parser.EntityDeclHandler = builder.data, refuse
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        raise UserError(f"File {path} is not XML: {error}.") from error
    except ValueError as error:  # an encoding that expat does not know
        raise UserError(f"File {path} cannot be read: {error}; save it in UTF-8.") from error
    except OSError as error:
        raise UserError(f"File {path} cannot be read: {error.strerror or error}.") from error
    return builder.close()


def begins_with(path: Path, tag: str) -> bool:
    """Whether the root of an XML file has this tag, by the start of the file alone.

    Raises:
        UserError: The file is empty, cut off or not XML.
    """
    start = start_of(path, {b"<": b">"}, "XML")
    first = re.search(rb"<(?![?!])\s*([\w.:-]+)", start)
    return first is not None and first.group(1) == tag.encode()


def line_of(element: Element) -> str:
    """Return the line of the file in which an element begins."""
    return element.get(_LINE, "1")


def text_of(element: Element, tag: str, file: Path) -> str:
    """Return the text of an element's child.

    Raises:
        UserError: There is no such child, or it has no text.
    """
    text = (element.findtext(tag) or "").strip()
    if not text:
        raise UserError(f"File {file}, line {line_of(element)}, has <{element.tag}> without <{tag}>.")
    return text
