"""What models find in an upload, an image or a video, and how it is shown: drawn, as a table, and as files.

What was found is kept without the pixels, so that showing it in another way needs the upload, and not the models.
"""

import pickle
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convnext_dense.data.opened_images import ARRAY_SUFFIX, open_image
from convnext_dense.data.prediction_files import ResultFiles
from convnext_dense.errors import UserError
from convnext_dense.inference import LoadedModel, Result, Tiles
from convnext_dense.inference.sources import VIDEO_SUFFIXES
from convnext_dense.inference.video import Video, VideoWriter
from convnext_dense.serving.limits import Limits, TooLargeError
from convnext_dense.visualization import write_picture

MAX_TILES = 1000  # of an image
MAX_ROWS = 200  # of a table on the page; the files have all


def look_at(model: LoadedModel, path: Path, limits: Limits, *, tiles: Tiles | None = None) -> tuple[Result, np.ndarray]:
    """Return what a model finds in an image, and its picture.

    Raises:
        UserError: It is no image, or not one that the model takes.
        TooLargeError: It has more pixels than the limits allow.
    """
    if path.suffix.lower() != ARRAY_SUFFIX:
        opened = open_image(path)
        _check_pixels(opened.height, opened.width, limits, "image")
    picture = model.picture(path)
    if tiles is not None and tiles.count(*picture.shape[:2]) > MAX_TILES:
        raise UserError(f"The image would be cut into more than {MAX_TILES} tiles: choose larger ones.")
    return model(path, tiles=tiles), picture


def _check_pixels(height: int, width: int, limits: Limits, kind: str) -> None:
    if height * width > limits.max_pixels:
        raise TooLargeError(f"The {kind} has {width} x {height} pixels, more than {limits.max_pixels}.")


class View(NamedTuple):
    """What models found in an upload.

    Attributes:
        path: The upload.
        found: For each model what it found, in the image or in each frame of the video.
        classes: Names of the classes that were found, by any model.
    """

    path: Path
    found: Sequence[Sequence[bytes]]
    classes: Sequence[str]

    @property
    def is_video(self) -> bool:
        """Whether the upload has frames."""
        return _is_video(self.path)

    def results(self, number: int) -> Iterator[Result]:
        """Yield what a model found."""
        return (pickle.loads(zlib.decompress(packed)) for packed in self.found[number])


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def look(
    models: Sequence[LoadedModel],
    path: Path,
    limits: Limits,
    *,
    tiles: Tiles | None = None,
    progress: Callable[[int, int | None], Any] = lambda done, total: None,
) -> View:
    """Let models look at an image or a video.

    Args:
        models: The models.
        path: The upload.
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
            results = iter([look_at(model, path, limits, tiles=how)[0]])
        for result in results:
            of_model.append(zlib.compress(pickle.dumps(result), 1))
            classes.update(row["name"] for row in result.to_rows())
        found.append(of_model)
    order = list(dict.fromkeys(name for model in models for name in model.class_names))
    return View(path, found, [name for name in order if name in classes])


def _in_frames(
    model: LoadedModel,
    path: Path,
    limits: Limits,
    tiles: Tiles | None,
    progress: Callable[[int, int | None], Any],
) -> Iterator[Result]:
    video = Video(path)
    too_long = f"The video has more than {limits.max_frames} frames: tools/infer.py takes videos of any length."
    if (video.num_frames or 0) > limits.max_frames:
        raise TooLargeError(too_long)

    def frames() -> Iterator[np.ndarray]:
        for number, frame in enumerate(video, start=1):
            if number > limits.max_frames:
                raise TooLargeError(too_long)
            _check_pixels(frame.shape[0], frame.shape[1], limits, "video")
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
    folder: Path,
    *,
    score_thr: float = 0.3,
    opacity: float | None = None,
    classes: Collection[str] = (),
) -> Shown:
    """Show what one of the models found, in files of a new folder.

    Args:
        view: What was found.
        number: Of the model.
        model: The model, which is not run.
        folder: Where the new folder is made.
        score_thr: Objects below are left out, of everything.
        opacity: Of masks and classes over the image, see ``Result.draw``.
        classes: Names of the classes that are shown; none for all.

    Raises:
        UserError: The upload is no longer there.
    """
    if not view.path.is_file():
        raise UserError("The upload has been deleted: drop it again.")
    folder = Path(tempfile.mkdtemp(dir=folder))
    picture = folder / f"{view.path.stem}{'.mp4' if view.is_video else '.png'}"
    lowest = score_thr if model.task == "detection" else 0.0
    has_coco = model.task != "classification"
    rows: list[dict[str, Any]] = []
    text = ""
    with ResultFiles(folder, has_coco=has_coco, columns=["frame"] if view.is_video else []) as files:

        def shown() -> Iterator[Result]:
            nonlocal text
            for frame, result in enumerate(view.results(number), start=1):
                kept = result.only(classes or None, score_thr=lowest)
                more = dict(frame=frame) if view.is_video else {}
                files.add(view.path.name, kept, **more)
                rows.extend(more | row for row in kept.to_rows()[: MAX_ROWS - len(rows)])
                text = f"{frame} frames, in the last one " * view.is_video + kept.summary(score_thr=lowest)
                yield kept

        how: dict[str, Any] = dict(score_thr=lowest, opacity=opacity)
        if view.is_video:
            _write_video(picture, Video(view.path), shown(), model, how)
        else:
            write_picture(picture, next(shown()).draw(model.picture(view.path), **how))
    coco = folder / "predictions.json" if has_coco else None
    return Shown(picture, coco, folder / "predictions.csv", rows, text)


def _write_video(path: Path, video: Video, results: Iterator[Result], model: LoadedModel, how: dict[str, Any]) -> None:
    with VideoWriter(path, video.rate) as writer:
        for frame, result in zip(video, results, strict=False):
            writer.add(result.overlay(model.picture(frame), **how))
