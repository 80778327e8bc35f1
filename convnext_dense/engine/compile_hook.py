"""A hook that compiles the backbone of a model with torch.compile."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from convnext_dense.engine.optimizers import accumulative_counts
from convnext_dense.errors import UserError, require_torch
from convnext_dense.registry import HOOKS

_LOWEST_TORCH = "2.14"  # 2.6 has no strict_output_strides; nothing between was tried


@HOOKS.register_module()
class CompileBackboneHook(Hook):
    """Compiles the backbone in place before the first step; the rest of the model is not compiled.

    Add ``custom_hooks = [dict(type="convnext_dense.CompileBackboneHook")]`` to a config. Names in checkpoints do not
    change. Batch size, height and width are symbolic, so one graph serves all sizes, unless a map has a single row or
    column (sides below 64 pixels) or the batch a single image.

    On a CPU, Inductor of torch 2.14.1 adds a guard on whether a stage's batch has more than 4096 positions (it sums
    longer rows in cascades), and compiles once more for a batch on the other side of that limit.

    Args:
        backend: Backend of ``torch.compile``.
        cuda_graphs: Whether to record a step as CUDA graphs and replay it, which leaves the host almost nothing to do.
            Suited to images of one size, as in classification and for crops in segmentation, because each further size
            is compiled and recorded separately. Cannot be combined with accumulated gradients.
    """

    def __init__(self, backend: str = "inductor", *, cuda_graphs: bool = False) -> None:
        self.backend = backend
        self.cuda_graphs = cuda_graphs
        self._compiled = False

    def before_run(self, runner: Any) -> None:
        """Mark the backbone for compilation, which happens at its first call.

        Raises:
            UserError: The model has no backbone, or ``cuda_graphs`` is combined with accumulated gradients.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model = getattr(model, "module", model)  # inside test-time augmentation
        backbone = getattr(model, "backbone", None)
        if backbone is None:
            raise UserError(f"CompileBackboneHook needs a model with a backbone, and {type(model).__name__} has none.")
        steps = accumulative_counts(runner) if hasattr(runner, "optim_wrapper") else 1
        if self.cuda_graphs and steps > 1:
            raise UserError(
                f"CompileBackboneHook(cuda_graphs=True) cannot accumulate the gradients of {steps} batches, because "
                "each batch overwrites those of the one before: leave cuda_graphs out, or put all images of a step in "
                "one batch."
            )
        if self._compiled:
            return
        if self.backend == "inductor" and not self.cuda_graphs:
            require_torch(_LOWEST_TORCH, "CompileBackboneHook without cuda_graphs")
        # Without the first option, Inductor fails on outputs that are views of symbolic size (torch 2.14.1). The second
        # would reorder the tensors saved for the backward pass and thereby fix their size.
        for_all_sizes = {"strict_output_strides": True, "layout_optimization": False}
        options = {"triton.cudagraphs": True} if self.cuda_graphs else for_all_sizes
        backbone.compile(
            dynamic=not self.cuda_graphs,
            backend=self.backend,
            options=options if self.backend == "inductor" else None,
        )
        self._compiled = True
