"""Prepare the config of a run before it is built, with one list of preparations for training and one for a test.

Each preparation changes the config in place and returns lines for the log.
"""

import glob
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope

from convnext_dense.config.augmentation import use_augmentation
from convnext_dense.config.bands import record_bands, use_trained_bands
from convnext_dense.config.batch import accumulate_to_effective_batch
from convnext_dense.config.channels import fit_to_channels
from convnext_dense.config.class_counts import task_of
from convnext_dense.config.datasets import TRAINING_SPLITS, class_names, leaf_datasets, quote
from convnext_dense.config.device import fit_to_device, fit_to_strategy
from convnext_dense.config.finetuning import Choices, describe_recipe, record_image_size, use_trained_image_size
from convnext_dense.config.option_pairs import check_units, fit_loaders
from convnext_dense.config.options import check_flag, option_value
from convnext_dense.config.reading import read_config
from convnext_dense.data.data_folder import DataFolder
from convnext_dense.data.own.bands import use_measured_bands
from convnext_dense.data.own.tasks import check_data, use_folder
from convnext_dense.engine.fitting import fit_recipe
from convnext_dense.errors import UserError

Preparation = Callable[[Config], list[str]]
FitImages = Callable[[Config, str], list[str]]  # takes the work dir too

# Classes of mmengine that classes of this package with the same name and arguments replace.
_REPLACED = {"CheckpointHook", "EpochBasedTrainLoop", "IterBasedTrainLoop"}


def training_preparations(*, amp: bool, auto_scale_lr: bool, resumed: bool) -> list[Preparation]:
    """Return the preparations of a training config, in order."""
    return [
        partial(fit_to_device, amp=amp),
        fit_to_strategy,
        fit_to_channels,
        record_bands,
        record_image_size,
        partial(add_hooks, names=["CheckpointGuardHook"]),
        *([scale_learning_rate] if auto_scale_lr else []),
        make_resumable,
        check_units,
        partial(fit_loaders, loaders=("train", "val")),
        accumulate_to_effective_batch,
        partial(check_data, loaders=("train", "val")),
        partial(describe_recipe, resumed=resumed),
    ]


def test_preparations(checkpoint: str, trained: Sequence[str] | None) -> list[Preparation]:
    """Return the preparations of a test config, in order.

    Args:
        checkpoint: The checkpoint to test.
        trained: Class names in the checkpoint, if any.
    """
    return [
        fit_to_device,
        fit_to_strategy,
        fit_to_channels,
        partial(add_hooks, names=["CheckpointGuardHook"]),
        partial(check_classes, checkpoint=checkpoint, trained=trained),
        partial(fit_loaders, loaders=("test",)),
        partial(check_data, loaders=("test",)),
    ]


def prepare(cfg: Config, preparations: Sequence[Preparation]) -> list[str]:
    """Run preparations in order and return their lines for the log."""
    return [note for preparation in preparations for note in preparation(cfg)]


