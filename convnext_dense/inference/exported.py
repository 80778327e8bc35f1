"""A model that ``tools/export.py`` wrote, with the calls of ``Predictor``: it runs in onnxruntime or OpenVINO."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from convnext_dense.data.own.segmentation import make_palette
from convnext_dense.errors import UserError
from convnext_dense.export.runtime import ExportedModel, ExportedModelError, Prepared, read_rgb
from convnext_dense.inference.model import Image, LoadedModel
from convnext_dense.inference.plain import to_result
from convnext_dense.inference.results import Result


class ExportedPredictor(LoadedModel):
    """An exported model that is loaded once.

    Args:
        folder: Folder of the model.
        threads: Number of threads; by default that of the runtime.

    Raises:
        UserError: The folder is not whole, or its runtime is not installed.
    """

    def __init__(self, folder: str | os.PathLike, *, threads: int | None = None) -> None:
        super().__init__()
        with _as_user_error():
            self.model = ExportedModel(folder, threads=threads)
        self.task = self.model.task
        self.class_names = self.model.class_names
        self.palette = self.model.facts.get("palette") or make_palette(len(self.class_names))

    def picture(self, image: Image) -> np.ndarray:
        """Return an image as an (H, W, 3) picture in BGR order."""
        return self._read(image)

    def _read(self, image: Image) -> np.ndarray:
        with _as_user_error():
            return np.ascontiguousarray(read_rgb(image)[..., ::-1])

    def _prepare(self, image: Image, number: int) -> Prepared:
        with _as_user_error():
            prepared = Prepared.of(image, self.model.facts)
        if self.task != "classification":
            self._note_scale(prepared.shape, min(prepared.scale))
        return prepared

    def _run(self, prepared: Sequence[Prepared]) -> Sequence[Result]:
        with self._lock, _as_user_error():
            found = list(self.model.results(prepared))
        return [to_result(one, item.shape) for one, item in zip(found, prepared, strict=True)]


@contextmanager
def _as_user_error() -> Iterator[None]:
    try:
        yield
    except ExportedModelError as error:
        raise UserError(str(error)) from error
