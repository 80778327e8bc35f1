"""A checkpoint that is read once: its content, the ConvNeXt in it, and how it fits a model."""

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
    """A checkpoint and everything that follows from its content. Each property is computed on first access, and once.

    Args:
        source: See ``sources.fetch``.
        content: Content of the source, if it was already read.

    Attributes:
        source: The source as it was given.
        path: The local file; None if there is none.
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
        """The sha256 of the file, computed in the background; None if there is no file."""
        return hash_in_background(self.path) if self.path else None

    @cached_property
    def meta(self) -> dict[str, Any]:
        """The metadata of the file: the header of safetensors, or ``meta``."""
        return read_metadata(self.path or Path(), self.content)

    @cached_property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes that the model was trained on; None if the file does not store them."""
        return read_class_names(self.content)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The weights by their names in the file, see ``unwrap``."""
        return unwrap(self.content)

    @cached_property
    def match(self) -> Match:
        """The layout and the prefix of the one ConvNeXt in the checkpoint.

        Raises:
            UserError: The checkpoint has no ConvNeXt, or several.
        """
        return find_layout(self.tensors)

    @cached_property
    def official(self) -> OfficialWeights:
        """The ConvNeXt with official names."""
        return to_official(self.tensors, self.match)

    @property
    def variant(self) -> Architecture:
        """The architecture of the ConvNeXt."""
        return describe(self.official.tensors)

    @property
    def is_mapped(self) -> bool:
        """Whether the tensors are memory-mapped from the file."""
        return self.path is not None and is_mapped(self.path)

    def remapped(self) -> "Checkpoint":
        """Map the file again, which releases the pages of a mapped file that were read so far."""
        again = Checkpoint(self.path or self.source)
        again.source, again.digest = self.source, self.digest
        return again

    def fit(
        self, wanted: Mapping[str, Tensor], *, prefix: str | None = None, classes: ClassRows | None = None
    ) -> tuple[LoadReport, dict[str, Tensor]]:
        """Find the tensors of a model in the checkpoint, see ``match_weights``."""
        return match_weights(wanted, self.content, self.source, prefix=prefix, classes=classes, digest=self.digest)
