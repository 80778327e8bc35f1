"""Lets a batch of one image train where a batch norm would have a single value per channel."""

from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from convnext_dense.errors import UserError
from convnext_dense.registry import HOOKS


@HOOKS.register_module()
class SingleValueHook(Hook):
    """Normalises by running statistics, as in a test, where a batch has one value per channel.

    Behind a pooling to 1x1, one image gives a batch norm one value per channel, which has no deviation: torch stops
    there. So does the last batch of an epoch if a single image is left for it. Here such a batch is normalised by the
    statistics of the batches before it, the first ones by mean 0 and deviation 1, and leaves them as they are. Scale
    and shift are trained. A SyncBN over several processes has one value of each of them, and is left alone.
    """

    def __init__(self) -> None:
        self._handles: list[Any] = []
        self._runner: Any = None

    def before_train(self, runner: Any) -> None:
        """Attaches itself to the batch norms of the model."""
        self._runner = runner
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for name, module in model.named_modules():
            is_shared = isinstance(module, nn.SyncBatchNorm) and get_world_size() > 1
            if isinstance(module, _BatchNorm) and not is_shared:
                norm = _SingleValueNorm(self, name)
                self._handles.append(module.register_forward_pre_hook(norm.before))
                self._handles.append(module.register_forward_hook(norm.after, always_call=True))

    def after_train(self, runner: Any) -> None:
        """Detaches itself."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def tell(self, name: str) -> None:
        """Say once per run where it happens.

        Args:
            name: The batch norm.
        """
        if self._runner is not None:
            self._runner.logger.warning(
                f"{name} has a single value per channel of a batch of one image: running statistics normalise it, here "
                "and wherever else it happens. Set train_dataloader.batch_size to 2 or more, and drop_last=True if one "
                "image is left over, to train with batch statistics."
            )
            self._runner = None


class _SingleValueNorm:
    """What is done around the forward of one batch norm."""

    def __init__(self, hook: SingleValueHook, name: str) -> None:
        self.hook = hook
        self.name = name
        self._is_changed = False

    def before(self, module: Any, args: tuple[Tensor, ...]) -> None:
        if not module.training or args[0].numel() != args[0].shape[1]:
            return
        if module.running_mean is None:
            raise UserError(
                f"{self.name} has a single value per channel of a batch of one image, and no running statistics to "
                "normalise it by: set train_dataloader.batch_size to 2 or more."
            )
        self.hook.tell(self.name)
        self._is_changed = True
        module.training = False

    def after(self, module: Any, args: Any, output: Any) -> None:
        if self._is_changed:
            self._is_changed = False
            module.training = True
