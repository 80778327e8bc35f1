"""Draws predictions beside the ground truth, one picture per image of the test data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from convnext_dense.data.picture_files import picture_names
from convnext_dense.engine.drawn_samples import SampleDrawer
from convnext_dense.registry import HOOKS
from convnext_dense.visualization import write_picture

# Endings of images that their pictures keep in mmdet's way; all others are .png.
_KEPT = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@HOOKS.register_module()
class ShowHook(Hook):
    """Draws every image that is tested, with what was found and what is there, on the pixels that the model saw.

    Pictures have the names that ``picture_names`` gives.

    Args:
        out_dir: Folder of the pictures; a relative one lies in the run's log folder if ``is_in_log_dir``.
        reader: Config of the loading step of the test data's pipeline.
        is_in_log_dir: As mmdet has it; mmseg's folder is the one that is named.
        score_thr: Objects below this score are left out.
    """

    def __init__(self, out_dir: str, reader: Mapping[str, Any], *, is_in_log_dir: bool, score_thr: float = 0.3) -> None:
        self.out_dir = Path(out_dir)
        self.reader = reader
        self.is_in_log_dir = is_in_log_dir
        self.score_thr = score_thr
        self._names: dict[str, str] = {}
        self._drawer: SampleDrawer | None = None

    def before_test(self, runner: Any) -> None:
        """Give every image the name of its picture."""
        if self.is_in_log_dir:
            self.out_dir = Path(runner.log_dir, self.out_dir)
        dataset = runner.test_dataloader.dataset
        self._names = picture_names(dataset.get_data_info(index)["img_path"] for index in range(len(dataset)))
        self._drawer = SampleDrawer(dataset, self.reader, score_thr=self.score_thr)

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Draw the images of a batch.

        Raises:
            UserError: A picture cannot be written.
        """
        assert self._drawer is not None
        for sample in outputs or ():
            write_picture(self._file(sample.img_path), self._drawer.draw(sample))

    def _file(self, image: str) -> Path:
        suffix = Path(image).suffix
        is_kept = self.is_in_log_dir and suffix.lower() in _KEPT
        return self.out_dir / (self._names[image] + (suffix if is_kept else ".png"))
