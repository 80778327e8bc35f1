"""Find the checkpoint to resume a run from, and check that its schedule is that of the config."""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from convnext_dense.checkpoints import read_checkpoint
from convnext_dense.config.datasets import quote
from convnext_dense.config.options import check_flag
from convnext_dense.engine.optimizers import optim_wrappers
from convnext_dense.errors import UserError, shortened

# State of schedulers; all their other attributes come from the config.
_STATE = {
    *("last_step", "_global_step", "_last_value", "verbose", "best", "num_bad_epochs", "cooldown_counter"),
    "base_values",  # of the parameter groups, which are compared themselves
}
_PARAMS = {"params", "param_names"}
_SCHEDULED = {"lr", "momentum", "betas"}


def find_start(
    cfg: Config, options: Mapping[str, Any] | None, resume: str | None
) -> tuple[bool, str | None, list[str]]:
    """Decide what training starts from.

    Args:
        cfg: Config of the run; its ``resume`` and ``load_from`` have the same meaning as in mmengine.
        options: The values of ``--cfg-options``.
        resume: The value of ``--resume``: None, ``'auto'`` or the path of a checkpoint.

    Returns:
        Whether a run is resumed, the checkpoint to load, if any, and lines for the log.

    Raises:
        UserError: ``--resume`` and the options contradict each other, or all checkpoints are damaged.
    """
    origin = cfg.get("load_from")
    if resume is not None:
        check_flag(options, "resume", True, "--resume")
        if resume != "auto":
            check_flag(options, "load_from", resume, f"--resume {resume}")
    elif cfg.get("resume"):
        resume = cfg.resume if isinstance(cfg.resume, str) else origin or "auto"
    if resume is None:
        earlier = Path(cfg.work_dir, "last_checkpoint")
        note = f"{cfg.work_dir} has checkpoints of an earlier run, which --resume would continue: this is a new run."
        return False, origin, [note] if earlier.is_file() else []
    checkpoint, notes = find_whole_checkpoint(cfg.work_dir) if resume == "auto" else (resume, [])
    if checkpoint is None:
        begin = f"with the weights of load_from={origin}" if origin else "at the beginning"
        return False, origin, [f"There is no checkpoint in {cfg.work_dir} to resume from: training starts {begin}."]
    if origin and origin != str(checkpoint):
        notes.append(f"The run resumes from {checkpoint}; load_from={origin}, from which it started, is not loaded.")
    return True, str(checkpoint), notes


def find_whole_checkpoint(work_dir: str | Path) -> tuple[Path | None, list[str]]:
    """Find the newest checkpoint that can be resumed from.

    Args:
        work_dir: Folder of the run; its file ``last_checkpoint`` names the newest checkpoint.

    Returns:
        The path, or None if there is no checkpoint at all, and a line for the log about each damaged one.

    Raises:
        UserError: There are checkpoints, but all of them are damaged.
    """
    folder = Path(work_dir)
    pointer = folder / "last_checkpoint"
    named = [Path(pointer.read_text().strip())] if pointer.is_file() else []
    others = [path for path in folder.glob("*.pth") if not path.name.startswith("best_") and path not in named]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    notes: list[str] = []
    for path in (*named, *others):
        flaw = _flaw(path)
        if flaw is None:
            return path, notes
        notes.append(f"{path} is skipped: {flaw}")
    if any(path.exists() for path in (*named, *others)):
        raise UserError(f"No checkpoint in {folder} can be resumed from; delete them to start over. {' '.join(notes)}")
    return None, notes


