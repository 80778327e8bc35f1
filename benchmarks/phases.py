"""Times the phases of training and testing: load, transform, forward, losses, backward, optimizer, ..."""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from convnext_dense.config.device import fit_to_device
from convnext_dense.engine import read_config

DEMO_CONFIG = Path(__file__).parents[1] / "configs" / "demo" / "mask_rcnn_convnext_atto_shapes.py"


class PhaseTimer:
    """Adds up the time of each phase; time in a nested phase does not count for the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since: float | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Attribute the time inside the context to ``name``."""
        self._book()
        self._running.append(name)
        try:
            yield
        finally:
            self._book()
            self._running.pop()

    def wrap(self, owner: Any, method: str, name: str) -> None:
        """Time the calls of an object's method as a phase."""
        original: Callable = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return original(*args, **kwargs)

        object.__setattr__(owner, method, timed)

    def _book(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._since is not None:
            self.seconds[self._running[-1] if self._running else "other"] += now - self._since
        self._since = now


def measure_phases(config: str | None, *, rounds: int) -> dict[str, Any]:
    """Train and test a config in this process, without loader processes, and time the phases.

    Args:
        config: Path of a config, by default that of the demo; its data must exist.
        rounds: Number of training iterations; the test runs completely.

    Returns:
        Milliseconds per image of every phase, in training and in the test.
    """
    cfg = read_config(config or DEMO_CONFIG)
    init_default_scope(cfg.get("default_scope", "mmengine"))
    fit_to_device(cfg)
    cfg.launcher = "none"
    cfg.train_cfg = dict(by_epoch=False, max_iters=rounds)
    cfg.default_hooks.checkpoint = dict(type="CheckpointHook", interval=-1, save_last=False)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None  # the test is measured separately
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.sampler = dict(type="InfiniteSampler", shuffle=True)
    cfg.param_scheduler = None
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        runner = Runner.from_cfg(cfg)
        train, test = PhaseTimer(), PhaseTimer()
        _watch_training(runner, train)
        runner.train()
        _watch_test(runner, test)
        runner.test()
    images = rounds * cfg.train_dataloader.batch_size
    tested = len(runner.test_dataloader.dataset)
    return {
        "task": "phases",
        "arch": str(cfg.model.backbone.arch),
        "size": [cfg.train_dataloader.batch_size, images, tested],
        "precision": "float32",
        "phases": {
            "training": {name: round(seconds / images * 1e3, 3) for name, seconds in train.seconds.items()},
            "test": {name: round(seconds / tested * 1e3, 3) for name, seconds in test.seconds.items()},
        },
    }


def _watch_training(runner: Runner, timer: PhaseTimer) -> None:
    loader = runner.build_dataloader(runner._train_dataloader)
    runner._train_dataloader = loader
    _watch_data(loader, timer)
    model = _model(runner)
    timer.wrap(model, "loss", "losses")
    timer.wrap(model, "extract_feat", "forward of backbone and neck")
    timer.wrap(model.data_preprocessor, "forward", "transform")
    original = runner.build_optim_wrapper

    def build(wrapper: Any) -> Any:
        built = original(wrapper)
        timer.wrap(built, "backward", "backward")
        timer.wrap(built, "step", "optimizer")
        return built

    runner.build_optim_wrapper = build  # type: ignore[method-assign]


def _watch_test(runner: Runner, timer: PhaseTimer) -> None:
    loop = runner.build_test_loop(runner._test_loop)
    runner._test_loop = loop
    _watch_data(loop.dataloader, timer)
    model = _model(runner)
    for method in ("loss", "extract_feat"):
        model.__dict__.pop(method)  # remove the timer of the training
    model.data_preprocessor.__dict__.pop("forward")
    timer.wrap(model, "predict", "heads and post-processing")
    timer.wrap(model, "extract_feat", "forward of backbone and neck")
    timer.wrap(model.data_preprocessor, "forward", "transform")
    timer.wrap(loop.evaluator, "process", "evaluation: collecting")
    timer.wrap(loop.evaluator, "evaluate", "evaluation: metric")


def _watch_data(loader: Any, timer: PhaseTimer) -> None:
    pipeline = loader.dataset.pipeline
    pipeline.transforms = [_Timed(transform, timer) for transform in pipeline.transforms]


class _Timed:
    def __init__(self, transform: Callable, timer: PhaseTimer) -> None:
        self.transform, self.timer = transform, timer
        self.name = "load" if type(transform).__name__.startswith("Load") else "transform"

    def __call__(self, data: Any) -> Any:
        with self.timer.phase(self.name):
            return self.transform(data)


def _model(runner: Runner) -> Any:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
