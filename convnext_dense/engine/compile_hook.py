"""torch.compile for the backbone of a model, by one key of its config."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from convnext_dense.engine.optimizers import accumulative_counts
from convnext_dense.errors import UserError
from convnext_dense.registry import HOOKS


@HOOKS.register_module()
class CompileBackboneHook(Hook):
    """Compiles the backbone in place before the first step; the rest of the model stays as it is.

    ``custom_hooks = [dict(type="convnext_dense.CompileBackboneHook")]`` in a config. Names in checkpoints do not
    change. Batch, height and width are symbols in what is traced, and no graph is traced twice for another size, unless
    a map has a single row or column (sides below 64 pixels) or the batch a single image.

    Inductor, as of torch 2.14.1 on a CPU, adds a guard of its own on whether a stage's batch has more than 4096
    positions (it sums longer rows in cascades), and compiles once more where a batch is on the other side.

    Args:
        backend: torch.compile's.
        cuda_graphs: Whether a step is recorded as CUDA graphs and played again, which leaves the host next to nothing
            to do. For images of one size, as in classification and for crops in segmentation: every other size is
            compiled and recorded anew. Not with accumulated gradients.
    """

    def __init__(self, backend: str = "inductor", *, cuda_graphs: bool = False) -> None:
        self.backend = backend
        self.cuda_graphs = cuda_graphs
        self._compiled = False

    def before_run(self, runner: Any) -> None:
        """Wrap the backbone's call; compilation itself happens at its first use.

        Raises:
            UserError: The model has no backbone, or gradients are to be accumulated in the memory of CUDA graphs.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model = getattr(model, "module", model)  # what test-time augmentation wraps
        backbone = getattr(model, "backbone", None)
        if backbone is None:
            raise UserError(f"CompileBackboneHook needs a model with a backbone, and {type(model).__name__} has none.")
        steps = accumulative_counts(runner) if hasattr(runner, "optim_wrapper") else 1
        if self.cuda_graphs and steps > 1:
            raise UserError(
                f"CompileBackboneHook(cuda_graphs=True) cannot accumulate the gradients of {steps} batches, since each "
                "overwrites those of the one before: leave cuda_graphs out, or make the batch as large as a step's."
            )
        if self._compiled:
            return
        # Without the first, Inductor stops at outputs that are views of symbolic size (torch 2.14.1). The second would
        # reorder what is kept for the backward pass, and with that fix its size.
        for_all_sizes = {"strict_output_strides": True, "layout_optimization": False}
        options = {"triton.cudagraphs": True} if self.cuda_graphs else for_all_sizes
        backbone.compile(
            dynamic=not self.cuda_graphs,
            backend=self.backend,
            options=options if self.backend == "inductor" else None,
        )
        self._compiled = True
