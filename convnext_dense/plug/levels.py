"""Channels and strides of feature maps, measured on built modules."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.registry import MODELS
from torch import Tensor

_IMAGE_SIZE = 128  # pixels; a multiple of 32, and large enough for the windows of transformers
_REGION_SIZE = 14  # side of the regions that C4 detectors cut out of the map of stride 16
_WEIGHTS = {"init_cfg", "pretrained"}


class Levels(NamedTuple):
    """Channels and strides (in pixels) of a sequence of feature maps."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]


class Wiring(NamedTuple):
    """The maps that a module read before, those that it reads now, and the index of the new map for each old one."""

    before: Levels
    after: Levels
    places: tuple[int, ...]

    @property
    def is_unchanged(self) -> bool:
        """Whether the maps have the same channels as before, in the same order."""
        return self.before.channels == self.after.channels and self.in_order

    @property
    def in_order(self) -> bool:
        """Whether every map kept its index."""
        return self.places == tuple(range(len(self.after.channels)))

    @property
    def channels(self) -> list[int]:
        """Channels of the new map for each old one."""
        return [self.after.channels[place] for place in self.places]


class ForeignOutputsError(TypeError):
    """A backbone returns something that only heads made for it can read."""


def measure_backbone(cfg: Mapping[str, Any]) -> Levels:
    """Build a backbone without weights, and measure channels and strides of its outputs for square images.

    The images are small, unless the backbone accepts only images of its ``img_size``.

    Raises:
        ForeignOutputsError: It returns something else than feature maps, or other maps in training than in inference.
    """
    try:
        return _measured(lambda: _measure_on_image(cfg, _IMAGE_SIZE))
    except RuntimeError:
        size = cfg.get("img_size")
        if size is None:
            raise
        side = size if isinstance(size, int) else size[0]
        return _measured(lambda: _measure_on_image(cfg, side))


def measure_neck(cfg: Mapping[str, Any], inputs: Levels) -> Levels:
    """Build a neck and measure channels and strides of its outputs for given input maps."""

    def measure() -> Levels:
        maps = tuple(
            torch.zeros(1, width, _IMAGE_SIZE // stride, _IMAGE_SIZE // stride)
            for width, stride in zip(inputs.channels, inputs.strides, strict=True)
        )
        return _levels(_run(cfg, maps), _IMAGE_SIZE)

    return _measured(measure)


def measure_shared_head(cfg: Mapping[str, Any], inputs: Levels) -> Levels:
    """Build the shared head that C4 detectors run on regions, and measure its channels and stride."""
    shape = (1, inputs.channels[0], _REGION_SIZE, _REGION_SIZE)
    return _measured(lambda: _levels(_run(cfg, torch.zeros(shape)), _REGION_SIZE))


def match_stages(strides: Sequence[int]) -> list[int]:
    """Return the ConvNeXt stage that replaces each output of the old backbone.

    This is the stage with the nearest stride. If that gives a stage twice although each output of the old backbone is
    deeper than the one before, as in a dilated one, the outputs are the last stages in turn.
    """
    nearest = [min(range(4), key=lambda stage: abs(4 * 2**stage - stride)) for stride in strides]
    deepens = list(strides) == sorted(strides) and len(strides) <= 4
    if deepens and len(set(nearest)) < len(nearest):
        return list(range(4 - len(strides), 4))
    return nearest


def _measured(measure: Callable[[], Levels]) -> Levels:
    """Measure on the meta device, which draws no weights, or on the CPU if a module computes with values."""
    try:
        with torch.device("meta"):
            return measure()
    except ForeignOutputsError:
        raise
    except Exception:  # whatever a module does with tensors that have no values
        return measure()


def _measure_on_image(cfg: Mapping[str, Any], size: int) -> Levels:
    module = _build(cfg)
    channels = cfg.get("in_channels", 3)
    with torch.no_grad():
        levels = _levels(module(torch.zeros(1, channels, size, size)), size)
        if size > _IMAGE_SIZE:  # a transformer with a fixed image size; training mode would take as long again
            return levels
        module.train()
        # Batch norms of pooled maps need more than one value in training, hence two images.
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
    """Build a module without weights, in evaluation mode."""
    module = MODELS.build({key: value for key, value in copy.deepcopy(dict(cfg)).items() if key not in _WEIGHTS})
    module.eval()  # not chained: it returns None in some of mmdet's backbones
    return module


def _levels(maps: Any, size: int) -> Levels:
    maps = (maps,) if isinstance(maps, Tensor) else tuple(maps)
    if not all(isinstance(item, Tensor) and item.dim() == 4 for item in maps):
        raise ForeignOutputsError("it returns something else than feature maps (N, C, H, W)")
    # A neck may make a map larger than the image; its stride counts as 1.
    strides = tuple(max(round(size / item.shape[-1]), 1) for item in maps)
    return Levels(tuple(item.shape[1] for item in maps), strides)
