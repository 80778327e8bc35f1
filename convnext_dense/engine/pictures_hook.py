"""Sends pictures of predictions to the trackers of a run."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook

from convnext_dense.engine.drawn_samples import SampleDrawer
from convnext_dense.registry import HOOKS

NUM_PICTURES = 8
# Trackers pack pictures in the process that trains, for about 0.4 s per million pixels.
MIN_SIDE = 320


@HOOKS.register_module()
class PicturesHook(Hook):
    """Draws the same few images at every evaluation, evenly spaced over the data, with the ground truth beside.

    With several processes, they are among the images of the main one. A test's metrics are sent too, which mmengine
    writes into a file alone. A fault in drawing or sending is a warning, and there are no more pictures after it.

    Args:
        backends: Names of the visualization backends that get the pictures.
        reader: Config of the loading step of the data's pipeline; None if it has none.
        score_thr: Objects below this score are left out.
    """

    priority = "LOW"  # after the log of the evaluation, which has its iteration

    def __init__(self, backends: Sequence[str], reader: Mapping[str, Any] | None, *, score_thr: float = 0.3) -> None:
        self.backends = list(backends)
        self.reader = reader
        self.score_thr = score_thr
        self._drawer: SampleDrawer | None = None
        self._chosen: list[int] = []  # positions among the images of this process
        self._position = 0
        self._pictures: list[tuple[str, np.ndarray]] = []  # names, and pictures in RGB
        self._is_broken = False

    def before_val_epoch(self, runner: Any) -> None:
        """Choose the images of a validation."""
        self._begin(runner.val_dataloader)

    def before_test_epoch(self, runner: Any) -> None:
        """Choose the images of a test."""
        self._begin(runner.test_dataloader)

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Draw those images of a batch that were chosen."""
        self._draw(runner, runner.val_dataloader.dataset, outputs or ())

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Draw those images of a batch that were chosen."""
        self._draw(runner, runner.test_dataloader.dataset, outputs or ())

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Send the pictures, outside of the time of the batches, unless the validation was interrupted."""
        if metrics:
            self._send(runner, step=runner.iter)

    def after_test_epoch(self, runner: Any, metrics: dict[str, Any] | None = None) -> None:
        """Send the pictures and the metrics of a test."""
        self._send(runner, step=0)
        numbers = {f"test/{name}": float(value) for name, value in (metrics or {}).items() if isinstance(value, Real)}
        if is_main_process():
            for name in self.backends:
                runner.visualizer.get_backend(name).add_scalars(numbers, step=0)

    def _begin(self, loader: Any) -> None:
        total = len(loader.sampler) if hasattr(loader.sampler, "__len__") else 0  # a stream has none
        self._chosen = sorted({index * total // NUM_PICTURES for index in range(NUM_PICTURES)}) if total else []
        self._position = 0
        self._pictures = []

    def _draw(self, runner: Any, dataset: Any, outputs: Sequence[Any]) -> None:
        start, self._position = self._position, self._position + len(outputs)
        if self._is_broken or not is_main_process():
            return
        with self._warning(runner):
            for position, sample in enumerate(outputs, start):
                if position not in self._chosen:
                    continue
                if self._drawer is None:
                    self._drawer = SampleDrawer(dataset, self.reader, score_thr=self.score_thr, min_side=MIN_SIDE)
                if hasattr(sample, "img_path"):
                    path, picture = sample.img_path, self._drawer.draw(sample)
                else:  # of a classifier
                    path, label = dataset.samples[position * get_world_size()]
                    picture = self._drawer.draw_classified(path, sample["scores"].cpu().numpy(), label)
                name = f"predictions/{1 + self._chosen.index(position)}_{_plain(path)}"
                self._pictures.append((name, cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)))

    def _send(self, runner: Any, *, step: int) -> None:
        with self._warning(runner):
            for name, picture in self._pictures:
                for backend in map(runner.visualizer.get_backend, self.backends):
                    if type(backend).__name__ == "MLflowVisBackend":  # whose add_image has no step
                        backend.experiment.log_image(picture, key=name, step=step)
                    else:
                        backend.add_image(name, picture, step=step)
        self._pictures = []

    @contextlib.contextmanager
    def _warning(self, runner: Any) -> Iterator[None]:
        """Make a fault a warning: a training must not end for a picture."""
        try:
            yield
        except Exception as error:
            runner.logger.warning(f"There are no more pictures of predictions: {type(error).__name__}: {error}")
            self._is_broken = True


def _plain(path: str) -> str:
    """Return the name of a file in the characters that all trackers take."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", Path(path).stem)
