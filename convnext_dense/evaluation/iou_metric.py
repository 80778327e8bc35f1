"""IoU and accuracy of every class, as mmsegmentation computes them, with a table on disk."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log

from convnext_dense.registry import METRICS


@METRICS.register_module()
class IoUMetric(BaseMetric):
    """Mean intersection over union: per class over the pixels of all images, then averaged over the classes that occur.

    Results are ``mIoU``, ``mAcc`` (mean accuracy of classes) and ``aAcc`` (of pixels) in per cent, as in mmseg. After
    testing, a table of all classes is logged and written as ``per_class.csv`` beside the log.

    Source: https://github.com/open-mmlab/mmsegmentation/blob/v1.2.2/mmseg/evaluation/metrics/iou_metric.py, whose areas
    are taken; the rest differs in precision (results are not rounded) and in the table on disk.

    Args:
        ignore_index: Label of pixels that count for nothing.
        output_dir: Folder for one label image per image, numbered as the data set's label files are.
        collect_device: As in mmengine.
        prefix: As in mmengine.

    Raises:
        ValueError: Two images would write the same file of ``output_dir``.
    """

    def __init__(
        self,
        ignore_index: int = 255,
        *,
        output_dir: str | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.ignore_index = ignore_index
        self.output_dir = output_dir
        self._written: dict[str, str] = {}

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Adds up areas of a batch; each sample has ``pred_sem_seg`` and ``gt_sem_seg``, (1, H, W) class numbers."""
        from mmseg.evaluation import IoUMetric as MMSegIoUMetric

        num_classes = len(self.dataset_meta["classes"])
        for sample in data_samples:
            predicted = sample["pred_sem_seg"]["data"].squeeze(0)
            truth = sample["gt_sem_seg"]["data"].squeeze(0).to(predicted)
            self.results.append(MMSegIoUMetric.intersect_and_union(predicted, truth, num_classes, self.ignore_index))
            if self.output_dir is not None:
                self._write_labels(sample, predicted.cpu().numpy())

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Turns the areas of all images, (intersection, union, predicted, true) each, into metrics and tables."""
        # Doubles: single precision counts pixels one by one up to 16 million only.
        areas = [sum(area.double() for area in kind).numpy() for kind in zip(*results, strict=True)]
        intersection, union, _, truth = areas
        with np.errstate(invalid="ignore"):  # a class that never occurs is 0 / 0: not a number, and left out of means
            iou, accuracy = 100 * intersection / union, 100 * intersection / truth
        rows = [
            dict(label=label, name=name, IoU=iou[label], Acc=accuracy[label], pixels=int(truth[label]))
            for label, name in enumerate(self.dataset_meta["classes"])
        ]
        print_log(_table(rows), logger="current")
        _write_csv(rows)
        metrics = dict(
            aAcc=100 * intersection.sum() / truth.sum() if truth.sum() else math.nan,
            mIoU=_mean(iou),
            mAcc=_mean(accuracy),
        )
        return {name: float(value) for name, value in metrics.items()}

    def _write_labels(self, sample: dict[str, Any], predicted: np.ndarray) -> None:
        assert self.output_dir is not None
        folder = Path(self.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{Path(sample['img_path']).stem}.png"
        other = self._written.setdefault(str(file), sample["img_path"])
        if other != sample["img_path"]:
            raise ValueError(
                f"{other} and {sample['img_path']} have one name: their predictions cannot both be {file}."
            )
        # Where files count classes from 1 on, 0 being ignored, predictions are written likewise.
        cv2.imwrite(str(file), (predicted + bool(sample.get("reduce_zero_label", False))).astype(np.uint8))


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _table(rows: Sequence[dict[str, Any]]) -> str:
    width = max(len(row["name"]) for row in rows)
    lines = [f"{'class':<{width}}  {'IoU':>6}  {'Acc':>6}  {'true pixels':>13}"]
    lines += [f"{row['name']:<{width}}  {row['IoU']:>6.2f}  {row['Acc']:>6.2f}  {row['pixels']:>13,}" for row in rows]
    return "\n" + "\n".join(lines)


def _write_csv(rows: Sequence[dict[str, Any]]) -> None:
    log_file = MMLogger.get_current_instance().log_file
    if log_file is None or not is_main_process():
        return
    path = Path(log_file).parent / "per_class.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    print_log(f"IoU and accuracy per class: {path}", logger="current")
