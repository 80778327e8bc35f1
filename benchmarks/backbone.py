"""Compares the backbone with its peers: forward, forward and backward, and with the optimizer."""

import copy
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers import OFFICIAL_ORDER, OURS, build_backbones
from benchmarks.timing import measure_in_turns, saved_megabytes
from convnext_dense.errors import UserError

MODES = ("forward", "training", "optimizer")
PRECISIONS = ("float32", "tf32", "autocast", "bfloat16")
# Eager; compiled by Inductor; compiled with CUDA graphs, which leave the host almost nothing to do.
KINDS = ("eager", "compiled", "graphed")
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
# Our error against float64 may exceed that of the worst peer by a quarter, to allow for chance.
TOLERANCE = 1.25


def measure_backbones(
    arch: str,
    size: tuple[int, int, int],
    *,
    device: str,
    precision: str,
    modes: Iterable[str],
    peers: list[str] | None,
    kinds: Iterable[str],
    rounds: int,
    warmups: int,
) -> dict[str, Any]:
    """Compare outputs and gradients with float64, then measure every backbone in both layouts.

    Args:
        arch: Size of the backbone.
        size: N, H, W.
        device: ``'cpu'`` or ``'cuda'``.
        precision: One of ``PRECISIONS``: float32 throughout, float32 with products in TF32, autocast to bfloat16, or
            bfloat16 throughout.
        modes: From ``MODES``.
        peers: Names; see ``build_backbones``.
        kinds: From ``KINDS``.
        rounds: See ``measure_in_turns``.
        warmups: See ``measure_in_turns``.

    Raises:
        UserError: Ours is further from float64 than the peers are.
    """
    models = {name: model.to(device).train() for name, model in build_backbones(arch, peers).items()}
    images, height, width = size
    x_nchw = torch.randn(images, 3, height, width, generator=torch.Generator().manual_seed(0)).to(device)
    errors = compare_with_float64(models, x_nchw, precision)
    if precision == "bfloat16":
        x_nchw = x_nchw.bfloat16()
        models = {name: model.bfloat16() for name, model in models.items()}
    saved = {
        name: saved_megabytes(lambda model=model: _forward(model, x_nchw, precision), model)
        for name, model in models.items()
    }
    times = {}
    for mode in modes:
        ways = ways_of(models, x_nchw, precision=precision, mode=mode, kinds=kinds)
        times[mode] = measure_in_turns(ways, device=device, rounds=rounds, warmups=warmups)
    return {
        "task": "backbone", "arch": arch, "size": list(size), "precision": precision,
        "relative_error_to_float64": errors, "saved_activations_mb": saved, "times": times,
    }  # fmt: skip


def compare_with_float64(models: dict[str, nn.Module], x_nchw: Tensor, precision: str) -> dict[str, dict[str, float]]:
    """Return the relative errors of the four maps and the image's gradient against the official order in float64.

    Raises:
        UserError: Ours is further from float64 than the peers are.
    """
    exact_model = copy.deepcopy(models.get(OFFICIAL_ORDER, models[OURS])).double()
    exact = _results(exact_model, x_nchw.double(), "float32")
    errors = {}
    for name, model in models.items():
        candidate = copy.deepcopy(model).bfloat16() if precision == "bfloat16" else model
        given = x_nchw.bfloat16() if precision == "bfloat16" else x_nchw
        results = _results(candidate, given, precision)
        relative = [
            float((mine.double() - true).norm() / true.norm()) for mine, true in zip(results, exact, strict=True)
        ]
        errors[name] = {"maps": max(relative[:-1]), "image_gradient": relative[-1]}
    for kind in ("maps", "image_gradient"):
        others = [error[kind] for name, error in errors.items() if name != OURS]
        if others and errors[OURS][kind] > TOLERANCE * max(others):
            raise UserError(
                f"The error of {OURS}'s {kind} to float64 is {errors[OURS][kind]:.2e}, the peers' {others}."
            )
    return errors


def _results(model: nn.Module, x_nchw: Tensor, precision: str) -> list[Tensor]:
    x_nchw = x_nchw.clone().requires_grad_()
    maps = _forward(model, x_nchw, precision)
    _loss(maps).backward()
    model.zero_grad()
    assert x_nchw.grad is not None
    return [*(feature.detach() for feature in maps), x_nchw.grad]


def ways_of(
    models: dict[str, nn.Module], x_nchw: Tensor, *, precision: str, mode: str, kinds: Iterable[str]
) -> dict[str, Callable[[], object]]:
    """Return every model in both layouts and all kinds as functions without arguments, by "model, layout, kind"."""
    ways = {}
    # Models share functions, by which compiled graphs are cached: after eight, torch would silently run them eagerly.
    torch._dynamo.reset()
    limit = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"  # torch 2.6
    setattr(torch._dynamo.config, limit, 64)
    for name, model in models.items():
        parameters = list(model.parameters())
        optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=True) if mode == "optimizer" else None
        for layout, memory_format in LAYOUTS.items():
            given = x_nchw.detach().contiguous(memory_format=memory_format).requires_grad_(x_nchw.requires_grad)
            for kind in kinds:
                run = _as_kind(model, kind)
                way = _Way(run, given, precision=precision, mode=mode, optimizer=optimizer, parameters=parameters)
                ways[f"{name}, {layout}, {kind}"] = way
    return ways


def _as_kind(model: nn.Module, kind: str) -> Callable[[Tensor], Any]:
    if kind == "eager":
        return model
    return torch.compile(model, mode="reduce-overhead" if kind == "graphed" else "default")


class _Way:
    def __init__(
        self,
        model: Callable[[Tensor], Any],
        x_nchw: Tensor,
        *,
        precision: str,
        mode: str,
        optimizer: torch.optim.Optimizer | None,
        parameters: list[nn.Parameter],
    ) -> None:
        self.model, self.x_nchw, self.precision, self.mode, self.optimizer = model, x_nchw, precision, mode, optimizer
        self.parameters = parameters
        self.grads: list[Tensor] = []

    def __call__(self) -> None:
        torch.compiler.cudagraph_mark_step_begin()
        if self.mode == "forward":
            with torch.no_grad():
                _forward(self.model, self.x_nchw, self.precision)
            return
        for param in self.parameters:
            param.grad = None
        self.x_nchw.grad = None
        maps = _forward(self.model, self.x_nchw, self.precision)
        maps = [maps] if isinstance(maps, Tensor) else list(maps)
        if not self.grads:  # in the layout of each model's maps
            self.grads = [torch.randn_like(feature) for feature in maps]
        torch.autograd.backward(maps, self.grads)
        if self.optimizer is not None:
            self.optimizer.step()


def _forward(model: Callable[[Tensor], Any], x_nchw: Tensor, precision: str) -> Any:
    context: AbstractContextManager = nullcontext()
    if precision == "autocast":
        context = torch.autocast(x_nchw.device.type, torch.bfloat16)
    with context:
        return model(x_nchw)


def _loss(maps: list[Tensor]) -> Tensor:
    """Weight every channel and column differently, because a plain mean would vanish in a norm."""
    total = maps[0].new_zeros((), dtype=torch.promote_types(maps[0].dtype, torch.float32))
    for feature in maps:
        channels = torch.linspace(-1, 1, feature.shape[1], device=feature.device, dtype=feature.dtype)[:, None, None]
        columns = torch.linspace(1, 2, feature.shape[3], device=feature.device, dtype=feature.dtype)
        total = total + (feature * channels * columns).mean()
    return total
