"""What all loaded models have in common: images in, results out, one at a time, in batches, or in tiles."""

import itertools
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import PIL.Image
from mmengine.logging import print_log

from convnext_dense.errors import UserError
from convnext_dense.inference.results import Detections, Result
from convnext_dense.inference.tiles import Tiles, find_in_tiles

SHRUNK = 0.25  # of its size: below, an image is said to lose its small objects
Image = str | os.PathLike | np.ndarray | PIL.Image.Image


class LoadedModel(ABC):
    """A model that is loaded once.

    Several threads may call it: images are prepared side by side, and run one after the other.

    Attributes:
        task: ``'detection'``, ``'segmentation'`` or ``'classification'``.
        class_names: Names of the classes.
        palette: An RGB colour per class.
        first_label: The number of the first class in label files: 1 where 0 counts for nothing.
    """

    task: str
    class_names: tuple[str, ...]
    palette: Sequence[Sequence[int]]
    first_label: int = 0

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._has_said_shrinking = False

    def __call__(self, image: Image, *, tiles: Tiles | None = None) -> Any:
        """Return what is found in one image: ``Detections``, ``LabelMap`` or ``ClassScores``."""
        return next(self.iterate([image], tiles=tiles))

    def predict(self, images: Iterable[Image], *, batch_size: int = 1, tiles: Tiles | None = None) -> list[Any]:
        """Return one result per image.

        Args:
            images: As for ``inference.predict``.
            batch_size: Images, or tiles of one image, that run at once.
            tiles: How pictures are cut, whose objects are found tile by tile; None to look at them as a whole.

        Raises:
            UserError: An image cannot be read, or is of another kind than the model takes.
        """
        return list(self.iterate(images, batch_size=batch_size, tiles=tiles))

    def iterate(self, images: Iterable[Image], *, batch_size: int = 1, tiles: Tiles | None = None) -> Iterator[Any]:
        """Yield one result per image, see ``predict``."""
        for found in self.stream(images, batch_size=batch_size, tiles=tiles):
            if isinstance(found, UserError):
                raise found
            yield found

    def stream(
        self, images: Iterable[Image | UserError], *, batch_size: int = 1, tiles: Tiles | None = None
    ) -> Iterator[Result | UserError]:
        """Yield one result per image, or what is wrong with an image that cannot be read.

        Images are asked for as they are needed. An error in the place of an image comes back in its place.

        Raises:
            UserError: The arguments are wrong, or the model does not run.
        """
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} must be 1 or more.")
        if isinstance(images, str | os.PathLike | PIL.Image.Image) or getattr(images, "ndim", 4) < 4:
            raise UserError(f"images={str(images)[:60]!r} is one image: give a list of images.")
        if tiles is not None:
            self.check_tiles()
            yield from (self._in_tiles(image, tiles, batch_size) for image in images)
            return
        numbered = enumerate(images)
        while batch := list(itertools.islice(numbered, batch_size)):
            prepared = [_or_error(self._prepare, image, number) for number, image in batch]
            results = iter(self._run([one for one in prepared if not isinstance(one, UserError)]))
            for one in prepared:
                yield one if isinstance(one, UserError) else next(results)

    def check_tiles(self) -> None:
        """Raise ``UserError`` if the model does not take tiles."""
        if self.task != "detection":
            raise UserError(
                "Tiles are for detectors. Segmenters cut large images by their config: "
                "model.test_cfg=dict(mode='slide', crop_size=(H, W), stride=(H, W))."
            )

    def _in_tiles(self, image: Image | UserError, tiles: Tiles, batch_size: int) -> Result | UserError:
        pixels = _or_error(self._read, image)
        if isinstance(pixels, UserError):
            return pixels

        def find(parts: Sequence[np.ndarray]) -> Sequence[Detections]:
            return self._run([self._prepare(part, number) for number, part in enumerate(parts)])

        return find_in_tiles(find, pixels, tiles, batch_size=batch_size)

    def _note_scale(self, shape: Sequence[int], scale: float) -> None:
        """Say once that an image of (H, W) is shrunk to a fraction of its size."""
        if scale >= SHRUNK or self._has_said_shrinking:
            return
        self._has_said_shrinking = True
        height, width = shape[:2]
        inner = [max(round(scale * side), 1) for side in (width, height)]
        way = f"find them in tiles: --tile {max(inner)}, or tiles=Tiles({max(inner)})"
        if self.task == "segmentation":
            way = f"take a config that sees windows (test_cfg.mode='slide'), and leave its Resize of {max(inner)} out"
        print_log(
            f"The config shrinks an image of {width} x {height} pixels to {inner[0]} x {inner[1]}, where objects of "
            f"less than {round(8 / scale)} pixels are hard to see; {way}. This is said once."
        )

    @abstractmethod
    def picture(self, image: Image) -> np.ndarray:
        """Return the pixels that the model sees of an image as an (H, W, 3) picture in BGR order."""

    @abstractmethod
    def _read(self, image: Any) -> np.ndarray:
        """Return an image as an array that ``_prepare`` takes."""

    @abstractmethod
    def _prepare(self, image: Any, number: int) -> Any:
        """Return an image as ``_run`` takes it; ``number`` names an array in messages."""

    @abstractmethod
    def _run(self, prepared: Sequence[Any]) -> Sequence[Any]:
        """Return the results of prepared images, which may be none."""


def _or_error(function: Any, image: Any, *arguments: Any) -> Any:
    """Return what a function gives for an image, or its ``UserError``; an error in place of an image is returned."""
    if isinstance(image, UserError):
        return image
    try:
        return function(image, *arguments)
    except UserError as error:
        return error
