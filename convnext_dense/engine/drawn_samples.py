"""Draws what a model predicted for an image beside the ground truth.

Letters: H, W are the height and width of a picture in pixels; pictures are BGR, uint8.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from convnext_dense.data.image_reader import ImageReader
from convnext_dense.data.own.segmentation import make_palette
from convnext_dense.visualization import (
    MIN_PICTURE_SIDE,
    beside,
    draw_classes,
    draw_label_map,
    draw_objects,
    enlarge_whole,
    found_objects,
    write_caption,
)

_INSTANCE_STEP = 1000
_NUM_CLASSES = 3  # that the picture of a classified image names


class SampleDrawer:
    """Draws samples of a data set.

    Args:
        dataset: The built data set; its ``metainfo`` has class names and may have a palette.
        reader: Config of the loading step of its pipeline; None for a data set without one, of a classifier.
        score_thr: Objects below this score are left out.
        min_side: A smaller picture is enlarged until its longer side is about that many pixels.
    """

    def __init__(
        self, dataset: Any, reader: Mapping[str, Any] | None, *, score_thr: float, min_side: int = MIN_PICTURE_SIDE
    ) -> None:
        self.reader = None if reader is None else ImageReader(reader)
        self.score_thr = score_thr
        self.min_side = min_side
        metainfo = dataset.metainfo
        self._classes: Sequence[str] = tuple(metainfo.get("classes") or ())
        palette = metainfo.get("palette")
        is_palette = (
            isinstance(palette, Sequence) and not isinstance(palette, str) and len(palette) == len(self._classes)
        )
        self._palette = palette if is_palette else make_palette(len(self._classes))

    def draw(self, sample: Any) -> np.ndarray:
        """Draw a sample of mmdet or mmseg on the pixels that the model saw, (H, W, 3)."""
        assert self.reader is not None
        original = self.reader.picture(sample.img_path)
        pixels = enlarge_whole(original, self.min_side)
        sample = sample.cpu()
        found = _label_map(sample, "pred")
        if found is None:
            return self._objects(pixels, sample, len(pixels) // len(original))
        result = dict(label_map=found, class_names=self._classes, palette=self._palette)
        return draw_label_map(pixels, result, truth=_label_map(sample, "gt"))

    def draw_classified(self, path: str, scores: np.ndarray, label: int) -> np.ndarray:
        """Draw a classified image with its most probable classes, (H, W, 3); ``scores`` has one per class."""
        with Image.open(path) as image:
            original = np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])
        pixels = enlarge_whole(original, min(self.min_side, MIN_PICTURE_SIDE // 2))
        best = np.argsort(-scores, kind="stable")[:_NUM_CLASSES]
        result = dict(names=[self._classes[index] for index in best], scores=scores[best])
        return write_caption(draw_classes(pixels, result), f"ground truth: {self._classes[label]}")

    def _objects(self, pixels: np.ndarray, sample: Any, zoom: int) -> np.ndarray:
        panels = []
        for field, text in (("gt_instances", "ground truth"), ("pred_instances", "prediction")):
            if field not in sample:
                continue
            instances = getattr(sample, field)
            names = [self._classes[label] for label in instances.labels.tolist()]
            if "scores" in instances:
                order = instances.scores.argsort(descending=True)
                instances = instances[order[instances.scores[order] >= self.score_thr]]
                fields = zip(instances.labels.tolist(), instances.scores.tolist(), strict=True)
                names = [f"{self._classes[label]} {score:.2f}" for label, score in fields]
            boxes = getattr(instances.bboxes, "tensor", instances.bboxes).numpy()
            masks = _bitmaps(instances.masks) if "masks" in instances else None
            objects = found_objects(boxes, instances.labels.tolist(), names, masks, zoom=zoom)
            panels.append(write_caption(draw_objects(pixels, objects), text))
        return beside(panels)


def _label_map(sample: Any, kind: str) -> np.ndarray | None:
    """Return the class of each pixel of a prediction or of the ground truth; None where there are objects alone."""
    if f"{kind}_sem_seg" in sample:
        return getattr(sample, f"{kind}_sem_seg").data.squeeze(0).numpy()
    if f"{kind}_panoptic_seg" in sample:  # mmdet numbers instances in steps of 1000
        return getattr(sample, f"{kind}_panoptic_seg").sem_seg.squeeze(0).numpy() % _INSTANCE_STEP
    return None


def _bitmaps(masks: Any) -> np.ndarray:
    """Return the masks of a prediction, or of mmdet's ground truth, as (n, H, W)."""
    return masks.to_ndarray() if hasattr(masks, "to_ndarray") else np.asarray(masks)
