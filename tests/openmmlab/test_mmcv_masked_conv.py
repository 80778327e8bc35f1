"""Compares the convolution at selected positions with torch's own at all positions."""

import pytest
import torch
from mmcv.ops import MaskedConv2d


@pytest.mark.parametrize(("kernel_size", "padding"), [((3, 3), (1, 1)), ((1, 5), (0, 2)), ((1, 1), (0, 0))])
def test_masked_conv_is_the_convolution_where_the_mask_is_set_and_zero_elsewhere(kernel_size, padding, device):
    torch.manual_seed(0)
    conv = MaskedConv2d(3, 4, kernel_size, padding=padding).to(device)
    x = torch.randn(1, 3, 5, 7, device=device)
    mask = torch.rand(1, 5, 7, device=device) > 0.5
    mask[0, 0, 0] = mask[0, -1, -1] = True  # the windows at the corners leave the map
    expected = torch.nn.functional.conv2d(x, conv.weight, conv.bias, padding=padding) * mask
    torch.testing.assert_close(conv(x, mask), expected)
    assert not conv(x, torch.zeros_like(mask)).any()
