"""Say in a few lines what is trained or tested, on what, and where it goes."""

import os
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from torch.distributed.fsdp import FullyShardedDataParallel

from convnext_dense.engine.console import end_building
from convnext_dense.registry import HOOKS


@HOOKS.register_module()
class SummaryHook(Hook):
    """Logs what a run is about when everything is built; from then on its log reaches standard output."""

    priority = "VERY_LOW"

    def before_train(self, runner: Any) -> None:
        """Describe a training."""
        loaders = {"training": runner.train_dataloader}
        if runner.val_loop is not None:
            loaders["validation"] = runner.val_dataloader
        _describe(runner, "Training", loaders)
        if runner.iter:
            runner.logger.info(f"The run goes on after iteration {runner.iter} of {runner.max_iters}.")

    def before_test(self, runner: Any) -> None:
        """Describe a test."""
        _describe(runner, "Testing", {"test": runner.test_dataloader})


def _describe(runner: Any, what: str, loaders: dict[str, Any]) -> None:
    runner.logger.info(f"{what} {_model(runner)}.")
    runner.logger.info(f"Data: {_data(loaders)}.")
    runner.logger.info(f"Work dir: {_from_here(runner.work_dir)}")
    runner.logger.info(f"Log, with environment and config: {_from_here(runner.logger.log_file)}")
    end_building(runner.logger)


def _from_here(path: str) -> str:
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path


def _model(runner: Any) -> str:
    """Return the model's class, its backbone's, and the number of parameters."""
    modules = dict(runner.model.named_modules())
    place = next((name for name in modules if name.rpartition(".")[2] == "backbone"), None)
    model = modules["" if place is None else place.rpartition(".")[0]]
    kind = type(model).__name__
    if place is not None:
        arch = ((runner.cfg.get("model") or {}).get("backbone") or {}).get("arch")
        kind += f" on {type(modules[place]).__name__}{f' ({arch})' if isinstance(arch, str) else ''}"
    if isinstance(runner.model, FullyShardedDataParallel):  # each process has a part of them
        return kind
    parameters = list(runner.model.parameters())
    number = sum(parameter.numel() for parameter in parameters)
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    fixed = f", {_count(trained)} of them learnt" if trained < number else ""
    return f"{kind}, {_count(number)} parameters{fixed}"


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} million" if number >= 1e6 else f"{number:,}"


def _data(loaders: dict[str, Any]) -> str:
    """Return the numbers of images and of classes."""
    counts = [
        f"{f'{len(loader.dataset)} ' if hasattr(loader.dataset, '__len__') else ''}{what}"
        for what, loader in loaders.items()
    ]
    dataset = next(iter(loaders.values())).dataset
    classes = (getattr(dataset, "metainfo", None) or {}).get("classes") or ()
    return f"{' and '.join(counts)} images{f', {len(classes)} classes' if classes else ''}"
