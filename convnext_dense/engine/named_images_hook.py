"""Make errors about an image name it, in training and testing and also in workers."""

from typing import Any

from mmengine.hooks import Hook

from convnext_dense.data.named_pipeline import name_images_of
from convnext_dense.registry import HOOKS

_HINT = " Run tools/check_dataset.py --all-images to check every image; checkpoints written so far are kept."


@HOOKS.register_module()
class NamedImagesHook(Hook):
    """Puts ``NamedPipeline`` into the data sets before the workers start."""

    priority = "LOW"  # after hooks that switch the pipeline at the beginning of an epoch

    def before_train_epoch(self, runner: Any) -> None:
        """Wrap the pipeline of the training data."""
        name_images_of(runner.train_dataloader.dataset, _HINT)

    def before_val(self, runner: Any) -> None:
        """Wrap the pipeline of the validation data."""
        name_images_of(runner.val_dataloader.dataset, _HINT)

    def before_test(self, runner: Any) -> None:
        """Wrap the pipeline of the test data."""
        name_images_of(runner.test_dataloader.dataset, _HINT)
