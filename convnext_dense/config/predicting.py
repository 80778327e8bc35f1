"""Testing on images without ground truth: writes predictions, and measures nothing."""

from typing import Any

from mmengine.config import Config

from convnext_dense.config.datasets import evaluators, leaf_datasets
from convnext_dense.config.pipelines import loads_annotations
from convnext_dense.errors import UserError

# Metrics that can write predictions without evaluating them (format_only).
_WRITERS = ("CocoMetric", "CocoPanopticMetric", "IoUMetric")


def only_predict(cfg: Config, loader: str) -> None:
    """Change a config in place to predict the images of ``'val'`` or ``'test'`` without ground truth."""
    for metric in evaluators(cfg, loader):
        if str(metric.get("type")).rpartition(".")[2] in _WRITERS:
            metric.format_only = True


def only_predicts(cfg: Config, loader: str) -> bool:
    """Whether a config writes predictions of ``'val'`` or ``'test'`` without measuring them."""
    return any(metric.get("format_only") for metric in evaluators(cfg, loader))


def check_is_written(cfg: Config, source: str) -> None:
    """Check that a test that measures nothing at least writes predictions.

    Args:
        cfg: The config.
        source: The tested data, for the message.

    Raises:
        UserError: Nothing is measured and nothing is written.
    """
    is_written = any(metric.get("outfile_prefix") or metric.get("output_dir") for metric in evaluators(cfg, "test"))
    if only_predicts(cfg, "test") and not is_written:
        raise UserError(
            f"There is no ground truth in {source}, so there is nothing to measure: give --out to write predictions, "
            "or add the annotations or labels."
        )


def leave_out_labels(cfg: Config, loader: str) -> None:
    """Remove the loading of label images from the pipelines of a segmentation config, in place."""
    for dataset in leaf_datasets(cfg[f"{loader}_dataloader"].dataset):
        dataset.pipeline = _without_labels(dataset.get("pipeline") or [])
    if loader == "test" and "tta_pipeline" in cfg:
        cfg.tta_pipeline = _without_labels(cfg.tta_pipeline)


def _without_labels(steps: Any) -> list[Any]:
    """Return a pipeline without loading steps for annotations, also in nested lists of test-time augmentation."""
    kept = []
    for step in steps:
        if isinstance(step, list | tuple):
            if nested := _without_labels(step):
                kept.append(nested)
        elif not loads_annotations(step):
            if "transforms" in step:
                step.transforms = _without_labels(step.transforms)
            kept.append(step)
    return kept
