"""The same number for the same object in all frames of a video, by ByteTrack of Roboflow's ``trackers``."""

from dataclasses import replace

import numpy as np

from convnext_dense.errors import UserError
from convnext_dense.inference.results import Detections


class Tracker:
    """Numbers objects over the frames of one video.

    Args:
        rate: Frames per second.
        score_thr: Objects from this score start a track; weaker ones only continue one, as in ByteTrack
            (arXiv 2110.06864).

    Raises:
        UserError: ``trackers`` is not installed.
    """

    def __init__(self, rate: float, *, score_thr: float = 0.3) -> None:
        try:
            from trackers import ByteTrackTracker
        except ImportError as error:
            raise UserError("--track needs trackers: pip install 'convnext-dense[video]'.") from error
        self._score_thr = score_thr
        self._tracker = ByteTrackTracker(
            frame_rate=rate,
            track_activation_threshold=score_thr,
            high_conf_det_threshold=score_thr,
            minimum_consecutive_frames=1,
        )

    def update(self, found: Detections) -> Detections:
        """Return the objects of the next frame with ``ids``, without weak ones that are on no track."""
        import supervision

        given = supervision.Detections(
            xyxy=found.boxes.astype(np.float32),
            confidence=found.scores,
            class_id=found.labels.astype(int),
            data=dict(number=np.arange(len(found.scores))),
        )
        tracked = self._tracker.update(given)
        ids = np.zeros(len(found.scores), np.int64)
        if len(tracked):  # in another order
            ids[np.asarray(tracked.data["number"], int)] = np.asarray(tracked.tracker_id) + 1  # none is -1
        return replace(found, ids=ids).take((ids > 0) | (found.scores >= self._score_thr))
