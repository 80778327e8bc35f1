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
from convnext_dense.checkpoints.digests import hash_in_background
from convnext_dense.checkpoints.downloads import cache_folder
from convnext_dense.checkpoints.layouts import Match, OfficialWeights, find_layout, to_official
from convnext_dense.checkpoints.load_report import LoadReport
from convnext_dense.checkpoints.matching import match_weights
from convnext_dense.checkpoints.reading import is_mapped, read_files, read_metadata
from convnext_dense.checkpoints.shapes import flatten_grn
from convnext_dense.checkpoints.sources import fetch, list_parts
from convnext_dense.checkpoints.wrappers import select_weights, unwrap
from convnext_dense.errors import UserError


class Checkpoint:
    """A checkpoint and everything that follows from its content. Each property is computed on first access, and once.

    Args:
        source: See ``sources.fetch``.
        content: Content of the source, if it was already read.
        mapped: See ``read_checkpoint``.

    Attributes:
        source: The source as it was given.
        path: The local file; None if there is none.
        content: See ``read_checkpoint``.
    """

    def __init__(
        self, source: str | os.PathLike, content: Mapping[str, Any] | None = None, *, mapped: bool = True
    ) -> None:
        self.source = os.fspath(source)
        self.path: Path | None = None
        if content is None:
            self.path = fetch(source)
            parts = list_parts(self.path)
            try:
                content = read_files(self.path, parts, mapped=mapped)
            except UserError as error:
                if self.path.parent != cache_folder() or Path(self.source).is_file():
                    raise
                raise UserError(f"{error} It is in the cache: delete it, and it is downloaded again.") from error
        elif Path(source).is_file():
            self.path = Path(source)
        self.content = content

    @cached_property
    def digest(self) -> Future[str] | None:
        """The sha256 of the file, computed in the background; None if there is no file."""
        return hash_in_background(self.path) if self.path else None

    @cached_property
    def meta(self) -> dict[str, Any]:
        """The metadata of the file: the header of safetensors, or ``meta``."""
        return read_metadata(self.path or Path(), self.content)

    @property
    def dataset_meta(self) -> Mapping[str, Any]:
        """What mmengine stores of the training data, such as its classes; empty if there is nothing."""
        meta = self.content.get("meta")
        found = meta.get("dataset_meta") if isinstance(meta, Mapping) else None
        return found if isinstance(found, Mapping) else {}

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
        """Find the tensors of a model in the checkpoint, see ``match_weights`` and ``wrappers.select_weights``."""
        in_file = flatten_grn(select_weights(self.content, prefix, self.source))
        return match_weights(wanted, in_file, self.source, classes=classes, digest=self.digest)


def read_checkpoint(source: str | os.PathLike, *, mapped: bool = True) -> Mapping[str, Any]:
    """Read a checkpoint onto the CPU.

    Args:
        source: See ``sources.fetch``; a file of ``torch.save`` or safetensors under any name, NumPy's ``.npz``, an
            archive with one of these in it, or the index (``.index.json``) of a checkpoint in several files.
        mapped: Whether tensors may be memory-mapped; False reads them into memory, so that they outlive the file.

    Returns:
        The content of the file: a state dict, or a dict that contains one.

    Raises:
        UserError: The file is missing, empty, truncated or a web page, or it needs code to be run, or the source cannot
            be reached. The message names the file and says what to do.
    """
    return Checkpoint(source, mapped=mapped).content
