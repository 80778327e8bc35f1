"""Training and testing: config in, mmengine Runner out. One path for every task."""

import errno
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import cv2
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_distributed, is_main_process
from mmengine.registry import init_default_scope
from mmengine.runner import FlexibleRunner, Runner, find_latest_checkpoint

from convnext_dense.checkpoints import fetch, read_checkpoint
from convnext_dense.data.class_counts import task_of
from convnext_dense.data.dataset_configs import class_names, leaf_datasets, quote
from convnext_dense.data.tasks import check_data, use_folder
from convnext_dense.engine.config import read_config
from convnext_dense.engine.config_faults import check_widths, name_config_faults
from convnext_dense.engine.device import fit_to_device
from convnext_dense.engine.effective_batch import accumulate_to_effective_batch
from convnext_dense.engine.fsdp import fit_to_strategy
from convnext_dense.engine.interrupt_hook import InterruptHook
from convnext_dense.engine.processes import explain_lost_process
from convnext_dense.engine.resuming import find_whole_checkpoint

_UNREADABLE = "failed to load image: "  # what mmcv's LoadImageFromFile asserts
_IN_WORKER = "in DataLoader worker process"  # what torch puts before an error of a data set

# Parts of mmengine that ours stand in for, which take the same arguments.
_REPLACED = {"CheckpointHook", "EpochBasedTrainLoop", "IterBasedTrainLoop"}


def train_model(
    config: str | os.PathLike,
    options: Mapping[str, Any] | None = None,
    *,
    change: Callable[[Config], Config] | None = None,
    data: str | None = None,
    classes: Sequence[str] | None = None,
    work_dir: str | None = None,
    resume: str | None = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    launcher: str = "none",
) -> None:
    """Trains a model.

    Args:
        config: Path of the config.
        options: See ``read_config``.
        change: See ``read_config``.
        data: Folder of one's own data that replaces the config's.
        classes: Class names of ``data`` by label, for segmentation.
        work_dir: Where checkpoints and logs go; by default the config's, or ``work_dirs/NAME OF CONFIG``.
        resume: ``'auto'`` goes on from the newest whole checkpoint in ``work_dir``, a path from that file.
        amp: Whether to train in mixed precision where the device can.
        auto_scale_lr: Whether the learning rate is scaled to the batch that runs, by the config's base batch size.
        launcher: ``'none'``, ``'pytorch'`` or ``'slurm'``.

    Raises:
        ValueError: Something in the config, the data or a checkpoint is wrong; the message says what to do.
        SystemExit: A signal ended the run, see ``InterruptHook``.
    """
    cfg, notes = _prepare(
        config, options, change=change, data=data, classes=classes, work_dir=work_dir, launcher=launcher, amp=amp
    )
    if auto_scale_lr:
        if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
            raise ValueError(f"--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in {config}.")
        cfg.auto_scale_lr.enable = True
    notes += make_resumable(cfg)
    if resume == "auto":
        checkpoint, damaged = find_whole_checkpoint(cfg.work_dir)
        notes += damaged
        if checkpoint is None:
            notes.append(f"There is no checkpoint in {cfg.work_dir} to resume from: training starts at the beginning.")
        resume = None if checkpoint is None else str(checkpoint)
    if resume is not None:
        cfg.resume = True
        cfg.load_from = resume
    if cfg.get("load_from"):
        cfg.load_from = str(fetch(cfg.load_from))
        read_checkpoint(cfg.load_from)  # a missing or broken file is found now, not after the data is read
    notes += accumulate_to_effective_batch(cfg)
    notes += check_data(cfg, ("train", "val"))

    runner = _build_runner(cfg, notes)
    try:
        with name_config_faults(cfg):
            _run(runner.train, cfg.work_dir)
    finally:
        for hook in runner.hooks:
            if isinstance(hook, InterruptHook):
                hook.release()
    if is_main_process():
        runner.logger.info(f"Last checkpoint: {find_latest_checkpoint(cfg.work_dir)}. Log: {runner.log_dir}")


