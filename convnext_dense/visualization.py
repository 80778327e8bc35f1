"""Draws ground truth on images, and many images on one sheet.

Letters: H, W are the height and width of a picture in pixels; pictures are BGR, uint8.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from convnext_dense.errors import UserError
from convnext_dense.files import names_unwritable

_COLOURS = (  # BGR, of classes in turn
    (80, 200, 255),
    (80, 255, 80),
    (255, 200, 80),
    (255, 120, 255),
    (120, 120, 255),
    (255, 255, 80),
)


def draw_objects(
    image: np.ndarray,
    annotations: Sequence[Mapping[str, Any]],
    *,
    masks: Sequence[np.ndarray | None],
    names: Sequence[str],
    zoom: float,
) -> np.ndarray:
    """Copy an enlarged (H, W, 3) image and draw the masks, boxes and names of its objects on it.

    Args:
        image: The picture, ``zoom`` times as large as the image of the annotations.
        annotations: In COCO's format.
        masks: Of each object, at the image's own size; None where it has none.
        names: Of each object's class.
        zoom: By how much the picture is enlarged.
    """
    picture = image.copy()
    colours = [_COLOURS[annotation["category_id"] % len(_COLOURS)] for annotation in annotations]
    boxes = [[round(zoom * value) for value in annotation["bbox"]] for annotation in annotations]
    for (x, y, width, height), mask, colour in zip(boxes, masks, colours, strict=True):
        if mask is not None:
            large = cv2.resize(mask, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
            picture[large > 0] = (0.7 * picture[large > 0] + 0.3 * np.array(colour)).astype(np.uint8)
            contours, _ = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(picture, contours, -1, colour, 1)
        cv2.rectangle(picture, (x, y), (x + width - 1, y + height - 1), colour, 1)
    # Names in a second pass, so that no mask covers one; a crowd's goes below its box, which others tend to overlap.
    for (x, y, _, height), annotation, name, colour in zip(boxes, annotations, names, colours, strict=True):
        is_crowd = bool(annotation.get("iscrowd"))
        label = f"{name} crowd" if is_crowd else name
        (text_width, text_height), _ = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
        label_height = text_height + 4
        top = y + height if is_crowd else y - label_height
        left = min(x, picture.shape[1] - text_width)
        top = min(max(top, 0), picture.shape[0] - label_height)
        cv2.rectangle(picture, (left, top), (left + text_width, top + label_height), colour, -1)
        cv2.putText(picture, label, (left, top + text_height), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return picture


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
    picture = colours[labels] if image is None else cv2.addWeighted(image, 0.4, colours[labels], 0.6, 0)
    for row, label in enumerate(np.unique(labels)):
        at = (4, 14 + 15 * row)
        cv2.putText(picture, names[label], at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 3, cv2.LINE_AA)
        colour = colours[label].tolist() if colours[label].max() > 80 else (255, 255, 255)
        cv2.putText(picture, names[label], at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
    return picture


def to_picture(pixels: np.ndarray) -> np.ndarray:
    """Turn what a loading step gives into an (H, W, 3) picture to look at.

    Grey and the first of two channels become grey, of four and more the first three are shown. What is not of 8 bits is
    stretched from its least to its greatest value.
    """
    if pixels.ndim == 3 and pixels.shape[2] < 3:
        pixels = pixels[:, :, 0]
    elif pixels.ndim == 3:
        pixels = pixels[:, :, :3]
    if pixels.dtype != np.uint8:
        finite = np.nan_to_num(pixels.astype(np.float64), posinf=0, neginf=0)
        low, high = finite.min(), finite.max()
        if pixels.dtype.kind == "f" and low >= 0 and 1 < high <= 255:
            low, high = 0, 255  # read as 8-bit and made floats
        pixels = ((finite - low) / max(high - low, 1e-12) * 255).round().astype(np.uint8)
    return cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR) if pixels.ndim == 2 else np.ascontiguousarray(pixels)


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
    height, width = pixels.shape[:2]
    labels = cv2.resize(result["label_map"].astype(np.uint16), (width, height), interpolation=cv2.INTER_NEAREST)
    colours = np.array(result["palette"], np.uint8)[:, ::-1]  # BGR
    overlay = cv2.addWeighted(pixels, 0.45, colours[labels], 0.55, 0)

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
        for picture in (pixels, overlay)
    ]
    return np.hstack([*pictures, legend])


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
    partial = path.with_name(f".partial-{path.name}")
    write_picture(partial, sheet)
    return partial.replace(path)


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
    with names_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.tobytes())
