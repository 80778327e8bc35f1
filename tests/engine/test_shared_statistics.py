"""BatchNorm in two processes: they validate one model, and it is the one that is saved."""

from pathlib import Path

import pytest
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from record_losses import launch
from small_runs import LOADERS, SMALLEST_ARCH

from convnext_dense.checkpoints import read_checkpoint

CONFIG = Path(__file__).parents[2] / "configs/demo/upernet_convnext_atto_shapes.py"


@HOOKS.register_module(force=True)
class KeepValidatedHook(Hook):
    """Keeps the model of each process when it is validated, and after the first iteration, before it is saved."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 0:
            torch.save(runner.model.module.state_dict(), self.folder / f"trained_{get_rank()}.pth")

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        torch.save(runner.model.module.state_dict(), self.folder / f"validated_{get_rank()}.pth")


@pytest.mark.parametrize("hooks", [[], [dict(type="EMAHook", momentum=0.5, update_buffers=True)]], ids=["own", "EMA"])
def test_two_processes_validate_and_save_the_same_statistics(hooks, ade_folder, tmp_path):
    options = {
        **LOADERS,
        "model.backbone.arch": SMALLEST_ARCH,
        "model.decode_head.in_channels": [8, 16, 24, 32],
        "model.auxiliary_head.in_channels": 24,
        "train_dataloader.batch_size": 2,
        "train_cfg.max_iters": 2,
        "train_cfg.val_interval": 2,
        "default_hooks.checkpoint.interval": 1,
        "default_hooks.checkpoint.max_keep_ckpts": 2,
        "+custom_hooks": [*hooks, dict(type="KeepValidatedHook", folder=str(tmp_path))],
    }
    run = dict(config=str(CONFIG), options=options, data=str(ade_folder), work_dir=str(tmp_path / "run"))
    launch([dict(run, out=str(tmp_path / "losses.json"))], tmp_path)
    saved = read_checkpoint(tmp_path / "run" / "iter_2.pth")["state_dict"]
    first, second = (torch.load(tmp_path / f"validated_{rank}.pth") for rank in range(2))
    statistics = [name for name in saved if name.endswith(("running_mean", "running_var"))]
    assert len(statistics) > 10
    for name in statistics:
        assert torch.equal(first[name], second[name]), name
        assert torch.equal(first[name], saved[name]), name
    if not hooks:  # otherwise the average of the weights is saved
        first, second = (torch.load(tmp_path / f"trained_{rank}.pth") for rank in range(2))
        saved = read_checkpoint(tmp_path / "run" / "iter_1.pth")["state_dict"]
        for name in statistics:
            assert torch.allclose(saved[name], (first[name] + second[name]) / 2, atol=1e-6), name
            assert not torch.equal(first[name], second[name]), name
