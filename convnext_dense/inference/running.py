"""Many images and videos, one after the other, with what is found in them written to files.

What cannot be read costs nothing but itself.
"""

import itertools
import os
import tempfile
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from convnext_dense.data.picture_files import picture_names
from convnext_dense.data.prediction_files import PredictionWriter, ResultFiles, name_pictures
from convnext_dense.errors import UserError
from convnext_dense.inference.model import LoadedModel
from convnext_dense.inference.results import Detections
from convnext_dense.inference.sources import Source, download
from convnext_dense.inference.tiles import Tiles
from convnext_dense.inference.tracking import Tracker
from convnext_dense.inference.video import Video, VideoWriter, import_av
from convnext_dense.visualization import write_picture


class Done(NamedTuple):
    """What became of an image, or of a frame of a video.

    Attributes:
        source: Where it is from.
        file: The picture or video that was written.
        text: What was found, in short.
        frame: Number of the frame, from 1; None for an image.
        error: What is wrong with it, if it could not be read.
    """

    source: Source
    file: Path
    text: str = ""
    frame: int | None = None
    error: UserError | None = None


class Run:
    """A model on many sources; iterate over it to make it look at them.

    Args:
        model: The model.
        sources: What it looks at.
        out_dir: Folder of the pictures, the videos, ``predictions.csv`` and ``predictions.json``.
        out: File or folder of predictions in the format of ``tools/test.py --out``; None for none.
        score_thr: Objects below are not drawn, and do not start tracks.
        batch_size: Images, frames or tiles that run at once.
        tiles: How pictures are cut; None for whole ones.
        is_tracked: Whether objects of videos are numbered over their frames.

    Attributes:
        files: What is written besides pictures and videos.

    Raises:
        UserError: What is asked for does not fit the model or the sources.
    """

    def __init__(
        self,
        model: LoadedModel,
        sources: Sequence[Source],
        out_dir: Path,
        *,
        out: str | None = None,
        score_thr: float = 0.3,
        batch_size: int = 1,
        tiles: Tiles | None = None,
        is_tracked: bool = False,
    ) -> None:
        if not 0 <= score_thr <= 1:
            raise UserError(f"A score threshold of {score_thr:g} must be from 0 to 1.")
        has_video = any(source.is_video for source in sources)
        if tiles is not None:
            model.check_tiles()
        if is_tracked and model.task != "detection":
            raise UserError("--track is for detectors: there are no objects to number.")
        if out is not None and has_video:
            raise UserError("--out is for images: predictions for videos are in predictions.json of --out-dir.")
        if has_video:
            import_av()
        self.model, self.sources = model, sources
        self.score_thr, self.is_tracked = score_thr, is_tracked
        self._how: dict[str, Any] = dict(batch_size=batch_size, tiles=tiles)
        paths = [source.path for source in sources]
        folders = {source.path: source.folders for source in sources}
        videos = {source.path for source in sources if source.is_video}
        self._pictures = name_pictures(paths, out_dir, folders=folders, videos=videos)
        self._names = picture_names(paths, keeps_suffix=True, folders=folders)
        self._writer = None
        if out is not None:
            self._writer = PredictionWriter(out, paths, task=model.task, first_label=model.first_label, folders=folders)
        columns = (*(["frame"] if has_video else []), *(["id"] if is_tracked else []))
        self._files = ResultFiles(out_dir, has_coco=model.task != "classification", columns=columns)
        self.files = list(map(str, self._files.files))

    def __iter__(self) -> Generator[Done, None, None]:
        """Yield what became of each image and each frame; all files are whole when this ends, whatever ends it.

        Raises:
            UserError: A file cannot be written.
        """
        with tempfile.TemporaryDirectory() as folder, self._files:
            for is_video, sources in itertools.groupby(self.sources, key=lambda source: source.is_video):
                if not is_video:
                    yield from self._images(sources, folder)
                    continue
                for source in sources:
                    yield from self._frames(source, folder)
        if self._writer is not None:
            self.files.append(self._writer.write())

    def _images(self, sources: Iterator[Source], folder: str) -> Iterator[Done]:
        waiting: deque[tuple[Source, Any]] = deque()

        def images() -> Iterator[Any]:
            for source in sources:
                waiting.append((source, _fetched(source, folder)))
                yield waiting[-1][1]

        for found in self.model.stream(images(), **self._how):
            source, image = waiting.popleft()
            file = self._pictures[source.path]
            if isinstance(found, UserError):
                _remove_download(image, source)
                yield Done(source, file, error=_named(found, image, source))
                continue
            write_picture(file, found.draw(self.model.picture(image), score_thr=self.score_thr))
            self._files.add(self._names[os.fspath(source.path)], found)
            if self._writer is not None:
                self._writer.add(source.path, found)
            _remove_download(image, source)
            yield Done(source, file, found.summary(score_thr=self.score_thr))

    def _frames(self, source: Source, folder: str) -> Iterator[Done]:
        file = self._pictures[source.path]
        waiting: deque[Any] = deque()
        place, failed = _fetched(source, folder), None
        try:
            if isinstance(place, UserError):
                raise place
            video = Video(place)
            tracker = Tracker(video.rate, score_thr=self.score_thr) if self.is_tracked else None

            def frames() -> Iterator[Any]:
                for frame in video:
                    waiting.append(frame)
                    yield frame

            with VideoWriter(file, video.rate) as writer:
                for number, found in enumerate(self.model.stream(frames(), **self._how), start=1):
                    frame = waiting.popleft()
                    if isinstance(found, UserError):
                        raise found
                    if tracker is not None and isinstance(found, Detections):
                        found = tracker.update(found)
                    writer.add(found.overlay(self.model.picture(frame), score_thr=self.score_thr))
                    self._files.add(self._names[os.fspath(source.path)], found, frame=number)
                    yield Done(source, file, found.summary(score_thr=self.score_thr), frame=number)
        except UserError as error:
            failed = Done(source, file, error=_named(error, place, source))
        finally:
            _remove_download(place, source)
        if failed is not None:
            yield failed


def _fetched(source: Source, folder: str) -> Any:
    """Return the path of a source, downloaded if it has an address, or what is wrong with it."""
    if not source.is_address:
        return source.place if source.is_video else source.path
    try:
        return os.fspath(download(source.place, tempfile.mkdtemp(dir=folder)))  # two may have one name
    except UserError as error:
        return error


def _named(error: UserError, place: Any, source: Source) -> UserError:
    """Return an error that names a download by its address."""
    return UserError(str(error).replace(os.fspath(place), source.place)) if isinstance(place, str) else error


def _remove_download(place: Any, source: Source) -> None:
    if source.is_address and isinstance(place, str):
        os.remove(place)
