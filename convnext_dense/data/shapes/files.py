"""What every layout of the generated data has in common: written whole or not at all, found again, previewed."""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2

from convnext_dense.data.shapes.scenes import MIN_SIDE, Scene
from convnext_dense.errors import UserError

GENERATOR_VERSION = "2"  # raise it with every change that alters pictures or annotations: old folders are then refused
JPEG_QUALITY = 90
MARKER = "shapes.json"  # says that a folder is complete, and what it was made with

logger = logging.getLogger(__name__)


def check_parameters(
    num_train: int, num_val: int, *, image_size: tuple[int, int], seed: int, layout: str
) -> dict[str, Any]:
    """Check what a data set is asked to be.

    Returns:
        All that its files depend on.

    Raises:
        UserError: An argument is out of range.
    """
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


def write_once(
    root: str | os.PathLike[str], entries: Sequence[str], parameters: dict[str, Any], write: Callable[[Path], None]
) -> bool:
    """Fill a folder, or find it already filled.

    Files take their final names only when all of them are written, so a data set is either complete or not there.

    Args:
        root: Folder to fill; made if missing. Other things that it holds are left alone.
        entries: Files and folders that ``write`` makes, relative to the root.
        parameters: What the files depend on.
        write: Given an empty folder, makes the entries in it.

    Returns:
        Whether anything was written: False if the root already holds the data set that was asked for.

    Raises:
        UserError: The root holds another data set, or one that is not complete.
    """
    root = Path(root)
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
        marker.rename(root / MARKER)  # last: it is what says that the data set is complete
    return True


def encode_jpeg(scene: Scene) -> bytes:
    """Return a scene's picture as a JPEG file."""
    bgr = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
    is_encoded, buffer = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert is_encoded
    return buffer.tobytes()


def _is_complete(root: Path, entries: Sequence[str], parameters: dict[str, Any]) -> bool:
    """Whether the root holds exactly this data set; an error if it holds something else under the same names."""
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
