"""Capturing models: what it needs."""

import pytest
import torch

from convnext_dense.errors import UserError
from convnext_dense.export import tracing
from convnext_dense.export.tracing import require_torch_that_exports


def test_an_older_torch_is_refused_with_the_version_that_exporting_needs(monkeypatch):
    monkeypatch.setattr(tracing, "_LOWEST_TORCH", "99.1")
    with pytest.raises(UserError) as refusal:
        require_torch_that_exports()
    assert str(refusal.value) == f"Exporting needs torch 99.1 or later; this is torch {torch.__version__}."
