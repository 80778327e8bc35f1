"""Tables of the classes of label images: their names, and the value or the colour that stands for each in the files.

Read are names alone (one per line), names with colours in any order (``name 128 0 0``, ``128,0,0,name``,
``name #800000``), CVAT's ``labelmap.txt``, Roboflow's ``_classes.csv``, and the ``dataset_meta.json`` of Datumaro.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from convnext_dense.data.text_files import read_json, read_text
from convnext_dense.errors import UserError, shortened

Colour = tuple[int, int, int]  # red, green, blue in 0..255

# Names of the files in which tools write tables, in the order in which they are looked for.
TABLE_FILES = (
    "classes.txt",
    "labelmap.txt",
    "class_dict.csv",
    "label_colors.txt",
    "_classes.csv",
    "codes.txt",
    "dataset_meta.json",
)
MAX_CLASSES = 255  # 255 itself is the value of ignored pixels
_NUMBER = r"\s*(\d{1,3})\s*"
_PATTERNS = (
    re.compile(rf"(?P<name>[^:]+):{_NUMBER},{_NUMBER},{_NUMBER}:"),  # CVAT
    re.compile(r"(?P<name>[^:]+)::"),  # CVAT without colours
    re.compile(r"(?P<name>.+?)[\s,;:]+#(?P<hex>[0-9a-fA-F]{6})$"),
    re.compile(r"(?P<name>.+?)[\s,;:]+(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})$"),
    re.compile(r"(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(?P<name>\D.*)$"),
)
_VALUE = re.compile(r"(?P<value>\d+)\s*,\s*(?P<name>.+)$")
_HEADER = re.compile(r"\s*(name|class|label|r|g|b|red|green|blue|pixel value|colou?r)\s*(,|;|$)", re.IGNORECASE)


class ClassTable(NamedTuple):
    """Classes of label images.

    Attributes:
        names: Class names.
        values: The value of each class in files of one channel.
        colours: The colour of each class in files of three channels; None if there are no colours.
        ignored: Values and colours of pixels that count for nothing.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    colours: tuple[Colour, ...] | None = None
    ignored: frozenset[int | Colour] = frozenset({255})

    @classmethod
    def of_names(cls, names: Sequence[str]) -> "ClassTable":
        """Return the table in which each class is written as its position."""
        return cls(tuple(names), tuple(range(len(names))))

    def without(self, labels: Sequence[str]) -> "ClassTable":
        """Return the table with classes ignored, each given as its value in the files or as its name.

        Raises:
            UserError: A name is not one of the classes, or no class is left.
        """
        dropped: set[int] = set()
        ignored: set[int | Colour] = set(self.ignored)
        for label in labels:
            if label in self.names:
                dropped.add(self.names.index(label))
            elif label.isdigit():
                ignored.add(int(label))
                dropped.update(place for place, value in enumerate(self.values) if value == int(label))
            else:
                raise UserError(f"--ignore-labels {label}: the classes are {', '.join(self.names)}.")
        for place in dropped:
            ignored.add(self.values[place])
            if self.colours:
                ignored.add(self.colours[place])
        kept = [place for place in range(len(self.names)) if place not in dropped]
        if not kept:
            raise UserError(f"--ignore-labels {' '.join(labels)} leaves no class to learn.")
        colours = tuple(self.colours[place] for place in kept) if self.colours else None
        names, values = (tuple(each[place] for place in kept) for each in (self.names, self.values))
        return ClassTable(names, values, colours, frozenset(ignored))  # type: ignore[arg-type]


def find_table(*folders: Path) -> Path | None:
    """Return the table of classes in the first folder that has one."""
    files = (folder / name for folder in folders for name in TABLE_FILES)
    return next((file for file in files if file.is_file()), None)


