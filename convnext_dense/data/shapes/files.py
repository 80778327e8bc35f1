"""What all layouts of the generated data share: checked arguments, and writing that is complete or not done at all."""

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

GENERATOR_VERSION = "2"  # increase it with every change to pictures or annotations: old folders are then refused
JPEG_QUALITY = 90
MARKER = "shapes.json"  # marks a folder as complete, and records its parameters

logger = logging.getLogger(__name__)


def check_parameters(
    num_train: int, num_val: int, *, image_size: tuple[int, int], seed: int, layout: str
) -> dict[str, Any]:
    """Check the parameters of a data set.

    Returns:
        Everything that its files depend on.

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
    """Fill a folder, unless it is already filled.

    Files get their final names only when all of them are written, so a data set is either complete or absent.

    Args:
        root: Folder to fill; created if missing. Other files in it are left alone.
        entries: Files and folders that ``write`` creates, relative to the root.
        parameters: Everything that the files depend on.
        write: Takes an empty folder, and creates the entries in it.

    Returns:
        Whether anything was written: False if the root already holds this data set.

    Raises:
        UserError: The root holds another or an incomplete data set.
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