def read_run(
    config: str | os.PathLike,
    options: Mapping[str, Any] | None,
    *,
    change: Callable[[Config], Config] | None = None,
    data: str | DataFolder | None,
    splits: Mapping[str, str] = TRAINING_SPLITS,
    trained: Sequence[str] | None = None,
    fit_images: FitImages | None = None,
    choices: Choices | None = None,
    work_dir: str | None,
    launcher: str,
    amp: bool = False,
) -> tuple[Config, list[str]]:
    """Read the config of a run, and set its data, launcher and work dir.

    For the arguments see ``read_config``, ``tasks.use_folder`` and ``launch.train_model``; ``fit_images`` lets the
    config read images that are not RGB, once its data is known. ``choices`` are those of a training.

    Returns:
        The config, and lines for the log.

    Raises:
        UserError: See ``read_config`` and ``use_folder``, or an option contradicts another argument.
    """
    notes: list[str] = []

    def work_dir_of(cfg: Config) -> str:
        return work_dir or cfg.get("work_dir") or str(Path("work_dirs", Path(config).stem))

    def use_data(cfg: Config) -> None:
        keep_in = work_dir_of(cfg)
        if choices is not None and choices.augment is not None:
            use_augmentation(cfg, choices.augment)
        if data is not None:
            names = use_folder(cfg, data, trained, splits=splits, work_dir=keep_in)
            if names:
                notes.append(f"Classes of {DataFolder.of(data).path}: {quote(names)}.")
        elif choices is not None and "finetune" in cfg:
            _check_has_data(cfg)
        if fit_images is not None:
            notes.extend(fit_images(cfg, keep_in))
        if choices is not None:
            notes.extend(fit_recipe(cfg, choices, options, launcher=launcher, amp=amp))

    is_changed = data is not None or fit_images is not None or choices is not None
    cfg = read_config(config, options, change, use_data=use_data if is_changed else None)
    init_default_scope(cfg.get("default_scope", "mmengine"))  # names such as CocoDataset are looked up in it
    _check_run_flags(options, launcher=launcher, work_dir=work_dir, amp=amp)
    cfg.launcher = launcher
    cfg.work_dir = work_dir_of(cfg)
    return cfg, notes


def measured_bands(
    channels: int | None, bands: Sequence[int] | None, options: Mapping[str, Any] | None
) -> FitImages | None:
    """Return what lets a training read images of that many channels; None for RGB. See ``use_measured_bands``.

    Raises:
        UserError: ``bands`` are given without ``channels``.
    """
    if channels is None:
        if bands is not None:
            raise UserError("--bands chooses among the channels of --channels: give it too.")
        return None
    return lambda cfg, work_dir: use_measured_bands(cfg, channels, bands, options=options, work_dir=work_dir)


def trained_bands(
    metainfo: Mapping[str, Any], checkpoint: str, channels: int | None, bands: Sequence[int] | None
) -> FitImages:
    """Return what lets a test read images as the checkpoint's training did. See ``use_trained_bands``."""

    def fit_images(cfg: Config, _: str) -> list[str]:
        use_trained_image_size(cfg, metainfo)
        return use_trained_bands(cfg, metainfo, checkpoint, channels=channels, shown=bands)

    return fit_images


def _check_has_data(cfg: Config) -> None:
    """Raise ``UserError`` if a config for fine-tuning has nothing but the placeholder of a folder."""
    for dataset in leaf_datasets(cfg.train_dataloader.dataset):
        folder = dataset.get("data_root") or dataset.get("root")
        if folder and not Path(folder).exists():
            raise UserError(f"Config {cfg.filename} is for your own data ({folder} does not exist): add --data DIR.")


def _check_run_flags(options: Mapping[str, Any] | None, *, launcher: str, work_dir: str | None, amp: bool) -> None:
    given = option_value(options, "launcher")
    if given not in (None, launcher):
        raise UserError(f"launcher={given!r} in --cfg-options starts no processes: use --launcher {given} instead.")
    if work_dir is not None:
        check_flag(options, "work_dir", work_dir, f"--work-dir {work_dir}")
    if amp:
        check_flag(options, "optim_wrapper.type", "AmpOptimWrapper", "--amp")


def add_hooks(cfg: Config, names: Sequence[str]) -> list[str]:
    """Add our hooks to a config unless it already has them, as a config written by a run does."""
    given = list(cfg.get("custom_hooks") or [])
    types = [hook.get("type") for hook in given]
    own = [f"convnext_dense.{name}" for name in names]
    cfg.custom_hooks = given + [dict(type=name) for name in own if name not in types]
    return []


def scale_learning_rate(cfg: Config) -> list[str]:
    """Make mmengine scale the learning rate to the actual batch size.

    Raises:
        UserError: The config does not say which batch size its learning rate is for.
    """
    if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
        raise UserError(f"--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in {cfg.filename}.")
    cfg.auto_scale_lr.enable = True
    return []


