"""What a device cannot run is changed, and the change is reported."""

import pytest
import torch
from mmengine.config import Config

from convnext_dense.config import device as device_module
from convnext_dense.config.device import fit_to_device


def make_config(**wrapper):
    return Config(
        dict(
            model=dict(
                head=dict(norm_cfg=dict(type="SyncBN", requires_grad=True)), parts=[dict(norm_cfg=dict(type="SyncBN"))]
            ),
            optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1.0), **wrapper),
            env_cfg=dict(dist_cfg=dict(backend="nccl")),
        )
    )


@pytest.fixture
def on(monkeypatch):
    def choose(device, bfloat16=True):
        monkeypatch.setattr(device_module, "get_device", lambda: device)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bfloat16)

    return choose


def test_mixed_precision_is_off_on_the_cpu(on):
    on("cpu")
    cfg = make_config(loss_scale="dynamic")
    cfg.optim_wrapper.type = "AmpOptimWrapper"
    changes = fit_to_device(cfg)
    assert cfg.optim_wrapper.type == "OptimWrapper"
    assert "loss_scale" not in cfg.optim_wrapper
    assert any("Mixed precision is off" in change for change in changes)


def test_card_with_bfloat16_gets_bfloat16_without_loss_scaling(on):
    on("cuda", bfloat16=True)
    cfg = make_config(loss_scale="dynamic")
    changes = fit_to_device(cfg, amp=True)
    assert cfg.optim_wrapper.type == "AmpOptimWrapper"
    assert cfg.optim_wrapper.dtype == "bfloat16"
    assert "loss_scale" not in cfg.optim_wrapper
    assert "Mixed precision: bfloat16 on cuda." in changes


def test_card_without_bfloat16_gets_float16_with_loss_scaling(on):
    on("cuda", bfloat16=False)
    cfg = make_config()
    fit_to_device(cfg, amp=True)
    assert (cfg.optim_wrapper.dtype, cfg.optim_wrapper.loss_scale) == ("float16", "dynamic")


def test_dtype_of_the_config_is_kept(on):
    on("cuda", bfloat16=True)
    cfg = make_config(dtype="float16", loss_scale=512.0)
    fit_to_device(cfg, amp=True)
    assert (cfg.optim_wrapper.dtype, cfg.optim_wrapper.loss_scale) == ("float16", 512.0)


def test_full_precision_stays_full_precision(on):
    on("cuda")
    cfg = make_config()
    fit_to_device(cfg)
    assert cfg.optim_wrapper.type == "OptimWrapper"


@pytest.mark.parametrize(
    ("device", "launcher", "norm"),
    [("cpu", "none", "BN"), ("cpu", "pytorch", "BN"), ("cuda", "none", "BN"), ("cuda", "pytorch", "SyncBN")],
)
def test_sync_bn_stays_only_where_processes_share_gpus(on, device, launcher, norm):
    on(device)
    cfg = make_config()
    cfg.launcher = launcher
    changes = fit_to_device(cfg)
    assert cfg.model.head.norm_cfg.type == cfg.model.parts[0].norm_cfg.type == norm
    assert any("2 places" in change for change in changes) == (norm == "BN")


def test_processes_on_cpus_communicate_through_gloo(on):
    on("cpu")
    cfg = make_config()
    cfg.launcher = "pytorch"
    fit_to_device(cfg)
    assert cfg.env_cfg.dist_cfg.backend == "gloo"


def test_mmcvs_own_sync_bn_becomes_bn_too(on):
    """MMSyncBN needs a process group when it is built."""
    on("cpu")
    cfg = make_config()
    cfg.model.parts[0].norm_cfg.type = "MMSyncBN"
    assert "SyncBN runs as BN on a CPU (2 places)." in fit_to_device(cfg)
    assert cfg.model.parts[0].norm_cfg.type == "BN"
