"""COCO AP and AR of boxes, masks and proposals, with mmdet's arguments and names.

Source: https://cocodataset.org/#detection-eval (protocol), mmdet v3.3.0 evaluation/metrics/coco_metric.py (names)
Differs from mmdet's CocoMetric: the evaluation is in C++; results have full precision instead of three digits; category
ids are looked up by class name instead of in the order of the annotation file; an annotation with the id 0 can be
matched; the box of an object without a mask is a crowd for mask AP; the number in the name of an AR is the number of
detections that count; there is one summary table; and a run without any detections has an AP of 0 instead of no result.
"""

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmengine
import numpy as np
from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from mmengine.logging import print_log

from convnext_dense.errors import UserError
from convnext_dense.evaluation.coco_evaluation import MAX_DETECTIONS, Truth, category_ids, items_of
from convnext_dense.registry import METRICS

# Kind of evaluation -> its name in the table of results.
_KINDS = {"bbox": "box", "segm": "mask", "proposal": "proposals", "proposal_fast": "proposals"}
_AP_ITEMS = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")


@METRICS.register_module()
class CocoMetric(MMDetCocoMetric):
    """COCO's AP and AR.

    Results are in [0, 1], or -1 if the annotation file has no object of that size or ``iou_thrs`` lacks the
    threshold. By default ``coco/bbox_mAP``, ``coco/bbox_mAP_50``, ``_75``, ``_s``, ``_m``, ``_l`` and the same with
    ``segm``; ``coco/AR@100``, ``@300``, ``@1000`` and ``coco/AR_s@1000``, ``_m``, ``_l`` of proposals.

    ``mAP`` counts the 100 detections with the highest scores per image and class, as COCO, pycocotools and mmdet do;
    the other APs count the third smallest of ``proposal_nums``.

    Args:
        ann_file: Annotation file; None for the ``instances`` in the batches.
        metric: ``'bbox'``, ``'segm'``, ``'proposal'`` (boxes of any class, COCO's matching),
            ``'proposal_fast'`` (the same, paired by decreasing IoU: ``AR@N`` of each N alone), or a list of them.
        proposal_nums: Numbers of detections per image and class that count; N below.
        iou_thrs: IoU thresholds, or a single one; None for 0.5, 0.55, ..., 0.95.
        metric_items: Names of the results to return: those above, ``AR@N``, ``AR_s@N`` of the third smallest N,
            ``mAP@N``. Not for ``'proposal_fast'``.
        format_only: Writes predictions and evaluates nothing; needs ``outfile_prefix``.
        outfile_prefix: Predictions are written to ``PREFIX.bbox.json`` and ``PREFIX.segm.json``.
        kwargs: ``backend_args``, ``collect_device`` and ``prefix`` as in mmdet. ``classwise`` adds ``bbox_NAME_mAP`` of
            every class, which counts as ``mAP`` does, and ``NAME_precision`` as in mmdet, which counts the largest of
            ``proposal_nums`` (of the last in ``metric`` where there are several). ``sort_categories`` and
            ``use_mp_eval`` change nothing: classes are looked up by name, and the evaluation is in C++.

    Raises:
        UserError: An argument has an invalid value, a class of the model or a predicted image is not in the annotation
            file, or masks are to be evaluated but the model predicts none.
    """

    def __init__(
        self,
        ann_file: str | None = None,
        metric: str | Sequence[str] = "bbox",
        *,
        proposal_nums: int | Sequence[int] = (100, 300, 1000),
        iou_thrs: float | Sequence[float] | np.ndarray | None = None,
        metric_items: str | Sequence[str] | None = None,
        format_only: bool = False,
        outfile_prefix: str | None = None,
        file_client_args: None = None,
        **kwargs: Any,
    ) -> None:
        if file_client_args is not None:
            raise UserError(f"file_client_args={file_client_args} is no longer supported: use backend_args.")
        if format_only and outfile_prefix is None:
            raise UserError("format_only=True needs outfile_prefix, the prefix of the files for predictions.")
        super().__init__(
            ann_file,
            _kinds(metric),
            proposal_nums=_limits(proposal_nums),
            iou_thrs=None if iou_thrs is None else _thresholds(iou_thrs),
            format_only=format_only,
            outfile_prefix=outfile_prefix,
            **kwargs,
        )
        self.items = items_of(self.proposal_nums)
        self.metric_items = None if metric_items is None else _chosen(metric_items, self.items)
        if self._coco_api is not None and "annotations" not in self._coco_api.dataset and not format_only:
            raise UserError(
                f"{ann_file} has no annotations to evaluate against; format_only=True with outfile_prefix writes "
                "only predictions."
            )

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluate what ``process`` collected: a (ground truth, prediction) pair per image."""
        truths, predictions = zip(*results, strict=True)
        _agree_on_masks(predictions, are_needed="segm" in self.metrics)
        with tempfile.TemporaryDirectory() as folder:
            prefix = self.outfile_prefix or str(Path(folder) / "results")
            if self._coco_api is None:
                # Without an annotation file, mmdet writes the ground truth of the batches to one.
                dataset = mmengine.load(self.gt_to_coco_json(truths, prefix))
            else:
                dataset = self._coco_api.dataset
            self.cat_ids = category_ids(dataset["categories"], self.dataset_meta["classes"])
            files = self.results2json(predictions, prefix)
            if self.format_only:
                print_log(f"Results are in {Path(prefix).parent}", logger="current")
                return {}
            detections = {name: mmengine.load(files[name]) for name in self.metrics if name in files}

        truth = Truth(dataset, self.cat_ids)
        _tell_of_crowded_images(truth, max(self.proposal_nums))
        metrics: dict[str, float] = {}
        for kind in self.metrics:
            if kind == "proposal_fast":
                recalls = truth.fast_recalls(predictions, iou_thrs=self.iou_thrs, limits=self.proposal_nums)
                metrics |= {f"AR@{limit}": recall for limit, recall in recalls.items()}
            else:
                metrics |= self._evaluate(truth, detections[kind], kind)
        print_log(self._table(metrics), logger="current")
        return metrics

    def _evaluate(self, truth: Truth, detections: list[dict], kind: str) -> dict[str, float]:
        if kind == "segm" and truth.num_without_mask:
            what = f"Objects without a mask: {truth.num_without_mask}"
            print_log(f"{what}. Mask AP ignores what is found in their boxes, as in crowds.", logger="current")
        if not detections:
            print_log(f"No {kind} detection in the whole set: AP and AR are 0.", logger="current")
        figures = truth.evaluate(
            detections,
            "segm" if kind == "segm" else "bbox",
            iou_thrs=self.iou_thrs,
            limits=[MAX_DETECTIONS, *self.proposal_nums],
            per_class=kind != "proposal",
        )
        metrics = {_key(kind, item): figures[self.items[item]] for item in self._items(kind)}
        if self.classwise and kind != "proposal":
            for label, name in enumerate(self.dataset_meta["classes"]):
                metrics[f"{kind}_{name}_mAP"] = figures.of_class(label, MAX_DETECTIONS)
                metrics[f"{name}_precision"] = figures.of_class(label, max(self.proposal_nums))
        return metrics

    def _items(self, kind: str) -> Sequence[str]:
        if kind == "proposal_fast":
            return [f"AR@{limit}" for limit in self.proposal_nums]
        if self.metric_items is not None:
            return self.metric_items
        return _AP_ITEMS if kind in ("bbox", "segm") else [item for item in self.items if item.startswith("AR")]

    def _table(self, metrics: dict[str, float]) -> str:
        lines, last = [""], None
        for kind in self.metrics:
            heads = [item.removeprefix("m").replace("_50", "50").replace("_75", "75") for item in self._items(kind)]
            widths = [max(8, len(head) + 2) for head in heads]
            if heads != last:
                lines.append(f"{'':24}" + "".join(map(str.rjust, heads, widths)))
                last = heads
            values = (f"{metrics[_key(kind, item)]:.3f}" for item in self._items(kind))
            lines.append(f"{_KINDS[kind]:24}" + "".join(map(str.rjust, values, widths)))
            if self.classwise and kind in ("bbox", "segm"):
                names = self.dataset_meta["classes"]
                lines += [f"  {_KINDS[kind]} {name:18.18} {metrics[f'{kind}_{name}_mAP']:8.3f}" for name in names]
        return "\n".join(lines)


def _kinds(metric: str | Sequence[str]) -> list[str]:
    names = [metric] if isinstance(metric, str) else list(metric)
    unknown = [name for name in names if name not in _KINDS]
    if unknown or not names:
        raise UserError(f"metric={metric!r} must be one of {', '.join(map(repr, _KINDS))}, or a list of them.")
    if {"proposal", "proposal_fast"} <= set(names):
        raise UserError(
            f"metric={metric!r}: 'proposal' and 'proposal_fast' give results of the same name: choose one of them."
        )
    return names


def _limits(proposal_nums: int | Sequence[int]) -> list[int]:
    numbers = np.atleast_1d(np.asarray(proposal_nums))
    if not numbers.size or numbers.ndim > 1 or numbers.dtype.kind not in "iu" or numbers.min() < 1:
        raise UserError(f"proposal_nums={proposal_nums!r} must be whole numbers from 1 on, such as (100, 300, 1000).")
    return numbers.tolist()


def _thresholds(iou_thrs: float | Sequence[float] | np.ndarray) -> np.ndarray:
    thresholds = np.atleast_1d(np.asarray(iou_thrs))
    if not thresholds.size or thresholds.ndim > 1 or thresholds.dtype.kind not in "iuf":
        raise UserError(f"iou_thrs={iou_thrs!r} must be a number or a list of numbers.")
    if not (thresholds > 0).all() or not (thresholds <= 1).all():
        raise UserError(f"iou_thrs={iou_thrs!r} must be above 0 and at most 1.")
    return thresholds.astype(np.float64)


def _chosen(metric_items: str | Sequence[str], known: Sequence[str] | dict) -> list[str]:
    items = [metric_items] if isinstance(metric_items, str) else list(metric_items)
    unknown = [item for item in items if item not in known]
    if unknown:
        # A plain ValueError, which code written for mmdet's metric tells by its class; the commands translate it.
        raise ValueError(f"metric_items={unknown} is not among the results: {', '.join(known)}.")
    return items


def _key(kind: str, item: str) -> str:
    return f"{kind}_{item}" if kind in ("bbox", "segm") else item


def _agree_on_masks(predictions: Sequence[dict], *, are_needed: bool) -> None:
    """Make either all predictions have ``masks`` or none; predictions without boxes may lack them.

    Raises:
        UserError: Masks are needed but missing.
    """
    has_masks = any("masks" in prediction for prediction in predictions)
    bare = [prediction for prediction in predictions if "masks" not in prediction]
    missing = [prediction["img_id"] for prediction in bare if len(prediction["labels"])]
    if are_needed and not has_masks:
        raise UserError("metric='segm' needs masks, but the model predicts none: set metric='bbox' in the evaluator.")
    if are_needed and missing:
        raise UserError(f"metric='segm' needs masks, but the prediction of image id {missing[0]!r} has only boxes.")
    for prediction in predictions:
        if missing:
            prediction.pop("masks", None)
        elif has_masks:
            prediction.setdefault("masks", [])


def _tell_of_crowded_images(truth: Truth, largest: int) -> None:
    objects = Counter((item["image_id"], item["category_id"]) for item in truth.objects if not item.get("iscrowd"))
    crowded = {image for (image, _), number in objects.items() if number > MAX_DETECTIONS}
    if crowded:
        print_log(
            f"Images with more than {MAX_DETECTIONS} objects of one class: {len(crowded)}. There mAP cannot reach 1, "
            f"as it counts {MAX_DETECTIONS} detections of each class; metric_items takes mAP@N too, for any N of "
            f"proposal_nums, up to {largest}.",
            logger="current",
        )
