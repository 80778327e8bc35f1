"""Draws predictions beside the ground truth, one picture per image of the test data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.hooks import Hook

from convnext_dense.data.image_reader import ImageReader
from convnext_dense.data.own.segmentation import make_palette
from convnext_dense.data.picture_files import picture_names
from convnext_dense.registry import HOOKS
from convnext_dense.visualization import (
    MIN_PICTURE_SIDE,
    beside,
    draw_label_map,
    draw_objects,
    enlarge_whole,
    found_objects,
    write_caption,
    write_picture,
)

_INSTANCE_STEP = 1000
# Endings of images that their pictures keep in mmdet's way; all others are .png.
_KEPT = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@HOOKS.register_module()
class ShowHook(Hook):
    """Draws every image that is tested, with what was found and what is there, on the pixels that the model saw.

    Pictures have the names that ``picture_names`` gives.

    Args:
        out_dir: Folder of the pictures; a relative one lies in the run's log folder if ``is_in_log_dir``.
        reader: Config of the loading step of the test data's pipeline.
        is_in_log_dir: As mmdet has it; mmseg's folder is the one that is named.
        score_thr: Objects below this score are left out.
    """

    def __init__(self, out_dir: str, reader: Mapping[str, Any], *, is_in_log_dir: bool, score_thr: float = 0.3) -> None:
        self.out_dir = Path(out_dir)
        self.reader = ImageReader(reader)
        self.is_in_log_dir = is_in_log_dir
        self.score_thr = score_thr
        self._names: dict[str, str] = {}
        self._classes: Sequence[str] = ()
        self._palette: Any = ()

    def before_test(self, runner: Any) -> None:
        """Give every image the name of its picture."""
        if self.is_in_log_dir:
            self.out_dir = Path(runner.log_dir, self.out_dir)
        dataset = runner.test_dataloader.dataset
        self._names = picture_names(dataset.get_data_info(index)["img_path"] for index in range(len(dataset)))
        self._classes = tuple(dataset.metainfo.get("classes") or ())
        palette = dataset.metainfo.get("palette")
        is_palette = (
            isinstance(palette, Sequence) and not isinstance(palette, str) and len(palette) == len(self._classes)
        )
        self._palette = palette if is_palette else make_palette(len(self._classes))

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Draw the images of a batch.

        Raises:
            UserError: A picture cannot be written.
        """
        for sample in outputs or ():
            original = self.reader.picture(sample.img_path)
            pixels = enlarge_whole(original, MIN_PICTURE_SIDE)
            sample = sample.cpu()
            found = _label_map(sample, "pred")
            if found is None:
                picture = self._objects(pixels, sample, len(pixels) // len(original))
            else:
                result = dict(label_map=found, class_names=self._classes, palette=self._palette)
                picture = draw_label_map(pixels, result, truth=_label_map(sample, "gt"))
            write_picture(self._file(sample.img_path), picture)

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

    def _file(self, image: str) -> Path:
        suffix = Path(image).suffix
        is_kept = self.is_in_log_dir and suffix.lower() in _KEPT
        return self.out_dir / (self._names[image] + (suffix if is_kept else ".png"))


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
