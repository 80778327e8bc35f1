"""Linear layer that computes in float32 where the processor would emulate bfloat16."""

import torch
from torch import Tensor, nn

from convnext_dense.kernels.precision import emulates_products, to_autocast


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply ``torch.nn.functional.linear``, in float32 where bfloat16 would be emulated."""
    if x.device.type == "cpu":
        cast_x, cast_weight, cast_bias = to_autocast("cpu", x, weight, bias)
        if emulates_products(cast_x):
            with torch.autocast("cpu", enabled=False):
                return _WideLinear.apply(cast_x, cast_weight, cast_bias)
    return nn.functional.linear(x, weight, bias)


class _WideLinear(torch.autograd.Function):
    """Takes, keeps and returns bfloat16; computes in float32."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return nn.functional.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        wide = grad.float()
        rows = wide.flatten(0, -2)
        return (
            (wide @ weight.float()).to(x.dtype) if wants_x else None,
            (rows.T @ x.flatten(0, -2).float()).to(weight.dtype) if wants_weight else None,
            rows.sum(0).to(weight.dtype) if wants_bias else None,
        )
