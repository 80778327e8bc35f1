"""The commands as functions, for notebooks and other programs: ``from convnext_dense import train, test, report``.

They take the arguments of ``convnext-dense train``, ``test`` and ``report``, and return what these print.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from convnext_dense.data.data_folder import DataFolder
    from convnext_dense.engine.launch import Training
    from convnext_dense.reports.reporting import Report

Name = str | os.PathLike


def train(
    config: Name,
    *,
    data: "Name | DataFolder | None" = None,
    backbone: str | None = None,
    backbone_weights: str | None = None,
    init_from: str | None = None,
    resume: str | None = None,
    epochs: int | None = None,
    batch: int | Literal["auto"] | None = None,
    early_stop: int | None = None,
    freeze: int | None = None,
    augment: str | None = None,
    options: Mapping[str, Any] | None = None,
    **others: Any,
) -> "Training":
    """Train a model, see ``convnext-dense train --help``.

    Args:
        config: Path or name of the config.
        data: Folder of your own data; None for that of the config.
        backbone: ConvNeXt in place of the config's backbone, such as ``'convnext-tiny'``.
        backbone_weights: Source of its weights.
        init_from: Source of a whole trained model to start from.
        resume: ``'auto'``, or a checkpoint.
        epochs: Passes over the training data.
        batch: Images per process, or ``'auto'``.
        early_stop: Evaluations without a better one after which the training ends; 0 for never.
        freeze: How many of the backbone's stages stay as they are.
        augment: Name of an augmentation of the config.
        options: Values of the config by dotted key.
        **others: Of ``convnext_dense.engine.train_model``: ``work_dir``, ``amp``, ``log``, ``channels``, ...

    Raises:
        UserError: An argument, the config, the data or a checkpoint has an error; the message says what to do.
    """
    from convnext_dense.config.finetuning import Choices
    from convnext_dense.engine import train_model
    from convnext_dense.errors import UserError
    from convnext_dense.plug import change_backbone

    if backbone_weights and not backbone:
        raise UserError(f"backbone_weights={backbone_weights!r} needs a backbone.")
    if backbone and others.get("change"):
        raise UserError(f"backbone={backbone!r} replaces the backbone that change= is about: leave one out.")
    if backbone:
        others["change"] = change_backbone(backbone, backbone_weights)
    choices = Choices(epochs, batch, early_stop, freeze, augment)
    folder = os.fspath(data) if isinstance(data, os.PathLike) else data
    return train_model(config, options, data=folder, choices=choices, init_from=init_from, resume=resume, **others)


def test(config: Name, checkpoint: Name, **arguments: Any) -> dict[str, float]:
    """Evaluate a checkpoint, see ``convnext_dense.engine.evaluate_model``, and return the metrics by name."""
    from convnext_dense.engine import evaluate_model

    return evaluate_model(config, os.fspath(checkpoint), **arguments)


def report(config: Name, checkpoint: Name, out_dir: Name | None = None, **arguments: Any) -> "Report":
    """Write what a model gets right and wrong, see ``convnext_dense.reports.reporting.report_on``."""
    from convnext_dense.reports.reporting import report_on

    return report_on(config, checkpoint, out_dir or Path("work_dirs", Path(config).stem, "report"), **arguments)