def _flaw(path: Path) -> str | None:
    try:
        content = read_checkpoint(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    return "it is damaged."
    except UserError as error:
        return str(error)
    except (OSError, zipfile.BadZipFile) as error:
        return f"it is damaged ({error})."
    return None if "optimizer" in content else "it has no optimizer state."


def check_schedule(runner: Any, checkpoint: Mapping[str, Any], source: Any) -> None:
    """Check that the schedule of a resumed run is that of the config; only its length may change, which is logged.

    mmengine restores schedulers and parameter groups from the checkpoint and ignores what the config says.

    Args:
        runner: A runner whose optimizer and schedulers were built from the config.
        checkpoint: Content of the checkpoint to resume from.
        source: Name of the checkpoint.

    Raises:
        UserError: Learning rate, weight decay, groups or schedulers differ, or there is no state of an optimizer.
    """
    anew = f"start a new run from these weights with --init-from {source} instead of --resume"
    if "optimizer" not in checkpoint:
        raise UserError(f"{source} holds weights alone, without the state of the optimizer: {anew}.")
    differences = list(_differences(runner, checkpoint))
    if differences:
        differences = [*_changed_recipe(runner, checkpoint), *differences]
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise UserError(
            f"{source} was written with another schedule than the config's: {'; '.join(differences[:3])}{more}. A "
            f"resumed run keeps the schedule that it started with: restore these values, or {anew}."
        )
    former = checkpoint.get("message_hub", {}).get("runtime_info", {})
    for name in ("max_epochs", "max_iters"):
        length = getattr(runner, name)
        if former.get(name, length) != length:
            runner.logger.info(f"{name} is {length} now; it was {former[name]} when {source} was written.")


def _changed_recipe(runner: Any, checkpoint: Mapping[str, Any]) -> list[str]:
    """Return what has changed of that from which the schedule of a fine-tuning config follows."""
    text, recipe = checkpoint.get("meta", {}).get("cfg"), runner.cfg.get("finetune")
    if not recipe or not isinstance(text, str):
        return []
    former = Config.fromstring(text, ".py").get("finetune") or {}
    return [
        f"{former[key]:,} {what} then, {recipe[key]:,} now"
        for key, what in (
            ("num_images", "training images"),
            ("epochs", "epochs (--epochs)"),
            ("batch_size", "images per step (--batch)"),
        )
        if former.get(key) is not None and former[key] != recipe.get(key)
    ]


def _differences(runner: Any, checkpoint: Mapping[str, Any]) -> Iterator[str]:
    wrappers = optim_wrappers(runner)
    optimizers, schedules = checkpoint.get("optimizer", {}), checkpoint.get("param_schedulers")
    is_several = "param_groups" not in optimizers
    if optimizers and set(wrappers) != (set(optimizers) if is_several else {""}):
        there = quote(sorted(optimizers)) if is_several else "one"
        here = quote(sorted(wrappers)) if any(wrappers) else "one"
        yield f"its optimizers are {there} in the checkpoint, {here} in the config"
        return
    for name, wrapper in wrappers.items():
        of = f" of {name}" if name else ""
        schedulers = runner.param_schedulers or []
        schedulers = schedulers.get(name, []) if isinstance(schedulers, dict) else schedulers
        saved = schedules.get(name, []) if isinstance(schedules, dict) else schedules
        if saved is not None:
            yield from _compare_schedulers(saved, schedulers, of)
        groups = wrapper.optimizer.param_groups
        saved = (optimizers.get(name, {}) if name else optimizers).get("param_groups", [])
        if saved and len(saved) != len(groups):
            yield f"{len(saved)} parameter groups{of} in the checkpoint, {len(groups)} in the config"
        left_out = _PARAMS | _SCHEDULED if schedulers else _PARAMS
        for number, (old, new) in enumerate(zip(saved, groups, strict=False)):
            yield from _compare(f"parameter group {number}{of}", old, new, left_out)


def _compare_schedulers(saved: Sequence[Mapping[str, Any]], schedulers: Sequence[Any], of: str) -> Iterator[str]:
    if len(saved) != len(schedulers):
        yield f"{len(saved)} schedulers{of} in the checkpoint, {len(schedulers)} in the config"
    for number, (old, new) in enumerate(zip(saved, schedulers, strict=False)):
        yield from _compare(f"param_scheduler.{number}{of}", old, vars(new), _STATE)


def _compare(place: str, old: Mapping[str, Any], new: Mapping[str, Any], left_out: set[str]) -> Iterator[str]:
    for key in old:
        if key in new and key not in left_out and old[key] != new[key]:
            saved, here = shortened(str(old[key])), shortened(str(new[key]))
            yield f"{key} of {place} is {saved} in the checkpoint, {here} in the config"
