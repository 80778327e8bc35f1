"""A model with what surrounds it, as one module of tensors that torch exports: pixels in, results out.

Letters: N images, C channels, H and W height and width, n results per image, K classes, S side of a mask.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convnext_dense.errors import UserError
from convnext_dense.export.boxes import SUPPORTED, check_dense_head, check_proposals, run_dense_head, run_rpn
from convnext_dense.export.pooling import replace_adaptive_pools
from convnext_dense.export.queries import check_queries, prepare_dino, prepare_mask2former, run_dino
from convnext_dense.export.two_stage import check_roi_head, run_roi_head


class ExportedGraph(nn.Module):
    """The base of the three graphs: normalises the pixels, and names inputs and outputs.

    Args:
        model: The model, on the CPU and in eval mode; it is copied.
        mean: Of each channel of the input, in the order of the input.
        std: Likewise.
        swaps_colours: Whether the model sees blue, green, red; the input is red, green, blue.
    """

    input_names: Sequence[str] = ("image",)
    output_names: Sequence[str] = ()
    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, *, mean: Sequence[float], std: Sequence[float], swaps_colours: bool) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        replace_adaptive_pools(self.model)
        self.swaps_colours = swaps_colours
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def normalised(self, image: Tensor) -> Tensor:
        """Return what the model takes of an image (N, C, H, W) with values from 0 to 255."""
        image = (image - self.mean) / self.std
        return image.flip(1) if self.swaps_colours else image


class ClassifierGraph(ExportedGraph):
    """A classifier from pixels to the probabilities of the classes."""

    output_names = ("probs",)

    def forward(self, image: Tensor) -> Tensor:
        """Return (N, K)."""
        return self.model(self.normalised(image)).softmax(-1)


class SegmenterGraph(ExportedGraph):
    """A segmenter from pixels to the logits of the classes."""

    output_names = ("logits",)

    def __init__(self, model: Any, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        prepare_mask2former(self.model)

    def forward(self, image: Tensor) -> Tensor:
        """Return (N, K, H, W), or (N, 1, H, W) of two classes that one logit tells apart."""
        return self.model.encode_decode(self.normalised(image), [dict(img_shape=image.shape[2:])])


class DetectorGraph(ExportedGraph):
    """A detector from pixels to a fixed number of results.

    Boxes are in pixels of the input, and clipped to the images' own sizes (N, 2), without what is padded.
    """

    input_names = ("image", "image_sizes")

    def __init__(self, model: Any, **kwargs: Any) -> None:
        check_detector(model)
        super().__init__(model, **kwargs)
        if self.has_queries:
            prepare_dino(self.model)
        has_masks = self.is_two_stage and self.model.roi_head.with_mask
        self.output_names = ("boxes", "scores", "labels", "count", *(("masks",) if has_masks else ()))

    @property
    def is_two_stage(self) -> bool:
        """Whether proposals come first."""
        return getattr(self.model, "roi_head", None) is not None

    @property
    def has_queries(self) -> bool:
        """Whether the boxes are those of queries, as in DINO."""
        return hasattr(self.model, "decoder")

    def forward(self, image: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        """Return boxes (N, n, 4), scores and labels (N, n), counts (N,) and, with masks, probabilities (N, n, S, S)."""
        model = self.model
        features = model.extract_feat(self.normalised(image))
        extent = torch.sym_max(image.shape[2], image.shape[3])
        masks = None
        if self.is_two_stage:
            proposals = run_rpn(model.rpn_head, features, image_sizes, extent, model.rpn_head.test_cfg)
            results, masks = run_roi_head(model.roi_head, features, proposals, image_sizes, extent)
        elif self.has_queries:
            results = run_dino(model, features, image_sizes, image.shape[2:])
        else:
            results = run_dense_head(model.bbox_head, features, image_sizes, extent, model.bbox_head.test_cfg)
        found = results.scores >= 0
        outputs = (results.boxes, results.scores.clamp(min=0), results.groups, found.sum(1))
        return outputs if masks is None else (*outputs, masks)


GRAPHS: Mapping[str, type[ExportedGraph]] = {
    "classification": ClassifierGraph,
    "segmentation": SegmenterGraph,
    "detection": DetectorGraph,
}


def check_detector(model: Any) -> None:
    """Check that the results of a detector are those that the graph computes.

    Raises:
        UserError: A part of it does something else.
    """
    from mmdet.models.detectors import DetectionTransformer, SingleStageDetector, TwoStageDetector

    if isinstance(model, TwoStageDetector):
        if model.rpn_head is None:
            raise UserError(f"{type(model).__name__} without an rpn_head cannot be exported.")
        check_proposals(model.rpn_head)
        check_roi_head(model.roi_head)
    elif isinstance(model, DetectionTransformer):
        check_queries(model)
    elif isinstance(model, SingleStageDetector) and getattr(model, "bbox_head", None) is not None:
        check_dense_head(model.bbox_head)
    else:
        raise UserError(f"The detector {type(model).__name__} cannot be exported: {SUPPORTED}.")
