"""Top-k accuracy of classifiers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from convnext_dense.errors import UserError
from convnext_dense.registry import METRICS


@METRICS.register_module()
class Accuracy(BaseMetric):
    """Share of images, in [0, 1], whose class is among the k most probable ones, for every k of ``topk``.

    Results are named ``accuracy/top1``, ``accuracy/top5``; a k above the number of classes counts all classes.

    Args:
        topk: Values of k, or a single one.
        collect_device: See ``mmengine.evaluator.BaseMetric``.
        prefix: See ``mmengine.evaluator.BaseMetric``; None for ``accuracy``.

    Raises:
        UserError: A k is not a whole number, 1 or more, or a label is not a class of the model.
    """

    default_prefix = "accuracy"

    def __init__(
        self, topk: int | Sequence[int] = (1, 5), *, collect_device: str = "cpu", prefix: str | None = None
    ) -> None:
        super().__init__(collect_device, prefix)
        self.topk = (topk,) if isinstance(topk, int) else tuple(topk)
        if not self.topk or not all(type(k) is int and k >= 1 for k in self.topk):
            raise UserError(f"topk={topk!r} must be whole numbers from 1 on, such as (1, 5).")

    def process(self, data_batch: Mapping[str, Any], data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Store the rank of the true class, from 0, for each image of a batch."""
        for label, sample in zip(data_batch["labels"], data_samples, strict=True):
            order = sample["scores"].argsort(descending=True, stable=True)
            if not 0 <= int(label) < len(order):
                raise UserError(f"Label {int(label)} is not one of the model's {len(order)} classes.")
            self.results.append(int((order == label).nonzero()))

    def compute_metrics(self, results: list[int]) -> dict[str, float]:
        """Compute the accuracies from the ranks that ``process`` stored."""
        ranks = torch.tensor(results)
        metrics = {f"top{k}": float((ranks < k).double().mean()) for k in self.topk}
        values = "  ".join(f"top-{k} {metrics[f'top{k}']:.4f}" for k in self.topk)
        print_log(f"Accuracy on {len(results)} images: {values}", logger="current")
        return metrics
