"""CARAFE against its definition, position by position."""

import torch
from mmcv.ops import carafe, carafe_naive


def upsampled(features, masks, kernel_size, group_size, scale_factor):
    """arXiv 1905.02188, equation 4, as loops."""
    images, channels, height, width = features.shape
    half = kernel_size // 2
    rows = []
    for n in range(images):
        for c in range(channels):
            group = c // (channels // group_size)
            for y in range(height * scale_factor):
                for x in range(width * scale_factor):
                    total = features.new_zeros(())
                    for k in range(kernel_size**2):
                        source_y = y // scale_factor + k // kernel_size - half
                        source_x = x // scale_factor + k % kernel_size - half
                        if 0 <= source_y < height and 0 <= source_x < width:
                            mask = masks[n, group * kernel_size**2 + k, y, x]
                            total = total + features[n, c, source_y, source_x] * mask
                    rows.append(total)
    return torch.stack(rows).view(images, channels, height * scale_factor, width * scale_factor)


def test_carafe_and_its_gradients_are_those_of_the_definition():
    torch.manual_seed(0)
    features = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    masks = torch.randn(2, 2 * 9, 6, 4, dtype=torch.float64, requires_grad=True)
    expected = upsampled(features, masks, 3, 2, 2)
    weights = torch.randn_like(expected)
    expected_grads = torch.autograd.grad((expected * weights).sum(), (features, masks))
    output = carafe(features, masks, 3, 2, 2)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(torch.autograd.grad((output * weights).sum(), (features, masks)), expected_grads)
    # mmcv's own backward of this one refuses CPU tensors.
    torch.testing.assert_close(carafe_naive(features.detach(), masks.detach(), 3, 2, 2), expected.detach())
