"""Configs that this package, mmdet and mmseg ship, by their names."""

import difflib
import importlib.util
import os
from pathlib import Path

from convnext_dense.errors import UserError

OURS = "convnext_dense"
PACKAGES = (OURS, "mmdet", "mmseg")
# Where OpenMMLab's packages keep them: ``mim`` and mmengine look there.
CONFIGS = Path(__file__).parent / ".mim" / "configs"


def shipped_name(config: str) -> str:
    """Return the name of one of our configs, which tables name as ``configs/...``."""
    return f"{OURS}::{config.removeprefix('configs/')}"


def find_config(name: str | os.PathLike) -> Path:
    """Return the file of a config.

    Args:
        name: Path of a file; ``PACKAGE::PATH`` of one that a package ships; or the name of one of ours, with or without
            its folder and its ending, such as ``finetune/mask_rcnn``.

    Raises:
        UserError: There is no such config, or more than one.
    """
    name = os.fspath(name)
    if "::" in name:
        return find_shipped(name)
    if Path(name).is_file():
        return Path(name)
    is_place = name.startswith(("./", "../", "/", "~"))  # of a file, which is not there
    wanted = () if is_place else Path(name.removesuffix(".py")).parts
    wanted = wanted[1:] if wanted[:1] == ("configs",) else wanted
    ours = {path: path.with_suffix("").parts for path in _paths(CONFIGS)}
    found = [path for path, parts in ours.items() if wanted and parts[-len(wanted) :] == wanted]
    if len(found) > 1:
        raise UserError(f"Config {name} is one of {', '.join(map(str, found))}: name it with its folder.")
    if not found:
        raise UserError(f"Config {name} does not exist.{_nearest(Path(name), list(ours))}")
    return CONFIGS / found[0]


def find_shipped(name: str) -> Path:
    """Return the file of a name such as ``mmdet::retinanet/retinanet_r50_fpn_1x_coco.py``.

    Raises:
        UserError: The package is another one or is not installed, or there is no such config in it.
    """
    package, _, path = name.partition("::")
    spec = importlib.util.find_spec(package) if package in PACKAGES else None
    if spec is None or spec.origin is None:
        known = f"{', '.join(PACKAGES[:-1])} or {PACKAGES[-1]}"
        raise UserError(f"Config {name} names the package '{package}'; it must be {known}, and installed.")
    folder = CONFIGS if package == OURS else Path(spec.origin).parent / ".mim" / "configs"
    file = folder / f"{path.removesuffix('.py')}.py"
    if not file.is_file():
        shipped = [one.as_posix() for one in _paths(folder)]
        nearest = difflib.get_close_matches(path, shipped, n=1, cutoff=0.0)
        raise UserError(f"Config {name} does not exist. Did you mean {package}::{nearest[0]}?")
    return file


def _paths(folder: Path) -> list[Path]:
    """Return the paths below a folder of configs that are whole."""
    paths = (Path(root, name) for root, _, names in os.walk(folder, followlinks=True) for name in names)
    below = (path.relative_to(folder) for path in paths if path.suffix == ".py")
    return sorted(path for path in below if path.parts[0] != "_base_")


def _nearest(path: Path, ours: list[Path]) -> str:
    names = sorted(other.name for other in path.parent.glob("*.py")) if path.parent.is_dir() else []
    nearest = difflib.get_close_matches(path.name, names, n=1)
    if nearest:
        return f" Did you mean {path.parent / nearest[0]}?"
    known = {one.with_suffix("").as_posix(): one for one in ours} | {one.stem: one for one in ours}
    close = difflib.get_close_matches(os.fspath(path).removesuffix(".py"), list(known), n=1)
    return f" Did you mean {close[0]}?" if close else ""
