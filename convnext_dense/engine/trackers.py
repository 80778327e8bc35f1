"""Experiment trackers beside the local log of a run: mmengine's own visualization backends, by name."""

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.visualization import WandbVisBackend as MMEngineWandbVisBackend

from convnext_dense.config.datasets import loaded_datasets
from convnext_dense.config.pipelines import step_name
from convnext_dense.data.image_reader import reader_of
from convnext_dense.errors import UserError
from convnext_dense.registry import VISBACKENDS


class _Tracker(NamedTuple):
    """A tracker.

    Attributes:
        type: Of its backend in a config.
        arguments: What makes a run findable, from the name of its config and the work dir; the tracker's own variables
            of the environment go first, and credentials and offline mode are theirs alone.
    """

    type: str
    arguments: Callable[[str, Path], dict[str, Any]]


def _wandb(name: str, work_dir: Path) -> dict[str, Any]:
    started = {} if "WANDB_PROJECT" in os.environ else dict(project=name)
    # mmengine's backend sends no steps.
    steps = {"train/*": "iter", "val/*": "val/iter", "predictions/*": "val/iter"}
    axes = [dict(name=values, step_metric=step) for values, step in steps.items()]
    return dict(init_kwargs=started, define_metric_cfg=axes)


def _mlflow(name: str, work_dir: Path) -> dict[str, Any]:
    arguments = dict(exp_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", name), artifact_suffix=())
    if "MLFLOW_TRACKING_URI" in os.environ:  # which mmengine's backend overrides
        return dict(arguments, tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
    # MLflow 3 refuses a store of plain files.
    return dict(
        arguments,
        tracking_uri=f"sqlite:///{work_dir / 'mlflow.db'}",
        artifact_location=(work_dir / "mlartifacts").as_uri(),
    )


def _clearml(name: str, work_dir: Path) -> dict[str, Any]:
    started = dict(project_name=name, task_name=work_dir.name, reuse_last_task_id=False)
    return dict(init_kwargs=started, artifact_suffix=(".py",))  # no checkpoints


def _neptune(name: str, work_dir: Path) -> dict[str, Any]:
    is_known = any(f"NEPTUNE_{part}" in os.environ for part in ("API_TOKEN", "PROJECT", "MODE"))
    return dict(init_kwargs=dict(name=name, **({} if is_known else dict(mode="offline"))))


def _dvclive(name: str, work_dir: Path) -> dict[str, Any]:
    # By default, mmengine lets it put files of the run into the user's Git and DVC repositories.
    return dict(init_kwargs=dict(save_dvc_exp=False, cache_images=False), artifact_suffix=())


# By the name of the option, which is that of the package and of the extra too.
_TRACKERS = {
    "tensorboard": _Tracker("TensorboardVisBackend", lambda name, work_dir: {}),
    "wandb": _Tracker("convnext_dense.WandbVisBackend", _wandb),
    "mlflow": _Tracker("MLflowVisBackend", _mlflow),
    "clearml": _Tracker("ClearMLVisBackend", _clearml),
    "neptune": _Tracker("NeptuneVisBackend", _neptune),
    "dvclive": _Tracker("DVCLiveVisBackend", _dvclive),
    "aim": _Tracker(
        "AimVisBackend", lambda name, work_dir: dict(init_kwargs=dict(experiment=name, repo=str(work_dir)))
    ),
}
TRACKER_NAMES = tuple(_TRACKERS)


@VISBACKENDS.register_module()
class WandbVisBackend(MMEngineWandbVisBackend):
    """mmengine's backend, which does not upload every Python file below the current folder."""

    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Record the config; a run that ``WANDB_RUN_ID`` continues may have changed some of it."""
        self.experiment.config.update(config.to_dict(), allow_val_change=True)


def require_trackers(names: Sequence[str]) -> None:
    """Check that the packages of trackers can be imported.

    Raises:
        UserError: A name is unknown, or a package is missing.
    """
    if isinstance(names, str):
        raise UserError(f"log={names!r} must be a list of names: log=[{names!r}].")
    for name in names:
        if name not in _TRACKERS:
            raise UserError(f"--log {name} is unknown: choose of {', '.join(TRACKER_NAMES)}.")
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f"--log {name} needs a package that cannot be imported ({error}): pip install 'convnext-dense[{name}]'."
            ) from error


def add_trackers(cfg: Config, names: Sequence[str], loader: str) -> list[dict[str, Any]]:
    """Put the backends of trackers into a config, beside those that it has; one that it has stays as it is.

    Args:
        cfg: The config of a run, which is not written anywhere.
        names: Of the trackers.
        loader: ``'val'`` or ``'test'``, whose images the trackers get pictures of.

    Returns:
        The configs of the hooks that the run needs for them.
    """
    if not names:
        return []
    backends = _add_backends(cfg, names)
    _log_by_phase(cfg)
    datasets = [dataset for _, dataset in loaded_datasets(cfg, [loader])]
    reader = reader_of(datasets[0].get("pipeline")) if datasets else None
    score_thr = (cfg.default_hooks.get("visualization") or {}).get("score_thr", 0.3)
    hook = dict(type="convnext_dense.PicturesHook", backends=backends, reader=reader and reader.step)
    return [dict(hook, score_thr=score_thr)]


def _add_backends(cfg: Config, names: Sequence[str]) -> list[str]:
    """Return the names that the visualizer of the run gives to the backends."""
    visualizer = _part(cfg, "visualizer", dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")]))
    backends = visualizer.get("vis_backends") or []
    backends = list(backends) if isinstance(backends, Sequence) else [backends]
    experiment, work_dir = Path(cfg.filename).stem, Path(cfg.work_dir).resolve()
    given = {step_name(backend): backend.get("name") for backend in backends}
    found = []
    for name in dict.fromkeys(names):
        tracker = _TRACKERS[name]
        kind = step_name(dict(type=tracker.type))
        if kind not in given:
            backends.append(dict(type=tracker.type, **tracker.arguments(experiment, work_dir)))
        found.append(given.get(kind) or kind)
    visualizer["vis_backends"] = backends
    return found


def _log_by_phase(cfg: Config) -> None:
    """Let mmengine name values ``train/...`` and ``val/...``, and give evaluations the iteration as their step.

    By default, the time of an iteration and that of a validation batch have one name, and evaluations count in epochs.
    """
    processor = _part(cfg, "log_processor", dict(type="LogProcessor", by_epoch=True))
    if step_name(processor) in ("", "LogProcessor"):
        processor["log_with_hierarchy"] = True
    hooks = _part(cfg, "default_hooks", {})
    if "logger" not in hooks or hooks["logger"]:  # None leaves it out
        _part(hooks, "logger", dict(type="LoggerHook"))["log_metric_by_epoch"] = False


def _part(node: Any, key: str, default: Mapping[str, Any]) -> Any:
    """Return a part of a config, which is put there if it is missing; its ``setdefault`` returns another object."""
    if node.get(key) is None:
        node[key] = default
    return node[key]


@contextlib.contextmanager
def closed_on_errors(runner: Any) -> Iterator[None]:
    """Close the backends of a run that ends with an error or a signal, so that nothing is lost; mmengine does not."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):
            runner.visualizer.close()
        raise
