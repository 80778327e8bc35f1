"""Fits a config to images that are not RGB of 8 bits: loading, augmentation, normalisation, and what a checkpoint says.

Channels are counted from 1, as in rasterio and GDAL.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict

from convnext_dense.config.class_counts import task_of
from convnext_dense.config.datasets import config_dicts, loaded_datasets
from convnext_dense.config.pipelines import loads_image, step_name
from convnext_dense.errors import UserError

STEP = "convnext_dense.LoadBands"

# Transforms of mmcv, mmdet and mmseg that work only on three channels of 8 bits, or that change colours.
_OF_RGB = {
    *("Albu", "Corrupt", "CutOut", "InstaBoost", "Normalize", "PhotoMetricDistortion", "RandomGrayscale"),
    *("CachedMixUp", "CachedMosaic", "MixUp", "Mosaic", "RandomMosaic", "RandAugment", "YOLOXHSVRandomAug"),
    *("AutoContrast", "Brightness", "Color", "ColorTransform", "Contrast", "Equalize", "Invert"),
    *("Posterize", "Sharpness", "Solarize", "SolarizeAdd"),
    *("AdjustGamma", "CLAHE", "Rerange", "RGB2Gray", "RandomCutOut"),
}
# Where a transform fills with a value of its own, which is one of RGB: key -> the transforms that have it.
_FILLINGS = {"border_val": ("RandomAffine",), "mean": ("Expand", "RandomCenterCropPad")}


class Bands(NamedTuple):
    """The channels of the images that a model takes.

    Attributes:
        channels: Their number.
        shown: Those that pictures show as red, green and blue, or the one that they show as grey.
        mean: What is subtracted, per channel.
        std: What is divided by, per channel.
    """

    channels: int
    shown: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def use_bands(cfg: Config, channels: int, shown: Sequence[int] | None = None) -> list[str]:
    """Let a detector or a segmenter read images of that many channels, of 8 or 16 bits or floats.

    Every pipeline loads with ``LoadBands`` and loses the transforms that need RGB. The backbone takes ``channels``. The
    preprocessor keeps the order of channels; it still needs ``set_statistics``.

    Args:
        cfg: Changed in place.
        channels: The number of channels.
        shown: See ``Bands``; None for the first three, or the first of one or two.

    Returns:
        One sentence, if transforms are left out.

    Raises:
        UserError: The model is a classifier or lacks a part that must change, or ``shown`` is not among the channels.
    """
    shown = check_shown(channels, shown)
    if task_of(cfg) not in ("detection", "segmentation"):
        raise UserError(
            f"--channels is for detection and segmentation, not for {cfg.model.get('type')}: a classifier reads images "
            "as RGB of 8 bits."
        )
    model = _inner(cfg)
    if model.get("data_preprocessor") is None or model.get("backbone") is None:
        raise UserError("--channels needs a config with model.backbone and model.data_preprocessor.")
    left_out: dict[str, None] = {}
    load = dict(type=STEP, channels=channels, shown=shown)
    for key in list(cfg.keys()):
        if key != "model":
            cfg[key] = _fit(cfg[key], load, left_out)
    model.backbone.in_channels = channels
    for key in ("bgr_to_rgb", "rgb_to_bgr"):
        if model.data_preprocessor.get(key):
            model.data_preprocessor[key] = False
    if not left_out:
        return []
    return [f"Left out of the pipelines, because of needing RGB of 8 bits: {', '.join(left_out)}."]


def set_statistics(cfg: Config, mean: Sequence[float], std: Sequence[float]) -> None:
    """Normalise images by a mean and a deviation per channel, and fill their borders with the mean, in place.

    A border that the config fills with 0 stays 0.
    """
    preprocessor = _inner(cfg).data_preprocessor
    preprocessor.mean, preprocessor.std = list(mean), list(std)
    for step in config_dicts([cfg[key] for key in cfg if key != "model"]):
        name = step_name(step) if "type" in step else ""
        if name == "Pad" and isinstance(step.get("pad_val"), Mapping) and _is_filled(step["pad_val"].get("img")):
            step["pad_val"]["img"] = tuple(mean) if len(mean) > 1 else mean[0]  # resizing drops a single channel's axis
        for key, names in _FILLINGS.items():
            if name in names and (key in step or name == "RandomAffine"):
                # OpenCV repeats four values, whatever the number of channels.
                step[key] = (sum(mean) / len(mean),) * 4 if key == "border_val" else list(mean)
        if name == "RandomCenterCropPad":
            step["std"] = list(std)
        if name in _FILLINGS["mean"]:
            step["to_rgb"] = False


def check_shown(channels: int, shown: Sequence[int] | None) -> tuple[int, ...]:
    """Return the channels that pictures show.

    Raises:
        UserError: There are neither one nor three, or one is not among the channels; or ``channels`` is below 1.
    """
    if channels < 1:
        raise UserError(f"--channels {channels} must be 1 or more.")
    if shown is None:
        return (1, 2, 3) if channels > 2 else (1,)
    if len(shown) not in (1, 3) or not all(1 <= number <= channels for number in shown):
        raise UserError(
            f"--bands {' '.join(map(str, shown))} must be three channels, for red, green and blue, or one, for grey; "
            f"--channels {channels} are counted from 1 to {channels}."
        )
    return tuple(shown)


def bands_of(cfg: Config) -> Bands | None:
    """Return what a config that loads with ``LoadBands`` does with its images; None for any other config."""
    step = next((step for step in _loading_steps(cfg) if step_name(step) == "LoadBands"), None)
    preprocessor = _inner(cfg).get("data_preprocessor") or {}
    if step is None:
        return None
    shown = check_shown(step["channels"], step.get("shown"))
    return Bands(step["channels"], shown, tuple(preprocessor.get("mean") or ()), tuple(preprocessor.get("std") or ()))


def record_bands(cfg: Config) -> list[str]:
    """Write the channels into the training data's metainfo, which mmengine stores in every checkpoint, in place."""
    bands = bands_of(cfg)
    for _, dataset in loaded_datasets(cfg, ["train"] if bands else []):
        assert bands is not None
        recorded = dict(channels=bands.channels, shown_bands=bands.shown, band_mean=bands.mean, band_std=bands.std)
        dataset.metainfo = dict(dataset.get("metainfo") or {}, **recorded)
    return []


