"""Train, resume, average and distribute the classifier, on the CPU."""

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import HOOKS
from PIL import Image
from record_losses import launch, record_losses
from small_runs import SMALLEST_ARCH

from convnext_dense.checkpoints import read_checkpoint
from convnext_dense.config.batch import accumulate_to_effective_batch
from convnext_dense.engine import evaluate_model
from convnext_dense.engine import train_model as train
from convnext_dense.inference import predict

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/demo/pretrain_convnext_atto_shapes.py"
NUM_TRAIN = 80

SMALL = {
    "model.backbone.arch": SMALLEST_ARCH,
    "train_dataloader.batch_size": 4,
    "effective_batch": 4,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "train_dataloader.dataset.transform.input_size": 32,
    "val_dataloader.num_workers": 0,
    "val_dataloader.persistent_workers": False,
    "val_dataloader.dataset.transform.input_size": 32,
    "test_dataloader.num_workers": 0,
    "test_dataloader.persistent_workers": False,
    "test_dataloader.dataset.transform.input_size": 32,
    "train_cfg.max_epochs": 1,
    "train_cfg.val_interval": 1,
    "param_scheduler": [],
}
# The same images in every epoch, and only whole steps.
EXACT = {
    **SMALL,
    "effective_batch": 16,
    "train_dataloader.dataset.transform": dict(input_size=32, is_training=False, crop_pct=1.0),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of noise, bright and dark."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in (("train", NUM_TRAIN), ("val", 8)):
        for number in range(count):
            name = ("bright", "dark")[number % 2]
            (root / split / name).mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 128, (40, 40, 3)) + 128 * (name == "bright")
            Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{number:03d}.png")
    return root


def train_model(config, options, **kwargs):
    train(config, deepcopy(options), **kwargs)  # mmengine removes _delete_ from them


def losses_of(folder, out, options, config=CONFIG, **kwargs):
    record_losses(out, str(config), deepcopy(options), data=str(folder), work_dir=str(out.with_suffix("")), **kwargs)
    return json.loads(out.read_text())


def test_losses_after_kill_and_resume_are_those_of_an_uninterrupted_run(folder, tmp_path):
    """With everything random: order, augmentation, mixing, drop path."""
    options = {
        **SMALL,
        "train_cfg.max_epochs": 2,
        "model.mixup": dict(_delete_=True, mixup_alpha=0.8, cutmix_alpha=1.0),
        "+model.backbone.drop_path_rate": 0.5,
        "+train_dataloader.dataset.transform.auto_augment": "rand-m9-mstd0.5-inc1",
        "+custom_hooks": [dict(type="EMAHook", momentum=0.1)],
    }
    whole = losses_of(folder, tmp_path / "whole.json", options)
    MMLogger._instance_dict.clear()
    losses_of(folder, tmp_path / "run.json", {**options, "train_cfg.max_epochs": 1})
    MMLogger._instance_dict.clear()
    torch.rand(7)  # change the state of the generator
    np.random.rand(7)
    more_workers = {"train_dataloader.num_workers": 1}
    resumed = losses_of(folder, tmp_path / "run.json", {**options, **more_workers}, resume="auto")
    assert len(whole) == 40
    assert resumed == whole[20:]
    ends = [read_checkpoint(tmp_path / name / "epoch_2.pth") for name in ("whole", "run")]
    for key in ("state_dict", "ema_state_dict"):
        for name, tensor in ends[0][key].items():
            assert torch.equal(tensor, ends[1][key][name]), f"{key}: {name}"