def read_table(path: Path) -> ClassTable:
    """Read a table of classes.

    Raises:
        UserError: The file names no class, or one of its lines does not fit the others.
    """
    if not path.is_file():
        raise UserError(f"Table of classes {path} does not exist.")
    if path.suffix.lower() == ".json":
        return _read_meta(path)
    text = read_text(path, "Table of classes")
    numbered = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    has_values = bool(numbered) and "pixel value" in numbered[0][1].lower()
    rows = [(number, line) for number, line in numbered if not line.startswith("#")]
    if rows and len(rows) > 1 and _HEADER.match(rows[0][1]) and (path.suffix == ".csv" or _has_colour(rows[1][1])):
        rows = rows[1:] if not _has_colour(rows[0][1]) else rows
    parsed = [(number, *_parse(line, has_values=has_values)) for number, line in rows]
    if not parsed:
        raise UserError(f"Table of classes {path} has no class: write one name per line.")
    parsed = _without_numbers(parsed)
    _check(parsed, path)
    if len(parsed) > MAX_CLASSES:
        raise UserError(f"Table of classes {path} has {len(parsed)} classes: label images have {MAX_CLASSES} at most.")
    names = tuple(name for _, name, _ in parsed)
    keys = [key for _, _, key in parsed]
    if isinstance(keys[0], int):
        return ClassTable(names, tuple(keys))  # type: ignore[arg-type]
    colours = None if keys[0] is None else tuple(keys)
    return ClassTable(names, tuple(range(len(names))), colours)  # type: ignore[arg-type]


def _without_numbers(parsed: list[tuple[int, str, Any]]) -> list[tuple[int, str, Any]]:
    """Return the rows without the numbers of the classes, 0, 1, ..., if each name begins with its own."""
    found = [re.match(r"(\d+)[\s:,;]+(\S.*)$", name) for _, name, _ in parsed]
    if len(parsed) > 1 and all(match and int(match[1]) == place for place, match in enumerate(found)):
        return [(number, match[2], key) for match, (number, _, key) in zip(found, parsed, strict=True) if match]
    return parsed


def _has_colour(line: str) -> bool:
    return any(pattern.match(line) for pattern in _PATTERNS)


def _parse(line: str, *, has_values: bool) -> tuple[str, int | Colour | None]:
    """Return the name on a line, and its value or colour."""
    line = line.replace('"', "")
    if has_values and (match := _VALUE.match(line)):
        return match["name"].strip(), int(match["value"])
    for pattern in _PATTERNS:
        if match := pattern.match(line):
            found = match.groupdict()
            if found.get("hex"):
                return found["name"].strip(), tuple(bytes.fromhex(found["hex"]))  # type: ignore[return-value]
            numbers = [int(part) for part in match.groups() if part != match["name"]]
            return found["name"].strip(), tuple(numbers[:3]) if numbers else None  # type: ignore[return-value]
    return line, None


def _check(parsed: Sequence[tuple[int, str, int | Colour | None]], path: Path) -> None:
    seen_names, seen_keys = set(), set()
    kind = type(parsed[0][2])
    for number, name, key in parsed:
        place = f"Table of classes {path}, line {number},"
        if type(key) is not kind:
            raise UserError(f"{place} has {shortened(name)!r}: either all classes have a colour, or none.")
        if isinstance(key, tuple) and max(key) > 255:
            raise UserError(f"{place} has the colour {key}: its parts must be 0 to 255.")
        if name in seen_names:
            raise UserError(f"{place} names the class {name!r} a second time.")
        if key is not None and key in seen_keys:
            raise UserError(
                f"{place} gives {name!r} the {'value' if kind is int else 'colour'} {key} of another class."
            )
        seen_names.add(name)
        seen_keys.add(key)


def _read_meta(path: Path) -> ClassTable:
    content = read_json(path, "Table of classes")
    labels = content.get("label_map") if isinstance(content, dict) else None
    if not isinstance(labels, dict) or not labels or not all(str(value).isdigit() for value in labels):
        raise UserError(f"Table of classes {path} has no 'label_map' of values and names.")
    values = sorted(int(value) for value in labels)
    names = tuple(str(labels[str(value)]) for value in values)
    given = content.get("segmentation_colors")
    colours = None
    if given:
        if not isinstance(given, list) or len(given) != len(names) or not all(map(_is_colour, given)):
            raise UserError(f"Table of classes {path} must have one colour, [red, green, blue], for each name.")
        colours = tuple((r, g, b) for r, g, b in given)
    _check([(number, name, None) for number, name in enumerate(names, start=1)], path)
    return ClassTable(names, tuple(values), colours)


def _is_colour(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(part) is int and 0 <= part < 256 for part in value)
