"""What the kernels' tests share."""

import pytest
import torch

from convnext_dense.kernels import choice

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def on_triton(monkeypatch):
    """Everything that can run on Triton does, in the interpreter where there is no GPU."""
    monkeypatch.setattr(choice, "_DEVICES", (DEVICE,))
    choice._look_up.cache_clear()
    with choice.forced("triton"):
        yield
    choice._look_up.cache_clear()
