"""Convert tensors between the shapes of a layout and those of this package's models.

Letters: C channels, M input and O output channels of a convolution, K its size in pixels.

Source: https://github.com/facebookresearch/ConvNeXt-V2/blob/2553895753323c6fe0b2bf390683f5ea358a42b9/utils.py
for the order of MinkowskiEngine's kernels.
"""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from convnext_dense.checkpoints.layout_tables import Layout
from convnext_dense.errors import UserError

_LAYER_SCALE = re.compile(r"(stages\.\d+|blocks)\.\d+\.gamma")
_GRN = re.compile(r"(.*\.)?grn\.(gamma|beta)")
_POINTWISE = re.compile(r"(stages\.\d+|blocks)\.\d+\.pwconv[12]\.weight")
_BIAS = re.compile(r"(stages|blocks|stem|downsample_layers)\..*\.bias")


def to_model_shape(name: str, tensor: Tensor) -> Tensor:
    """Give a tensor the shape that this package's models use.

    Layer scale is (C,), each parameter of GRN (4C,), a pointwise weight (O, M) and a bias (O,). Other tensors are
    returned unchanged.
    """
    if _LAYER_SCALE.fullmatch(name) or _BIAS.fullmatch(name) or _GRN.fullmatch(name):
        return tensor.reshape(-1)
    if _POINTWISE.fullmatch(name) and tensor.shape[2:] == (1, 1):
        return tensor.flatten(1)
    return tensor


def to_layout_shape(name: str, tensor: Tensor, layout: Layout, *, conv_mlp: bool) -> Tensor:
    """Give a tensor of this package's models the shape that a layout uses.

    Args:
        name: Official name of the tensor.
        tensor: A tensor in the shape of ``to_model_shape``.
        layout: The layout to write.
        conv_mlp: Whether pointwise weights are those of 1x1 convolutions, (O, M, 1, 1).
    """
    if _LAYER_SCALE.fullmatch(name):
        return tensor.reshape(layout.layer_scale_shape)
    if _GRN.fullmatch(name):
        return tensor.reshape(layout.grn_shape)
    if conv_mlp and _POINTWISE.fullmatch(name):
        return tensor[:, :, None, None]
    return tensor


def flatten_grn(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the parameters of GRN, under any prefix, the shape that this package's models use."""
    return {name: tensor.reshape(-1) if _GRN.fullmatch(name) else tensor for name, tensor in tensors.items()}


def unroll_kernel(kernel: Tensor) -> Tensor:
    """Turn a MinkowskiEngine kernel into the weight of a convolution.

    Args:
        kernel: (K * K, M, O), or (K * K, C) for a depthwise convolution; the row index runs fastest in the first
            dimension.

    Returns:
        (O, M, K, K) or (C, 1, K, K).
    """
    if kernel.dim() == 2:
        kernel = kernel[:, None, :]
    size = math.isqrt(kernel.shape[0])
    if size * size != kernel.shape[0]:
        raise UserError(f"A kernel of shape {tuple(kernel.shape)} is not that of a square convolution.")
    columns_rows = kernel.reshape(size, size, *kernel.shape[1:])
    return columns_rows.permute(3, 2, 1, 0).contiguous()


def fit_input_channels(weight: Tensor, in_channels: int) -> Tensor:
    """Adapt the weight of the stem to another number of input channels and keep the scale of its activations.

    With fewer channels than in the file, each takes the mean over the file's channels. With more, the file's channels
    are repeated in turn and each is divided by its number of copies. Either way, an image with the same values in every
    channel gives the same activations as before.

    Args:
        weight: (O, M, K, K).
        in_channels: The new M.
    """
    in_file = weight.shape[1]
    if in_channels <= in_file:
        return weight.mean(dim=1, keepdim=True).expand(-1, in_channels, -1, -1) * (in_file / in_channels)
    taken_from = torch.arange(in_channels) % in_file
    num_copies = torch.bincount(taken_from, minlength=in_file)[taken_from]
    return weight[:, taken_from] / num_copies.view(1, -1, 1, 1).to(weight.dtype)