def use_trained_bands(
    cfg: Config,
    metainfo: Mapping[str, Any],
    checkpoint: str,
    *,
    channels: int | None = None,
    shown: Sequence[int] | None = None,
) -> list[str]:
    """Let a config read images as a checkpoint was trained to, unless it already does.

    Args:
        cfg: Changed in place.
        metainfo: The checkpoint's ``dataset_meta``.
        checkpoint: The checkpoint, for messages.
        channels: What the user expects, to be checked against the checkpoint.
        shown: What pictures show; by default what the checkpoint says.

    Returns:
        One sentence, if the config was changed.

    Raises:
        UserError: The checkpoint was trained on another number of channels than ``channels``.
    """
    trained = _recorded(metainfo)
    if channels is not None and (trained is None or trained.channels != channels):
        what = "without --channels" if trained is None else f"with --channels {trained.channels}"
        raise UserError(f"--channels {channels} contradicts {checkpoint}, which was trained {what}: leave it out.")
    if shown is not None and trained is None:
        raise UserError(f"--bands chooses among the channels of --channels, and {checkpoint} was trained without.")
    if trained is None:
        return []
    here = bands_of(cfg)
    if here is not None and here.channels == trained.channels and (shown is None or here.shown == tuple(shown)):
        return []
    notes = use_bands(cfg, trained.channels, trained.shown if shown is None else shown)
    set_statistics(cfg, trained.mean, trained.std)
    line = f"Images have {trained.channels} channels, as {checkpoint} was trained, with its mean and deviation."
    return [line, *notes]


def _recorded(metainfo: Mapping[str, Any]) -> Bands | None:
    names = ("channels", "shown_bands", "band_mean", "band_std")
    if any(name not in metainfo for name in names):
        return None
    channels, shown, mean, std = (metainfo[name] for name in names)
    return Bands(int(channels), tuple(map(int, shown)), tuple(map(float, mean)), tuple(map(float, std)))


def _inner(cfg: Config) -> ConfigDict:
    """Return the config of the model, inside a wrapper for test-time augmentation too."""
    return cfg.model.get("module") or cfg.model


def _loading_steps(cfg: Config) -> Iterator[Any]:
    # A loader may still lack its data set, which is reported later.
    loaders = [name for name in ("test", "val", "train") if "dataset" in (cfg.get(f"{name}_dataloader") or {})]
    for _, dataset in loaded_datasets(cfg, loaders):
        yield from (step for step in dataset.get("pipeline") or () if loads_image(step))


def _is_filled(value: Any) -> bool:
    return any(value) if isinstance(value, list | tuple) else bool(value)


def _fit(node: Any, load: Mapping[str, Any], left_out: dict[str, None]) -> Any:
    """Return a part of a config with other loading steps, and without transforms that need RGB."""
    if isinstance(node, list | tuple):
        kept = []
        for child in node:
            name = step_name(child) if isinstance(child, Mapping) and "type" in child else ""
            if name in _OF_RGB:
                left_out[name] = None
                continue
            fitted = _fit(child, load, left_out)
            if fitted or not isinstance(child, list | tuple) or not child:
                kept.append(fitted)
        return type(node)(kept)
    if not isinstance(node, dict):
        return node
    if "type" in node and loads_image(node):
        backend = node.get("backend_args")
        return ConfigDict(load, **({"backend_args": backend} if backend else {}))
    if "type" in node and step_name(node) == "RandomAffine" and {"Mosaic", "CachedMosaic"} & set(left_out):
        node.pop("border", None)  # it cuts what Mosaic has added
    for key in list(node):
        node[key] = _fit(node[key], load, left_out)
    return node
