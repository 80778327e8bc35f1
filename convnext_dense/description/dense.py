"""Parameters, MACs and memory of a model of a config, part by part, by the conventions of the published numbers.

The papers' GFLOPs were printed by mmdet 2.x's and mmseg 0.x's ``tools/analysis_tools/get_flops.py``, which run
``forward_dummy``. What that leaves out and what it invents is repeated here:
- detectors: backbone, neck, proposal head, every box head on 1000 proposals, every mask head on the first 100 of them;
- segmenters: backbone, neck and decode head, without the auxiliary head, which works in training alone.
Source: open-mmlab/mmdetection 2.x mmdet/models/roi_heads/{standard,cascade}_roi_head.py (forward_dummy),
open-mmlab/mmsegmentation 0.x mmseg/models/segmentors/encoder_decoder.py.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from convnext_dense.description.counting import count_macs, count_parameters, count_saved_bytes, image_on_meta

NUM_BOX_PROPOSALS = 1000
NUM_MASK_PROPOSALS = 100


def build_on_meta(cfg: Config) -> nn.Module:
    """Build the model of a config without drawing or loading weights."""
    scope = cfg.get("default_scope", "convnext_dense")
    with DefaultScope.overwrite_default_scope(scope), torch.device("meta"):
        return MODELS.build(cfg.model).eval()


def macs_by_part(model: nn.Module, image_size: tuple[int, int]) -> dict[str, int]:
    """Multiply-accumulates of each part for one image of ``image_size``, (height, width), at test time."""
    macs: dict[str, int] = {}
    with torch.no_grad():
        for name, run in _runs(model, image_on_meta(image_size, _in_channels(model))):
            if name != "auxiliary_head":
                macs[name] = macs.get(name, 0) + count_macs(run)
    return macs


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """Parameters of each direct child of a model that has any."""
    counts = {name: count_parameters(child) for name, child in model.named_children()}
    return {name: count for name, count in counts.items() if count}


def saved_bytes_by_part(model: nn.Module, image_size: tuple[int, int]) -> dict[str, int]:
    """Bytes in float32 that one training image of ``image_size`` leaves for the backward pass, by part.

    Of a batch of two, which batch norm needs, divided by two. Heads on proposals are left out: what they keep depends
    on how many are sampled.
    """
    model = revert_sync_batchnorm(model).train()
    images = image_on_meta(image_size, _in_channels(model)).repeat(2, 1, 1, 1)
    kept = {}
    for name, run in _runs(model, images):
        if name not in ("box heads", "mask heads"):
            kept[name] = count_saved_bytes(model, run) // 2
    model.eval()
    return kept


def _in_channels(model: Any) -> int:
    return getattr(model.backbone, "in_channels", 3)


def _runs(model: Any, images: Tensor) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the parts that see whole images or proposals, each with a function that runs it once."""
    features = model.backbone(images)
    yield "backbone", partial(model.backbone, images)
    if getattr(model, "neck", None) is not None:
        yield "neck", partial(model.neck, features)
        features = model.neck(features)
    for name in ("rpn_head", "bbox_head", "decode_head", "auxiliary_head"):
        head = getattr(model, name, None)
        if head is not None:
            yield name, partial(head, features)
    roi_head = getattr(model, "roi_head", None)
    if roi_head is not None:
        yield from _roi_runs(roi_head)
    if isinstance(getattr(model, "head", None), nn.Linear):
        vector = torch.empty(len(images), model.head.in_features, device="meta")
        yield "head", partial(model.head, vector)


def _roi_runs(roi_head: Any) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield box and mask heads, on proposals that RoIAlign has already cut out: it counts no MAC."""
    for name, kind, num_proposals in (
        ("box heads", "bbox", NUM_BOX_PROPOSALS),
        ("mask heads", "mask", NUM_MASK_PROPOSALS),
    ):
        heads = getattr(roi_head, f"{kind}_head", None)
        if heads is None:
            continue
        extractors = getattr(roi_head, f"{kind}_roi_extractor", None) or roi_head.bbox_roi_extractor
        for index, head in enumerate(heads if isinstance(heads, nn.ModuleList) else [heads]):
            extractor: Any = extractors[index] if isinstance(extractors, nn.ModuleList) else extractors
            size = extractor.roi_layers[0].output_size
            proposals = torch.empty(num_proposals, extractor.out_channels, *size, device="meta")
            yield name, partial(head, proposals)
