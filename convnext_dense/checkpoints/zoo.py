"""The table of public weights by name, from ``zoo.json``."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from convnext_dense.errors import UserError

PREFIX = "zoo:"
TASKS = ("detection", "segmentation", "classification", "backbone")


@dataclass(frozen=True)
class ZooEntry:
    """Public weights.

    Attributes:
        name: Name in the table.
        task: One of ``TASKS``; ``'backbone'`` has neither a head for a task nor a published accuracy of its own.
        address: Source of the file, see ``sources.fetch``.
        layout: Name of the layout, as ``detect_layout`` returns it.
        licence: Licence of the weights.
        source: Where the address and the numbers were read.
        config: Config of the model, relative to the repository; None for a bare backbone.
        backbone: Arguments of the backbone that the weights fill; empty if there is a config.
        published: Published metrics by name, in per cent.
        size: Bytes of the file; None if it is not known.
        sha256: Digest of the file; None if it is not known.
        sha256_prefix: First eight digits of it, from the name of the file; None if the name has none.
        gated: Whether a licence must be accepted before the file can be downloaded.
        page: Where it is accepted; None if it need not be.
        measured: The metrics that this package measured, by the names of ``published``; None if it was not measured.
    """

    name: str
    task: str
    address: str
    layout: str
    licence: str
    source: str
    config: str | None = None
    backbone: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)
    size: int | None = None
    sha256: str | None = None
    sha256_prefix: str | None = None
    gated: bool = False
    page: str | None = None
    measured: Mapping[str, float] | None = None

    @property
    def digest(self) -> str | None:
        """What is known of the sha256: all of it, or its first digits."""
        return self.sha256 or self.sha256_prefix


@cache
def read_zoo() -> Mapping[str, ZooEntry]:
    """Return all entries by name."""
    content = json.loads(Path(__file__).with_name("zoo.json").read_text(encoding="utf-8"))
    return {name: ZooEntry(name=name, **row) for name, row in content["models"].items()}


def find_entry(name: str) -> ZooEntry:
    """Return the entry of a name, with or without ``zoo:`` before it.

    Raises:
        UserError: There is no such entry; the message suggests the nearest name.
    """
    zoo = read_zoo()
    name = name.removeprefix(PREFIX)
    if name not in zoo:
        near = difflib.get_close_matches(name.lower(), zoo, n=1)
        hint = f"the nearest name is {near[0]!r}, and " if near else ""
        raise UserError(f"The zoo has no {name!r}; {hint}`convnext-dense zoo list` prints all of them.")
    return zoo[name]
