"""Weights with official names: V1 from a file of the official code, V2 generated in its shapes."""

import pytest
import torch
from documented_names import DATA


@pytest.fixture
def official_v1():
    return torch.load(DATA / "official_v1.pth", weights_only=True)["model"]


@pytest.fixture
def official_v2(official_v1):
    """facebookresearch/ConvNeXt-V2@25538957 models/convnextv2.py: no gamma of the block, GRN of shape (1, 1, 1, 4C)."""
    generator = torch.Generator().manual_seed(2)
    weights = {}
    for name, tensor in official_v1.items():
        if name.endswith(".gamma"):
            continue
        weights[name] = tensor
        if name.endswith(".pwconv1.bias"):
            for part in ("gamma", "beta"):
                weights[name.replace("pwconv1.bias", f"grn.{part}")] = torch.randn(
                    1, 1, 1, tensor.numel(), generator=generator
                )
    return weights
