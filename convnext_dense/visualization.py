"""Draws ground truth and predictions on images, and many images on one sheet.

Letters: H, W are the height and width of a picture in pixels; pictures are BGR, uint8.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from convnext_dense.errors import UserError
from convnext_dense.export.runtime import class_colour, place_labels
from convnext_dense.files import names_unwritable, written_whole

# Smaller pictures are enlarged before drawing, or the names would cover the objects.
MIN_PICTURE_SIDE = 640
# Of colours over the image.
MASK_OPACITY = 0.3
LABEL_OPACITY = 0.55


class DrawnObject(NamedTuple):
    """An object as it is drawn.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the picture.
        label: What is written beside the box.
        number: Of its class: it gives the colour.
        mask: (H, W) of booleans or of 0 and 1, at any size; None where it has none.
        is_labelled_below: Whether the label goes below the box; by default it goes above.
    """

    box: Sequence[float]
    label: str
    number: int
    mask: np.ndarray | None = None
    is_labelled_below: bool = False


def annotated_object(
    annotation: Mapping[str, Any], name: str, number: int, *, mask: np.ndarray | None, zoom: float
) -> DrawnObject:
    """Return an object of ground truth in COCO's format, for a picture ``zoom`` times as large as its image.

    A crowd's label goes below its box, which others tend to overlap.
    """
    x, y, width, height = (zoom * value for value in annotation["bbox"])
    is_crowd = bool(annotation.get("iscrowd"))
    return DrawnObject((x, y, x + width, y + height), f"{name} crowd" if is_crowd else name, number, mask, is_crowd)


def found_objects(
    boxes: np.ndarray,
    labels: Sequence[int],
    texts: Sequence[str],
    masks: Sequence[np.ndarray] | np.ndarray | None,
    *,
    zoom: float,
) -> list[DrawnObject]:
    """Return objects for a picture ``zoom`` times as large as their image, the first on top."""
    each = [None] * len(boxes) if masks is None else masks
    fields = zip(boxes, labels, texts, each, strict=True)
    return [DrawnObject(zoom * box, text, int(label), mask) for box, label, text, mask in fields][::-1]


def draw_objects(picture: np.ndarray, objects: Sequence[DrawnObject], *, opacity: float | None = None) -> np.ndarray:
    """Copy an (H, W, 3) picture and draw masks, boxes and labels on it, the last object on top.

    A label stands beside its box where it covers least. One that would cover smaller objects wherever it stood is left
    out.
    """
    picture = picture.copy()
    boxes = [tuple(round(float(value)) for value in item.box) for item in objects]
    for item, (x1, y1, x2, y2) in zip(objects, boxes, strict=True):
        colour = _class_colour(item.number)
        if item.mask is not None:
            _draw_mask(picture, item.mask, colour, MASK_OPACITY if opacity is None else opacity)
        cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), colour, _line_width(picture))
    texts = [_Text.of(item.label, picture) for item in objects]
    below = [item.is_labelled_below for item in objects]
    sizes = [(text.width, text.height) for text in texts]
    places = place_labels(np.array(boxes).reshape(-1, 4), sizes, picture.shape[:2], below=below)
    for item, text, place in zip(objects, texts, places, strict=True):  # so that no mask covers a label
        if place is not None:
            text.write(picture, place, _class_colour(item.number))
    return picture


def _draw_mask(picture: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], opacity: float) -> None:
    """Draw a mask of any size over a whole picture; what lies outside of it is not touched."""
    height, width = picture.shape[:2]
    if not mask.any():
        return
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    zoom = (height / mask.shape[0], width / mask.shape[1])
    top, bottom = (round(zoom[0] * row) for row in (rows[0], rows[-1] + 1))
    left, right = (round(zoom[1] * column) for column in (columns[0], columns[-1] + 1))
    bottom, right = max(bottom, top + 1), max(right, left + 1)
    cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint8)
    part = cv2.resize(cut, (right - left, bottom - top), interpolation=cv2.INTER_NEAREST)
    target = picture[top:bottom, left:right]
    target[part > 0] = ((1 - opacity) * target[part > 0] + opacity * np.array(colour)).astype(np.uint8)
    contours, _ = cv2.findContours(part, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(target, contours, -1, colour, 1)


class _Text(NamedTuple):
    """A label in the size that suits a picture; its width and height are in pixels."""

    text: str
    scale: float
    thickness: int
    width: int
    height: int

    @classmethod
    def of(cls, text: str, picture: np.ndarray) -> "_Text":
        scale, thickness = 0.4 * max(1, max(picture.shape[:2]) / 1000), _line_width(picture)
        (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
        return cls(text, scale, thickness, width, height + 4 * thickness)

    def write(self, picture: np.ndarray, place: tuple[int, int], colour: tuple[int, int, int]) -> None:
        """Write it in black on a colour, with its upper left corner in a place."""
        left, top = place
        cv2.rectangle(picture, place, (left + self.width, top + self.height), colour, -1)
        baseline = (left, top + self.height - 4 * self.thickness)
        cv2.putText(
            *(
                picture,
                self.text,
                baseline,
                cv2.FONT_HERSHEY_SIMPLEX,
                self.scale,
                (0, 0, 0),
                self.thickness,
                cv2.LINE_AA,
            )
        )


def _line_width(picture: np.ndarray) -> int:
    """Return a width of lines that can be seen when the whole picture fills a screen."""
    return max(1, round(max(picture.shape[:2]) / 1000))


def _class_colour(number: int) -> tuple[int, int, int]:
    """Return a bright BGR colour."""
    red, green, blue = class_colour(number)
    return blue, green, red


def draw_labels(
    labels: np.ndarray, names: Sequence[str], colours: np.ndarray, *, image: np.ndarray | None = None
) -> np.ndarray:
    """Draw an (H, W) label image in colours, with the names of the classes that occur.

    Args:
        labels: Positions in ``names`` and ``colours``.
        names: Of all labels.
        colours: BGR of all labels, (number of labels, 3) uint8.
        image: An (H, W, 3) picture that shows through.
    """
    picture = _paint(labels, colours, image)
    for row, label in enumerate(np.unique(labels)):
        at = (4, 14 + 15 * row)
        cv2.putText(picture, names[label], at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 3, cv2.LINE_AA)
        colour = colours[label].tolist() if colours[label].max() > 80 else (255, 255, 255)
        cv2.putText(picture, names[label], at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
    return picture


def _paint(
    labels: np.ndarray, colours: np.ndarray, image: np.ndarray | None = None, *, opacity: float | None = None
) -> np.ndarray:
    """Paint labels, over an image if there is one, which stays as it is where a label has no colour."""
    if image is None:
        return colours[labels]
    share = LABEL_OPACITY if opacity is None else opacity
    painted = cv2.addWeighted(image, 1 - share, colours[np.minimum(labels, len(colours) - 1)], share, 0)
    is_none = labels >= len(colours)
    painted[is_none] = image[is_none]
    return painted


def to_picture(pixels: np.ndarray, shown: Sequence[int] | None = None) -> np.ndarray:
    """Turn what a loading step gives into an (H, W, 3) picture to look at.

    What is not of 8 bits is stretched from the 2nd to the 98th percentile of all that is shown.

    Args:
        pixels: (H, W) or (H, W, C).
        shown: The channels to show as red, green and blue, or the one to show as grey, counted from 1. None for images
            whose first three channels are blue, green and red, or whose only or first of two is grey.
    """
    if pixels.ndim == 3 and shown is not None:
        order = [number - 1 for number in reversed(shown)]
        pixels = pixels[:, :, order if len(order) > 1 else order[0]]
    elif pixels.ndim == 3:
        pixels = pixels[:, :, 0] if pixels.shape[2] < 3 else pixels[:, :, :3]
    if pixels.dtype != np.uint8:
        pixels = _stretch(pixels, may_be_8_bits=shown is None)
    return cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR) if pixels.ndim == 2 else np.ascontiguousarray(pixels)


def _stretch(pixels: np.ndarray, *, may_be_8_bits: bool) -> np.ndarray:
    finite = np.nan_to_num(pixels.astype(np.float64), posinf=0, neginf=0)
    lowest, highest = finite.min(), finite.max()
    if may_be_8_bits and pixels.dtype.kind == "f" and lowest >= 0 and 1 < highest <= 255:
        low, high = 0.0, 255.0  # read as 8-bit and made floats
    else:
        low, high = np.percentile(finite, (2, 98))
    if high <= low:  # nearly all is one value
        low, high = lowest, highest
    return (np.clip((finite - low) / max(high - low, 1e-12), 0, 1) * 255).round().astype(np.uint8)


def enlarge(image: np.ndarray, side: int) -> tuple[np.ndarray, float]:
    """Scale a picture to a longer side of that many pixels, and say by how much."""
    zoom = side / max(image.shape[:2])
    size = tuple(max(1, round(zoom * length)) for length in image.shape[1::-1])
    return cv2.resize(image, size, interpolation=cv2.INTER_NEAREST if zoom > 1 else cv2.INTER_AREA), zoom


def enlarge_whole(pixels: np.ndarray, side: int) -> np.ndarray:
    """Enlarge a small picture by a whole number, until its longer side is about that many pixels."""
    scale = max(1, round(side / max(pixels.shape[:2])))
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) if scale > 1 else pixels


def draw_label_map(
    pixels: np.ndarray, result: Mapping[str, Any], *, truth: np.ndarray | None = None, opacity: float | None = None
) -> np.ndarray:
    """Put the image, the image under its classes' colours, and a legend of those that occur, side by side.

    Args:
        pixels: The image, (H, W, 3).
        result: ``label_map`` of any size, ``class_names`` and ``palette``.
        truth: Label map of the ground truth, which is drawn before the prediction; what is no class, as 255, is left as
            it is.
        opacity: Of the colours over the image, from 0 to 1; by default ``LABEL_OPACITY``.
    """
    painted = paint_label_map(pixels, result, opacity=opacity)
    number = len(result["class_names"])
    labels = np.asarray(result["label_map"])
    counts = np.bincount(labels.ravel(), minlength=number)[:number]
    occurs = counts > 0
    panels = [pixels, painted]
    if truth is not None:
        known = np.where(truth < number, truth, number)
        occurs |= np.bincount(known.ravel(), minlength=number + 1)[:number] > 0
        shown = _paint(*_labels_and_colours(pixels, dict(result, label_map=known)), pixels)
        panels = [
            write_caption(panel, text)
            for panel, text in ((pixels, "image"), (shown, "ground truth"), (painted, "prediction"))
        ]
    order = [index for index in np.argsort(-counts, kind="stable") if occurs[index]]
    legend = _legend(result, order, counts / labels.size, zoom=max(1, round(max(pixels.shape[:2]) / 1000)))
    return beside([*panels, legend])


def beside(panels: Sequence[np.ndarray]) -> np.ndarray:
    """Put pictures side by side on white."""
    height, gap = max(map(len, panels)), (255, 255, 255)
    return np.hstack(
        [cv2.copyMakeBorder(panel, 0, height - len(panel), 0, 4, cv2.BORDER_CONSTANT, value=gap) for panel in panels]
    )


def _legend(result: Mapping[str, Any], labels: Sequence[int], shares: np.ndarray, *, zoom: int) -> np.ndarray:
    """Draw names and shares of classes beside their colours, black on white."""
    font, size, line = cv2.FONT_HERSHEY_SIMPLEX, 0.5 * zoom, 24 * zoom  # line: pixels from one row to the next
    colours = np.array(result["palette"], np.uint8)[:, ::-1]  # BGR
    texts = [f"{result['class_names'][label]} {shares[label]:.1%}" for label in labels]
    width = max((cv2.getTextSize(text, font, size, zoom)[0][0] for text in texts), default=0)
    legend = np.full((line * len(texts) + 12 * zoom, width + 50 * zoom, 3), 255, np.uint8)
    for row, (label, text) in enumerate(zip(labels, texts, strict=True)):
        top = 8 * zoom + row * line
        cv2.rectangle(legend, (8 * zoom, top), (30 * zoom, top + 16 * zoom), colours[label].tolist(), -1)
        cv2.putText(legend, text, (38 * zoom, top + 13 * zoom), font, size, (0, 0, 0), zoom, cv2.LINE_AA)
    return legend


def paint_label_map(pixels: np.ndarray, result: Mapping[str, Any], *, opacity: float | None = None) -> np.ndarray:
    """Put the classes' colours over the image."""
    return _paint(*_labels_and_colours(pixels, result), pixels, opacity=opacity)


