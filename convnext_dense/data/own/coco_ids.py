"""Ids of images, categories and annotations in COCO's format, where a number may also be written as text."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from convnext_dense.errors import UserError

# '007' may be a name, of which '7' is another; pandas writes 7.0.
_WHOLE = re.compile(r"(-?(?:0|[1-9]\d{0,15}))(?:\.0+)?", re.ASCII)


class Ids:
    """The ids of images or categories, by which annotations name them.

    Args:
        entries: The list of images or categories.
        kind: What they are, for messages.
        path: The annotation file.

    Raises:
        UserError: Two are the same number, once as text.
    """

    def __init__(self, entries: Iterable[Any], kind: str, path: Path) -> None:
        ids = [entry.get("id") for entry in entries if isinstance(entry, dict)]
        self.known = set(filter(may_be_id, ids))
        self._by_number = check_numbers(self.known, f"{kind} ids", path)

    def find(self, value: Any) -> Any:
        """Return the id that is meant, in the form in which it is listed; an unknown one as it is."""
        if may_be_id(value):
            return value if value in self.known else self._by_number.get(as_id(value), value)
        return value


def check_numbers(ids: Iterable[Any], kind: str, path: Path) -> dict[Any, Any]:
    """Return ids by the number that they are, or else by their text.

    Raises:
        UserError: Two are the same number, once as text.
    """
    found: dict[Any, Any] = {}
    for value in ids:
        other = found.setdefault(as_id(value), value)
        if other is not value and other != value:  # NaN differs from itself
            raise UserError(
                f"Annotation file {path} has the {kind} {other!r} and {value!r}, which are the same number: renumber "
                "one of them."
            )
    return found


def as_id(value: Any) -> Any:
    """Return the whole number that a text says; any other value as it is."""
    found = _WHOLE.fullmatch(value) if isinstance(value, str) else None
    return int(found.group(1)) if found else value


def may_be_id(value: Any) -> bool:
    """Whether a value from JSON is a number or text; true, false and null are not."""
    return type(value) in (int, float) or isinstance(value, str)
