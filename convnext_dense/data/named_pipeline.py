"""A pipeline whose errors name the image and the step that failed."""

import errno
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
from mmengine.dataset import Compose

from convnext_dense.data.image_reader import decoding_fault
from convnext_dense.errors import UserError


class NamedPipeline(Compose):
    """mmengine's pipeline, with readable errors about images.

    Args:
        transforms: Steps or their configs, as in mmengine.
        hint: Text that is appended to the error message.
    """

    def __init__(self, transforms: Sequence[dict | Callable], hint: str = "") -> None:
        super().__init__(transforms)
        self.hint = hint

    def __call__(self, data: dict) -> dict | None:
        """Run the steps, as mmengine's pipeline does.

        Raises:
            UserError: The image, or its label image, cannot be decoded, or a step fails in OpenCV.
        """
        path = data.get("img_path")
        for step in self.transforms:
            size = getattr(data.get("img"), "shape", None)
            try:
                data = step(data)
            except (cv2.error, AssertionError, OSError) as error:
                message = _explain(error, step, path, size)
                if message is None or path is None:
                    raise
                raise UserError(message + self.hint) from error
            if data is None:
                return None
        return data


def _explain(error: Exception, step: Any, path: Any, size: tuple[int, ...] | None) -> str | None:
    """Return a message for an error of a step; None if the error is not about the image."""
    name = type(step).__name__
    if size is None and isinstance(error, cv2.error | AssertionError | OSError) and name.startswith("Load"):
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT, errno.EACCES, errno.EISDIR):
            return None  # a fault of the disk or the network
        fault = decoding_fault(path, getattr(step, "color_type", "color"))
        detail = f" OpenCV: {_last_line(error)}." if isinstance(error, cv2.error) and "claims" not in fault else ""
        return fault + detail
    if isinstance(error, cv2.error) and size is not None:
        return f"Image {path} of {size[1]}x{size[0]} pixels cannot go through {name}: OpenCV says {_last_line(error)}."
    return None


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip(" >'").rstrip(".")


def name_images_of(dataset: Any, hint: str = "") -> None:
    """Replace the pipelines of a data set, inside wrappers too, by ``NamedPipeline``; repeated calls are harmless."""
    for leaf in _leaves(dataset):
        pipeline: Any = getattr(leaf, "pipeline", None)
        if type(pipeline) is Compose:
            leaf.pipeline = NamedPipeline(pipeline.transforms, hint)


def _leaves(dataset: Any) -> Iterator[Any]:
    if hasattr(dataset, "datasets"):
        for child in dataset.datasets:
            yield from _leaves(child)
    elif hasattr(dataset, "dataset"):
        yield from _leaves(dataset.dataset)
    else:
        yield dataset
