"""A checkpoint that is opened once and asked many times: what is in it, which ConvNeXt it is, how it fits a model."""

import os
from collections.abc import Mapping
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from convnext_dense.checkpoints.architecture import Architecture, describe
from convnext_dense.checkpoints.class_rows import ClassRows, read_class_names
from convnext_dense.checkpoints.layouts import Match, OfficialWeights, find_layout, to_official
from convnext_dense.checkpoints.matching import LoadReport, match_weights
from convnext_dense.checkpoints.reading import is_mapped, read_checkpoint, read_metadata, unwrap
from convnext_dense.checkpoints.sources import fetch, hash_in_background


class Checkpoint:
    """What a file of weights holds. Nothing but the file is read before it is asked for, and everything once.

    Args:
        source: See ``sources.fetch``.
        content: What the source holds, where somebody else has read it.

    Attributes:
        source: As it was named.
        path: The file on this machine; None if there is none.
        content: See ``read_checkpoint``.

    Raises:
        UserError: See ``read_checkpoint``.
    """

    def __init__(self, source: str | os.PathLike, content: Mapping[str, Any] | None = None) -> None:
        self.source = os.fspath(source)
        self.path: Path | None = fetch(source) if content is None else Path(source) if Path(source).is_file() else None
        self.content: Mapping[str, Any] = read_checkpoint(source) if content is None else content

    @cached_property
    def digest(self) -> Future[str] | None:
        """The sha256 of the file, being taken in the background; None if there is no file."""
        return hash_in_background(self.path) if self.path else None

    @cached_property
    def meta(self) -> dict[str, Any]:
        """What the file says about itself: safetensors' header, or ``meta``."""
        return read_metadata(self.path or Path(), self.content)

    @cached_property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes that it was trained on, or None."""
        return read_class_names(self.content)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Its weights by their own names, see ``unwrap``."""
        return unwrap(self.content)

    @cached_property
    def match(self) -> Match:
        """The layout and the place of the one ConvNeXt in it.

        Raises:
            UserError: There is none, or there are several.
        """
        return find_layout(self.tensors)

    @cached_property
    def official(self) -> OfficialWeights:
        """The ConvNeXt under the official names."""
        return to_official(self.tensors, self.match)

    @property
    def variant(self) -> Architecture:
        """Which ConvNeXt it is."""
        return describe(self.official.tensors)

    @property
    def is_mapped(self) -> bool:
        """Whether its tensors lie in the file until they are looked at."""
        return self.path is not None and is_mapped(self.path)

    def remapped(self) -> "Checkpoint":
        """Open the file anew. What was read of a mapped file counts as this process's memory until then."""
        again = Checkpoint(self.path or self.source)
        again.source, again.digest = self.source, self.digest
        return again

    def fit(
        self, wanted: Mapping[str, Tensor], *, prefix: str | None = None, classes: ClassRows | None = None
    ) -> tuple[LoadReport, dict[str, Tensor]]:
        """Find the tensors of a model in it, see ``match_weights``."""
        return match_weights(wanted, self.content, self.source, prefix=prefix, classes=classes, digest=self.digest)
