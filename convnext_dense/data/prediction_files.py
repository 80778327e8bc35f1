"""Finds the images to predict, and writes predictions to files, as ``tools/test.py`` does.

Letters: n objects in an image, H and W its height and width in pixels.
"""

import contextlib
import csv
import glob
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from convnext_dense.data.opened_images import ARRAY_SUFFIX, IMAGE_SUFFIXES
from convnext_dense.data.picture_files import picture_names
from convnext_dense.errors import UserError
from convnext_dense.files import names_unwritable, write_json
from convnext_dense.visualization import write_picture

_SUFFIXES = (*IMAGE_SUFFIXES, ".gif")


def find_images(names: Sequence[str]) -> list[Path]:
    """List the given files, and the images of the given folders in sorted order, each file once, see ``find_files``."""
    return list(find_files(names))


def find_files(names: Sequence[str], *, recursive: bool = False, also: Sequence[str] = ()) -> dict[Path, int]:
    """Find the given files, those that match a pattern, and the images of the given folders in sorted order.

    Of a folder without images of its own, those of its subfolders are found.

    Args:
        names: Files, folders, or patterns such as ``images/*.jpg`` and ``images/**/*.png``.
        recursive: Whether the images of all subfolders are found, too.
        also: Suffixes of further files that folders are searched for.

    Returns:
        Each file once, with the number of its parent folders that lie in a folder that was given.

    Raises:
        UserError: A path does not exist, a pattern matches nothing, or a folder contains no image.
    """
    found: dict[str, tuple[Path, int]] = {}
    for name in names:
        for path in _matches(name):
            files = {path: 0}
            if path.is_dir():
                files = {} if recursive else _files_in(path, "*", also)
                files = files or _files_in(path, "**/*", also)
                if not files:
                    raise UserError(
                        f"There is no image in {path}: expected files ending in {', '.join((*_SUFFIXES, *also))}."
                    )
            for file, folders in files.items():
                found.setdefault(os.path.abspath(file), (file, folders))
    return dict(found.values())


def _matches(name: str) -> list[Path]:
    """Return what a name stands for: itself if it exists, or else the files that match it."""
    path = Path(name)
    if path.exists():
        return [path]
    if not glob.has_magic(name):
        raise UserError(f"Image {name} does not exist.")
    matches = sorted(Path(match) for match in glob.glob(name, recursive=True) if os.path.isfile(match))
    if not matches:
        raise UserError(f"No file matches {name}.")
    return matches


def _files_in(folder: Path, pattern: str, also: Sequence[str]) -> dict[Path, int]:
    """Return the images of a folder, or its arrays if it has no images; hidden files and folders are left out."""
    shown = [
        path for path in folder.glob(pattern) if not any(part[0] == "." for part in path.relative_to(folder).parts)
    ]
    present = {path: len(path.relative_to(folder).parts) - 1 for path in sorted(shown) if path.is_file()}
    for suffixes in ((*_SUFFIXES, *also), (ARRAY_SUFFIX,)):
        files = {path: folders for path, folders in present.items() if path.suffix.lower() in suffixes}
        if files:
            return files
    return {}


def name_pictures(
    images: Sequence[Path],
    out_dir: Path,
    *,
    folders: Mapping[Path, int] | None = None,
    videos: Collection[Path] = (),
) -> dict[Path, Path]:
    """Return a unique path for the picture of every image, or the ``.mp4`` of a video, see ``picture_names``.

    Raises:
        UserError: A picture would overwrite an image.
    """
    names = picture_names(images, folders=folders)
    endings = {image: ".mp4" if image in videos else ".png" for image in images}
    pictures = {image: out_dir / f"{names[os.fspath(image)]}{ending}" for image, ending in endings.items()}
    originals = {os.path.realpath(image) for image in images}
    for image, picture in pictures.items():
        if os.path.realpath(picture) in originals:
            raise UserError(f"The picture of {image} would overwrite the image {picture}: choose another --out-dir.")
    return pictures


class CocoResults:
    """Collects detections, and writes ``NAME.bbox.json`` and, where there are masks, ``NAME.segm.json``.

    Args:
        path: ``NAME.json``.

    Raises:
        UserError: ``path`` does not end in ``.json``.
    """

    def __init__(self, path: str) -> None:
        if not path.endswith(".json"):
            raise UserError(f"--out {path} must end in .json.")
        self._prefix = path.removesuffix(".json")
        self._boxes: list[dict[str, Any]] = []
        self._masks: list[dict[str, Any]] = []
        self._has_masks = False

    def add(self, image_id: int | str, result: Any) -> None:
        """Add what was found in an image, ``inference.Detections``."""
        for item in result.to_coco(image_id):
            segmentation = item.pop("segmentation", None)
            self._boxes.append(item)
            if segmentation is not None:
                self._masks.append(dict(item, segmentation=segmentation))
        self._has_masks |= "masks" in result

    def write(self) -> list[Path]:
        """Write the collected detections, and return the paths of the files.

        Raises:
            UserError: A file cannot be written.
        """
        contents = {"bbox": self._boxes, **({"segm": self._masks} if self._has_masks else {})}
        files = []
        for kind, content in contents.items():
            files.append(Path(f"{self._prefix}.{kind}.json"))
            write_json(files[-1], content)
        return files


