"""torch.compile for the backbone of a model, by one key of its config."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

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
    """

    def __init__(self, backend: str = "inductor") -> None:
        self.backend = backend
        self._compiled = False

    def before_run(self, runner: Any) -> None:
        """Wraps the backbone's call; compilation itself happens at its first use.

        Raises:
            ValueError: The model has no backbone.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model = getattr(model, "module", model)  # what test-time augmentation wraps
        backbone = getattr(model, "backbone", None)
        if backbone is None:
            raise ValueError(f"CompileBackboneHook needs a model with a backbone, and {type(model).__name__} has none.")
        if not self._compiled:
            # Without the first, Inductor stops at outputs that are views of symbolic size (torch 2.14.1). The second
            # would reorder what is kept for the backward pass, and with that fix its size.
            options = {"strict_output_strides": True, "layout_optimization": False}
            backbone.compile(
                dynamic=True, backend=self.backend, options=options if self.backend == "inductor" else None
            )
            self._compiled = True
