"""How images are prepared, read from a config as numbers: what ``model.json`` says and ``runtime.py`` does.

The input of a graph is float32 with values from 0 to 255, red first; the graph normalises it.

Letters: H and W height and width in pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.config import Config

from convnext_dense.config.pipelines import loads_annotations, step_name
from convnext_dense.errors import UserError

_LOADING = ("LoadImageFromFile",)
_PACKING = ("PackDetInputs", "PackSegInputs")
_STRIDE = 32  # of a backbone's deepest map: smaller images have no pixel there


class Preparation(NamedTuple):
    """How an image becomes the input of a graph.

    Attributes:
        steps: One dict per step, from its name to its arguments, see ``runtime.Prepared``.
        mean: Of each channel, red first.
        std: Likewise.
        swaps_colours: Whether the model sees blue first.
        fixed_size: (H, W) of all inputs; None if it depends on the image.
    """

    steps: list[dict[str, dict[str, Any]]]
    mean: list[float]
    std: list[float]
    swaps_colours: bool
    fixed_size: tuple[int, int] | None


def read_preparation(cfg: Config, task: str, size: Sequence[int] | None) -> Preparation:
    """Read how a config's test pipeline and data preprocessor prepare images.

    Args:
        cfg: The config.
        task: ``'detection'``, ``'segmentation'`` or ``'classification'``.
        size: (H, W) that images are fitted into, and padded to; None to leave it to the config.

    Raises:
        UserError: There is a step that the runtime does not know, or a size does not suit the model.
    """
    dataset = cfg.test_dataloader.dataset
    if task == "classification":
        return _of_classifier(dataset.transform, size)
    steps = [step for step in map(_of_step, _steps(dataset)) if step]
    processor = cfg.model.get("data_preprocessor") or {}
    channels = (cfg.model.get("backbone") or {}).get("in_channels", 3)
    if channels != 3:
        raise UserError(f"This model takes images of {channels} channels; exported models read RGB alone.")
    mean, std = _per_channel(processor.get("mean"), 0.0), _per_channel(processor.get("std"), 1.0)
    swaps = not (processor.get("bgr_to_rgb") or processor.get("rgb_to_bgr"))
    if swaps:  # the numbers of the config are in its order
        mean, std = mean[::-1], std[::-1]
    blank = processor.get("pad_value", processor.get("pad_val", 0))
    value = [blank * one_std + one_mean for one_mean, one_std in zip(mean, std, strict=True)]
    if size is not None:
        if min(size) < _STRIDE:
            raise UserError(f"--size {size[0]} {size[1]} is too small: each must be at least {_STRIDE}.")
        if window_of(cfg) is not None:
            raise UserError("This model sees images in windows: leave --size out.")
        steps = [dict(fit=dict(size=list(size))), dict(pad=dict(size=list(size), value=value))]
        return Preparation(steps, mean, std, swaps, (size[0], size[1]))
    padding = _padding(processor, task)
    if padding:
        steps.append(dict(pad=dict(padding, value=value)))
    return Preparation(steps, mean, std, swaps, _fixed(steps))


def window_of(cfg: Config) -> dict[str, list[int]] | None:
    """Return size and stride, (H, W), of the windows in which a segmenter sees images; None if it sees them whole."""
    test_cfg = cfg.model.get("test_cfg") or {}
    if test_cfg.get("mode") != "slide":
        return None
    return dict(size=_pair(test_cfg["crop_size"]), stride=_pair(test_cfg["stride"]))


def _pair(size: Any) -> list[int]:
    return [int(size)] * 2 if isinstance(size, int) else [int(length) for length in size]


def _steps(dataset: Any) -> list[Any]:
    steps = [step for step in dataset.pipeline if not loads_annotations(step)]
    names = [step_name(step) for step in steps]
    if not names or names[0] not in _LOADING:
        raise UserError(f"A test pipeline that starts with {names[:1] or 'nothing'} cannot be exported.")
    return [step for step in steps[1:] if step_name(step) not in _PACKING]


def _of_step(step: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """Return a step of mmcv's as the runtime's."""
    name = step_name(step)
    if name == "Resize":
        wrong = step.get("interpolation", "bilinear") != "bilinear" or step.get("backend", "cv2") != "cv2"
        scale = step.get("scale")
        if wrong or not isinstance(scale, Sequence) or len(scale) != 2 or step.get("scale_factor"):
            raise UserError(
                f"The step {dict(step)} of the test pipeline cannot be exported: Resize takes scale=(width, height), "
                "bilinear, by OpenCV."
            )
        return dict(
            resize=dict(scale=[int(length) for length in scale], keep_ratio=bool(step.get("keep_ratio", False)))
        )
    if name in ("DefaultFormatBundle", "ToTensor", "ImageToTensor"):
        return None
    raise UserError(f"The step {name} of the test pipeline cannot be exported: exported models know Resize alone.")


def _per_channel(values: Any, default: float) -> list[float]:
    values = [default] if values is None else [float(value) for value in values]
    return values * 3 if len(values) == 1 else values


def _padding(processor: Mapping[str, Any], task: str) -> dict[str, Any] | None:
    if task == "detection":
        divisor = int(processor.get("pad_size_divisor", 1))
        return dict(divisor=divisor) if divisor > 1 else None
    test_cfg = processor.get("test_cfg") or {}
    if test_cfg.get("size"):
        return dict(size=_pair(test_cfg["size"]))
    return dict(divisor=int(test_cfg["size_divisor"])) if test_cfg.get("size_divisor") else None


def _fixed(steps: Sequence[Mapping[str, Any]]) -> tuple[int, int] | None:
    """Return the size that all images have after the steps."""
    size: tuple[int, int] | None = None
    for step in steps:
        ((name, how),) = step.items()
        if name == "resize" and not how["keep_ratio"]:
            size = (how["scale"][1], how["scale"][0])
        elif name == "pad" and size is not None:
            divisor = how.get("divisor")
            size = tuple(how["size"]) if divisor is None else tuple(-(-side // divisor) * divisor for side in size)
    return size


def _of_classifier(transform: Mapping[str, Any], size: Sequence[int] | None) -> Preparation:
    from convnext_dense.data.transforms import build_transform

    steps: list[dict[str, dict[str, Any]]] = []
    mean, std, fixed = [0.0] * 3, [1.0] * 3, None
    for step in build_transform(transform).transforms:
        name = type(step).__name__
        if name == "Resize":
            interpolation = getattr(step.interpolation, "value", step.interpolation)
            side = step.size if isinstance(step.size, int) else list(step.size)
            if isinstance(side, list) and len(side) == 1:
                side = side[0]
            steps.append(dict(resize_short=dict(side=side, interpolation=interpolation)))
        elif name == "CenterCrop":
            fixed = (int(step.size[0]), int(step.size[1]))
            steps.append(dict(center_crop=dict(size=list(fixed))))
        elif name == "Normalize":
            mean, std = ([255 * float(value) for value in torch.as_tensor(values)] for values in (step.mean, step.std))
        elif name not in ("ToTensor", "MaybeToTensor", "PILToTensor", "ConvertImageDtype", "MaybePILToTensor"):
            raise UserError(f"The step {name} of the test transform cannot be exported.")
    if size is not None and tuple(size) != fixed:
        wanted = "x".join(map(str, fixed or ()))
        raise UserError(
            f"--size {size[0]} {size[1]} does not fit: the classifier's transform crops its images to {wanted}. Leave "
            "--size out, or change test_dataloader.dataset.transform by --cfg-options."
        )
    return Preparation(steps, mean, std, False, fixed)
