"""Train on a batch of one image even if a batch norm then has a single value per channel."""

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
    """Normalises by running statistics, as in evaluation, if a batch has one value per channel.

    After pooling to 1x1, one image gives a batch norm a single value per channel, which has no deviation, and torch
    raises an error. The last batch of an epoch fails in the same way if one image is left for it. This hook normalises
    such a batch by the running statistics (mean 0 and deviation 1 at first) and does not update them. Scale and shift
    are trained. A SyncBN over several processes has one value from each of them and is not changed.
    """

    def __init__(self) -> None:
        self._handles: list[Any] = []
        self._runner: Any = None

    def before_train(self, runner: Any) -> None:
        """Register hooks on the batch norms of the model."""
        self._runner = runner
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for name, module in model.named_modules():
            is_shared = isinstance(module, nn.SyncBatchNorm) and get_world_size() > 1
            if isinstance(module, _BatchNorm) and not is_shared:
                norm = _SingleValueNorm(self, name)
                self._handles.append(module.register_forward_pre_hook(norm.before))
                self._handles.append(module.register_forward_hook(norm.after, always_call=True))

    def after_train(self, runner: Any) -> None:
        """Remove the registered hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def tell(self, name: str) -> None:
        """Log a warning, once per run.

        Args:
            name: Name of the batch norm.
        """
        if self._runner is not None:
            self._runner.logger.warning(
                f"{name} has a single value per channel in a batch of one image: running statistics normalise it, here "
                "and wherever else this happens. To train with batch statistics, set train_dataloader.batch_size to 2 "
                "or more, and drop_last=True if one image is left over."
            )
            self._runner = None


class _SingleValueNorm:
    """The forward hooks of one batch norm."""

    def __init__(self, hook: SingleValueHook, name: str) -> None:
        self.hook = hook
        self.name = name
        self._is_changed = False

    def before(self, module: Any, args: tuple[Tensor, ...]) -> None:
        if not module.training or args[0].numel() != args[0].shape[1]:
            return
        if module.running_mean is None:
            raise UserError(
                f"{self.name} has a single value per channel in a batch of one image, and no running statistics to "
                "normalise it by: set train_dataloader.batch_size to 2 or more."
            )
        self.hook.tell(self.name)
        self._is_changed = True
        module.training = False

    def after(self, module: Any, args: Any, output: Any) -> None:
        if self._is_changed:
            self._is_changed = False
            module.training = True
