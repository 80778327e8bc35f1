"""Fits a config to the device that it runs on, and says what it changed."""

from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device

from convnext_dense.config.batch import moving_averages
from convnext_dense.config.datasets import config_dicts
from convnext_dense.config.optimizers import wrapper_configs
from convnext_dense.errors import UserError


def fit_to_device(cfg: Config, *, amp: bool = False) -> list[str]:
    """Change what the device, or a single process, cannot run.

    - Mixed precision on a CPU becomes full precision. On a GPU it runs in bfloat16 where the card has it, else in
      float16 with dynamic loss scaling; a ``dtype`` in the config is kept.
    - Processes on CPUs talk through gloo instead of nccl.
    - SyncBN, mmcv's MMSyncBN too, becomes BN where one process runs alone (``launcher='none'``) or on a CPU; parameter
      names are the same.

    Args:
        cfg: Changed in place.
        amp: Whether mixed precision is asked for besides what the config says.

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
        # mmengine hands the wrapper a GPU's number unless the config says otherwise.
        cfg.model_wrapper_cfg = dict(type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False)

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
    """Change what a config with a ``strategy``, which runs on mmengine's FlexibleRunner, cannot have.

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
    # FlexibleRunner then writes the checkpoint of an epoch again with the number of the next, where a resume begins.
    cfg.default_hooks.checkpoint.save_best = None
    return ["The best checkpoint is not kept apart: save_best does not go with strategy."]


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
