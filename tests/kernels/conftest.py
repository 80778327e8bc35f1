"""Fixtures of the kernels' tests."""

import pytest
import torch

from convnext_dense.kernels import choice

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def on_triton(monkeypatch):
    """Run everything that can run on Triton there, without a GPU in the interpreter."""
    monkeypatch.setattr(choice, "_DEVICES", (DEVICE,))
    choice._look_up.cache_clear()
    with choice.forced("triton"):
        yield
    choice._look_up.cache_clear()
