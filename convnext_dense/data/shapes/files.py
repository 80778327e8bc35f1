"""What all layouts of the generated data share: checked arguments, and writing that is complete or not done at all."""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2

from convnext_dense.data.shapes.scenes import MIN_SIDE, SPLITS, Scene
from convnext_dense.errors import UserError

GENERATOR_VERSION = "2"  # increase it with every change to pictures or annotations: old folders are then refused
JPEG_QUALITY = 90
MARKER = "shapes.json"  # marks a folder as complete, and records its parameters

logger = logging.getLogger(__name__)


def make_writer(
    layout: str,
    entries: Sequence[str],
    write_split: Callable[[Path, str, int, dict[str, Any]], None],
    *,
    counts: tuple[int, int] = (600, 120),
) -> Callable[..., bool]:
    """Return the function that writes a layout with these ``entries`` in its root, see ``write`` below.

    ``write_split`` is called with the folder, the split, its number of images, and the parameters on which they depend.
    """

    def write(
        root: str | os.PathLike[str],
        num_train: int = counts[0],
        *,
        num_val: int = counts[1],
        image_size: tuple[int, int] = (160, 160),
        seed: int = 0,
    ) -> bool:
        """Generate the data set, unless it already exists. The same arguments give the same bytes.

        Args:
            root: Folder to fill; created if missing. Other files in it are left alone.
            num_train: Number of images in the training split.
            num_val: Number of images in the validation split.
            image_size: (height, width) of the largest images; see ``split_scene`` for the other sizes.
            seed: 0 or more.

        Returns:
            Whether the data set was written: False if ``root`` already holds this data set.

        Raises:
            UserError: An argument is out of range, or ``root`` holds another data set.
        """
        parameters = _check_parameters(num_train, num_val, image_size=image_size, seed=seed, layout=layout)

        def write_splits(partial: Path) -> None:
            for split, count in zip(SPLITS, (num_train, num_val), strict=True):
                write_split(partial, split, count, parameters)

        return _write_once(Path(root), entries, parameters, write_splits)

    return write


def _check_parameters(
    num_train: int, num_val: int, *, image_size: tuple[int, int], seed: int, layout: str
) -> dict[str, Any]:
    for name, count in (("num_train", num_train), ("num_val", num_val)):
        if count < 1:
            raise UserError(f"{name}={count} must be 1 or more")
    if min(image_size) < MIN_SIDE:
        raise UserError(f"image_size={tuple(image_size)} is too small: height and width must be {MIN_SIDE} or more")
    if seed < 0:
        raise UserError(f"seed={seed} must be 0 or more")
    return {
        "generator_version": GENERATOR_VERSION,
        "layout": layout,
        "num_train": num_train,
        "num_val": num_val,
        "image_size": list(image_size),
        "seed": seed,
    }


def _write_once(root: Path, entries: Sequence[str], parameters: dict[str, Any], write: Callable[[Path], None]) -> bool:
    """Fill a folder unless it is filled. Files get their names once all are written: a data set is whole or absent."""
    if _is_complete(root, entries, parameters):
        logger.info("%s already holds this data set, nothing to do", root)
        return False
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=root) as partial:
        write(Path(partial))
        files = sorted(str(path.relative_to(partial)) for path in Path(partial).rglob("*") if path.is_file())
        marker = Path(partial) / MARKER
        marker.write_text(json.dumps({"parameters": parameters, "files": files}))
        for name in entries:
            (Path(partial) / name).rename(root / name)
        marker.rename(root / MARKER)  # last, because it marks the data set as complete
    return True


def encode_jpeg(scene: Scene) -> bytes:
    """Encode a scene's picture as JPEG."""
    bgr = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
    is_encoded, buffer = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert is_encoded
    return buffer.tobytes()


def _is_complete(root: Path, entries: Sequence[str], parameters: dict[str, Any]) -> bool:
    """Whether the root holds exactly this data set; raise an error if other data has the same names."""
    found = [name for name in (*entries, MARKER) if (root / name).exists()]
    if not found:
        return False
    remedy = "delete it or choose another folder"
    if MARKER not in found:
        raise UserError(f"root={root} has {found} but no {MARKER}, so another program made it: {remedy}")
    marker = json.loads((root / MARKER).read_text())
    if marker["parameters"] != parameters:
        raise UserError(f"root={root} was made with {marker['parameters']}, not with {parameters}: {remedy}")
    missing = [name for name in marker["files"] if not (root / name).is_file()]
    if missing:
        raise UserError(f"root={root} lacks {len(missing)} files, {missing[0]} first: {remedy}")
    return True
