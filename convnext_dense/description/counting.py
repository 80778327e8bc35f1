"""Counts what a network costs, on the meta device: nothing is drawn, stored or computed.

One multiply-accumulate (MAC) is one FLOP of the ConvNeXt papers, of mmdet's and mmseg's ``get_flops.py``, and half of
one of torch's ``FlopCounterMode``, which does the counting here: convolutions and matrix products, nothing else.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(*modules: nn.Module) -> int:
    """Return number of parameters, those of shared modules once."""
    return sum(param.numel() for param in {param for module in modules for param in module.parameters()})


def count_macs(function: Callable[[], object]) -> int:
    """Multiply-accumulates of whatever ``function`` runs, without gradients."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() // 2


def image_on_meta(image_size: tuple[int, int], channels: int = 3) -> Tensor:
    """One image without content, ``(1, channels, *image_size)``."""
    return torch.empty(1, channels, *image_size, device="meta")


def count_saved_bytes(module: nn.Module, function: Callable[[], object]) -> int:
    """Bytes that autograd keeps for the backward pass of what ``function`` runs, parameters and buffers left out.

    Every storage counts once, however many operators keep it. A block that is recomputed (``with_cp``) counts with its
    input alone.
    """
    own = {id_of(tensor) for tensor in (*module.parameters(), *module.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if id_of(tensor) not in own:
            kept[id_of(tensor)] = tensor  # held, so that no later storage gets its id
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def id_of(tensor: Tensor) -> int:
    """Identity of the memory under a tensor, on the meta device too."""
    return tensor.untyped_storage()._cdata
