"""Train and test any config with mmengine's Runner, on one path for all tasks."""

import contextlib
import copy
import inspect
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_distributed, is_main_process
from mmengine.runner import find_latest_checkpoint

from convnext_dense import terminal
from convnext_dense.checkpoints import Checkpoint, fetch
from convnext_dense.config.datasets import leaf_datasets
from convnext_dense.config.finetuning import Choices
from convnext_dense.config.options import check_flag, option_value
from convnext_dense.config.predicting import check_is_written, only_predicts
from convnext_dense.data.data_folder import DataFolder
from convnext_dense.data.image_reader import reader_of
from convnext_dense.engine.checkpoint_hook import checkpoint_hook_of
from convnext_dense.engine.console import FlexibleRunner, Runner
from convnext_dense.engine.faults import RunningHook, check_widths, name_config_faults, name_run_faults
from convnext_dense.engine.interrupt_hook import InterruptHook
from convnext_dense.engine.live_display_hook import LiveDisplayHook
from convnext_dense.engine.preparing import (
    measured_bands,
    prepare,
    read_run,
    test_preparations,
    trained_bands,
    training_preparations,
    use_tta,
    write_predictions_to,
    written_predictions,
)
from convnext_dense.engine.processes import check_batches
from convnext_dense.engine.resuming import find_start
from convnext_dense.engine.show_hook import ShowHook
from convnext_dense.engine.trackers import add_trackers, closed_on_errors, require_trackers
from convnext_dense.engine.workers import shield_workers
from convnext_dense.engine.written_config import WrittenConfig, kept_unless_begun
from convnext_dense.errors import UserError
from convnext_dense.signals import leaving_on_signals

# Of every training; they are no part of the config that is written into the work dir.
_TRAINING_HOOKS = [dict(type=f"convnext_dense.{name}") for name in ("ValidationHook", "CurvesHook")]


class Training(NamedTuple):
    """What a training left.

    Attributes:
        config: Path of the config that was trained, with the options of the run.
        checkpoint: Path of the best checkpoint; of the last one where none is the best; None where none was written.
        work_dir: Folder of checkpoints, logs and curves.
    """

    config: Path
    checkpoint: Path | None
    work_dir: Path


@leaving_on_signals()
def train_model(
    config: str | os.PathLike,
    options: Mapping[str, Any] | None = None,
    *,
    change: Callable[[Config], Config] | None = None,
    data: str | DataFolder | None = None,
    channels: int | None = None,
    bands: Sequence[int] | None = None,
    choices: Choices | None = None,
    work_dir: str | None = None,
    init_from: str | None = None,
    resume: str | None = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    launcher: str = "none",
    log: Sequence[str] = (),
) -> Training:
    """Train a model.

    Args:
        config: Path of the config.
        options: See ``read_config``.
        change: See ``read_config``.
        data: Folder of your own data, which replaces the data of the config, and how it is read.
        channels: Number of channels of images that are not RGB of 8 bits, see ``use_measured_bands``; None for RGB.
        bands: The channels that pictures show as red, green and blue, counted from 1; by default the first three.
        choices: Length, batch, early stopping, frozen stages and augmentation, if they are not the config's.
        work_dir: Folder for checkpoints and logs; by default that of the config, or ``work_dirs/NAME OF CONFIG``.
        init_from: Source of the weights of a whole model to start from, see ``checkpoints.fetch``. If it was trained on
            other classes, those of the same name start from their rows and all others from random values. Ignored if
            the run is resumed.
        resume: ``'auto'`` resumes from the newest whole checkpoint in ``work_dir``; a path resumes from that file.
        amp: Whether to train in mixed precision if the device supports it.
        auto_scale_lr: Whether to scale the learning rate to the actual batch size, by the config's base batch size.
        launcher: ``'none'``, ``'pytorch'`` or ``'slurm'``.
        log: Names of experiment trackers that get the run too, of ``TRACKER_NAMES``.

    Raises:
        UserError: The config, the data or a checkpoint has an error, or a tracker is missing; the message says what to
            do.
        SystemExit: A signal ended the run, see ``InterruptHook``; nothing is saved before the first iteration.
    """
    require_trackers(log)
    if auto_scale_lr:
        check_flag(options, "auto_scale_lr.enable", True, "--auto-scale-lr")
    cfg, notes = read_run(
        config,
        options,
        change=change,
        data=data,
        fit_images=measured_bands(channels, bands, options),
        choices=choices or Choices(),
        work_dir=work_dir,
        launcher=launcher,
        amp=amp,
    )
    if init_from is not None:
        check_flag(options, "load_from", init_from, f"--init-from {init_from}")
        cfg.load_from = init_from
    goes_on, checkpoint, start = find_start(cfg, options, resume)
    notes += start
    if checkpoint is not None:
        checkpoint = str(fetch(checkpoint))
        Checkpoint(checkpoint)  # fail on a missing or damaged file now, not after reading the data
    notes += prepare(cfg, training_preparations(amp=amp, auto_scale_lr=auto_scale_lr, resumed=goes_on))

    recipe = copy.deepcopy(cfg)
    running = RunningHook()
    hooks = [*_TRAINING_HOOKS, *add_trackers(cfg, log, "val"), running]
    with kept_unless_begun(cfg, lambda: running.is_running):
        runner = _build_runner(cfg, notes, hooks, recipe=recipe, load_from=checkpoint, resume=goes_on)
        with _ending_well(runner, cfg, running):
            runner.train()
    return _say_what_is_left(runner, cfg)


