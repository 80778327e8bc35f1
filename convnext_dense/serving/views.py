"""What models find in an upload, an image or a video, and how it is shown: drawn, as a table, and as files.

What was found is kept without the pixels, so that showing it in another way needs the upload, and not the models.
"""

import pickle
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convnext_dense.data.opened_images import ARRAY_SUFFIX, TooManyPixelsError, open_image
from convnext_dense.data.prediction_files import ResultFiles
from convnext_dense.errors import UserError
from convnext_dense.inference import LoadedModel, Result, Tiles
from convnext_dense.inference.sources import VIDEO_SUFFIXES
from convnext_dense.inference.video import Video, VideoWriter, of_last_frame
from convnext_dense.serving.limits import Limits, TooLargeError
from convnext_dense.visualization import write_picture

MAX_TILES = 1000  # of an image
MAX_ROWS = 200  # of a table on the page; the files have all


def look_at(model: LoadedModel, path: Path, limits: Limits, *, tiles: Tiles | None = None) -> Result:
    """Return what a model finds in an image.

    Raises:
        UserError: It is no image, or not one that the model takes.
        TooLargeError: It has more pixels than the limits allow.
    """
    if path.suffix.lower() != ARRAY_SUFFIX:
        try:
            open_image(path, limit=limits.max_pixels)
        except TooManyPixelsError as error:
            raise TooLargeError(f"The image has more than {limits.max_pixels:,} pixels: make it smaller.") from error
    if tiles is not None:
        _check_tiles(tiles, model.picture(path).shape, MAX_TILES, "image")
    return model(path, tiles=tiles)


def _check_tiles(tiles: Tiles, shape: Sequence[int], most: int, kind: str) -> None:
    if tiles.count(shape[0], shape[1]) > most:
        raise UserError(f"The {kind} would be cut into more than {most} tiles: choose larger ones.")


