"""mmdet's data preprocessor for images with any number of channels.

Source: ``DetDataPreprocessor`` of mmdet 3.3 and ``ImgDataPreprocessor`` of mmengine 0.10, which take one or three.

This module imports mmdet, so configs name it in ``custom_imports``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor as MMDetDataPreprocessor
from torch import Tensor

from convnext_dense.errors import UserError
from convnext_dense.registry import MODELS


@MODELS.register_module()
class DetDataPreprocessor(MMDetDataPreprocessor):
    """Normalises, pads and stacks images with any number of channels.

    Takes mmdet's arguments. ``mean`` and ``std`` have one value for all channels or one per channel. ``bgr_to_rgb``
    reverses the first three channels; further channels, such as infrared, and grey images stay as they are.

    Raises:
        UserError: The number of channels of an image does not match ``mean``.
    """

    def __init__(self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None, **kwargs: Any) -> None:
        super().__init__(mean=None, std=None, **kwargs)
        if mean is not None:
            self._enable_normalize = True
            self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), False)
            self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), False)
        self._turns_colours = bool(kwargs.get("bgr_to_rgb") or kwargs.get("rgb_to_bgr"))
        self._channel_conversion = False

    def forward(self, data: dict, training: bool = False) -> dict:
        """Do what mmdet's preprocessor does; ``inputs`` are (C, H, W) images or one (N, C, H, W) batch."""
        inputs = data["inputs"]
        is_batch = isinstance(inputs, Tensor)
        images = [self._prepare(image) for image in inputs]
        return super().forward(dict(data, inputs=torch.stack(images) if is_batch else images), training)

    def _prepare(self, image: Tensor) -> Tensor:
        channels = len(image)
        if self._enable_normalize and len(self.mean) not in (1, channels):
            raise UserError(
                f"An image has {channels} channels, but model.data_preprocessor.mean has {len(self.mean)} values: give "
                "one per channel, or one for all."
            )
        if self._turns_colours and channels >= 3:
            return torch.cat([image[:3].flip(0), image[3:]])
        return image
