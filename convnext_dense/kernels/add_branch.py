"""Sum of a residual block's branch and shortcut.

Letters: N images, C channels, H height, W width.
"""

from collections.abc import Callable

from torch import Tensor

from convnext_dense.kernels.choice import runs_on_triton


def add_branch(branch_nchw: Tensor, shortcut_nchw: Tensor, drop_path: Callable[[Tensor], Tensor]) -> Tensor:
    """``drop_path(branch) + shortcut``.

    Args:
        branch_nchw: ``(N, C, H, W)`` in channels-last memory.
        shortcut_nchw: ``(N, C, H, W)``.
        drop_path: Stochastic depth: multiplies each image by a number that it draws, or is an identity.

    Returns:
        ``(N, C, H, W)`` in channels-last memory.
    """
    if not runs_on_triton("add_branch", branch_nchw):
        return drop_path(branch_nchw) + shortcut_nchw
    from convnext_dense.kernels.add_branch_triton import AddBranchTriton

    ones = branch_nchw.new_ones(len(branch_nchw), 1, 1, 1)
    drawn = drop_path(ones)
    scale = None if drawn is ones else drawn.flatten()
    return AddBranchTriton.apply(shortcut_nchw.permute(0, 2, 3, 1), branch_nchw.permute(0, 2, 3, 1), scale).permute(
        0, 3, 1, 2
    )