def _say_what_is_left(runner: Runner | FlexibleRunner, cfg: Config) -> Training:
    best, last = getattr(checkpoint_hook_of(runner), "best_ckpt_path", None), find_latest_checkpoint(cfg.work_dir)
    if is_main_process():
        runner.logger.info(
            f"{f'Best checkpoint: {best}. ' if best else ''}Last checkpoint: {last}. Log: {runner.log_dir}"
        )
    checkpoint = Path(best or last) if best or last else None
    work_dir = Path(cfg.work_dir).absolute()  # as the checkpoint's path is
    return Training(work_dir / Path(cfg.filename).name, checkpoint, work_dir)


def evaluate_model(
    config: str | os.PathLike,
    checkpoint: str,
    options: Mapping[str, Any] | None = None,
    *,
    data: str | DataFolder | None = None,
    split: str | None = None,
    channels: int | None = None,
    bands: Sequence[int] | None = None,
    work_dir: str | None = None,
    tta: bool = False,
    show_dir: str | None = None,
    out: str | None = None,
    launcher: str = "none",
    log: Sequence[str] = (),
) -> dict[str, float]:
    """Evaluate a checkpoint on the config's test split.

    Args:
        config: Path of the config.
        checkpoint: Source of the weights of the whole model, see ``checkpoints.fetch``.
        options: See ``read_config``.
        data: Folder of your own data, which replaces the data of the config, and how it is read.
        split: Split of ``data`` to evaluate: ``'val'`` (the default), ``'test'`` or ``'train'``.
        channels: As for ``train_model``; by default, and at most, what the checkpoint was trained with.
        bands: As for ``train_model``; by default those of the checkpoint.
        work_dir: Folder for the log.
        tta: Whether to test with the config's test-time augmentation (``tta_model`` and ``tta_pipeline``).
        show_dir: Folder for pictures of predictions beside the ground truth; for detection it is inside the log folder
            of the run.
        out: Where to write predictions. Detection: ``NAME.json`` gives ``NAME.bbox.json`` and ``NAME.segm.json`` in
            COCO's result format. Segmentation: a folder for one label image per image, with the labels of the data set.
        launcher: As for ``train_model``.
        log: As for ``train_model``.

    Returns:
        The metrics by name.
    """
    require_trackers(log)
    _check_test_options(options, checkpoint)
    checkpoint = str(fetch(checkpoint))
    opened = Checkpoint(checkpoint)
    trained = opened.class_names
    if data is None and split is not None:
        raise UserError(f"--split {split} names a split of a folder that is given with --data DIR.")
    splits = {"test": split or "val"}
    cfg, notes = read_run(
        config,
        options,
        data=data,
        splits=splits,
        trained=trained,
        fit_images=trained_bands(opened.dataset_meta, checkpoint, channels, bands),
        work_dir=work_dir,
        launcher=launcher,
    )
    if cfg.get("test_dataloader") is None:
        raise UserError(f"Config {config} has no test data: test_dataloader is missing.")
    notes += prepare(cfg, test_preparations(checkpoint, trained))
    recipe = copy.deepcopy(cfg)
    if tta:
        use_tta(cfg, config)
    hooks: list[Any] = [] if show_dir is None else [_show_hook(cfg, show_dir, config)]
    if out is not None:
        write_predictions_to(cfg, out, options)
    running = RunningHook()
    hooks += [*add_trackers(cfg, log, "test"), running]
    tested = f"the test data of {config}"
    check_is_written(cfg, tested if data is None else f"the {splits['test']} split of {DataFolder.of(data).path}")

    runner = _build_runner(cfg, notes, hooks, recipe=recipe, load_from=checkpoint, resume=False)
    with _ending_well(runner, cfg, running):
        check_batches(runner.test_loop.dataloader, "test_dataloader")
        shield_workers(runner.test_loop.dataloader)
        metrics = runner.test()
    if is_main_process():
        what = "No metric: there is no ground truth. Log" if only_predicts(cfg, "test") else "Log and metrics"
        written = [f" Predictions: {', '.join(written_predictions(out))}."] if out is not None else []
        written += [f" Pictures: {hook.out_dir}." for hook in runner.hooks if isinstance(hook, ShowHook)]
        runner.logger.info(f"Tested {checkpoint}. {what}: {runner.log_dir}.{''.join(written)}")
    return metrics


