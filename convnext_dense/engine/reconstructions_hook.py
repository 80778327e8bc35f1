"""Pictures of what a masked autoencoder paints, while it is trained."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from convnext_dense.registry import HOOKS
from convnext_dense.visualization import beside

NUM_IMAGES = 8
_GREY = 128  # of patches that are hidden


@HOOKS.register_module()
class ReconstructionsHook(Hook):
    """Draws eight images with every checkpoint: the image, what the model sees of it, and what it makes of that.

    They are the first images that the run learns from, always with the same patches hidden. The picture goes where the
    run's visualizer puts pictures: into ``vis_data/vis_image`` beside the log, and to the trackers of the run.
    """

    priority = "LOW"

    def __init__(self) -> None:
        self._images: Tensor | None = None

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Mapping[str, Any] | None = None, outputs: Any = None
    ) -> None:
        """Keep the first images."""
        if self._images is None and data_batch is not None:
            self._images = torch.as_tensor(data_batch["inputs"][:NUM_IMAGES]).cpu().clone()

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Draw; mmengine calls this in the main process alone."""
        if self._images is None:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        mean, std = _normalisation(runner.train_dataloader.dataset)
        picture = draw_reconstructions(model, self._images, mean, std)
        runner.visualizer.add_image("reconstructions", picture, step=checkpoint["meta"]["iter"])


def draw_reconstructions(model: Any, images: Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Draw images, what is visible of them, and their reconstructions, one row of three per image.

    The state of the model and of random generators stays as it is.

    Args:
        model: A ``MaskedAutoencoder``.
        images: ``(N, 3, H, W)``, normalised.
        mean: What was subtracted from each channel, which was in [0, 1].
        std: What it was divided by then.

    Returns:
        A picture in RGB.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            batch = model.data_preprocessor(dict(inputs=images), False)
            samples = model(batch["inputs"], mode="predict")
    finally:
        model.train(was_training)
    rows = []
    for image, sample in zip(images, samples, strict=True):
        whole, painted = (_to_pixels(one.cpu(), mean, std) for one in (image, sample["reconstruction"].float()))
        hidden = sample["mask"].cpu().numpy()
        side = whole.shape[0] // len(hidden)
        hidden = hidden.repeat(side, axis=0).repeat(side, axis=1)
        rows.append(beside([whole, np.where(hidden[..., None], np.uint8(_GREY), whole), painted]))
    return np.concatenate(rows)


def _normalisation(dataset: Any) -> tuple[Sequence[float], Sequence[float]]:
    """Return the mean and the standard deviation by which a data set of ours normalises its images."""
    for step in getattr(getattr(dataset, "transform", None), "transforms", ()):
        if hasattr(step, "mean") and hasattr(step, "std"):
            return torch.as_tensor(step.mean).tolist(), torch.as_tensor(step.std).tolist()
    return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


def _to_pixels(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Turn a normalised image (3, H, W) into pixels (H, W, 3)."""
    pixels = image.permute(1, 2, 0).numpy() * np.asarray(std) + np.asarray(mean)
    return (pixels.clip(0, 1) * 255).round().astype(np.uint8)
