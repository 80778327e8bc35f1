"""Points a config at images that are not RGB of 8 bits: loading steps, and statistics of the training images."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from convnext_dense.config.bands import STEP, set_statistics, use_bands
from convnext_dense.config.options import option_value
from convnext_dense.data.band_statistics import Statistics, measure_files
from convnext_dense.data.image_reader import ImageReader
from convnext_dense.data.training_images import training_images
from convnext_dense.errors import UserError

_KEYS = ("model.data_preprocessor.mean", "model.data_preprocessor.std")


def use_measured_bands(
    cfg: Config,
    channels: int,
    shown: Sequence[int] | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    work_dir: str | os.PathLike,
) -> list[str]:
    """Let a config read images of that many channels, and normalise them by what is measured on its training images.

    Args:
        cfg: Changed in place.
        channels: See ``config.bands.use_bands``.
        shown: See ``config.bands.use_bands``.
        options: The user's; where they have both mean and std, nothing is measured.
        work_dir: Folder of the run, which keeps the measurement, in a folder ``statistics``.

    Returns:
        Lines for the log.

    Raises:
        UserError: The config has no such model, or an image cannot be read or has another number of channels.
    """
    notes = use_bands(cfg, channels, shown)
    mean, std = (option_value(options, key) for key in _KEYS)
    if mean is not None and std is not None:
        set_statistics(cfg, _as_list(mean), _as_list(std))
        return [f"Images have {channels} channels; mean and std are those of --cfg-options.", *notes]
    reader = ImageReader(dict(type=STEP, channels=channels))
    files = training_images(cfg)
    if not files:
        raise UserError(
            "The mean and the deviation of the channels cannot be measured on this config's training data: give them "
            f"with --cfg-options {_KEYS[0]}=[...] {_KEYS[1]}=[...]."
        )
    found = measure_files(files, reader, Path(work_dir, "statistics"), channels=channels)
    constant = [number for number, value in enumerate(found.std, start=1) if value == 0]
    set_statistics(cfg, found.mean, [value or 1.0 for value in found.std])
    notes.insert(0, _describe(found))
    if constant:
        notes.append(f"Warning: channel {', '.join(map(str, constant))} has the same value everywhere.")
    return notes


def _as_list(value: Any) -> list[float]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _describe(found: Statistics) -> str:
    mean, std = (", ".join(f"{value:.5g}" for value in values) for values in (found.mean, found.std))
    images = "1 image" if found.num_images == 1 else f"{found.num_images:,} images"
    channels = "1 channel" if len(found.mean) == 1 else f"{len(found.mean)} channels"
    return (
        f"Images have {channels}, with values from {min(found.low):.5g} to {max(found.high):.5g} and per channel the "
        f"mean {mean} and the deviation {std}, measured on {images} of train."
    )
