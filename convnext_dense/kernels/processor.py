"""What the processor can do."""

import platform
from collections.abc import Mapping
from typing import Any

import torch


def capabilities() -> Mapping[str, Any]:
    """Return the processor's capabilities under torch's names; an older torch says those alone that are asked for."""
    if hasattr(torch.cpu, "get_capabilities"):
        return torch.cpu.get_capabilities()
    machine = platform.machine()
    return {
        "architecture": "x86_64" if machine == "AMD64" else machine,
        "avx512_f": torch.cpu._is_avx512_supported(),
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
        "amx_bf16": torch.cpu._is_amx_tile_supported(),
    }