@pytest.mark.parametrize("batch_size", [4, 8])
def test_accumulated_batches_take_the_steps_of_one_large_batch(folder, tmp_path, batch_size):
    whole = losses_of(folder, tmp_path / "whole.json", {**EXACT, "train_dataloader.batch_size": 16})
    MMLogger._instance_dict.clear()
    parts = losses_of(folder, tmp_path / "parts.json", {**EXACT, "train_dataloader.batch_size": batch_size})
    steps = np.reshape(parts, (-1, 16 // batch_size)).mean(axis=1)
    assert len(whole) == 5
    assert steps == pytest.approx(whole, abs=1e-4)
    assert abs(whole[0] - whole[4]) > 0.01, "nothing was learned: the comparison says nothing"


@HOOKS.register_module(force=True)
class KeepWeightsHook(Hook):
    """Keeps the weights after every iteration, for the test below."""

    kept: list = []  # noqa: RUF012

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.kept.append(runner.model.head.weight.detach().clone())


def test_moving_average_is_evaluated_saved_and_follows_steps(folder, tmp_path):
    KeepWeightsHook.kept.clear()
    options = {
        **SMALL,
        "effective_batch": 8,  # two batches per step
        "optim_wrapper.optimizer.lr": 1e-2,
        "+custom_hooks": [dict(type="EMAHook", momentum=0.25), dict(type="KeepWeightsHook")],
    }
    train_model(CONFIG, options, data=str(folder), work_dir=str(tmp_path))
    content = read_checkpoint(tmp_path / "epoch_1.pth")
    weights = KeepWeightsHook.kept
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[0], weights[1])
    average = weights[0]
    for step in weights[2::2]:  # the batch after each step
        average = 0.75 * average + 0.25 * step
    assert torch.allclose(content["state_dict"]["head.weight"], average, atol=1e-6)
    assert torch.equal(content["ema_state_dict"]["module.head.weight"], weights[-1])

    log = next(tmp_path.glob("*/vis_data/scalars.json")).read_text().splitlines()
    reported = json.loads(log[-1])["accuracy/top1"]
    MMLogger._instance_dict.clear()
    file = str(tmp_path / "epoch_1.pth")
    metrics = evaluate_model(CONFIG, file, deepcopy(SMALL), data=str(folder), work_dir=str(tmp_path / "test"))
    assert metrics["accuracy/top1"] == reported
    assert metrics["accuracy/top5"] == 1.0


def test_classes_are_in_the_checkpoint_and_predictions_name_them(folder, tmp_path):
    options = {**SMALL, "train_cfg.max_epochs": 3, "optim_wrapper.optimizer.lr": 3e-3}
    train_model(CONFIG, options, data=str(folder), work_dir=str(tmp_path))
    checkpoint = tmp_path / "epoch_3.pth"
    assert read_checkpoint(checkpoint)["meta"]["dataset_meta"]["classes"] == ("bright", "dark")
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(deepcopy(SMALL))
    images = [sorted((folder / "val" / name).iterdir())[0] for name in ("bright", "dark")]
    results = predict(cfg, checkpoint, images, device="cpu", batch_size=2)
    assert [result["names"][0] for result in results] == ["bright", "dark"]
    assert all(result["scores"].sum() == pytest.approx(1.0) for result in results)
    log = "\n".join(path.read_text() for path in tmp_path.glob("*/*.log"))
    assert "Effective batch 4 = 1 process x 4 x 1." in log
    assert f"Images of train: 2 classes in {folder / 'train'}." in log

    other = folder.parent / "others"
    for name in ("bright", "dim"):
        (other / "val" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(other / "val" / name / "1.png")
    with pytest.raises(ValueError, match=r"val/dim is not one of the 2 classes, which are 'bright', 'dark': rename it"):
        evaluate_model(CONFIG, str(checkpoint), deepcopy(SMALL), data=str(other), work_dir=str(tmp_path / "test"))


def test_backbone_starts_from_a_classifier_and_the_log_says_so_in_one_line(folder, tmp_path):
    train_model(CONFIG, SMALL, data=str(folder), work_dir=str(tmp_path / "first"))
    MMLogger._instance_dict.clear()
    checkpoint = tmp_path / "first" / "epoch_1.pth"
    start = {"model.backbone.init_cfg": dict(_delete_=True, type="Pretrained", checkpoint=str(checkpoint))}
    frozen = {"optim_wrapper.optimizer.lr": 0.0}
    train_model(CONFIG, {**SMALL, **start, **frozen}, data=str(folder), work_dir=str(tmp_path / "second"))
    before, after = (read_checkpoint(tmp_path / run / "epoch_1.pth")["state_dict"] for run in ("first", "second"))
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("backbone."))
    log = next((tmp_path / "second").glob("*/*.log")).read_text().splitlines()
    lines = [line for line in log if f"Loaded 52 of 52 tensors from {checkpoint}: " in line]
    assert len(lines) == 1
    assert "0 missing, 0 of another shape, 0 reshaped, 4 in the file are not used; layout official" in lines[0]


def test_corrupt_images_stop_the_run_from_within_a_worker(folder, tmp_path):
    options = {**SMALL, "train_dataloader.num_workers": 1, "train_dataloader.dataset.max_corrupt_rate": 0.01}
    broken = tmp_path / "images"
    for split in ("train", "val"):
        for path in (folder / split).rglob("*.png"):
            copy = broken / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes()[: 60 if split == "train" else None])
    with pytest.raises(ValueError, match=r"^Image .*\.png cannot be decoded .*1 of the 80 images of this epoch, more"):
        train_model(CONFIG, options, data=str(broken), work_dir=str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("launcher", "environment", "batch_size", "line"),
    [
        ("none", {}, 128, "Effective batch 4096 = 1 process x 128 x 32."),
        ("pytorch", {"WORLD_SIZE": "8"}, 128, "Effective batch 4096 = 8 processes x 128 x 4."),
        ("slurm", {"SLURM_NTASKS": "32"}, 128, "Effective batch 4096 = 32 processes x 128 x 1."),
    ],
)
def test_accumulation_follows_from_processes_and_batch(launcher, environment, batch_size, line, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    cfg = effective(4096, batch_size, launcher)
    assert accumulate_to_effective_batch(cfg) == [line]
    assert cfg.optim_wrapper.accumulative_counts == int(line.rstrip(".").split()[-1])


@pytest.mark.parametrize(("batch_size", "processes"), [(96, 1), (512, 16)])
def test_impossible_effective_batch_is_an_error_with_its_numbers(batch_size, processes, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    with pytest.raises(ValueError, match=rf"effective_batch=4096 cannot .* {processes} process(es)? x {batch_size} im"):
        accumulate_to_effective_batch(effective(4096, batch_size, "pytorch"))


def effective(effective_batch, batch_size, launcher):
    return Config(
        dict(
            effective_batch=effective_batch,
            launcher=launcher,
            train_dataloader=dict(batch_size=batch_size),
            optim_wrapper=dict(type="OptimWrapper"),
        )
    )


@pytest.mark.slow
@pytest.mark.skipif(torch.__version__ < "2.14", reason="FSDPStrategy on a CPU needs torch 2.14 or later")
def test_two_processes_train_like_one_with_and_without_sharding(folder, tmp_path):
    """The classifier in two processes, the same under FSDP, and resumed there."""
    alone = losses_of(folder, tmp_path / "alone.json", {**EXACT, "train_dataloader.batch_size": 16})
    halves = {**EXACT, "train_dataloader.batch_size": 8}
    policy = dict(type="torch.distributed.fsdp.wrap.size_based_auto_wrap_policy", min_num_params=1000)
    sharded = {
        **halves,
        "+strategy": dict(type="convnext_dense.FSDPStrategy", model_wrapper=dict(auto_wrap_policy=policy)),
    }
    longer = {"train_cfg.max_epochs": 2, "default_hooks.checkpoint.max_keep_ckpts": 2}
    jobs = [
        job(tmp_path / "two.json", CONFIG, halves, folder),
        job(tmp_path / "sharded.json", CONFIG, sharded, folder),
        job(tmp_path / "resumed.json", CONFIG, {**sharded, **longer}, folder, resume="auto"),
    ]
    jobs[2]["work_dir"] = jobs[1]["work_dir"]
    two, shards, resumed = launch(jobs, tmp_path)
    assert len(alone) == 5
    assert two == pytest.approx(alone, abs=1e-4)
    assert shards == pytest.approx(alone, abs=1e-4)
    assert len(resumed) == 5
    assert max(resumed) < shards[0]

    ends = [read_checkpoint(tmp_path / name / "epoch_1.pth") for name in ("two", "sharded")]
    for name, tensor in ends[0]["state_dict"].items():
        assert torch.allclose(tensor, ends[1]["state_dict"][name], atol=1e-5), name
    # Decayed: the depthwise and two linear weights of four blocks, four convolutions between them, and the head.
    decays = {"two": decays_of(tmp_path / "two"), "sharded": decays_of(tmp_path / "sharded")}
    assert decays["two"] == decays["sharded"] == {"0": 56 - 17, "0.05": 17}


def test_sharding_refuses_a_moving_average(folder, tmp_path):
    options = {**SMALL, "+strategy": dict(type="convnext_dense.FSDPStrategy")}
    options["+custom_hooks"] = [dict(type="EMAHook")]
    with pytest.raises(ValueError, match=r"EMAHook cannot copy: set custom_hooks=\[\]"):
        train_model(CONFIG, options, data=str(folder), work_dir=str(tmp_path))


def decays_of(work_dir):
    """Number of tensors by weight decay, from the logged table of learning rates."""
    log = sorted(work_dir.glob("*/*.log"))[0].read_text().splitlines()
    start = next(number for number, line in enumerate(log) if line.startswith("layer  multiplier"))
    rows = [line.split() for line in log[start + 1 :]]
    rows = rows[: next(number for number, row in enumerate(rows) if not row or not row[0].isdigit())]
    decays = {row[3]: 0 for row in rows}
    for row in rows:
        decays[row[3]] += int(row[4])
    return decays


def job(out, config, options, folder, **kwargs):
    return dict(
        out=str(out),
        config=str(config),
        options=options,
        data=str(folder),
        work_dir=str(out.with_suffix("")),
        **kwargs,
    )
