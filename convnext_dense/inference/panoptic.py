"""The things and the stuff of an image.

Letters: H and W the height and width of an image in pixels.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from convnext_dense.data.run_lengths import compress
from convnext_dense.inference.results import Detections, Result, check_classes, check_picture, import_or_say
from convnext_dense.visualization import MIN_PICTURE_SIDE, draw_label_map, enlarge_whole, paint_label_map


@dataclass(frozen=True, eq=False)
class Panoptic(Result):
    """The things and the stuff of an image: every pixel belongs to at most one segment.

    Attributes:
        segment_map: (H, W) int64, the ``id`` of each pixel's segment; 0 for none.
        segments: One dict per segment, the largest first: ``id`` (from 1), ``label`` (position in ``class_names``),
            ``name``, ``is_thing`` and ``area`` in pixels.
        class_names: Names of the classes.
        palette: An RGB colour per class.
        objects: Boxes, scores and masks of the things, if the model gives them, too.
    """

    segment_map: np.ndarray
    segments: Sequence[Mapping[str, Any]]
    class_names: tuple[str, ...]
    palette: Sequence[Sequence[int]]
    objects: Detections | None = None

    def to_coco(self, image_id: int | str = 0) -> list[dict[str, Any]]:
        """Return one dict per segment with its mask; categories are numbered from 1 in the order of the classes."""
        return [
            dict(
                image_id=image_id,
                category_id=segment["label"] + 1,
                category_name=segment["name"],
                isthing=int(segment["is_thing"]),
                area=segment["area"],
                segmentation=compress(self.segment_map == segment["id"]),
            )
            for segment in self.segments
        ]

    def to_supervision(self) -> Any:
        """Return ``supervision.Detections``, one per segment."""
        supervision = import_or_say("supervision", "supervision")
        masks = self.segment_map == np.array([segment["id"] for segment in self.segments])[:, None, None]
        return supervision.Detections(
            xyxy=supervision.mask_to_xyxy(masks),
            class_id=np.array([segment["label"] for segment in self.segments], int),
            mask=masks,
            data=dict(class_name=np.array([segment["name"] for segment in self.segments], dtype=str)),
        )

    def only(self, classes: Collection[str] | None = None, *, score_thr: float = 0.0) -> "Panoptic":
        """Return a part of the segments and of the objects, see ``Result.only``; segments have no score."""
        if classes is not None:
            check_classes(classes, self.class_names)
        segments = [one for one in self.segments if classes is None or one["name"] in classes]
        numbers = [segment["id"] for segment in segments]
        return replace(
            self,
            segment_map=np.where(np.isin(self.segment_map, numbers), self.segment_map, 0),
            segments=segments,
            objects=None if self.objects is None else self.objects.only(classes, score_thr=score_thr),
        )

    def draw(self, picture: np.ndarray, *, score_thr: float = 0.3, opacity: float | None = None) -> np.ndarray:
        """Return the picture, the picture under its classes' colours, and a legend, see ``Result.draw``."""
        check_picture(picture, self.segment_map.shape, opacity)
        return draw_label_map(enlarge_whole(picture, MIN_PICTURE_SIDE), self._as_classes(), opacity=opacity)

    def overlay(self, picture: np.ndarray, *, score_thr: float = 0.3, opacity: float | None = None) -> np.ndarray:
        """Return the picture under its classes' colours, without a legend."""
        check_picture(picture, self.segment_map.shape, opacity)
        return paint_label_map(enlarge_whole(picture, MIN_PICTURE_SIDE), self._as_classes(), opacity=opacity)

    def summary(self, *, score_thr: float = 0.3) -> str:
        """Return how many segments there are, and their classes."""
        names = sorted({segment["name"] for segment in self.segments})
        return f"{len(self.segments)} segments ({', '.join(names) or 'none'})"

    def _as_classes(self) -> dict[str, Any]:
        classes = np.full(int(self.segment_map.max(initial=0)) + 1, len(self.class_names))
        for segment in self.segments:
            classes[segment["id"]] = segment["label"]
        return dict(label_map=classes[self.segment_map], class_names=self.class_names, palette=self.palette)

    def _keys(self) -> tuple[str, ...]:
        more = () if self.objects is None else tuple(key for key in self.objects if key != "class_names")
        return ("segment_map", "segments", "class_names", "palette", *more)

    def __getitem__(self, key: str) -> Any:
        if self.objects is not None and key in self.objects and key != "class_names":
            return self.objects[key]
        return super().__getitem__(key)

    def _columns(self) -> dict[str, Any]:
        names = ("name", "area", "is_thing", "label", "id")
        return {name: [segment[name] for segment in self.segments] for name in names}
