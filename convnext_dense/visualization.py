"""Draws ground truth and predictions on images, and many images on one sheet.

Letters: H, W are the height and width of a picture in pixels; pictures are BGR, uint8.
"""

import colorsys
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from convnext_dense.errors import UserError
from convnext_dense.files import names_unwritable, written_whole

_GOLDEN_RATIO = (5**0.5 - 1) / 2  # hues that are multiples of it stay apart, however many there are


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


def draw_objects(picture: np.ndarray, objects: Sequence[DrawnObject]) -> np.ndarray:
    """Copy an (H, W, 3) picture and draw masks, boxes and labels on it, the last object on top."""
    picture = picture.copy()
    height, width = picture.shape[:2]
    for item in objects:
        colour = _class_colour(item.number)
        if item.mask is not None:
            mask = cv2.resize(item.mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
            picture[mask > 0] = (0.7 * picture[mask > 0] + 0.3 * np.array(colour)).astype(np.uint8)
            contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(picture, contours, -1, colour, 1)
        x1, y1, x2, y2 = (round(float(value)) for value in item.box)
        cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), colour, _line_width(picture))
    for item in objects:  # in a second pass, so that no mask covers a label
        _write_label(picture, item)
    return picture


def _write_label(picture: np.ndarray, item: DrawnObject) -> None:
    font, size, thickness = cv2.FONT_HERSHEY_SIMPLEX, 0.4 * _line_width(picture), _line_width(picture)
    (width, height), _ = cv2.getTextSize(item.label, font, size, thickness)
    height += 4 * thickness
    x1, y1, _, y2 = (round(float(value)) for value in item.box)
    top = y2 if item.is_labelled_below else y1 - height
    left = max(min(x1, picture.shape[1] - width), 0)
    top = min(max(top, 0), picture.shape[0] - height)
    cv2.rectangle(picture, (left, top), (left + width, top + height), _class_colour(item.number), -1)
    baseline = (left, top + height - 4 * thickness)
    cv2.putText(picture, item.label, baseline, font, size, (0, 0, 0), thickness, cv2.LINE_AA)


def _line_width(picture: np.ndarray) -> int:
    """Return a width of lines that can be seen when the whole picture fills a screen."""
    return max(1, round(max(picture.shape[:2]) / 1000))


def _class_colour(number: int) -> tuple[int, int, int]:
    """Return a bright BGR colour."""
    red, green, blue = colorsys.hsv_to_rgb(number * _GOLDEN_RATIO % 1, 0.6, 1)
    return round(255 * blue), round(255 * green), round(255 * red)


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


def _paint(labels: np.ndarray, colours: np.ndarray, image: np.ndarray | None = None) -> np.ndarray:
    return colours[labels] if image is None else cv2.addWeighted(image, 0.45, colours[labels], 0.55, 0)


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


def draw_label_map(pixels: np.ndarray, result: Mapping[str, Any]) -> np.ndarray:
    """Put the image, the image under its classes' colours, and a legend of those that occur, side by side."""
    height = len(pixels)
    labels, colours = _labels_and_colours(pixels, result)
    shares = np.bincount(labels.ravel(), minlength=len(result["class_names"])) / labels.size
    rows = [index for index in np.argsort(-shares) if shares[index] > 0]
    font, size, line = cv2.FONT_HERSHEY_SIMPLEX, 0.5, 24  # line: pixels from one row of the legend to the next
    texts = [f"{result['class_names'][index]} {shares[index]:.1%}" for index in rows]
    text_width = max(cv2.getTextSize(text, font, size, 1)[0][0] for text in texts)
    legend = np.full((max(height, line * len(rows) + 12), text_width + 50, 3), 255, np.uint8)
    for row, (index, text) in enumerate(zip(rows, texts, strict=True)):
        top = 8 + row * line
        cv2.rectangle(legend, (8, top), (30, top + 16), colours[index].tolist(), -1)
        cv2.putText(legend, text, (38, top + 13), font, size, (0, 0, 0), 1, cv2.LINE_AA)
    pictures = [
        cv2.copyMakeBorder(picture, 0, len(legend) - height, 0, 4, cv2.BORDER_CONSTANT, value=(255, 255, 255))
        for picture in (pixels, _paint(labels, colours, pixels))
    ]
    return np.hstack([*pictures, legend])


def paint_label_map(pixels: np.ndarray, result: Mapping[str, Any]) -> np.ndarray:
    """Put the classes' colours over the image."""
    return _paint(*_labels_and_colours(pixels, result), pixels)


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
