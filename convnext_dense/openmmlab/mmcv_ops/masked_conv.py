"""Convolution at selected positions only: gathering the windows as columns, and scattering the results into the map.

Letters: C channels, H and W size of the map, R and S size of the kernel, M selected positions.

Source: https://github.com/open-mmlab/mmcv/blob/v2.1.0/mmcv/ops/csrc/common/cuda/masked_conv2d_cuda_kernel.cuh
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad


def masked_im2col_forward(
    features: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    data_col: Tensor,
    *,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Write the windows of ``features``, (1, C, H, W), at the positions (M,) to ``data_col``, (C * R * S, M)."""
    padded = pad(features[0], (pad_w, kernel_w, pad_h, kernel_h))
    rows = torch.arange(kernel_h, device=features.device)[:, None, None] + mask_h_idx
    columns = torch.arange(kernel_w, device=features.device)[:, None] + mask_w_idx
    data_col.copy_(padded[:, rows, columns].reshape(data_col.shape))


def masked_col2im_forward(
    masked_output: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    output: Tensor,
    *,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Write ``masked_output``, (C, M), to the positions (M,) of ``output``, (1, C, H, W)."""
    output[0, :, mask_h_idx, mask_w_idx] = masked_output


OPERATORS: dict[str, Callable[..., None]] = {
    "masked_col2im_forward": masked_col2im_forward,
    "masked_im2col_forward": masked_im2col_forward,
}