def make_resumable(cfg: Config) -> list[str]:
    """Put our loops and hooks into a config, so that the run can end at any iteration and be resumed."""
    if cfg.get("train_cfg") is None or cfg.get("train_dataloader") is None:
        raise UserError("The config has nothing to train on: set train_cfg and train_dataloader.")
    hooks = cfg.setdefault("default_hooks", {})
    hooks.setdefault("checkpoint", dict(type="CheckpointHook", interval=1))
    loop = cfg.train_cfg
    if "type" not in loop:
        loop.type = "EpochBasedTrainLoop" if loop.pop("by_epoch", True) else "IterBasedTrainLoop"
    notes = []
    for part in (hooks["checkpoint"] or {}, loop):
        kind = part.get("type", "")
        name = (kind if isinstance(kind, str) else kind.__name__).rpartition(".")[2]
        if name in _REPLACED:
            part["type"] = f"convnext_dense.{name}"
        else:
            notes.append(
                f"{name or 'No checkpoint hook'}: saving and resuming an interrupted run is not up to convnext_dense."
            )
    add_hooks(cfg, ["InterruptHook", "NonFiniteHook", "SingleValueHook"])
    return notes


def check_classes(cfg: Config, checkpoint: str, trained: Sequence[str] | None) -> list[str]:
    """Check that the class names in a checkpoint are those of the test set.

    Raises:
        UserError: They differ.
    """
    for dataset in leaf_datasets(cfg.test_dataloader.dataset):
        tested = class_names(dataset)
        if trained and tested and list(trained) != list(tested):
            raise UserError(
                f"{checkpoint} was trained on the classes {quote(trained)}, but the test set has {quote(tested)}: "
                "name the folder that it was trained on with --data DIR."
            )
    return []


def use_tta(cfg: Config, config: str | os.PathLike) -> None:
    """Switch to the config's test-time augmentation; ``module`` of ``tta_model`` holds changes of the model for it.

    Raises:
        UserError: The config has no test-time augmentation.
    """
    if "tta_model" not in cfg or "tta_pipeline" not in cfg:
        raise UserError(f"--tta needs tta_model and tta_pipeline in the config, and {config} has none.")
    for dataset in leaf_datasets(cfg.test_dataloader.dataset):
        dataset.pipeline = cfg.tta_pipeline
    difference = cfg.tta_model.get("module") or {}
    cfg.merge_from_dict({"model": difference})
    cfg.model = dict(cfg.tta_model, module=cfg.model)


def write_predictions_to(cfg: Config, out: str, options: Mapping[str, Any] | None = None) -> None:
    """Set where the metric of a test writes predictions.

    Raises:
        UserError: Predictions of this task cannot be written, ``out`` has another ending, or an option contradicts it.
    """
    for key in ("outfile_prefix", "output_dir"):
        check_flag(options, f"test_evaluator.{key}", out.removesuffix(".json"), f"--out {out}")
    task = task_of(cfg)
    if task == "segmentation":
        cfg.test_evaluator.output_dir = out
        datasets = list(leaf_datasets(cfg.test_dataloader.dataset))
        folder = (datasets[0].get("data_prefix") or {}).get("img_path")
        if len(datasets) == 1 and folder and str(cfg.test_evaluator.type).startswith("convnext_dense."):
            # Keep subfolders, so that images of the same name in two folders do not overwrite each other.
            cfg.test_evaluator.image_root = str(Path(datasets[0].get("data_root") or "", folder))
        return
    if task == "classification":
        raise UserError("--out is for detection and segmentation; predict gives the classes of images.")
    if not out.endswith(".json"):
        raise UserError(f"--out {out} must end in .json.")
    cfg.test_evaluator.outfile_prefix = out.removesuffix(".json")


def written_predictions(out: str) -> list[str]:
    """Return what a test wrote for ``--out``: a folder, or mmdet's files, whose names say what is in them."""
    if not out.endswith(".json"):
        return [out]
    prefix = Path(out.removesuffix(".json"))
    return [str(path) for path in sorted(prefix.parent.glob(f"{glob.escape(prefix.name)}.*.json"))]
