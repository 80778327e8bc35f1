"""One call that loads a model: a config with weights, an exported folder, or a trained model by name."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from convnext_dense.checkpoints.zoo import PREFIX, find_entry
from convnext_dense.errors import UserError
from convnext_dense.inference.exported import ExportedPredictor
from convnext_dense.inference.model import LoadedModel
from convnext_dense.inference.predictor import Predictor
from convnext_dense.shipped import shipped_name


def load_model(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    device: str | None = None,
) -> LoadedModel:
    """Load a model once, to be called many times.

    Args:
        config: Config that the checkpoint was trained with; or, without a checkpoint, a folder that ``tools/export.py``
            wrote, or ``zoo:NAME``, a trained detector or segmenter.
        checkpoint: Source of the weights, see ``checkpoints.fetch``.
        options: Values of the config by dotted key.
        device: ``'cpu'``, ``'cuda:0'``, ...; by default the accelerator if there is one.

    Raises:
        UserError: There is no such model, or it cannot be loaded.
    """
    if checkpoint is not None:
        return Predictor(config, checkpoint, options=options, device=device)
    name = str(config)
    if name.startswith(PREFIX):
        entry = find_entry(name.removeprefix(PREFIX))
        if entry.config is None:
            raise UserError(f"{name} is a backbone, not a detector or a segmenter: give a config and its checkpoint.")
        return Predictor(shipped_name(entry.config), name, options=options, device=device)
    if is_whole(name):
        if options or device:
            raise UserError(f"{name} is an exported model, which has neither options nor a device.")
        return ExportedPredictor(name)
    raise UserError(f"{name} is neither an exported model nor zoo:NAME: give a config and its checkpoint.")


def is_whole(name: str | os.PathLike) -> bool:
    """Whether a name stands for a model with its weights: an exported folder, or ``zoo:NAME``."""
    return str(name).startswith(PREFIX) or Path(name, "model.json").is_file()
