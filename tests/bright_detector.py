"""A model without weights, for tests of what is around a model."""

import time

import cv2
import numpy as np

from convnext_dense.data.run_lengths import compress
from convnext_dense.errors import UserError
from convnext_dense.inference import Detections, LoadedModel


class Bright(LoadedModel):
    """A detector of the bright pixels of a picture, which takes ``seconds``, and counts the pictures in ``runs``."""

    task, class_names, palette = "detection", ("light",), [[255, 255, 255]]
    seconds, score = 0.0, 0.5
    runs = 0

    def picture(self, image):
        return self._read(image)

    def _read(self, image):
        pixels = image if isinstance(image, np.ndarray) else cv2.imread(str(image))
        if pixels is None:
            raise UserError(f"Image {image} cannot be decoded.")
        return pixels

    def _prepare(self, image, number):
        return self._read(image)

    def _run(self, prepared):
        with self._lock:
            self.runs += len(prepared)
            time.sleep(self.seconds)
        return [self._found(pixels) for pixels in prepared]

    def _found(self, pixels):
        mask = pixels[..., 0] > 128
        ys, xs = np.nonzero(mask)
        boxes = np.array([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]] if len(xs) else [], np.float32)
        return Detections(
            boxes.reshape(-1, 4),
            np.full(len(boxes), self.score, np.float32),
            np.zeros(len(boxes), int),
            self.class_names,
            pixels.shape[:2],
            rles=(compress(mask),) * len(boxes),
        )
