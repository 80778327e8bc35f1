"""Count the cost of a network on the meta device, without allocating or computing anything.

One multiply-accumulate (MAC) is one FLOP in the ConvNeXt papers and in mmdet's and mmseg's ``get_flops.py``, and two
FLOPs in torch's ``FlopCounterMode``, which counts here; it counts only convolutions and matrix products.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(*modules: nn.Module) -> int:
    """Return the number of parameters; shared ones count once."""
    return sum(param.numel() for param in {param for module in modules for param in module.parameters()})


def count_macs(function: Callable[[], object]) -> int:
    """Return the multiply-accumulates of a call of ``function`` without gradients."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() // 2


def image_on_meta(image_size: tuple[int, int], channels: int = 3) -> Tensor:
    """Return one image on the meta device, of shape ``(1, channels, *image_size)``."""
    return torch.empty(1, channels, *image_size, device="meta")


def count_saved_bytes(module: nn.Module, function: Callable[[], object]) -> int:
    """Return the bytes that autograd saves in a call of ``function``, without the parameters and buffers of ``module``.

    A storage counts once, no matter how many operators save it. A recomputed block (``with_cp``) saves only its input.
    """
    own = {id_of(tensor) for tensor in (*module.parameters(), *module.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if id_of(tensor) not in own:
            kept[id_of(tensor)] = tensor  # keep a reference, so that no later storage gets the same id
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def id_of(tensor: Tensor) -> int:
    """Return an identifier of the storage of a tensor, which works on the meta device too."""
    return tensor.untyped_storage()._cdata
