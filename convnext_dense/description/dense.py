"""Parameters, MACs and memory of a config's model by part, with the conventions of the published numbers.

The papers' GFLOPs come from ``tools/analysis_tools/get_flops.py`` of mmdet 2.x and mmseg 0.x, which runs
``forward_dummy``. The counts here cover the same parts:
- detectors: backbone, neck, proposal head, every box head on 1000 proposals, every mask head on the first 100 of them;
- segmenters: backbone, neck and decode head, without the auxiliary head, which is used only in training;
- DINO: backbone, neck, transformer and its prediction layers. Sampling in deformable attention counts nothing, and in
  training the denoising queries are left out, whose number depends on the objects.
Heads that read data samples, as those of Mask2Former, depend on values and are not counted.
Source: open-mmlab/mmdetection 2.x mmdet/models/roi_heads/{standard,cascade}_roi_head.py (forward_dummy),
open-mmlab/mmsegmentation 0.x mmseg/models/segmentors/encoder_decoder.py.
"""

import copy
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from convnext_dense.description.counting import count_macs, count_parameters, count_saved_bytes, image_on_meta
from convnext_dense.description.transformers import run_dino

NUM_BOX_PROPOSALS = 1000
NUM_MASK_PROPOSALS = 100


def build_on_meta(cfg: Config) -> nn.Module:
    """Build the model of a config without initializing or loading weights."""
    scope = cfg.get("default_scope", "convnext_dense")
    model = copy.deepcopy(cfg.model)  # DINO writes into its config
    with DefaultScope.overwrite_default_scope(scope), torch.device("meta"):
        built = MODELS.build(model).eval()
    built.load_state_dict(built.state_dict())  # frozen weights are refused until they have been loaded
    return built


def macs_by_part(model: nn.Module, image_size: tuple[int, int]) -> dict[str, int]:
    """Return the multiply-accumulates of each part at test time, for one image of ``image_size``, (height, width)."""
    macs: dict[str, int] = {}

    def measure(name: str, run: Callable[[], object]) -> None:
        if name != "auxiliary_head":
            macs[name] = macs.get(name, 0) + count_macs(run)

    _run_parts(model, image_on_meta(image_size, _in_channels(model)), measure)
    return macs


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """Return the number of parameters of each direct child of a model that has any."""
    counts = {name: count_parameters(child) for name, child in model.named_children()}
    return {name: count for name, count in counts.items() if count}


def saved_bytes_by_part(model: nn.Module, image_size: tuple[int, int]) -> dict[str, int]:
    """Return the bytes in float32 that autograd saves for one training image of ``image_size``, by part.

    They are measured on a batch of two, because batch norm needs more than one image, and halved. Heads on proposals
    are left out, because what they save depends on how many proposals are sampled.
    """
    model = revert_sync_batchnorm(model).train()
    images = image_on_meta(image_size, _in_channels(model)).repeat(2, 1, 1, 1)
    kept = {}

    def measure(name: str, run: Callable[[], object]) -> None:
        if name not in ("box heads", "mask heads"):
            kept[name] = count_saved_bytes(model, run) // 2

    _run_parts(model, images, measure)
    model.eval()
    return kept


def _in_channels(model: Any) -> int:
    return getattr(model.backbone, "in_channels", 3)


def _run_parts(model: Any, images: Tensor, measure: Callable[[str, Callable[[], object]], None]) -> None:
    """Run every part of a model once, each by ``measure``, which gets its name and a function."""
    outputs: list[Any] = [images]

    def run(name: str, part: Callable[[Any], Any]) -> None:
        inputs = outputs[-1]
        measure(name, lambda: outputs.append(part(inputs)))

    run("backbone", model.backbone)
    if getattr(model, "neck", None) is not None:
        run("neck", model.neck)
    features = outputs[-1]
    if hasattr(model, "dn_query_generator"):
        measure("transformer", partial(run_dino, model, features))
        return
    for name in ("rpn_head", "bbox_head", "decode_head", "auxiliary_head"):
        head = getattr(model, name, None)
        if head is not None and "batch_data_samples" not in inspect.signature(head.forward).parameters:
            measure(name, partial(head, features))
    roi_head = getattr(model, "roi_head", None)
    if roi_head is not None:
        for name, function in _roi_runs(roi_head):
            measure(name, function)
    if isinstance(getattr(model, "head", None), nn.Linear):
        vector = torch.empty(len(images), model.head.in_features, device="meta")
        measure("head", partial(model.head, vector))


def _roi_runs(roi_head: Any) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the box and mask heads, run on extracted regions, because RoIAlign itself has no MACs."""
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
