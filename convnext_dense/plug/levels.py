"""Feature maps by channels and strides, measured on built modules."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.registry import MODELS
from torch import Tensor

_IMAGE_SIZE = 128  # pixels; a multiple of 32, and large enough for the windows of transformers
_REGION_SIZE = 14  # what C4 detectors cut out of the map of stride 16
_WEIGHTS = {"init_cfg", "pretrained"}


class Levels(NamedTuple):
    """Channels and strides (in pixels) of a sequence of feature maps."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]


class Wiring(NamedTuple):
    """What a module read, what it reads now, and at which place among the new maps each of the old ones is."""

    before: Levels
    after: Levels
    places: tuple[int, ...]

    @property
    def is_unchanged(self) -> bool:
        """Whether whoever reads these maps finds the widths that it found before, in the same places."""
        return self.before.channels == self.after.channels and self.in_order

    @property
    def in_order(self) -> bool:
        """Whether every map kept its place."""
        return self.places == tuple(range(len(self.after.channels)))

    @property
    def channels(self) -> list[int]:
        """Channels of the map that stands for each of the old ones."""
        return [self.after.channels[place] for place in self.places]


class ForeignOutputsError(TypeError):
    """A backbone returns something that no other backbone returns; heads that read it were made for it."""


def measure_backbone(cfg: Mapping[str, Any]) -> Levels:
    """Build a backbone, without weights, and read channels and strides of its outputs for square images.

    The images are small unless the backbone runs on images of its ``img_size`` only.

    Raises:
        ForeignOutputsError: It returns something else than feature maps, or other maps in training than in inference.
    """
    try:
        return _measure_on_image(cfg, _IMAGE_SIZE)
    except RuntimeError:
        size = cfg.get("img_size")
        if size is None:
            raise
        return _measure_on_image(cfg, size if isinstance(size, int) else size[0])


def measure_neck(cfg: Mapping[str, Any], inputs: Levels) -> Levels:
    """Build a neck and read channels and strides of what it makes of maps."""
    maps = tuple(
        torch.zeros(1, width, _IMAGE_SIZE // stride, _IMAGE_SIZE // stride)
        for width, stride in zip(inputs.channels, inputs.strides, strict=True)
    )
    return _levels(_run(cfg, maps), _IMAGE_SIZE)


def measure_shared_head(cfg: Mapping[str, Any], inputs: Levels) -> Levels:
    """Build what C4 detectors run on regions and read its channels and its stride from the image."""
    return _levels(_run(cfg, torch.zeros(1, inputs.channels[0], _REGION_SIZE, _REGION_SIZE)), _REGION_SIZE)


def match_stages(strides: Sequence[int]) -> list[int]:
    """Return the ConvNeXt stage for each old output.

    It is the stage of the nearest stride. Where that gives a stage twice although the old backbone goes deeper from
    output to output, as a dilated one does, the outputs are the last stages in turn.
    """
    nearest = [min(range(4), key=lambda stage: abs(4 * 2**stage - stride)) for stride in strides]
    deepens = list(strides) == sorted(strides) and len(strides) <= 4
    if deepens and len(set(nearest)) < len(nearest):
        return list(range(4 - len(strides), 4))
    return nearest


def first_line(error: Exception) -> str:
    """Return the kind of an error and the first line of its text."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"


def _measure_on_image(cfg: Mapping[str, Any], size: int) -> Levels:
    module = _build(cfg)
    channels = cfg.get("in_channels", 3)
    with torch.no_grad():
        levels = _levels(module(torch.zeros(1, channels, size, size)), size)
        if size > _IMAGE_SIZE:  # a transformer of one image size, which would take as long again
            return levels
        module.train()
        # Two images, because batch norms of pooled maps need more than one value in training.
        in_training = _levels(module(torch.zeros(2, channels, size, size)), size)
    if in_training != levels:
        raise ForeignOutputsError(
            f"it returns maps of the channels {list(in_training.channels)} in training and {list(levels.channels)} in "
            "inference"
        )
    return levels


def _run(cfg: Mapping[str, Any], inputs: Any) -> Any:
    module = _build(cfg)
    with torch.no_grad():
        return module(inputs)


def _build(cfg: Mapping[str, Any]) -> Any:
    """Build a module without weights, to infer."""
    module = MODELS.build({key: value for key, value in copy.deepcopy(dict(cfg)).items() if key not in _WEIGHTS})
    module.eval()  # returns None in some of mmdet's backbones
    return module


def _levels(maps: Any, size: int) -> Levels:
    maps = (maps,) if isinstance(maps, Tensor) else tuple(maps)
    if not all(isinstance(item, Tensor) and item.dim() == 4 for item in maps):
        raise ForeignOutputsError("it returns something else than feature maps (N, C, H, W)")
    # A neck may make a map larger than the image; its stride counts as 1.
    strides = tuple(max(round(size / item.shape[-1]), 1) for item in maps)
    return Levels(tuple(item.shape[1] for item in maps), strides)
