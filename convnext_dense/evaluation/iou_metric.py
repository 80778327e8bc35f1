"""IoU, Dice, F-score and accuracy of every class, with mmsegmentation's arguments and names, and a table on disk."""

import csv
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log

from convnext_dense.errors import UserError
from convnext_dense.files import written_whole
from convnext_dense.registry import METRICS

_METRICS = ("mIoU", "mDice", "mFscore")


@METRICS.register_module()
class IoUMetric(BaseMetric):
    """Mean intersection over union: per class over the pixels of all images, then averaged over the classes that occur.

    Results are percentages: ``aAcc`` (pixel accuracy); with ``'mIoU'``, ``mIoU`` and ``mAcc`` (mean class accuracy);
    with ``'mDice'``, ``mDice`` and ``mAcc``; with ``'mFscore'``, ``mFscore``, ``mPrecision`` and ``mRecall``.
    After testing, a table of all classes is logged and written to ``per_class.csv`` beside the log.

    Source: https://github.com/open-mmlab/mmsegmentation/blob/v1.2.2/mmseg/evaluation/metrics/iou_metric.py
    Differs: pixels are counted as integers, results are not rounded, label images with more than 256 values have 16
    bits, and a table is written to disk. As in mmseg, a class without a single correct pixel has no F-score.

    Args:
        ignore_index: Label of ignored pixels.
        iou_metrics: ``'mIoU'``, ``'mDice'``, ``'mFscore'``, or a list of them.
        nan_to_num: Share, from 0 to 1, that replaces NaN, so that classes that never occur count with it.
        beta: Weight of recall in the F-score.
        output_dir: Folder for one label image per image, with class numbers as in the data set's label files.
        image_root: Folder of the images; label images keep the path below it. None keeps only the name.
        format_only: Writes label images and evaluates nothing; needs ``output_dir``, and no labels.
        collect_device: As in mmengine.
        prefix: As in mmengine.

    Raises:
        UserError: An argument has an invalid value, a prediction and its label differ in size, two images would
            write the same file of ``output_dir``, or one could not be written.
    """

    def __init__(
        self,
        ignore_index: int = 255,
        *,
        iou_metrics: str | Sequence[str] = ("mIoU",),
        nan_to_num: float | None = None,
        beta: float = 1,
        output_dir: str | None = None,
        image_root: str | None = None,
        format_only: bool = False,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.metrics = [iou_metrics] if isinstance(iou_metrics, str) else list(iou_metrics)
        if not self.metrics or not set(self.metrics) <= set(_METRICS):
            raise UserError(
                f"iou_metrics={iou_metrics!r} must be one of {', '.join(map(repr, _METRICS))}, or a list of them."
            )
        for name, value in (("beta", beta), ("nan_to_num", nan_to_num)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise UserError(f"{name}={value!r} must be a number.")
        if format_only and output_dir is None:
            raise UserError("format_only=True needs output_dir, the folder for label images.")
        self.ignore_index = ignore_index
        self.nan_to_num = nan_to_num
        self.beta = beta
        self.output_dir = output_dir
        self.image_root = image_root
        self.format_only = format_only
        self._written: dict[str, str] = {}

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Count the pixels of a batch, whose ``pred_sem_seg`` and ``gt_sem_seg`` are (1, H, W) class numbers."""
        num_classes = len(self.dataset_meta["classes"])
        for sample in data_samples:
            predicted = _labels(sample["pred_sem_seg"])
            counts = None
            if not self.format_only:
                truth = _labels(sample["gt_sem_seg"]).to(predicted.device)
                if truth.shape != predicted.shape:
                    raise UserError(
                        f"The prediction of {sample.get('img_path')} has {_size(predicted)} pixels and its label "
                        f"{_size(truth)}: load labels after Resize in a test pipeline."
                    )
                counts = count_pixels(predicted, truth, num_classes, ignore_index=self.ignore_index)
            self.results.append((counts, sample.get("img_path")))
            if self.output_dir is not None:
                # Where files number classes from 1, with 0 for ignored pixels, predictions are written likewise.
                first = int(bool(sample.get("reduce_zero_label", False)))
                file = self._file_of(sample["img_path"])
                write_label_image(file, predicted.cpu().numpy() + first, num_classes + first)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute metrics and tables from the pixel counts of all images, see ``count_pixels``."""
        if self.output_dir is not None:
            for _, img_path in results:  # of all processes
                self._file_of(img_path)
        if self.format_only:
            print_log(f"Label images are in {self.output_dir}", logger="current")
            return {}
        names = self.dataset_meta["classes"]
        if 0 <= self.ignore_index < len(names):
            print_log(
                f"ignore_index={self.ignore_index} is the class '{names[self.ignore_index]}', and is left out.",
                logger="current",
                level=logging.WARNING,
            )
        counts = torch.stack([counted for counted, _ in results]).sum(0).numpy()
        shares = class_shares(counts, self.metrics, beta=self.beta)
        right, _, _, truth = counts
        with np.errstate(invalid="ignore"):
            shares["aAcc"] = np.atleast_1d(np.float64(right.sum()) / truth.sum())
        if self.nan_to_num is not None:
            shares = {name: np.nan_to_num(values, nan=self.nan_to_num) for name, values in shares.items()}
        accuracy = shares.pop("aAcc")
        rows = [
            dict(label=label, name=name)
            | {key: 100 * values[label] for key, values in shares.items()}
            | dict(pixels=int(truth[label]))
            for label, name in enumerate(names)
        ]
        print_log(_table(rows), logger="current")
        _write_csv(rows)
        return {"aAcc": _mean(accuracy)} | {f"m{name}": _mean(values) for name, values in shares.items()}

    def _file_of(self, img_path: str) -> Path:
        assert self.output_dir is not None
        path = Path(img_path)
        is_below = self.image_root is not None and path.is_relative_to(self.image_root)
        name = path.relative_to(self.image_root) if is_below else Path(path.name)  # type: ignore[arg-type]
        file = Path(self.output_dir) / name.with_suffix(".png")
        other = self._written.setdefault(str(file), img_path)
        if other != img_path:
            raise UserError(
                f"{other} and {img_path} have the same name: their predictions cannot both be written to {file}."
            )
        return file


def count_pixels(predicted: torch.Tensor, truth: torch.Tensor, num_classes: int, *, ignore_index: int) -> torch.Tensor:
    """Count each class's pixels in the intersection, the union, the prediction and the truth: (4, classes) integers.

    Integers, because single precision can count one by one only up to 2**24.
    """
    is_counted = truth != ignore_index
    # Ignored pixels become an additional class; removing them would be slower.
    predicted, truth = (
        torch.where(is_counted & (labels >= 0) & (labels < num_classes), labels, num_classes)
        for labels in (predicted, truth)
    )
    both = torch.where(predicted == truth, truth, num_classes)
    right, of_predicted, of_truth = (
        torch.bincount(labels.flatten(), minlength=num_classes + 1)[:num_classes] for labels in (both, predicted, truth)
    )
    return torch.stack([right, of_predicted + of_truth - right, of_predicted, of_truth]).cpu()


def class_shares(counts: np.ndarray, metrics: Sequence[str], *, beta: float) -> dict[str, np.ndarray]:
    """Return the shares of every class, NaN where a class does not occur.

    Args:
        counts: Sum of ``count_pixels`` over all images.
        metrics: Any of ``'mIoU'``, ``'mDice'``, ``'mFscore'``.
        beta: Weight of recall in the F-score.
    """
    right, union, predicted, truth = (np.asarray(row, np.float64) for row in counts)  # exact up to 2**53 pixels
    shares: dict[str, np.ndarray] = {}
    with np.errstate(invalid="ignore"):
        precision, recall = right / predicted, right / truth
        for metric in metrics:
            if metric == "mIoU":
                shares |= {"IoU": right / union, "Acc": recall}
            elif metric == "mDice":
                shares |= {"Dice": 2 * right / (predicted + truth), "Acc": recall}
            else:
                score = (1 + beta**2) * precision * recall / (beta**2 * precision + recall)
                shares |= {"Fscore": score, "Precision": precision, "Recall": recall}
    return shares


def write_label_image(path: Path, labels: np.ndarray, num_values: int) -> None:
    """Write a PNG of 8 bits, or of 16 bits if there are more than 256 values.

    Raises:
        UserError: A label is negative or does not fit, or the file could not be written.
    """
    dtype = np.uint8 if num_values <= 256 else np.uint16
    if labels.size and not 0 <= labels.min() <= labels.max() <= np.iinfo(dtype).max:
        raise UserError(
            f"Labels from {labels.min()} to {labels.max()} cannot be written to {path}: a label image of "
            f"{np.iinfo(dtype).bits} bits holds 0 to {np.iinfo(dtype).max}."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # cv2.imwrite does not report a full disk.
        path.write_bytes(cv2.imencode(".png", labels.astype(dtype))[1].tobytes())
    except (OSError, cv2.error) as error:
        raise UserError(f"Label image {path} could not be written: {error}.") from error


def _labels(field: dict[str, Any]) -> torch.Tensor:
    """Return (H, W) class numbers as 64-bit integers, in which no label wraps around to another."""
    data = field["data"]
    return data.reshape(data.shape[-2:]).long()


def _size(labels: torch.Tensor) -> str:
    return f"{labels.shape[1]}x{labels.shape[0]}"


def _mean(values: np.ndarray) -> float:
    return float(100 * np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _table(rows: Sequence[dict[str, Any]]) -> str:
    width = max(5, *(len(row["name"]) for row in rows))
    shares = [key for key in rows[0] if key not in ("label", "name", "pixels")]
    columns = [max(6, len(key)) for key in shares]
    heads = "  ".join(map(str.rjust, shares, columns))
    lines = [f"{'class':<{width}}  {heads}  {'true pixels':>13}"]
    for row in rows:
        values = "  ".join(f"{row[key]:>{column}.2f}" for key, column in zip(shares, columns, strict=True))
        lines.append(f"{row['name']:<{width}}  {values}  {row['pixels']:>13,}")
    return "\n" + "\n".join(lines)


def _write_csv(rows: Sequence[dict[str, Any]]) -> None:
    log_file = MMLogger.get_current_instance().log_file
    if log_file is None or not is_main_process():
        return
    path = Path(log_file).parent / "per_class.csv"
    with written_whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    print_log(f"IoU and accuracy per class: {path}", logger="current")