def evaluate_model(
    config: str | os.PathLike,
    checkpoint: str,
    options: Mapping[str, Any] | None = None,
    *,
    data: str | None = None,
    classes: Sequence[str] | None = None,
    work_dir: str | None = None,
    tta: bool = False,
    show_dir: str | None = None,
    out: str | None = None,
    launcher: str = "none",
) -> dict[str, float]:
    """Evaluates a checkpoint on the config's test split.

    Args:
        config: Path of the config.
        checkpoint: Source of the weights, see ``checkpoints.fetch``; they must fill the whole model.
        options: See ``read_config``.
        data: Folder of one's own data; its ``val`` split is evaluated.
        classes: Class names of ``data`` by label, for segmentation; by default the folder's or the checkpoint's.
        work_dir: Where the log goes.
        tta: Whether to test with the config's test-time augmentation (``tta_model`` and ``tta_pipeline``).
        show_dir: Where to draw predictions beside the ground truth; for detection inside the run's log folder.
        out: Where to write predictions. Detection: ``NAME.json`` gives ``NAME.bbox.json`` and ``NAME.segm.json`` in
            COCO's result format. Segmentation: a folder for one label image per image, numbered as the data set's.
        launcher: As for ``train_model``.

    Returns:
        The metrics by name.

    Raises:
        ValueError: As for ``train_model``.
    """
    checkpoint = str(fetch(checkpoint))
    trained = _trained_classes(checkpoint)
    cfg, notes = _prepare(
        config, options, data=data, classes=classes, trained=trained, work_dir=work_dir, launcher=launcher
    )
    if cfg.get("test_dataloader") is None:
        raise ValueError(f"Config {config} has no data to test on (test_dataloader).")
    cfg.load_from = checkpoint
    _check_checkpoint_classes(cfg, checkpoint, trained)
    notes += check_data(cfg, ("test",))
    if tta:
        _use_tta(cfg, config)
    if show_dir is not None:
        _draw_into(cfg, show_dir, config)
    if out is not None:
        _write_predictions_to(cfg, out)

    runner = _build_runner(cfg, notes)
    with name_config_faults(cfg):
        metrics = _run(runner.test, cfg.work_dir)
    if is_main_process():
        runner.logger.info(f"Tested {checkpoint}. Log and metrics: {runner.log_dir}")
    return metrics


def _prepare(
    config: str | os.PathLike,
    options: Mapping[str, Any] | None,
    *,
    change: Callable[[Config], Config] | None = None,
    data: str | None,
    classes: Sequence[str] | None,
    trained: Sequence[str] | None = None,
    work_dir: str | None,
    launcher: str,
    amp: bool = False,
) -> tuple[Config, list[str]]:
    cfg = read_config(config, options, change)
    init_default_scope(cfg.get("default_scope", "mmengine"))  # in it, names such as CocoDataset are looked up
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get("work_dir") or str(Path("work_dirs", Path(config).stem))
    notes = []
    if data is not None:
        notes.append(f"Classes of {data}: {quote(use_folder(cfg, data, classes, trained))}.")
    elif classes is not None:
        raise ValueError("--classes names the classes of a folder that is given with --data DIR.")
    notes += fit_to_device(cfg, amp=amp) + fit_to_strategy(cfg)
    guard = dict(type="convnext_dense.CheckpointGuardHook")
    cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), guard]
    return cfg, notes


def make_resumable(cfg: Config) -> list[str]:
    """Puts our loops and hooks into a config of mmengine's, so that the run can end anywhere and be resumed."""
    if cfg.get("train_cfg") is None or cfg.get("train_dataloader") is None:
        raise ValueError("The config has nothing to train on (train_cfg, train_dataloader).")
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
                f"{name or 'No checkpoint hook'}: what an interrupted run leaves and resumes from is not ours."
            )
    own = [dict(type="convnext_dense.InterruptHook"), dict(type="convnext_dense.NonFiniteHook")]
    given = cfg.get("custom_hooks") or []
    cfg.custom_hooks = [*given, *(hook for hook in own if hook["type"] not in [other.get("type") for other in given])]
    return notes


