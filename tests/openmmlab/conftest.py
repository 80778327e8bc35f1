"""Provides mmcv's operators before any test module here imports ``mmcv.ops``, and lists the devices to test on."""

import pytest
import torch

import convnext_dense  # noqa: F401

NEEDS_CUDA = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
def device(request: pytest.FixtureRequest) -> str:
    return request.param
