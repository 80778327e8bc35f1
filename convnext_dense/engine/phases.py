"""Times the phases of training and testing: load, transform, forward, losses, backward, optimizer, ..."""

import itertools
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from convnext_dense.checkpoints import fetch
from convnext_dense.config.finetuning import Choices
from convnext_dense.config.option_pairs import fit_loaders
from convnext_dense.data.data_folder import DataFolder
from convnext_dense.engine.faults import name_config_faults, name_missing_weights
from convnext_dense.engine.preparing import prepare, read_run, training_preparations
from convnext_dense.engine.processes import peak_process_memory
from convnext_dense.errors import UserError

_WARMUPS = 3  # iterations: the first ones allocate memory, and compile


class Phases(NamedTuple):
    """Where the time of a training or a test goes.

    Attributes:
        milliseconds: Per image, by phase, in the order in which they began first; the rest is ``other``.
        batch_size: Images per iteration.
        images: Number of images that were timed.
        peak_mb: Largest memory in MB: of the GPU, or, on a CPU, of the process since its start.
    """

    milliseconds: dict[str, float]
    batch_size: int
    images: int
    peak_mb: float


class PhaseTimer:
    """Adds up the time of each phase; time in a nested phase does not count for the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.images = 0
        self._running: list[str] = []
        self._since: float | None = None
        self._wrapped: list[tuple[Any, str]] = []

    def reset(self) -> None:
        """Forget what was timed, in the middle of phases too."""
        self._book()
        self.seconds.clear()
        self.images = 0
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

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
        """Time the calls of an object's method as a phase, until ``release``; nothing if there is no such method."""
        original: Callable | None = getattr(owner, method, None)
        if original is None:
            return

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return original(*args, **kwargs)

        object.__setattr__(owner, method, timed)
        self._wrapped.append((owner, method))

    def release(self) -> None:
        """Give wrapped methods back."""
        for owner, method in self._wrapped:
            owner.__dict__.pop(method, None)
        self._wrapped.clear()

    def _book(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._since is not None:
            self.seconds[self._running[-1] if self._running else "other"] += now - self._since
        self._since = now


def measure_phases(
    config: str | os.PathLike,
    checkpoint: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    data: str | DataFolder | None = None,
    batch: int | None = None,
    amp: bool = False,
    iterations: int = 20,
) -> dict[str, Phases]:
    """Train and test a config for some iterations in this process, without loader processes, and time the phases.

    Nothing is kept: no checkpoint, no log. On a GPU every phase waits for its end, so that the sum is a little more
    than a training takes.

    Args:
        config: Path of the config.
        checkpoint: Source of the weights of the whole model, see ``checkpoints.fetch``; how much a model finds decides
            what post-processing and evaluation take.
        options: See ``read_config``.
        data: Folder of your own data, which replaces the data of the config, and how it is read.
        batch: Images per training iteration, if not the config's.
        amp: Whether to train in mixed precision if the device supports it.
        iterations: Number of iterations of each; three more before them do not count.

    Returns:
        ``'training'``, and ``'test'`` on the validation data if the config has any.

    Raises:
        UserError: See ``train_model``.
    """
    if iterations < 1:
        raise UserError(f"iterations={iterations} must be at least 1.")
    weights = None if checkpoint is None else str(fetch(checkpoint))
    with tempfile.TemporaryDirectory() as folder:
        choices = Choices(batch=batch)
        cfg, _ = read_run(config, options, data=data, choices=choices, work_dir=folder, launcher="none", amp=amp)
        prepare(cfg, training_preparations(amp=amp, auto_scale_lr=False, resumed=False))
        has_test = cfg.get("val_dataloader") is not None
        _shorten(cfg, iterations + _WARMUPS, weights)
        with name_config_faults(cfg):
            runner = Runner.from_cfg(cfg)
        timer = _watch_training(runner)
        with name_missing_weights(cfg):
            runner.train()
        result = {"training": _phases(timer, cfg.train_dataloader.batch_size)}
        if has_test:
            timer.release()
            timer = _watch_test(runner, iterations)
            runner.test()
            result["test"] = _phases(timer, cfg.test_dataloader.batch_size)
    return result


def describe_phases(phases: Mapping[str, Phases]) -> str:
    """Return measured phases as a table in plain text, with the device and the versions that they are of."""
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, threads: {torch.get_num_threads()}"
    so_far = "" if torch.cuda.is_available() else " of the process so far"
    lines = [f"{where}, torch {torch.__version__}; loading and transforms in one process"]
    for name, (milliseconds, batch_size, images, peak_mb) in phases.items():
        total = sum(milliseconds.values())
        lines.append(
            f"{name}: {total:.1f} ms per image, {1e3 / total:.1f} images per second "
            f"({images} images, {batch_size} at a time; peak memory{so_far} {peak_mb:.0f} MB)"
        )
        lines += [f"  {phase:<30}{value:9.2f} ms {value / total:6.1%}" for phase, value in milliseconds.items()]
    return "\n".join(lines)


def _shorten(cfg: Config, iterations: int, weights: str | None) -> None:
    """Let a config train that many iterations and nothing else, and test on its validation data."""
    cfg.load_from, cfg.resume = weights, False
    cfg.train_cfg = dict(by_epoch=False, max_iters=iterations)
    cfg.default_hooks.checkpoint = None
    cfg.default_hooks.logger = None
    cfg.custom_hooks = [hook for hook in cfg.get("custom_hooks") or [] if str(hook.type).endswith("EMAHook")]
    for part in ("cfg", "dataloader", "evaluator"):
        cfg[f"test_{part}"] = cfg.get(f"val_{part}")
        cfg[f"val_{part}"] = None  # the test is measured separately
    cfg.test_cfg = None if cfg.test_dataloader is None else {}
    for loader in filter(None, (cfg.train_dataloader, cfg.test_dataloader)):
        loader.num_workers = 0
    fit_loaders(cfg, ("train", "test"))
    cfg.train_dataloader.sampler = dict(type="InfiniteSampler", shuffle=True)
    cfg.param_scheduler = None
    cfg.log_level = "WARNING"


def _phases(timer: PhaseTimer, batch_size: int) -> Phases:
    seconds = dict(sorted(timer.seconds.items(), key=lambda item: item[0] == "other"))  # which comes last
    milliseconds = {name: value / timer.images * 1e3 for name, value in seconds.items()}
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_process_memory()
    return Phases(milliseconds, batch_size, timer.images, peak / 1e6)


def _watch_training(runner: Runner) -> PhaseTimer:
    timer = PhaseTimer()
    loader = runner.build_dataloader(runner._train_dataloader)
    runner._train_dataloader = _TimedLoader(loader, timer, warmups=_WARMUPS)
    _watch_model(runner.model, timer, "heads and losses")
    original = runner.build_optim_wrapper

    def build(wrapper: Any) -> Any:
        built = original(wrapper)
        timer.wrap(built, "backward", "backward")
        timer.wrap(built, "step", "optimizer")
        return built

    runner.build_optim_wrapper = build  # type: ignore[method-assign]
    return timer


def _watch_test(runner: Runner, iterations: int) -> PhaseTimer:
    timer = PhaseTimer()
    loop = runner.build_test_loop(runner._test_loop)
    runner._test_loop = loop
    runner.model.eval()
    with torch.no_grad():  # once without timing, as the first call allocates memory
        runner.model.test_step(next(iter(loop.dataloader)))
    loop.dataloader = _TimedLoader(loop.dataloader, timer, limit=iterations)
    _watch_model(runner.model, timer, "heads and post-processing")
    timer.wrap(loop.evaluator, "process", "evaluation: collecting")
    timer.wrap(loop.evaluator, "evaluate", "evaluation: metric")
    timer.reset()
    return timer


def _watch_model(model: Any, timer: PhaseTimer, rest: str) -> None:
    timer.wrap(model, "forward", rest)
    timer.wrap(model.data_preprocessor, "forward", "normalisation and batching")
    for part in ("backbone", "neck"):
        timer.wrap(getattr(model, part, None), "forward", part)


class _TimedLoader:
    """A data loader whose work is the phase ``loading``; where a data set has a pipeline, ``transforms`` is another."""

    def __init__(self, loader: DataLoader, timer: PhaseTimer, *, warmups: int = 0, limit: int | None = None) -> None:
        self.loader, self.timer, self.warmups, self.limit = loader, timer, warmups, limit
        for dataset in _leaves(loader.dataset):
            steps = getattr(getattr(dataset, "pipeline", None), "transforms", None)
            if steps is not None:
                dataset.pipeline.transforms = [_TimedStep(step, timer) for step in steps]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader) if self.limit is None else min(self.limit, len(self.loader))

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        for number in itertools.count():
            if number == self.limit:
                return
            if number == self.warmups:
                self.timer.reset()
            with self.timer.phase("loading"):
                batch = next(batches, None)
            if batch is None:
                return
            self.timer.images += len(batch["inputs"])
            yield batch


class _TimedStep:
    def __init__(self, step: Callable, timer: PhaseTimer) -> None:
        self.step, self.timer = step, timer
        self.name = "loading" if type(step).__name__.startswith("Load") else "transforms"

    def __call__(self, data: Any) -> Any:
        with self.timer.phase(self.name):
            return self.step(data)


def _leaves(dataset: Any) -> Iterator[Any]:
    """Walk through wrappers of data sets, such as those that repeat, concatenate or mix."""
    inner = getattr(dataset, "datasets", None) or getattr(dataset, "dataset", None)
    yield dataset
    if inner is not None:
        for part in inner if isinstance(inner, list) else [inner]:
            yield from _leaves(part)
