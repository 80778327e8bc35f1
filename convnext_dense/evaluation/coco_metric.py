"""COCO box and mask AP through faster-coco-eval.

Source: https://cocodataset.org/#detection-eval (protocol), https://github.com/MiXaiLL76/faster_coco_eval (evaluation)
Differs from mmdet's CocoMetric: the C++ evaluation, results in full precision instead of three digits, category ids
looked up name by name instead of in the order of the annotation file, an annotation with the id 0 can be found, one
summary table, and a run without any detection has an AP of 0 instead of no result.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import mmengine
import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from mmengine.logging import print_log

from convnext_dense.registry import METRICS

# Positions in COCOeval's `stats`: AP, AP50, AP75, AP small, AP medium, AP large.
_STATS = {"mAP": 0, "mAP_50": 1, "mAP_75": 2, "mAP_s": 3, "mAP_m": 4, "mAP_l": 5}


@METRICS.register_module()
class CocoMetric(MMDetCocoMetric):
    """COCO AP of boxes and masks.

    Takes mmdet's arguments; ``metric`` is ``'bbox'``, ``'segm'`` or a list of them. Results are
    ``coco/bbox_mAP``, ``coco/bbox_mAP_50``, ``coco/bbox_mAP_75``, ``coco/bbox_mAP_s``, ``_m``, ``_l`` and the same with
    ``segm``, in [0, 1], or -1 where the annotation file has no object of that size. ``classwise=True`` adds
    ``coco/bbox_NAME_mAP`` per class.

    Raises:
        ValueError: ``metric`` names something else, or a class of the model is not in the annotation file.
    """

    def __init__(self, *args, metric: str | list[str] = "bbox", **kwargs) -> None:
        names = [metric] if isinstance(metric, str) else list(metric)
        unknown = sorted(set(names) - {"bbox", "segm"})
        if unknown:
            raise ValueError(f"metric={unknown} is not evaluated here, only 'bbox' and 'segm'; see mmdet.CocoMetric.")
        super().__init__(*args, metric=names, **kwargs)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluates what ``process`` collected: a list of (ground truth, prediction) per image."""
        truths, predictions = zip(*results, strict=True)
        with tempfile.TemporaryDirectory() as folder:
            prefix = self.outfile_prefix or str(Path(folder) / "results")
            if self._coco_api is None:
                # No annotation file was given: mmdet writes the ground truth that came with the batches.
                dataset = mmengine.load(self.gt_to_coco_json(truths, prefix))
            else:
                dataset = self._coco_api.dataset
            self.cat_ids = _category_ids(dataset["categories"], self.dataset_meta["classes"])
            self.img_ids = [image["id"] for image in dataset["images"]]
            files = self.results2json(predictions, prefix)
            if self.format_only:
                print_log(f"Results are in {Path(prefix).parent}", logger="current")
                return {}
            detections = {name: mmengine.load(files[name]) for name in self.metrics if name in files}

        # COCOeval marks what is found with the annotation's id, and 0 says that nothing was: one object would be lost.
        annotations = [{**item, "id": number} for number, item in enumerate(dataset["annotations"], start=1)]
        truth = COCO({**dataset, "annotations": annotations})
        metrics: dict[str, float] = {}
        for name in self.metrics:
            metrics |= self._evaluate(truth, detections.get(name, []), name)
        print_log(_table(metrics, self.metrics, self.dataset_meta["classes"] if self.classwise else ()), "current")
        return metrics

    def _evaluate(self, truth: COCO, detections: list[dict], name: str) -> dict[str, float]:
        if not detections:
            print_log(f"No {name} detection in the whole set: AP is 0.", logger="current")
            return {f"{name}_{stat}": 0.0 for stat in _STATS}
        if name == "segm":
            # COCOeval takes an object's size from its box where there is one; masks are to be sized as masks.
            detections = [{key: value for key, value in item.items() if key != "bbox"} for item in detections]
        evaluation = COCOeval_faster(truth, truth.loadRes(detections), name, print_function=lambda *_: None)
        evaluation.params.catIds = self.cat_ids
        evaluation.params.imgIds = self.img_ids
        evaluation.params.maxDets = list(self.proposal_nums)
        evaluation.params.iouThrs = self.iou_thrs
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        metrics = {f"{name}_{stat}": float(evaluation.stats[index]) for stat, index in _STATS.items()}
        if self.classwise:
            # (IoU threshold, recall, class, area range, max detections), classes in the order of increasing id
            precision = evaluation.eval["precision"][:, :, :, 0, -1]
            order = np.argsort(self.cat_ids)
            for position, label in enumerate(order):
                values = precision[:, :, position]
                values = values[values > -1]
                class_name = self.dataset_meta["classes"][label]
                metrics[f"{name}_{class_name}_mAP"] = float(values.mean()) if values.size else -1.0
        return metrics


def _category_ids(categories: list[dict], class_names: Sequence[str]) -> list[int]:
    """Gives the annotation file's id of every class, in the order of the model's classes."""
    ids = {category["name"]: category["id"] for category in categories}
    absent = [name for name in class_names if name not in ids]
    if absent:
        raise ValueError(
            f"The annotation file has no class {', '.join(map(repr, absent[:5]))}; it has {', '.join(map(repr, ids))}."
        )
    return [ids[name] for name in class_names]


def _table(metrics: dict[str, float], names: Sequence[str], class_names: Sequence[str]) -> str:
    lines = ["", f"{'':24}" + "".join(f"{head:>8}" for head in ("AP", "AP50", "AP75", "AP_s", "AP_m", "AP_l"))]
    for name in names:
        label = {"bbox": "box", "segm": "mask"}[name]
        lines.append(f"{label:24}" + "".join(f"{metrics[f'{name}_{stat}']:8.3f}" for stat in _STATS))
        lines += [f"  {label} {cls:18.18} {metrics[f'{name}_{cls}_mAP']:8.3f}" for cls in class_names]
    return "\n".join(lines)
