"""What a model found in an image.

Letters: n objects in an image, H and W its height and width in pixels, C classes.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from convnext_dense.data.run_lengths import compress, decode
from convnext_dense.errors import UserError
from convnext_dense.export.runtime import summary
from convnext_dense.visualization import (
    MIN_PICTURE_SIDE,
    draw_classes,
    draw_label_map,
    draw_objects,
    enlarge_whole,
    found_objects,
    paint_label_map,
)


class Result(Mapping[str, Any]):
    """A result, which is also a read-only mapping of what ``to_dict`` gives.

    Attributes:
        class_names: Names of the classes.
    """

    class_names: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what was found as arrays, lists and tuples, see ``inference.predict``."""
        return dict(self)

    def to_coco(self, image_id: int | str = 0) -> list[dict[str, Any]]:
        """Return one dict per object in COCO's result format; categories are numbered from 1 in the classes' order."""
        raise NotImplementedError

    def to_pandas(self) -> Any:
        """Return a table, one row per object or class."""
        pandas = import_or_say("pandas", "pandas")
        return pandas.DataFrame(self._columns())

    def to_supervision(self) -> Any:
        """Return ``supervision``'s ``Detections`` or ``Classifications``."""
        raise NotImplementedError

    def only(self, classes: Collection[str] | None = None, *, score_thr: float = 0.0) -> "Result":
        """Return a part of what was found.

        Args:
            classes: Names of the classes that stay; None for all.
            score_thr: Objects and classes below this score go; pixels have none.

        Raises:
            UserError: There is no such class.
        """
        raise NotImplementedError

    def draw(self, picture: np.ndarray, *, score_thr: float = 0.3, opacity: float | None = None) -> np.ndarray:
        """Return a picture of the image with what was found in it.

        Args:
            picture: The image, (H, W, 3) uint8 in BGR order; ``Predictor.picture`` gives it for any image.
            score_thr: Objects below this score are left out.
            opacity: Of masks and classes over the image, from 0 to 1; None for 0.3 of masks, and 0.55 of label maps.

        Returns:
            A picture in BGR order; small images are enlarged.

        Raises:
            UserError: The picture is of another kind or size, or the opacity is no share.
        """
        raise NotImplementedError

    def overlay(self, picture: np.ndarray, *, score_thr: float = 0.3, opacity: float | None = None) -> np.ndarray:
        """Return a picture as ``draw`` does, whose size depends on that of the image alone, for frames of a video."""
        return self.draw(picture, score_thr=score_thr, opacity=opacity)

    def summary(self, *, score_thr: float = 0.3) -> str:
        """Return what was found in a few words; objects count from a score."""
        return summary(self, score_thr=score_thr)

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict of plain values per object or class, the rows of ``to_pandas``."""
        columns = self._columns()
        values = (np.asarray(column).tolist() for column in columns.values())
        return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]

    def _keys(self) -> tuple[str, ...]:
        raise NotImplementedError

    def _columns(self) -> dict[str, Any]:
        raise NotImplementedError

    def __getitem__(self, key: str) -> Any:
        if key not in self._keys():
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys())

    def __len__(self) -> int:
        return len(self._keys())

    def __contains__(self, key: object) -> bool:
        return key in self._keys()


@dataclass(frozen=True, eq=False)
class Detections(Result):
    """Objects of an image, the most certain one first.

    Attributes:
        boxes: (n, 4) float32: x1, y1, x2, y2 in pixels of the image.
        scores: (n,) float32 in [0, 1].
        labels: (n,) int64, positions in ``class_names``.
        class_names: Names of the classes.
        shape: (height, width) of the image in pixels.
        rles: Masks as COCO's compressed run lengths, whose ``counts`` is text; None for a model without masks.
        ids: (n,) int64, numbers of the tracks in a video, from 1, and 0 for an object that is on none, such as one that
            is seen for the first time; None where nothing is tracked.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    shape: tuple[int, int]
    rles: tuple[Mapping[str, Any], ...] | None = None
    ids: np.ndarray | None = None

    @property
    def names(self) -> list[str]:
        """Name of each object's class."""
        return [self.class_names[label] for label in self.labels.tolist()]

    @cached_property
    def masks(self) -> np.ndarray | None:
        """Masks (n, H, W) of booleans, decoded when they are first asked for; None for a model without masks."""
        return None if self.rles is None else decode(self.rles, self.shape)

    def take(self, kept: Any) -> "Detections":
        """Return some of the objects: ``kept`` are their positions, or n booleans."""
        places = np.arange(len(self.scores))[kept]
        return replace(
            self,
            boxes=self.boxes[places],
            scores=self.scores[places],
            labels=self.labels[places],
            rles=None if self.rles is None else tuple(self.rles[place] for place in places),
            ids=None if self.ids is None else self.ids[places],
        )

    def to_coco(self, image_id: int | str = 0) -> list[dict[str, Any]]:
        """Return one dict per object in COCO's result format.

        Returns:
            Dicts of ``image_id, category_id, category_name, bbox, score``, and ``segmentation`` (compressed run
            lengths) and ``track_id`` where there are masks and tracks. Categories are numbered from 1 in the order of
            the classes.
        """
        corners = np.asarray(self.boxes, np.float64).reshape(-1, 4)
        objects: list[dict[str, Any]] = [
            dict(
                image_id=image_id,
                category_id=int(label) + 1,
                category_name=self.class_names[label],
                bbox=[*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
                score=float(score),
            )
            for box, score, label in zip(corners, self.scores, self.labels, strict=True)
        ]
        if self.rles is not None:
            for item, rle in zip(objects, self.rles, strict=True):
                item["segmentation"] = dict(rle)
        if self.ids is not None:
            for item, number in zip(objects, self.ids, strict=True):
                if number > 0:
                    item["track_id"] = int(number)
        return objects

    def to_supervision(self) -> Any:
        """Return ``supervision.Detections``."""
        supervision = import_or_say("supervision", "supervision")
        return supervision.Detections(
            xyxy=self.boxes.astype(np.float32),
            confidence=self.scores,
            class_id=self.labels.astype(int),
            mask=self.masks,
            tracker_id=None if self.ids is None else self.ids.astype(int),
            data=dict(class_name=np.array(self.names, dtype=str)),
        )

    def only(self, classes: Collection[str] | None = None, *, score_thr: float = 0.0) -> "Detections":
        """Return a part of the objects, see ``Result.only``."""
        return self.take((self.scores >= score_thr) & _is_in(self.labels, self.class_names, classes))

    def draw(self, picture: np.ndarray, *, score_thr: float = 0.3, opacity: float | None = None) -> np.ndarray:
        """Return the picture with boxes, masks, names and scores of objects from ``score_thr``, see ``Result.draw``."""
        check_picture(picture, self.shape, opacity)
        pixels = enlarge_whole(picture, MIN_PICTURE_SIDE)
        scale = pixels.shape[0] // picture.shape[0]
        shown = self.only(score_thr=score_thr)
        tracks = (
            [""] * len(shown.scores) if shown.ids is None else [f" #{number}" if number else "" for number in shown.ids]
        )
        texts = [
            f"{name} {score:.2f}{track}" for name, score, track in zip(shown.names, shown.scores, tracks, strict=True)
        ]
        objects = found_objects(shown.boxes, shown.labels.tolist(), texts, shown.masks, zoom=scale)
        return draw_objects(pixels, objects, opacity=opacity)

    def _keys(self) -> tuple[str, ...]:
        more = dict(masks=self.rles, ids=self.ids)
        return (
            *("boxes", "scores", "labels", "names", "class_names"),
            *(key for key, value in more.items() if value is not None),
        )

    def _columns(self) -> dict[str, Any]:
        corners = dict(zip(("x1", "y1", "x2", "y2"), self.boxes.T, strict=True))
        tracks = {} if self.ids is None else dict(id=self.ids)
        return dict(name=self.names, score=self.scores, **corners, label=self.labels, **tracks)


@dataclass(frozen=True, eq=False)
class LabelMap(Result):
    """The class of every pixel of an image.

    Attributes:
        label_map: (H, W) int64, positions in ``class_names``; their number where a pixel has no class, see ``only``.
        class_names: Names of the classes.
        palette: An RGB colour per class.
    """

    label_map: np.ndarray
    class_names: tuple[str, ...]
    palette: Sequence[Sequence[int]]

    def only(self, classes: Collection[str] | None = None, *, score_thr: float = 0.0) -> "LabelMap":
        """Return the map with no class at the pixels of all others, see ``Result.only``."""
        if classes is None:
            return self
        number = len(self.class_names)
        is_kept = _is_in(self.label_map, self.class_names, classes)
        return replace(self, label_map=np.where(is_kept, self.label_map, number))

    def to_coco(self, image_id: int | str = 0) -> list[dict[str, Any]]:
        """Return the pixels of each class that occurs as one mask, in the format of COCO's stuff results."""
        return [
            dict(
                image_id=image_id,
                category_id=int(label) + 1,
                category_name=self.class_names[label],
                segmentation=compress(self.label_map == label),
            )
            for label in self._occurring()[0]
        ]

    def to_supervision(self) -> Any:
        """Return ``supervision.Detections``, one per class that occurs."""
        supervision = import_or_say("supervision", "supervision")
        labels, _ = self._occurring()
        masks = self.label_map == labels[:, None, None]
        return supervision.Detections(
            xyxy=supervision.mask_to_xyxy(masks),
            class_id=labels.astype(int),
            mask=masks,
            data=dict(class_name=np.array([self.class_names[label] for label in labels], dtype=str)),
        )

    def draw(self, picture: np.ndarray, *, score_thr: float = 0.3, opacity: float | None = None) -> np.ndarray:
        """Return the picture, the picture under its classes' colours, and a legend, see ``Result.draw``."""
        check_picture(picture, self.label_map.shape, opacity)
        return draw_label_map(enlarge_whole(picture, MIN_PICTURE_SIDE), self, opacity=opacity)

    def overlay(self, picture: np.ndarray, *, score_thr: float = 0.3, opacity: float | None = None) -> np.ndarray:
        """Return the picture under its classes' colours, without a legend."""
        check_picture(picture, self.label_map.shape, opacity)
        return paint_label_map(enlarge_whole(picture, MIN_PICTURE_SIDE), self, opacity=opacity)

    def _occurring(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the classes that occur, and their numbers of pixels."""
        counts = np.bincount(self.label_map.ravel(), minlength=len(self.class_names))[: len(self.class_names)]
        labels = np.flatnonzero(counts)
        return labels, counts[labels]

    def _keys(self) -> tuple[str, ...]:
        return ("label_map", "class_names", "palette")

    def _columns(self) -> dict[str, Any]:
        labels, counts = self._occurring()
        order = np.argsort(-counts, kind="stable")
        names = [self.class_names[label] for label in labels[order]]
        return dict(name=names, share=counts[order] / self.label_map.size, pixels=counts[order], label=labels[order])


@dataclass(frozen=True, eq=False)
class ClassScores(Result):
    """The most probable classes of an image, at most five.

    Attributes:
        scores: (5,) float32 in [0, 1].
        labels: (5,) int64, positions in ``class_names``.
        class_names: Names of the classes.
    """

    scores: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Name of each of the classes."""
        return [self.class_names[label] for label in self.labels.tolist()]

    def to_coco(self, image_id: int | str = 0) -> list[dict[str, Any]]:
        """Raise ``UserError``: COCO has no format for classes of whole images."""
        raise UserError("COCO has no results of classifiers: use to_dict or to_pandas.")

    def to_supervision(self) -> Any:
        """Return ``supervision.Classifications``."""
        supervision = import_or_say("supervision", "supervision")
        return supervision.Classifications(class_id=self.labels.astype(int), confidence=self.scores)

    def only(self, classes: Collection[str] | None = None, *, score_thr: float = 0.0) -> "ClassScores":
        """Return a part of the classes, see ``Result.only``."""
        kept = (self.scores >= score_thr) & _is_in(self.labels, self.class_names, classes)
        return replace(self, scores=self.scores[kept], labels=self.labels[kept])

    def draw(self, picture: np.ndarray, *, score_thr: float = 0.3, opacity: float | None = None) -> np.ndarray:
        """Return the picture with the classes below, see ``Result.draw``."""
        return draw_classes(enlarge_whole(picture, MIN_PICTURE_SIDE), self)

    def _keys(self) -> tuple[str, ...]:
        return ("scores", "labels", "names", "class_names")

    def _columns(self) -> dict[str, Any]:
        return dict(name=self.names, score=self.scores, label=self.labels)


def _is_in(labels: np.ndarray, class_names: Sequence[str], classes: Collection[str] | None) -> np.ndarray:
    """Return which labels, of any shape, are of some classes."""
    if classes is None:
        return np.ones(labels.shape, bool)
    check_classes(classes, class_names)
    return np.isin(labels, [number for number, name in enumerate(class_names) if name in classes])


def check_classes(classes: Collection[str], class_names: Sequence[str]) -> None:
    """Raise ``UserError`` if not all of some names are those of classes."""
    if isinstance(classes, str):
        raise UserError(f"classes={classes!r} is one name: give a list of names.")
    if unknown := [name for name in classes if name not in class_names]:
        raise UserError(f"The model has no class {', '.join(map(repr, unknown))}; it has {', '.join(class_names)}.")


def check_picture(picture: np.ndarray, shape: Sequence[int], opacity: float | None) -> None:
    """Raise ``UserError`` if a picture is not that of an image of (height, width), or an opacity is no share."""
    kind = f"{picture.dtype} of shape {picture.shape}" if isinstance(picture, np.ndarray) else repr(picture)[:60]
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape[2:] != (3,):
        raise UserError(f"The picture is {kind}: give (H, W, 3) of uint8 in BGR order, as the model's picture() does.")
    if picture.shape[:2] != tuple(shape):
        raise UserError(
            f"The picture has {picture.shape[1]} x {picture.shape[0]} pixels, and the image of the result "
            f"{shape[1]} x {shape[0]}."
        )
    if opacity is not None and not 0 <= opacity <= 1:
        raise UserError(f"opacity={opacity} must be from 0 to 1.")


def import_or_say(name: str, package: str) -> Any:
    """Import a package that is not always there.

    Raises:
        UserError: It is not installed.
    """
    try:
        return __import__(name)
    except ImportError as error:
        raise UserError(f"{name} is not installed: pip install {package}.") from error
