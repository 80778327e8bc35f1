"""Benchmarks training steps and predictions of Mask R-CNN and UperNet, with our backbone and the official order."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from torch import nn

from benchmarks.peers import OFFICIAL_ORDER, OURS, in_official_order
from benchmarks.timing import measure_in_turns
from convnext_dense.checkpoints.variants import get_variant
from convnext_dense.config.device import fit_to_device
from convnext_dense.engine import read_config
from convnext_dense.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"
TASK_CONFIGS = {
    "detection": CONFIGS / "detection" / "mask_rcnn_convnext_t_3x.py",
    "segmentation": CONFIGS / "segmentation" / "upernet_convnext_t_160k.py",
}
OBJECTS = 8  # per image; COCO: 7.7 on average (arXiv 1405.0312, section 5)


def measure_models(
    task: str, arch: str, size: tuple[int, int, int], *, device: str, precision: str, rounds: int, warmups: int
) -> dict[str, Any]:
    """Measure a training step (forward, losses, backward, AdamW) and a prediction with post-processing.

    Args:
        task: ``'detection'`` or ``'segmentation'``.
        arch: Size of the backbone.
        size: N, H, W of the batch, which contains random images with objects or labels.
        device: ``'cpu'`` or ``'cuda'``.
        precision: ``'float32'`` or ``'autocast'``.
        rounds: See ``measure_in_turns``.
        warmups: See ``measure_in_turns``.

    Raises:
        UserError: The precision is not supported: detectors have parts that only mixed precision keeps in float32.
    """
    if precision == "bfloat16":
        raise UserError(f"precision='bfloat16' is for blocks and backbones; --task {task} has float32 and autocast.")
    cfg = read_config(TASK_CONFIGS[task])
    init_default_scope(cfg.default_scope)
    ours = _build(cfg, task, arch, size).to(device)
    models = {OURS: ours, OFFICIAL_ORDER: in_official_order(copy.deepcopy(ours))}
    data = (_detection_data if task == "detection" else _segmentation_data)(size)
    times = {}
    for mode, make in (("optimizer", _training_step), ("inference", _prediction)):
        ways = {f"{name}, NCHW, eager": make(model, data, precision) for name, model in models.items()}
        times[mode] = measure_in_turns(ways, device=device, rounds=rounds, warmups=warmups)
    return {"task": task, "arch": arch, "size": list(size), "precision": precision, "times": times}


def _build(cfg: Config, task: str, arch: str, size: tuple[int, int, int]) -> nn.Module:
    fit_to_device(cfg)
    cfg.model.backbone.merge(dict(arch=arch, init_cfg=None))
    widths = list(get_variant(arch).channels)
    if task == "detection":
        cfg.model.neck.in_channels = widths
    else:
        cfg.model.decode_head.in_channels = widths
        cfg.model.auxiliary_head.in_channels = widths[2]
        cfg.model.data_preprocessor.size = size[1:]
        cfg.model.test_cfg = dict(mode="whole")
    torch.manual_seed(0)
    return MODELS.build(cfg.model)


def _detection_data(size: tuple[int, int, int]) -> dict[str, Any]:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    images, height, width = size
    generator = np.random.default_rng(0)
    samples = []
    for _ in range(images):
        left, top = generator.uniform(0, 0.7, (2, OBJECTS)) * ((width,), (height,))
        right, bottom = (
            left + generator.uniform(0.1, 0.3, OBJECTS) * width,
            top + generator.uniform(0.1, 0.3, OBJECTS) * height,
        )
        boxes = np.stack((left, top, right, bottom), axis=1)
        masks = np.zeros((OBJECTS, height, width), dtype=np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
            mask[y1:y2, x1:x2] = 1
        sample = DetDataSample(metainfo=_metainfo(height, width))
        sample.gt_instances = InstanceData(
            bboxes=torch.from_numpy(boxes).float(),
            labels=torch.from_numpy(generator.integers(0, 80, OBJECTS)),
            masks=BitmapMasks(masks, height, width),
        )
        samples.append(sample)
    return {"inputs": _images(size), "data_samples": samples}


def _segmentation_data(size: tuple[int, int, int]) -> dict[str, Any]:
    from mmseg.structures import SegDataSample

    images, height, width = size
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(images):
        sample = SegDataSample(metainfo=_metainfo(height, width))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 150, (1, height, width), generator=generator))
        samples.append(sample)
    return {"inputs": _images(size), "data_samples": samples}


def _metainfo(height: int, width: int) -> dict[str, Any]:
    shape = (height, width)
    return dict(img_shape=shape, ori_shape=shape, pad_shape=shape, batch_input_shape=shape, scale_factor=(1.0, 1.0))


def _images(size: tuple[int, int, int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images, height, width = size
    return [torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8) for _ in range(images)]


def _training_step(model: nn.Module, data: dict[str, Any], precision: str) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-7, fused=True)

    def step() -> None:
        model.train()
        optimizer.zero_grad()
        given = model.data_preprocessor(copy.deepcopy(data), training=True)
        with _precision(model, precision):
            losses = model(**given, mode="loss")
        model.parse_losses(losses)[0].backward()
        optimizer.step()

    return step


def _prediction(model: nn.Module, data: dict[str, Any], precision: str) -> Callable[[], None]:
    def predict() -> None:
        model.eval()
        given = model.data_preprocessor(copy.deepcopy(data), training=False)
        with torch.no_grad(), _precision(model, precision):
            model(**given, mode="predict")

    return predict


def _precision(model: nn.Module, precision: str) -> torch.autocast:
    device = next(model.parameters()).device.type
    return torch.autocast(device, torch.bfloat16, enabled=precision == "autocast")
