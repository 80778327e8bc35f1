"""Compares PSANet's maps with their definition, position by position."""

import pytest
import torch
from mmcv.ops import PSAMask

HEIGHT, WIDTH = 3, 4


def moved(masks, psa_type, mask_size):
    """Return what a pixel says about the position at distance (y, x): https://hszhao.github.io/projects/psanet."""
    mask_height, mask_width = mask_size
    output = torch.zeros(masks.shape[0], HEIGHT * WIDTH, HEIGHT, WIDTH, dtype=masks.dtype)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            for k in range(mask_height * mask_width):
                to_y = y + k // mask_width - (mask_height - 1) // 2
                to_x = x + k % mask_width - (mask_width - 1) // 2
                if 0 <= to_y < HEIGHT and 0 <= to_x < WIDTH:
                    if psa_type == "collect":
                        output[:, to_y * WIDTH + to_x, y, x] = masks[:, k, y, x]
                    else:
                        output[:, y * WIDTH + x, to_y, to_x] = masks[:, k, y, x]
    return output


@pytest.mark.parametrize("psa_type", ["collect", "distribute"])
@pytest.mark.parametrize("mask_size", [(5, 7), (3, 3)])
def test_psa_mask_and_its_gradient_are_those_of_the_definition(psa_type, mask_size):
    torch.manual_seed(0)
    masks = torch.randn(2, mask_size[0] * mask_size[1], HEIGHT, WIDTH, dtype=torch.float64, requires_grad=True)
    output = PSAMask(psa_type, mask_size)(masks)
    expected = moved(masks, psa_type, mask_size)
    torch.testing.assert_close(output, expected)
    weights = torch.randn_like(expected)
    grads = [torch.autograd.grad((maps * weights).sum(), masks)[0] for maps in (output, expected)]
    torch.testing.assert_close(*grads)
