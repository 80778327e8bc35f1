"""Fits a config to the device that it runs on, and reports the changes."""

from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device

from convnext_dense.config.batch import moving_averages
from convnext_dense.config.datasets import config_dicts
from convnext_dense.config.optimizers import wrapper_configs
from convnext_dense.errors import UserError


def fit_to_device(cfg: Config, *, amp: bool = False) -> list[str]:
    """Change the parts of a config that the device, or a single process, cannot run.

    - Mixed precision on a CPU becomes full precision. On a GPU it runs in bfloat16 if the card supports it, else in
      float16 with dynamic loss scaling; a ``dtype`` in the config is kept.
    - Memory of images is pinned for a GPU alone.
    - Processes on CPUs communicate through gloo instead of nccl.
    - SyncBN, including mmcv's MMSyncBN, becomes BN in a single process (``launcher='none'``) or on a CPU; parameters
      keep their names.

    Args:
        cfg: Changed in place.
        amp: Whether to use mixed precision even if the config does not.

    Returns:
        One sentence per change.
    """
    device = get_device()
    changes = []
    for wrapper in wrapper_configs(cfg):
        if amp or wrapper.get("type") == "AmpOptimWrapper":
            changes += [change for change in [_fit_precision(wrapper, device)] if change not in changes]

    dist_cfg = cfg.get("env_cfg", {}).get("dist_cfg", {})
    if device == "cpu" and dist_cfg.get("backend") == "nccl":
        dist_cfg["backend"] = "gloo"
    if device == "cpu" and cfg.get("launcher", "none") != "none" and cfg.get("model_wrapper_cfg") is None:
        # mmengine passes a GPU index to the wrapper unless the config says otherwise.
        cfg.model_wrapper_cfg = dict(type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False)

    for loader in (cfg.get(f"{name}_dataloader") or {} for name in ("train", "val", "test")):
        if device == "cpu" and loader.get("pin_memory"):
            loader["pin_memory"] = False  # which is for copies to a GPU; torch would warn

    if device == "cpu" and cfg.get("strategy") is not None:
        cfg.strategy.setdefault("model_wrapper", {}).setdefault("device_id", "cpu")

    if cfg.get("launcher", "none") == "none" or device == "cpu":
        norms = [node for node in config_dicts(cfg.model) if node.get("type") in {"SyncBN", "MMSyncBN"}]
        for norm in norms:
            norm["type"] = "BN"
        if norms:
            why = "on a CPU" if device == "cpu" else "in a single process"
            changes.append(f"SyncBN runs as BN {why} ({len(norms)} places).")
    return changes


def fit_to_strategy(cfg: Config) -> list[str]:
    """Change what does not work with a ``strategy``, with which mmengine's FlexibleRunner is used.

    Args:
        cfg: Changed in place.

    Returns:
        One sentence per change.

    Raises:
        UserError: The config has a moving average.
    """
    if cfg.get("strategy") is None:
        return []
    if any(moving_averages(cfg)):
        raise UserError("strategy shards the model, which mmengine's EMAHook cannot copy: set custom_hooks=[].")
    if cfg.default_hooks.checkpoint.get("save_best") is None:
        return []
    # With save_best, FlexibleRunner rewrites an epoch's checkpoint under the next one's number, where resuming starts.
    cfg.default_hooks.checkpoint.save_best = None
    return ["The best checkpoint is not kept: save_best does not work with strategy."]


def _fit_precision(wrapper: Any, device: str) -> str:
    if device == "cpu":
        wrapper["type"] = "OptimWrapper"
        for key in ("dtype", "loss_scale", "use_fp64"):
            wrapper.pop(key, None)
        return "Mixed precision is off: there is no accelerator, training runs in float32."
    wrapper["type"] = "AmpOptimWrapper"
    if "dtype" not in wrapper:
        bfloat16 = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        wrapper["dtype"] = "bfloat16" if bfloat16 else "float16"
    if wrapper["dtype"] == "bfloat16":
        wrapper.pop("loss_scale", None)  # bfloat16 has float32's range: nothing to scale
    else:
        wrapper.setdefault("loss_scale", "dynamic")
    return f"Mixed precision: {wrapper['dtype']} on {device}."
