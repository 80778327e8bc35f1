"""Which checkpoint a run is resumed from, and whether the config still means the same schedule."""

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

# What schedulers count or remember; everything else about them comes from the config.
_COUNTERS = {"last_step", "_global_step", "_last_value", "verbose", "best", "num_bad_epochs", "cooldown_counter"}
_PARAMS = {"params", "param_names"}
_SCHEDULED = {"lr", "momentum", "betas"}


def find_start(
    cfg: Config, options: Mapping[str, Any] | None, resume: str | None
) -> tuple[bool, str | None, list[str]]:
    """Decide what a training starts from.

    Args:
        cfg: The config of the run; its ``resume`` and ``load_from`` mean what they do in mmengine.
        options: What ``--cfg-options`` gave of it.
        resume: What ``--resume`` says: None, ``'auto'`` or the path of a checkpoint.

    Returns:
        Whether a run goes on, the checkpoint, if any, and one sentence per decision.

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
        return False, origin, []
    checkpoint, notes = find_whole_checkpoint(cfg.work_dir) if resume == "auto" else (resume, [])
    if checkpoint is None:
        begin = f"with the weights of load_from={origin}" if origin else "at the beginning"
        return False, origin, [f"There is no checkpoint in {cfg.work_dir} to resume from: training starts {begin}."]
    if origin and origin != str(checkpoint):
        notes.append(f"The run goes on from {checkpoint}; load_from={origin}, where it once began, is not loaded.")
    return True, str(checkpoint), notes


def find_whole_checkpoint(work_dir: str | Path) -> tuple[Path | None, list[str]]:
    """Find the newest checkpoint that can be resumed from.

    Args:
        work_dir: The folder of the run; its file ``last_checkpoint`` names the newest.

    Returns:
        Its path, none if there is no checkpoint at all, and one sentence per damaged one that is passed over.

    Raises:
        UserError: There are checkpoints, all of them damaged.
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
        notes.append(f"{path} is passed over: {flaw}")
    if any(path.exists() for path in (*named, *others)):
        raise UserError(f"No checkpoint in {folder} can be resumed from; delete them to begin anew. {' '.join(notes)}")
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
    return None if "optimizer" in content else "it has no optimizer in it."


def check_schedule(runner: Any, checkpoint: Mapping[str, Any], source: Any) -> None:
    """Compare the schedule of a resumed run with the config's; its length may be changed, which is logged.

    mmengine takes schedulers and parameter groups from the checkpoint as they are, whatever the config says by now.

    Args:
        runner: A runner with its optimizer and schedulers as the config has them.
        checkpoint: What it is about to resume.
        source: Its name.

    Raises:
        UserError: Learning rate, weight decay, groups or schedulers differ.
    """
    differences = list(_differences(runner, checkpoint))
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise UserError(
            f"{source} was written with another schedule than the config's: {'; '.join(differences[:3])}{more}. A "
            "resumed run goes on with the schedule that it began with: restore these values, or begin a new run with "
            f"these weights, --cfg-options load_from={source}."
        )
    former = checkpoint.get("message_hub", {}).get("runtime_info", {})
    for name in ("max_epochs", "max_iters"):
        length = getattr(runner, name)
        if former.get(name, length) != length:
            runner.logger.info(f"{name} is {length} now; it was {former[name]} when {source} was written.")


def _differences(runner: Any, checkpoint: Mapping[str, Any]) -> Iterator[str]:
    wrappers = optim_wrappers(runner)
    optimizers, schedules = checkpoint.get("optimizer", {}), checkpoint.get("param_schedulers")
    is_several = "param_groups" not in optimizers
    if optimizers and set(wrappers) != (set(optimizers) if is_several else {""}):
        there = quote(sorted(optimizers)) if is_several else "one"
        yield f"its optimizers are {there} there, {quote(sorted(wrappers)) if any(wrappers) else 'one'} here"
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
            yield f"{len(saved)} parameter groups{of} there, {len(groups)} here"
        left_out = _PARAMS | _SCHEDULED if schedulers else _PARAMS
        for number, (old, new) in enumerate(zip(saved, groups, strict=False)):
            yield from _compare(f"parameter group {number}{of}", old, new, left_out)


def _compare_schedulers(saved: Sequence[Mapping[str, Any]], schedulers: Sequence[Any], of: str) -> Iterator[str]:
    if len(saved) != len(schedulers):
        yield f"{len(saved)} schedulers{of} there, {len(schedulers)} here"
    for number, (old, new) in enumerate(zip(saved, schedulers, strict=False)):
        yield from _compare(f"param_scheduler.{number}{of}", old, vars(new), _COUNTERS)


def _compare(place: str, old: Mapping[str, Any], new: Mapping[str, Any], left_out: set[str]) -> Iterator[str]:
    for key in old:
        if key in new and key not in left_out and old[key] != new[key]:
            yield f"{key} of {place} is {shortened(str(old[key]))} there, {shortened(str(new[key]))} here"
