"""Compares precise RoI pooling with sums over many points, and its gradients with numeric ones."""

import torch
from mmcv import _ext
from mmcv.ops import prroi_pool

# Different sizes and images; across the edges; far from the map; without area.
ROIS = [
    [0, 4.3, 2.1, 30.7, 19.2],
    [1, -9.4, -5.5, 11.9, 8.6],
    [1, 14.2, 9.7, 15.1, 10.3],
    [0, 90.0, 90.0, 99.0, 99.0],
    [1, 8.0, 8.0, 8.0, 20.0],
]
SIZE, SCALE = (2, 3), 0.25


def inputs():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 7, 9, generator=generator, dtype=torch.float64)
    return maps, torch.tensor(ROIS, dtype=torch.float64)


def pooled(maps, rois, points=500):
    """arXiv 1807.11590, equation 7: the mean of the interpolated map over a bin, here over a grid of many points."""
    padded = torch.nn.functional.pad(maps, (1, 1, 1, 1))  # zeros around the map, to which the border falls
    output = maps.new_zeros(len(rois), maps.shape[1], *SIZE)
    for k, (image, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (SCALE * corner for corner in corners)
        if x2 <= x1 or y2 <= y1:
            continue
        for p in range(SIZE[0]):
            for q in range(SIZE[1]):
                steps = (torch.arange(points, dtype=maps.dtype) + 0.5) / points
                y = y1 + (y2 - y1) * (p + steps) / SIZE[0] + 1
                x = x1 + (x2 - x1) * (q + steps) / SIZE[1] + 1
                by_row = (1 - (y[:, None] - torch.arange(padded.shape[2])).abs()).clamp(min=0)
                by_column = (1 - (x[:, None] - torch.arange(padded.shape[3])).abs()).clamp(min=0)
                output[k, :, p, q] = (by_row @ padded[int(image)] @ by_column.T).mean((1, 2))
    return output


def call(name, *tensors):
    getattr(_ext, name)(*tensors, pooled_height=SIZE[0], pooled_width=SIZE[1], spatial_scale=SCALE)


class Doubles(torch.autograd.Function):
    """mmcv's function, which only takes single precision, in double precision."""

    @staticmethod
    def forward(ctx, maps, rois):
        output = maps.new_zeros(len(rois), maps.shape[1], *SIZE)
        call("prroi_pool_forward", maps, rois, output)
        ctx.save_for_backward(maps, rois, output)
        return output

    @staticmethod
    def backward(ctx, grad_output):
        maps, rois, output = ctx.saved_tensors
        grad_maps, grad_rois = torch.zeros_like(maps), torch.zeros_like(rois)
        call("prroi_pool_backward", grad_output, rois, grad_maps)
        call("prroi_pool_coor_backward", output, grad_output, maps, rois, grad_rois)
        return grad_maps, grad_rois


def test_bins_are_means_over_many_points():
    maps, rois = inputs()
    output = Doubles.apply(maps, rois)
    torch.testing.assert_close(output, pooled(maps, rois), rtol=0, atol=1e-4)
    assert not output[3:].any()


def test_gradients_of_features_and_corners_are_the_numeric_ones():
    maps, rois = inputs()
    assert torch.autograd.gradcheck(Doubles.apply, (maps.requires_grad_(), rois))
    index, corners = rois[:3, :1], rois[:3, 1:].requires_grad_()  # the index of the image is not differentiable
    assert torch.autograd.gradcheck(lambda y: Doubles.apply(maps.detach(), torch.cat((index, y), 1)), corners)


def test_mmcv_function_returns_them(device):
    maps, rois = (tensor.float().to(device).requires_grad_() for tensor in inputs())
    doubles = [tensor.requires_grad_() for tensor in inputs()]
    outputs = prroi_pool(maps, rois, SIZE, SCALE), Doubles.apply(*doubles)
    torch.testing.assert_close(outputs[0].double().cpu(), outputs[1], rtol=0, atol=1e-4)
    weights = torch.randn_like(outputs[1])
    expected = torch.autograd.grad((outputs[1] * weights).sum(), doubles)
    grads = torch.autograd.grad((outputs[0] * weights.float().to(device)).sum(), (maps, rois))
    for grad, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad.double().cpu(), other, rtol=1e-3, atol=1e-3)