def _check_test_options(options: Mapping[str, Any] | None, checkpoint: str) -> None:
    check_flag(options, "load_from", checkpoint, f"CHECKPOINT {checkpoint}")
    if option_value(options, "resume"):
        raise UserError("resume in --cfg-options is for training: a test cannot be resumed.")


def _build_runner(
    cfg: Config, notes: list[str], hooks: Sequence[Any], *, recipe: Config, load_from: str | None, resume: bool
) -> Runner | FlexibleRunner:
    """Build the runner with more hooks, and write the notes into its log.

    The work dir and checkpoints get ``recipe`` with launcher and ``resume`` reset, so that a run with it starts anew.
    """
    if cfg.launcher == "pytorch" and get_device() == "cpu" and not is_distributed():
        seconds = cfg.get("env_cfg", {}).get("dist_cfg", {}).get("timeout")
        timeout = None if seconds is None else timedelta(seconds=seconds)
        # mmengine's own initialization sets a CUDA device with every backend
        torch.distributed.init_process_group("gloo", timeout=timeout)
    with name_config_faults(cfg):
        recipe = WrittenConfig.of(recipe)
        recipe.update(launcher="none", resume=False)
        kind = FlexibleRunner if cfg.get("strategy") else Runner
        parts = {name: copy.deepcopy(cfg[name]) for name in inspect.signature(kind).parameters if name in cfg}
        runner = kind(**{**parts, "load_from": load_from, "resume": resume, "cfg": recipe})
    shown = [dict(type="convnext_dense.LiveDisplayHook")] if is_main_process() and terminal.is_live() else []
    names = ("NamedImagesHook", "SummaryHook")
    for hook in (*(dict(type=f"convnext_dense.{name}") for name in names), *shown, *hooks):
        runner.register_hook(hook)
    if hasattr(runner, "model"):
        check_widths(runner.model, cfg)
    for note in notes:
        runner.logger.info(note)
    # `load_weights` does not use mmengine's logger; what it loads into parts of a model belongs in the log of this run.
    reports = logging.getLogger("mmengine")
    reports.handlers = list(runner.logger.handlers)
    reports.setLevel(logging.INFO)  # the handlers have the level of the config
    return runner


@contextlib.contextmanager
def _ending_well(runner: Runner | FlexibleRunner, cfg: Config, running: RunningHook) -> Iterator[None]:
    """Name faults of a run, and give signals and the terminal back at its end, also after an error."""
    try:
        with name_config_faults(cfg, running), name_run_faults(cfg.work_dir), closed_on_errors(runner):
            yield
    finally:
        for hook in runner.hooks:
            if isinstance(hook, InterruptHook | LiveDisplayHook):
                hook.release()


def _show_hook(cfg: Config, show_dir: str, config: str | os.PathLike) -> dict[str, Any]:
    """Return the config of a ``ShowHook``, which is not part of the config written into the work dir."""
    hook = cfg.default_hooks.get("visualization")
    if hook is None:
        raise UserError(f"--show-dir needs a visualization hook in default_hooks, but {config} has none.")
    dataset = next(leaf_datasets(cfg.test_dataloader.dataset))
    reader = reader_of(dataset.get("pipeline"))
    if reader is None:
        raise UserError(f"--show-dir needs test data with a pipeline, but that of {config} has none.")
    is_detection = hook.type.endswith("DetVisualizationHook")  # mmdet's folder is in the log folder, mmseg's is not
    return dict(
        type="convnext_dense.ShowHook",
        out_dir=show_dir,
        reader=reader.step,
        is_in_log_dir=is_detection,
        score_thr=hook.get("score_thr", 0.3),
    )
