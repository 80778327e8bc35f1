"""What an older torch says about the processor is what a newer one says."""

from types import SimpleNamespace

import pytest
import torch

from convnext_dense.kernels import processor

NAMES = ("avx512_f", "avx512_bf16", "amx_bf16")


@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="nothing to hold it against")
@pytest.mark.skipif(not hasattr(torch.cpu, "_is_avx512_supported"), reason="this torch has no older functions")
def test_an_older_torch_says_the_same(monkeypatch):
    expected = torch.cpu.get_capabilities()
    older = [name for name in dir(torch.cpu) if name.startswith("_is_")]
    cpu = SimpleNamespace(**{name: getattr(torch.cpu, name) for name in older})
    monkeypatch.setattr(processor, "torch", SimpleNamespace(cpu=cpu))
    found = processor.capabilities()
    assert found["architecture"] == expected["architecture"]
    assert [found[name] for name in NAMES] == [expected.get(name, False) for name in NAMES]