def write_label_image(path: Path, label_map: np.ndarray, *, first: int) -> None:
    """Write (H, W) class numbers as a grey PNG of 8 bits, or of 16 where 8 are not enough.

    Args:
        path: The file.
        label_map: Class numbers, from 0.
        first: The number of the first class in the file: 1 where 0 means ignored.

    Raises:
        UserError: The file cannot be written.
    """
    labels = label_map.astype(np.int64) + first
    write_picture(path, labels.astype(np.uint8 if labels.max() < 256 else np.uint16))


class PredictionWriter:
    """Writes predictions as ``tools/test.py --out`` does.

    An object's ``image_id`` is the file name of its image; images of the same name are told apart by their folders.

    Args:
        out: ``NAME.json`` for detection, a folder for segmentation.
        images: All images that will be added.
        task: ``'detection'``, ``'segmentation'`` or ``'classification'``, for which nothing is written.
        first_label: The number of the first class in label images.
        folders: See ``picture_names``.

    Raises:
        UserError: The model's task has no such files, or ``out`` does not end in ``.json``.
    """

    def __init__(
        self,
        out: str,
        images: Sequence[Path],
        *,
        task: str | None,
        first_label: int = 0,
        folders: Mapping[Path, int] | None = None,
    ) -> None:
        if task == "classification":
            raise UserError("--out is for detection and segmentation; predict gives the classes of images.")
        self._out, self._first_label = out, first_label
        self._objects = CocoResults(out) if task == "detection" else None
        names = picture_names(images, keeps_suffix=self._objects is not None, folders=folders)
        self._names = {image: names[os.fspath(image)] for image in images}

    def add(self, image: Path, result: Mapping[str, Any]) -> None:
        """Add the prediction for an image."""
        if self._objects is not None:
            self._objects.add(self._names[image], result)
        else:
            write_label_image(
                Path(self._out, f"{self._names[image]}.png"), result["label_map"], first=self._first_label
            )

    def write(self) -> str:
        """Write what is still unwritten, and return where the predictions are."""
        return self._out if self._objects is None else ", ".join(map(str, self._objects.write()))


class ResultFiles:
    """Writes ``predictions.csv`` and ``predictions.json`` as results come, so that memory does not grow.

    Both are whole when the block ends, also if an error or an interrupt ends it; files of before stay if it ends with
    an error before the first result.

    Args:
        folder: Where to write.
        has_coco: Whether results have COCO's format, and so a JSON file.
        columns: Further columns of the table, whose rows may lack them.
        name: Of the files, without an ending.

    Attributes:
        files: What is written.
    """

    def __init__(self, folder: Path, *, has_coco: bool, columns: Sequence[str] = (), name: str = "predictions") -> None:
        self._columns = columns
        self._table = folder / f"{name}.csv"
        self._objects = folder / f"{name}.json" if has_coco else None
        self.files = [self._table, *([self._objects] if self._objects else [])]
        self._stack = contextlib.ExitStack()
        self._opened: list[IO[str]] = []
        self._rows: csv.DictWriter | None = None
        self._is_first = True
        self._is_kept, self._has_results = True, False

    def __enter__(self) -> "ResultFiles":
        """Open the files."""
        for file in self.files:
            with names_unwritable(file):
                file.parent.mkdir(parents=True, exist_ok=True)
                partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
                self._stack.callback(self._end, partial, file)
                self._opened.append(self._stack.enter_context(partial.open("w", encoding="utf-8", newline="")))
        if self._objects is not None:
            self._opened[1].write("[")
            self._stack.callback(self._opened[1].write, "\n]\n")
        return self

    def _end(self, partial: Path, file: Path) -> None:
        if self._is_kept:
            os.replace(partial, file)
        else:
            partial.unlink()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the files, and give them their names."""
        self._is_kept = kind is None or self._has_results
        with names_unwritable(self._table):
            self._stack.close()

    def add(self, image: str, result: Any, **more: Any) -> None:
        """Add what was found in an image, ``inference.Result``; ``more`` are values of the further columns."""
        self._has_results = True
        with names_unwritable(self._table):
            for row in result.to_rows():
                if self._rows is None:
                    names = dict.fromkeys(("image", *self._columns, *row))
                    self._rows = csv.DictWriter(self._opened[0], list(names), restval="")
                    self._rows.writeheader()
                row = {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}
                self._rows.writerow(dict(row, image=image, **more))
            if self._objects is None:
                return
            for item in result.to_coco(image):
                self._opened[1].write(("\n" if self._is_first else ",\n") + json.dumps(dict(item, **more)))
                self._is_first = False
