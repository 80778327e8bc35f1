"""Normalisation layers of ConvNeXt.

Letters: N images, C channels, H height, W width.

Source: https://github.com/facebookresearch/ConvNeXt/blob/048efcea897d999aed302f2639b6270aedf8d4c8/models/convnext.py
and https://github.com/facebookresearch/ConvNeXt-V2/blob/2553895753323c6fe0b2bf390683f5ea358a42b9/models/utils.py
Differs: LayerNorm over channels works on a channels-last view of the same memory, with one fused kernel, instead of
separate arithmetic for channels-first tensors; the numbers are the same.
"""

from typing import Any

import torch
from torch import Tensor, nn

from convnext_dense.kernels import layer_norm

# The official code passes 1e-6 everywhere; torch's own default is 1e-5.
LAYER_NORM_EPS = 1e-6


class LayerNorm(nn.LayerNorm):
    """LayerNorm over the last axis with float32 statistics; a 16-bit input gives a 16-bit output, even under autocast.

    Args:
        channels: Length of the last axis.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(..., C)``; a 16-bit input gives a 16-bit output."""
        return layer_norm(x, self.weight, self.bias, self.eps)


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a feature map, at each position separately.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=LAYER_NORM_EPS)

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Normalise ``(N, C, H, W)``; the result is a channels-last tensor of the same shape."""
        x_nhwc = layer_norm(x_nchw.permute(0, 2, 3, 1), self.weight, self.bias, self.eps, widens=True)
        return x_nhwc.permute(0, 3, 1, 2)


class GlobalResponseNorm(nn.LayerNorm):
    """Global response normalisation of ConvNeXt V2 (arXiv 2301.00808, section 3, equations 1 to 3).

    Its parameters have the shape ``(C,)`` and start at zero, which makes the layer an identity at first. The official
    repository's ``(1, 1, 1, C)`` loads too but is not kept, because some optimizer constructors choose what gets weight
    decay by the number of dimensions. Others check whether a layer is one of torch's norms, which is why this class
    derives from LayerNorm, though it has none of LayerNorm's parameters.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        # https://github.com/facebookresearch/ConvNeXt-V2: the constant is added to the mean, not under the root
        super().__init__(channels, eps=1e-6, elementwise_affine=False)
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x_nhwc: Tensor) -> Tensor:
        """Normalise ``(N, H, W, C)``, in float32 even under autocast: the squares in the norm overflow float16.

        The norm promotes to float32, and autocast changes none of these operators. The statistics reduce to one factor
        per image and channel, so ``x_nhwc`` is read twice, and is kept for the backward pass in its own type.
        """
        precise = torch.promote_types(x_nhwc.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x_nhwc, dim=(1, 2), keepdim=True, dtype=precise)
        factor = 1 + self.gamma * (norm / (norm.mean(dim=-1, keepdim=True) + self.eps))
        return (x_nhwc * factor + self.beta).to(x_nhwc.dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Accept parameters with leading dimensions of size one; both torch and mmengine load through this method."""
        for name in (f"{prefix}gamma", f"{prefix}beta"):
            tensor = state_dict.get(name)
            if isinstance(tensor, Tensor) and tensor.dim() > 1 and tensor.shape[-1] == tensor.numel():
                state_dict[name] = tensor.reshape(-1)
        super()._load_from_state_dict(state_dict, prefix, *args)
