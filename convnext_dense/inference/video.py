"""Videos, one frame at a time.

Letters: H and W the height and width of a frame in pixels.
"""

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from convnext_dense.errors import UserError
from convnext_dense.files import names_unwritable
from convnext_dense.inference.sources import CAMERA

DEFAULT_RATE = 25.0  # frames per second where a camera does not say


class Video:
    """A video that is read frame by frame; iterate over it once.

    Attributes:
        rate: Frames per second.
        num_frames: As the file says, which may be wrong by some frames; None for a camera or a stream.

    Raises:
        UserError: It cannot be opened.
    """

    def __init__(self, place: str | os.PathLike) -> None:
        place = os.fspath(place)
        camera = CAMERA.match(place)
        is_file = camera is None and "://" not in place
        if is_file and not Path(place).is_file():
            raise UserError(f"Video {place} does not exist.")
        if is_file and not Path(place).stat().st_size:
            raise UserError(f"Video {place} is empty (0 bytes). Copy it again.")
        self._place = place
        self._capture = cv2.VideoCapture(int(camera[1]) if camera else place)
        if not self._capture.isOpened():
            what = (
                f"Video {place} cannot be decoded: it is truncated or not a video"
                if is_file
                else f"{place} cannot be opened"
            )
            raise UserError(f"{what}.")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if np.isfinite(rate) and 0 < rate <= 1000 else DEFAULT_RATE
        number = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.num_frames = number if number > 0 else None

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield frames, (H, W, 3) uint8 in BGR order, upright.

        Raises:
            UserError: There is no frame.
        """
        number = 0
        while True:
            is_read, frame = self._capture.read()
            if not is_read:
                break
            number += 1
            yield frame
        self._capture.release()
        if not number:
            raise UserError(f"{self._place} has no frame that can be decoded.")


class VideoWriter:
    """Writes frames of one size as an H.264 video, which browsers play; PyAV encodes them.

    Args:
        path: ``NAME.mp4``; it appears when the writer is left without an error or by an interrupt.
        rate: Frames per second.

    Raises:
        UserError: PyAV is not installed, or the file cannot be written.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self._path, self._partial = path, path.with_name(f".{path.stem}.{os.getpid()}.partial.mp4")
        self._rate = rate
        self._container: Any = None
        self._stream: Any = None
        self._av = import_av()

    def add(self, picture: np.ndarray) -> None:
        """Add a picture (H, W, 3), uint8 in BGR order; larger ones than the first are cut to its size."""
        if self._container is None:
            self._start(picture)
        height, width = self._stream.height, self._stream.width
        fitted = np.zeros((height, width, 3), np.uint8)
        part = picture[:height, :width]
        fitted[: part.shape[0], : part.shape[1]] = part
        # OpenCV rounds to the nearest value, where FFmpeg's own conversion makes all colours a little darker.
        frame = self._av.VideoFrame.from_ndarray(cv2.cvtColor(fitted, cv2.COLOR_BGR2YUV_I420), format="yuv420p")
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def _start(self, picture: np.ndarray) -> None:
        with names_unwritable(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._container = self._av.open(os.fspath(self._partial), "w", format="mp4")
        rate = Fraction(self._rate).limit_denominator(1001)
        # Looks 10 frames ahead instead of 40, which it holds in memory.
        self._stream = self._container.add_stream("libx264", rate=rate, options={"preset": "veryfast"})
        self._stream.height, self._stream.width = (side // 2 * 2 for side in picture.shape[:2])  # 4:2:0 has pairs
        self._stream.pix_fmt = "yuv420p"
        kinds, context = self._av.video.reformatter, self._stream.codec_context
        context.colorspace, context.color_range = kinds.Colorspace.ITU601, kinds.ColorRange.MPEG  # OpenCV's

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._container is None:
            return
        try:
            for packet in self._stream.encode():
                self._container.mux(packet)
            self._container.close()
            os.replace(self._partial, self._path)
        finally:
            self._partial.unlink(missing_ok=True)


def of_last_frame(number: int, text: str) -> str:
    """Return in short what was found in a video of a number of frames, by what was found in the last one."""
    return f"{number} frame{'s' if number > 1 else ''}, in the last one {text}"


def import_av() -> Any:
    """Return PyAV.

    Raises:
        UserError: It is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UserError("Writing videos needs PyAV: pip install 'convnext-dense[video]'.") from error
    return av