def _build_runner(cfg: Config, notes: list[str]) -> Runner | FlexibleRunner:
    if cfg.launcher == "pytorch" and get_device() == "cpu" and not is_distributed():
        seconds = cfg.get("env_cfg", {}).get("dist_cfg", {}).get("timeout")
        timeout = None if seconds is None else timedelta(seconds=seconds)
        # mmengine's own start sets a CUDA device, whatever the backend
        torch.distributed.init_process_group("gloo", timeout=timeout)
    with name_config_faults(cfg):
        runner = (FlexibleRunner if cfg.get("strategy") else Runner).from_cfg(cfg)
    if hasattr(runner, "model"):
        check_widths(runner.model, cfg)
    for note in notes:
        runner.logger.info(note)
    # `load_weights` knows nothing of mmengine; what it loads into parts of a model belongs into the log of this run.
    reports = logging.getLogger("mmengine")
    reports.handlers = list(runner.logger.handlers)
    reports.setLevel(logging.INFO)  # the handlers have the level of the config
    return runner


def _run(function: Any, work_dir: str) -> Any:
    try:
        return function()
    except RuntimeError as error:
        message = explain_lost_process(error, find_latest_checkpoint(work_dir))
        if message is None:
            raise
        raise ValueError(message) from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise ValueError(
            f"The disk is full ({error.filename or work_dir}). The last checkpoint is "
            f"{find_latest_checkpoint(work_dir) or 'none'}: make room, and go on from there with --resume."
        ) from error
    except AssertionError as error:
        if _UNREADABLE in str(error):
            file = str(error).split(_UNREADABLE)[-1].strip()
            raise ValueError(
                f"Image {file} cannot be decoded: it is truncated or not an image. Copy it again or take it out of the "
                "annotation file; checkpoints written so far are kept."
            ) from error
        raise
    except cv2.error as error:
        raise ValueError(
            f"An image cannot be decoded by OpenCV ({str(error).strip().splitlines()[-1]}): tools/check_dataset.py "
            "--all-images names it. Checkpoints written so far are kept."
        ) from error
    except ValueError as error:
        if _IN_WORKER in str(error):  # torch hands over the traceback as text
            raise ValueError(str(error).strip().splitlines()[-1].removeprefix("ValueError: ")) from error
        raise


def _trained_classes(checkpoint: str) -> Sequence[str] | None:
    meta = read_checkpoint(checkpoint).get("meta") or {}
    return (meta.get("dataset_meta") or {}).get("classes")


def _check_checkpoint_classes(cfg: Config, checkpoint: str, trained: Sequence[str] | None) -> None:
    """Holds the class names stored in a checkpoint against those of the test set."""
    for dataset in leaf_datasets(cfg.test_dataloader.dataset):
        tested = class_names(dataset)
        if trained and tested and list(trained) != list(tested):
            raise ValueError(
                f"{checkpoint} was trained on the classes {quote(trained)}, but the test set has {quote(tested)}: "
                "name the folder that it was trained on with --data DIR."
            )


def _use_tta(cfg: Config, config: str | os.PathLike) -> None:
    """Puts the config's test-time augmentation in charge; its ``module`` holds what the model does differently then."""
    if "tta_model" not in cfg or "tta_pipeline" not in cfg:
        raise ValueError(f"--tta needs tta_model and tta_pipeline in the config, and {config} has none.")
    for dataset in leaf_datasets(cfg.test_dataloader.dataset):
        dataset.pipeline = cfg.tta_pipeline
    difference = cfg.tta_model.get("module") or {}
    cfg.merge_from_dict({"model": difference})
    cfg.model = dict(cfg.tta_model, module=cfg.model)


def _draw_into(cfg: Config, show_dir: str, config: str | os.PathLike) -> None:
    hook = cfg.default_hooks.get("visualization")
    if hook is None:
        raise ValueError(f"--show-dir needs a visualization hook in default_hooks, and {config} has none.")
    hook.draw = True
    if hook.type.endswith("DetVisualizationHook"):
        hook.test_out_dir = show_dir
    else:  # mmseg's hook leaves the folder to the visualizer
        hook.interval = 1
        cfg.visualizer.save_dir = show_dir


def _write_predictions_to(cfg: Config, out: str) -> None:
    task = task_of(cfg)
    if task == "segmentation":
        cfg.test_evaluator.output_dir = out
        return
    if task == "classification":
        raise ValueError("--out is for detection and segmentation; predict gives the classes of images.")
    if not out.endswith(".json"):
        raise ValueError(f"--out {out} must end in .json.")
    cfg.test_evaluator.outfile_prefix = out.removesuffix(".json")
