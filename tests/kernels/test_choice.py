"""The choice of operators that run on Triton's kernels."""

import pytest
import torch

from convnext_dense.kernels import choice

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def draw(*shape, dtype=torch.float32):
    return torch.randn(*shape).to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
def test_other_precisions_are_left_to_torch(dtype, on_triton):
    assert not choice.runs_on_triton("layer_norm", draw(4, 8).to(dtype))
    assert choice.runs_on_triton("layer_norm", draw(4, 8))


def test_without_triton_torch_runs_and_it_is_said_once(on_triton, monkeypatch, capsys):
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: None)
    assert not any(choice.runs_on_triton("depthwise", draw(4, 8)) for _ in range(2))
    assert capsys.readouterr().out.count("none (Triton is not installed)") == 1


def test_measured_sizes_decide_by_gpu_precision_operator_and_elements(on_triton, monkeypatch, capsys):
    capability = torch.cuda.get_device_capability() if DEVICE == "cuda" else (0, 0)
    monkeypatch.setattr(choice, "FASTER_FROM", {(capability, torch.bfloat16): {"depthwise": 64}})
    with choice.forced("auto"):
        assert not choice.runs_on_triton("depthwise", draw(4, 8, dtype=torch.bfloat16))
        assert choice.runs_on_triton("depthwise", draw(8, 8, dtype=torch.bfloat16))
        assert not choice.runs_on_triton("layer_norm", draw(8, 8, dtype=torch.bfloat16))
        assert not choice.runs_on_triton("depthwise", draw(8, 8))
    assert "depthwise (as measured)" in (out := capsys.readouterr().out)
    assert "none (not measured here" in out


def test_unknown_choice_is_named():
    with pytest.raises(ValueError, match="CONVNEXT_DENSE_KERNELS='cuda' must be one of auto, torch, triton"):
        choice.read_choice({"CONVNEXT_DENSE_KERNELS": "cuda"})
    assert choice.read_choice({}) == "auto"
