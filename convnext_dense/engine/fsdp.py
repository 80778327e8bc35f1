"""mmengine's FSDP strategy with the number of dimensions of each parameter kept for weight decay."""

from contextlib import nullcontext

import torch
from mmengine._strategy import FSDPStrategy as MMEngineFSDPStrategy
from mmengine.dist import is_main_process
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from convnext_dense.errors import require_torch
from convnext_dense.files import written_whole
from convnext_dense.registry import STRATEGIES

_LOWEST_TORCH_ON_CPU = "2.14"  # 2.6 ends with a segmentation fault when it gathers weights; nothing between was tried
_BY_SIZE = "torch.distributed.fsdp.wrap.size_based_auto_wrap_policy"


@STRATEGIES.register_module()
class FSDPStrategy(MMEngineFSDPStrategy):
    """Shards weights, gradients and optimizer states over processes; takes the arguments of mmengine's strategy.

    Sharded parameters are one-dimensional slices, so weight decay can no longer be decided by their dimensions; each
    parameter therefore keeps its number of dimensions as ``num_dims``. Checkpoints are whole
    (``state_dict_cfg='full'``) and load like any other. A moving average is not supported: mmengine's copies the model,
    which is sharded.
    """

    def __init__(self, *, model_wrapper: dict | None = None, **kwargs) -> None:
        if not torch.cuda.is_available():
            require_torch(_LOWEST_TORCH_ON_CPU, "FSDPStrategy on a CPU")
        wrapper = dict(model_wrapper or {}, use_orig_params=True)  # otherwise the optimizer sees one flat parameter
        wrapper.setdefault("type", "MMFullyShardedDataParallel")
        # Wrapped parts are gathered one at a time; the widest linear layers of xlarge have 17 million parameters each.
        wrapper.setdefault("auto_wrap_policy", dict(type=_BY_SIZE, min_num_params=10_000_000))
        super().__init__(model_wrapper=wrapper, state_dict_cfg="full", **kwargs)

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        for param in model.parameters():
            param.num_dims = param.dim()  # type: ignore[attr-defined]
        return super()._wrap_model(model)

    def save_checkpoint(self, filename: str, **kwargs) -> None:
        """Save as mmengine does, but write the file whole or not at all."""
        with written_whole(filename) if is_main_process() else nullcontext(filename) as path:
            super().save_checkpoint(str(path), **kwargs)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load the state of the optimizer; mmengine passes the arguments to torch in the order of torch 2.0.0."""
        optimizer = self.optim_wrapper.optimizer
        sharded = FullyShardedDataParallel.optim_state_dict_to_load(self.model, optimizer, state_dict)
        self.optim_wrapper.load_state_dict(sharded)