class View(NamedTuple):
    """What models found in an upload.

    Attributes:
        path: The upload.
        folder: For the files that show it.
        found: For each model what it found, in the image or in each frame of the video.
        classes: Names of the classes that were found, by any model.
    """

    path: Path
    folder: Path
    found: Sequence[Sequence[bytes]]
    classes: Sequence[str]

    @property
    def is_video(self) -> bool:
        """Whether the upload has frames."""
        return _is_video(self.path)

    def remove(self) -> None:
        """Remove the files that show it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def results(self, number: int) -> Iterator[Result]:
        """Yield what a model found."""
        return (pickle.loads(zlib.decompress(packed)) for packed in self.found[number])


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def look(
    models: Sequence[LoadedModel],
    path: Path,
    folder: Path,
    limits: Limits,
    *,
    tiles: Tiles | None = None,
    progress: Callable[[int, int | None], Any] = lambda done, total: None,
) -> View:
    """Let models look at an image or a video.

    Args:
        models: The models.
        path: The upload.
        folder: Where a folder for the files that show it is made.
        limits: Of images and videos.
        tiles: How pictures are cut for detectors; None for whole ones.
        progress: It is told how many frames are done, of how many, or of None where that is not known.

    Raises:
        UserError: It cannot be read, or is not what a model takes.
        TooLargeError: It is larger than the limits allow.
    """
    found: list[list[bytes]] = []
    classes: set[str] = set()
    for model in models:
        of_model = []
        how = tiles if model.task == "detection" else None
        if _is_video(path):
            results = _in_frames(model, path, limits, how, progress)
        else:
            results = iter([look_at(model, path, limits, tiles=how)])
        for result in results:
            of_model.append(zlib.compress(pickle.dumps(result), 1))
            classes.update(row["name"] for row in result.to_rows())
        found.append(of_model)
    order = list(dict.fromkeys(name for model in models for name in model.class_names))
    return View(path, Path(tempfile.mkdtemp(dir=folder)), found, [name for name in order if name in classes])


def _in_frames(
    model: LoadedModel,
    path: Path,
    limits: Limits,
    tiles: Tiles | None,
    progress: Callable[[int, int | None], Any],
) -> Iterator[Result]:
    video = Video(path)
    too_long = f"The video has more than {limits.max_frames:,} frames: cut it, or give it to tools/infer.py."
    if (video.num_frames or 0) > limits.max_frames:
        raise TooLargeError(too_long)

    def frames() -> Iterator[np.ndarray]:
        for number, frame in enumerate(video, start=1):
            if number > limits.max_frames:
                raise TooLargeError(too_long)
            if frame.shape[0] * frame.shape[1] > limits.max_pixels:
                raise TooLargeError(f"The video has more than {limits.max_pixels:,} pixels: make it smaller.")
            if tiles is not None:
                of_frame = limits.max_frames // (video.num_frames or limits.max_frames)
                _check_tiles(tiles, frame.shape, of_frame, "video")
            progress(number - 1, video.num_frames)
            yield frame

    for found in model.stream(frames(), tiles=tiles):
        if isinstance(found, UserError):
            raise found
        yield found


class Shown(NamedTuple):
    """How what one model found is shown.

    Attributes:
        picture: PNG file, or MP4 file of a video.
        coco: JSON file of the objects, areas or segments in COCO's result format; None for a classifier.
        table: CSV file of them.
        rows: Those of the table, at most ``MAX_ROWS``.
        text: What was found, in short.
    """

    picture: Path
    coco: Path | None
    table: Path
    rows: Sequence[dict[str, Any]]
    text: str


def show(
    view: View,
    number: int,
    model: LoadedModel,
    *,
    title: str = "",
    score_thr: float = 0.3,
    opacity: float | None = None,
    classes: Collection[str] = (),
) -> Shown:
    """Show what one of the models found, in new files; those of the time before the last are removed.

    Args:
        view: What was found.
        number: Of the model.
        model: The model, which is not run.
        title: Of the model, in the names of the files.
        score_thr: Objects below are left out, of everything.
        opacity: Of masks and classes over the image, see ``Result.draw``.
        classes: Names of the classes that are shown, of any model; none for all.

    Raises:
        UserError: The upload is no longer there.
    """
    if not view.path.is_file():
        raise UserError("The upload has been deleted: drop it again.")
    folder = _new_folder(view.folder / str(number))
    name = "_".join([view.path.stem, *([re.sub(r"[^\w.-]+", "_", title)] if title else [])])
    picture = folder / f"{name}{'.mp4' if view.is_video else '.png'}"
    lowest = score_thr if model.task == "detection" else 0.0
    has_coco = model.task != "classification"
    chosen = [name for name in classes if name in model.class_names] if classes else None
    rows: list[dict[str, Any]] = []
    text = ""
    with ResultFiles(folder, has_coco=has_coco, columns=["frame"] if view.is_video else [], name=name) as files:

        def shown() -> Iterator[Result]:
            nonlocal text
            for frame, result in enumerate(view.results(number), start=1):
                kept = result.only(chosen, score_thr=lowest)
                more = dict(frame=frame) if view.is_video else {}
                files.add(view.path.name, kept, **more)
                rows.extend(more | row for row in kept.to_rows()[: MAX_ROWS - len(rows)])
                text = kept.summary(score_thr=lowest)
                if view.is_video:
                    text = of_last_frame(frame, text)
                yield kept

        how: dict[str, Any] = dict(score_thr=lowest, opacity=opacity)
        if view.is_video:
            _write_video(picture, Video(view.path), shown(), model, how)
        else:
            write_picture(picture, next(shown()).draw(model.picture(view.path), **how))
    return Shown(picture, folder / f"{name}.json" if has_coco else None, folder / f"{name}.csv", rows, text)


def _new_folder(parent: Path) -> Path:
    """Return a new folder; the last one stays, since somebody may be fetching a file of it."""
    parent.mkdir(exist_ok=True)
    numbers = sorted(int(path.name) for path in parent.iterdir())
    for old in numbers[:-1]:
        shutil.rmtree(parent / str(old), ignore_errors=True)
    folder = parent / str(numbers[-1] + 1 if numbers else 0)
    folder.mkdir()
    return folder


def _write_video(path: Path, video: Video, results: Iterator[Result], model: LoadedModel, how: dict[str, Any]) -> None:
    with VideoWriter(path, video.rate) as writer:
        for frame, result in zip(video, results, strict=False):
            writer.add(result.overlay(model.picture(frame), **how))
