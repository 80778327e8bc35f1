"""Draws predictions beside the ground truth, one picture per image of the test data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from convnext_dense.data.image_reader import ImageReader
from convnext_dense.data.picture_files import picture_names
from convnext_dense.files import names_unwritable
from convnext_dense.registry import HOOKS

# Endings of images that their pictures keep in mmdet's way; all others are .png.
_KEPT = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@HOOKS.register_module()
class ShowHook(Hook):
    """Draws every image that is tested, by the visualizer of mmdet or mmseg, on the pixels that the model saw.

    Pictures have the names that ``picture_names`` gives.

    Args:
        out_dir: Folder of the pictures; a relative one lies in the run's log folder if ``is_in_log_dir``.
        reader: Config of the loading step of the test data's pipeline.
        is_in_log_dir: As mmdet has it; mmseg's folder is the one that is named.
        score_thr: Objects below this score are left out; None where there are no objects.
    """

    def __init__(
        self, out_dir: str, reader: Mapping[str, Any], *, is_in_log_dir: bool, score_thr: float | None = None
    ) -> None:
        self.out_dir = Path(out_dir)
        self.reader = ImageReader(reader)
        self.is_in_log_dir = is_in_log_dir
        self.options = {} if score_thr is None else dict(pred_score_thr=score_thr)
        self._names: dict[str, str] = {}

    def before_test(self, runner: Any) -> None:
        """Give every image the name of its picture."""
        if self.is_in_log_dir:
            self.out_dir = Path(runner.log_dir, self.out_dir)
        dataset = runner.test_dataloader.dataset
        self._names = picture_names(dataset.get_data_info(index)["img_path"] for index in range(len(dataset)))

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Draw the images of a batch.

        Raises:
            UserError: A picture cannot be written.
        """
        for sample in outputs or ():
            file = self._file(sample.img_path)
            pixels = self.reader.picture(sample.img_path)[..., ::-1]  # RGB
            with names_unwritable(file):
                file.parent.mkdir(parents=True, exist_ok=True)
                runner.visualizer.add_datasample("test", pixels, sample, out_file=str(file), **self.options)

    def _file(self, image: str) -> Path:
        suffix = Path(image).suffix
        is_kept = self.is_in_log_dir and suffix.lower() in _KEPT
        return self.out_dir / (self._names[image] + (suffix if is_kept else ".png"))