def draw_errors(pixels: np.ndarray, is_wrong: np.ndarray) -> np.ndarray:
    """Return an (H, W, 3) picture in light grey, red where ``is_wrong``, which may be of another size, is true."""
    height, width = pixels.shape[:2]
    grey = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    picture = cv2.addWeighted(grey, 0.4, np.full_like(grey, 255), 0.6, 0)
    picture[cv2.resize(is_wrong.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0] = (40, 40, 220)
    return picture


def _labels_and_colours(pixels: np.ndarray, result: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the label map at the size of a picture, and the BGR colours of the classes."""
    height, width = pixels.shape[:2]
    labels = cv2.resize(result["label_map"].astype(np.uint16), (width, height), interpolation=cv2.INTER_NEAREST)
    return labels, np.array(result["palette"], np.uint8)[:, ::-1]


def draw_classes(pixels: np.ndarray, result: Mapping[str, Any]) -> np.ndarray:
    """Write the most probable classes below the image."""
    line = 24  # pixels from one row of text to the next
    rows = [f"{name} {score:.1%}" for name, score in zip(result["names"], result["scores"], strict=True)]
    legend = np.full((line * len(rows) + 12, pixels.shape[1], 3), 255, np.uint8)
    for row, text in enumerate(rows):
        cv2.putText(legend, text, (8, 21 + row * line), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([pixels, legend])


def write_caption(image: np.ndarray, text: str) -> np.ndarray:
    """Put a line of text below a picture, cut at its width."""
    strip = np.full((18, image.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, text, (2, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([image, strip])


def write_sheet(path: Path, rows_of_pictures: Sequence[Sequence[np.ndarray]], *, num_columns: int) -> Path:
    """Write groups of (H, W, 3) BGR pictures as one sheet, ``num_columns`` groups in a row, and return its path.

    Raises:
        UserError: It cannot be written.
    """
    pictures = [picture for group in rows_of_pictures for picture in group]
    cell_height, cell_width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    per_group = len(rows_of_pictures[0])
    num_rows = -(-len(rows_of_pictures) // num_columns)
    margin = 6
    size = (num_rows * (cell_height + margin), num_columns * per_group * (cell_width + margin), 3)
    sheet = np.full(size, 255, np.uint8)
    for index, group in enumerate(rows_of_pictures):
        row, column = divmod(index, num_columns)
        for offset, picture in enumerate(group):
            y, x = row * (cell_height + margin), (per_group * column + offset) * (cell_width + margin)
            sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    write_picture(path, sheet)
    return path


def write_picture(path: str | os.PathLike, picture: np.ndarray) -> None:
    """Write a picture, and its folder if need be; the ending gives the format.

    Args:
        path: The file.
        picture: (H, W, 3) in BGR order, or (H, W); uint8, or uint16 for PNG.

    Raises:
        UserError: There is no such format, or the file cannot be written.
    """
    path = Path(path)
    try:
        is_encoded, content = cv2.imencode(path.suffix, picture)
    except cv2.error as error:
        raise UserError(f"Picture {path} cannot be written: OpenCV knows no format '{path.suffix}'.") from error
    if not is_encoded:
        raise UserError(f"Picture {path} cannot be written as {path.suffix}: choose .png.")
    with names_unwritable(path), written_whole(path, flush=False) as partial:
        partial.write_bytes(content.tobytes())
