"""A pipeline that names the image on which it fails, and says which part of it did."""

import errno
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
from mmengine.dataset import Compose

from convnext_dense.data.image_reader import decoding_fault
from convnext_dense.errors import UserError


class NamedPipeline(Compose):
    """mmengine's pipeline, whose errors about an image are sentences.

    Args:
        transforms: Configs or steps, as mmengine's.
        hint: What is added to the message about a file.
    """

    def __init__(self, transforms: Sequence[dict | Callable], hint: str = "") -> None:
        super().__init__(transforms)
        self.hint = hint

    def __call__(self, data: dict) -> dict | None:
        """Do what mmengine's pipeline does.

        Raises:
            UserError: The image, or its label image, cannot be decoded, or OpenCV refuses a step with it.
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
    """Return the sentence for an error of a step, or None for one that is not about the image."""
    name = type(step).__name__
    if size is None and isinstance(error, cv2.error | AssertionError | OSError) and name.startswith("Load"):
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT, errno.EACCES, errno.EISDIR):
            return None  # the disk's fault or the network's
        fault = decoding_fault(path, getattr(step, "color_type", "color"))
        detail = f" OpenCV: {_last_line(error)}." if isinstance(error, cv2.error) and "claims" not in fault else ""
        return fault + detail
    if isinstance(error, cv2.error) and size is not None:
        return f"Image {path} of {size[1]}x{size[0]} pixels cannot go through {name}: OpenCV says {_last_line(error)}."
    return None


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip(" >'").rstrip(".")


def name_images_of(dataset: Any, hint: str = "") -> None:
    """Put ``NamedPipeline`` in the place of the pipelines of a data set, in its wrappers too; again changes nothing."""
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
