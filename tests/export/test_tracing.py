"""Capturing models: what it needs."""

import pytest
import torch

from convnext_dense.errors import UserError
from convnext_dense.export import tracing
from convnext_dense.export.exporting import check_arguments
from convnext_dense.export.tracing import require_torch_that_exports


def test_an_older_torch_is_refused_with_the_version_that_exporting_needs(monkeypatch):
    monkeypatch.setattr(tracing, "_LOWEST_TORCH", "99.1")
    with pytest.raises(UserError) as refusal:
        require_torch_that_exports()
    assert str(refusal.value) == f"Exporting needs torch 99.1 or later; this is torch {torch.__version__}."


def test_an_older_torch_is_refused_before_the_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(tracing, "_LOWEST_TORCH", "99.1")
    monkeypatch.setattr(tracing, "require_torch_that_exports", require_torch_that_exports)
    with pytest.raises(UserError, match=r"Exporting needs torch 99\.1 or later"):
        check_arguments("torch", tmp_path, int8=None, max_loss=0.01)
