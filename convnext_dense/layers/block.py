"""The residual block of ConvNeXt V1 and V2.

Letters: N images, C channels, H height, W width.

Source: https://github.com/facebookresearch/ConvNeXt/blob/048efcea897d999aed302f2639b6270aedf8d4c8/models/convnext.py
(arXiv 2201.03545, figure 4) and, with ``use_grn``,
https://github.com/facebookresearch/ConvNeXt-V2/blob/2553895753323c6fe0b2bf390683f5ea358a42b9/models/convnextv2.py
Differs: no layout copies. The permutations are views, so the whole network runs on channels-last memory after the
stem; ``branch + shortcut`` makes a block's output channels-last whatever its input is. The layer scale is folded into
the last linear layer. Under autocast the branch is 16-bit, and the sum over blocks keeps the precision of the
parameters: a branch scaled by 1e-6 would vanish in a 16-bit sum.
"""

from collections.abc import Callable

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from convnext_dense.kernels import runs_on_triton
from convnext_dense.kernels.precision import precision_of
from convnext_dense.layers.depthwise_conv import DepthwiseConv2d
from convnext_dense.layers.linear import ScaledLinear
from convnext_dense.layers.norm import GlobalResponseNorm, LayerNorm

Convolve = Callable[[nn.Module, Tensor], Tensor]

# Per thread. Measured on an AVX2 processor with 96 to 768 channels: 1024 to 4096 positions take the least time.
_POSITIONS = 2048


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7 convolution, LayerNorm, two linear layers with GELU between them, layer scale, residual.

    Args:
        channels: C.
        drop_path_rate: Probability of dropping the branch of an image in training.
        layer_scale_init_value: Initial value of the per-channel scale of the branch; 0 leaves the scale out (V2).
        use_grn: Whether global response normalisation follows the GELU (V2).
        rebuild_hidden: Whether the backward pass recomputes the norm and the 4C-wide hidden layer instead of keeping
            them, which leaves 2 of 11 maps of C channels to keep.
    """

    def __init__(
        self,
        channels: int,
        *,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        use_grn: bool = False,
        rebuild_hidden: bool = False,
    ) -> None:
        super().__init__()
        self.dwconv = DepthwiseConv2d(channels, kernel_size=7)
        self.norm = LayerNorm(channels)
        self.pwconv1 = ScaledLinear(channels, 4 * channels)  # expansion 4: arXiv 2201.03545, section 2.4
        self.act = nn.GELU()
        self.grn = GlobalResponseNorm(4 * channels) if use_grn else nn.Identity()
        self.pwconv2 = ScaledLinear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), layer_scale_init_value)) if layer_scale_init_value else None
        self.drop_path = DropPath(drop_path_rate)
        self.rebuild_hidden = rebuild_hidden

    def forward(self, x_nchw: Tensor, convolve: Convolve | None = None) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape, in channels-last memory.

        Args:
            x_nchw: ``(N, C, H, W)``.
            convolve: Applies the depthwise convolution, which it gets, to the input, which it gets too; for inputs
                whose positions are not where they are in the image. The rest looks at no neighbours.
        """
        if convolve is None and runs_on_triton("block", x_nchw, self.norm.weight) and self._is_stock():
            return self._run_on_triton(x_nchw)
        convolved = self.dwconv(x_nchw) if convolve is None else convolve(self.dwconv, x_nchw)
        x_nhwc = convolved.permute(0, 2, 3, 1)
        x_nhwc = self._in_pieces(self._branch, x_nhwc)
        return self.drop_path(x_nhwc.permute(0, 3, 1, 2)) + x_nchw.to(self.norm.weight.dtype)

    def _branch(self, x: Tensor) -> Tensor:
        """Apply what follows the depthwise convolution to ``(..., C)``, position by position unless there is a GRN."""
        if self.rebuild_hidden and x.requires_grad:
            return checkpoint(self._mlp, x, use_reentrant=False, preserve_rng_state=False)
        return self._mlp(x)

    def _mlp(self, x: Tensor) -> Tensor:
        hidden = self.grn(self.act(self.pwconv1(self.norm(x))))
        # A folded scale does not need the output of pwconv2 in the backward pass, which saves recomputing it.
        return self.pwconv2(hidden, self.gamma, fold=self.rebuild_hidden)

    def _in_pieces(self, branch: Callable[[Tensor], Tensor], x_nhwc: Tensor) -> Tensor:
        """Run positions through the branch, on a CPU in pieces whose hidden layer stays in cache.

        Under a compiler or a tracer the branch stays one graph for all sizes.
        """
        in_pieces = x_nhwc.device.type == "cpu" and isinstance(self.grn, nn.Identity)
        is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        count = x_nhwc[..., 0].numel() // (_POSITIONS * torch.get_num_threads()) if in_pieces and not is_traced else 1
        if count <= 1:
            return branch(x_nhwc)
        return torch.cat([branch(piece) for piece in x_nhwc.flatten(0, 2).chunk(count)]).view(x_nhwc.shape)

    def _is_stock(self) -> bool:
        """Return whether all parts are the block's own, with plain tensors as weights, no hooks and no GRN."""
        parts = (self.dwconv, self.norm, self.pwconv1, self.act, self.grn, self.pwconv2)
        return (
            all(
                type(part) is stock and not part._forward_hooks and not part._forward_pre_hooks
                for part, stock in zip(parts, _STOCK, strict=True)
            )
            and self.act.approximate == "none"
            and all(type(linear.weight) in (nn.Parameter, Tensor) for linear in (self.pwconv1, self.pwconv2))
        )

    def _run_on_triton(self, x_nchw: Tensor) -> Tensor:
        from convnext_dense.kernels.block_triton import Parameters, run_block

        dtype = precision_of(x_nchw, self.norm.weight)
        assert dtype is not None  # checked by `runs_on_triton`
        # One number per image goes through drop path and comes out as 0 or as the scale of a branch that is kept.
        ones = x_nchw.new_ones(len(x_nchw), 1, 1, 1, dtype=dtype)
        drawn = self.drop_path(ones)
        scale = None if drawn is ones else drawn.flatten()
        return run_block(x_nchw, scale, Parameters.of(self), self.norm.eps, dtype, self.rebuild_hidden)


_STOCK = (DepthwiseConv2d, LayerNorm, ScaledLinear, nn.GELU, nn.Identity, ScaledLinear)
