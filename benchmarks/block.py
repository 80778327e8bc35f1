"""Compares one block per stage with the same block built from torch's own layers in the official order."""

import copy
from typing import Any

import torch

from benchmarks.backbone import ways_of
from benchmarks.peers import OFFICIAL_ORDER, OURS, in_official_order
from benchmarks.timing import measure_in_turns
from convnext_dense.models import ConvNeXt

STRIDES = (4, 8, 16, 32)


def measure_blocks(
    arch: str,
    size: tuple[int, int, int],
    *,
    device: str,
    precision: str,
    modes: list[str],
    kinds: list[str],
    rounds: int,
    warmups: int,
) -> dict[str, Any]:
    """Measure the first block of every stage on its map of an image of this size.

    The arguments are those of ``measure_backbones``; the tests compare our block with float64.
    """
    images, height, width = size
    stages = []
    model = ConvNeXt(arch, layer_scale_init_value=0.1).train()
    for channels, stride, blocks in zip(model.channels, STRIDES, model.stages, strict=True):
        ours = torch.nn.Sequential(blocks[0]).to(device)
        models = {OURS: ours, OFFICIAL_ORDER: in_official_order(copy.deepcopy(ours))}
        x_nchw = torch.randn(images, channels, height // stride, width // stride, device=device)
        if precision == "bfloat16":
            x_nchw, models = x_nchw.bfloat16(), {name: block.bfloat16() for name, block in models.items()}
        x_nchw.requires_grad_()
        times = {}
        for mode in modes:
            ways = ways_of(models, x_nchw, precision=precision, mode=mode, kinds=kinds)
            times[mode] = measure_in_turns(ways, device=device, rounds=rounds, warmups=warmups)
        stages.append({"map": list(x_nchw.shape), "times": times})
    return {"task": "block", "arch": arch, "size": list(size), "precision": precision, "stages": stages}
