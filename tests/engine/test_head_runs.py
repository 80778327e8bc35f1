"""DINO, RTMDet and Mask2Former trained, interrupted, resumed, tested and fine-tuned on generated shapes, on a CPU.

The published configs, or the bases of models with the data and schedule of another config, made small by options only.
"""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from small_runs import LOADERS, SMALLEST_ARCH
from test_resuming import assert_same_end, log_of, signal_at, signals, train, train_together  # noqa: F401

from convnext_dense.checkpoints import read_checkpoint
from convnext_dense.data.shapes.coco import write_coco
from convnext_dense.engine import evaluate_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
SIDE = 64
SMALL = {**LOADERS, "model.backbone.arch": SMALLEST_ARCH, "model.backbone.init_cfg": None,
         "train_dataloader.batch_size": 2, "+randomness": dict(seed=0)}  # fmt: skip
SMALL_NECK = {"model.neck.in_channels": [16, 24, 32]}
PLAIN = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True)]
RESIZE = dict(type="Resize", scale=(SIDE, SIDE), keep_ratio=True)
DETR_STEPS = "train_dataloader.dataset.pipeline.3.transforms"
DINO = {
    **SMALL,
    **SMALL_NECK,
    "model.num_queries": 20,
    "model.test_cfg.max_per_img": 20,
    "model.encoder.num_layers": 1,
    "model.decoder.num_layers": 2,
    "model.dn_cfg.group_cfg.num_dn_queries": 8,
    f"{DETR_STEPS}.0.0.scales": [(SIDE, SIDE)],
    f"{DETR_STEPS}.1.0.scales": [(SIDE, SIDE)],
    f"{DETR_STEPS}.1.1.crop_size": (32, 48),
    f"{DETR_STEPS}.1.2.scales": [(SIDE, SIDE)],
    **{f"{split}_dataloader.dataset.pipeline.1.scale": (SIDE, SIDE) for split in ("val", "test")},
    "train_cfg.max_iters": 6,
    "train_cfg.val_interval": 6,
    "default_hooks.checkpoint.interval": 6,
    "param_scheduler.0.end": 6,
    "param_scheduler.0.milestones": [4],
}
SQUARE = (SIDE, SIDE)
STAGE_2 = [
    *PLAIN,
    dict(type="RandomResize", scale=SQUARE, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=SQUARE),
    dict(type="YOLOXHSVRandomAug"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="Pad", size=SQUARE, pad_val=dict(img=(114, 114, 114))),
    dict(type="PackDetInputs"),
]
EMA = dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.2, update_buffers=True, priority=49)


def rtmdet_hooks(*more):
    return [EMA, dict(type="PipelineSwitchHook", switch_epoch=1, switch_pipeline=STAGE_2), *more]


RTMDET = {
    **SMALL,
    **SMALL_NECK,
    "model.backbone.drop_path_rate": 0.3,
    "model.backbone.with_cp": False,
    **{f"model.{part}.norm_cfg.num_groups": 4 for part in ("neck", "bbox_head")},
    "model.neck.out_channels": 16,
    "model.neck.num_csp_blocks": 1,
    "model.bbox_head.in_channels": 16,
    "model.bbox_head.feat_channels": 16,
    "model.test_cfg.nms_pre": 100,
    "model.test_cfg.max_per_img": 20,
    **{f"train_dataloader.dataset.pipeline.{step}.img_scale": SQUARE for step in (2, 8)},
    "train_dataloader.dataset.pipeline.3.scale": (2 * SIDE, 2 * SIDE),
    "train_dataloader.dataset.pipeline.4.crop_size": SQUARE,
    "train_dataloader.dataset.pipeline.7.size": SQUARE,
    **{f"{split}_dataloader.dataset.pipeline.1.scale": SQUARE for split in ("val", "test")},
    **{f"{split}_dataloader.dataset.pipeline.2.size": SQUARE for split in ("val", "test")},
    "train_cfg.max_epochs": 2,
    "train_cfg.val_interval": 2,
    "train_cfg.dynamic_intervals": [(2, 2)],
    "param_scheduler": [dict(type="CosineAnnealingLR", T_max=2, end=2, convert_to_iter_based=True)],
    "custom_hooks": rtmdet_hooks(),
}
BOXES = [*PLAIN, RESIZE, dict(type="RandomFlip", prob=0.5), dict(type="PackDetInputs")]
MASKS = [PLAIN[0], dict(type="LoadAnnotations", with_bbox=True, with_mask=True), *BOXES[2:]]
ONE_EPOCH = {
    "train_cfg.max_epochs": 1,
    "train_cfg.val_interval": 1,
    "param_scheduler": [],
    **{f"{split}_dataloader.dataset.pipeline.1.scale": SQUARE for split in ("val", "test")},
}
ATTENTION = "model.panoptic_head.transformer_decoder.num_layers"
MODELS = {
    "retinanet": {**SMALL_NECK, "train_dataloader.dataset.pipeline": BOXES, "val_evaluator.metric": "bbox",
                  "test_evaluator.metric": "bbox"},
    "rtmdet_ins": {**SMALL_NECK, "train_dataloader.dataset.pipeline": MASKS, "model.test_cfg.max_per_img": 10},
    "mask2former": {
        "model.panoptic_head.in_channels": [8, 16, 24, 32],
        "model.panoptic_head.num_queries": 10,
        ATTENTION: 1,
        "model.panoptic_head.pixel_decoder.encoder.num_layers": 1,
        "model.train_cfg.num_points": 64,
        "model.test_cfg.max_per_image": 5,
        "train_dataloader.dataset.pipeline": MASKS,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    write_coco(root, 6, num_val=2, image_size=(64, 80), seed=0)
    return root


@pytest.fixture
def runs(folder):
    return {
        "dino": (CONFIGS / "detection/dino/dino_convnext_t_12e.py", DINO, folder),
        "rtmdet": (CONFIGS / "detection/rtmdet/rtmdet_l_convnext_b_100e.py", RTMDET, folder),
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folders = {}

    def get(name, run):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            train(run, folders[name])
        return folders[name]

    return get


@HOOKS.register_module(force=True)
class GradientsHook(Hook):
    """Ends a run in which a parameter had no gradient: AdamW keeps no state of it."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        without = [name for name, param in runner.model.named_parameters()
                   if param.requires_grad and param not in runner.optim_wrapper.optimizer.state]  # fmt: skip
        assert not without
        assert type(runner.train_dataloader.dataset.pipeline).__name__ == "NamedPipeline", "errors name no image"


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("dino", 3),
        ("rtmdet", 4),  # after the pipeline was switched: what caches images starts with an empty cache
    ],
)
def test_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(runs, whole, name, at, tmp_path):
    run = runs[name]
    undisturbed = whole(name, run)
    hooks = rtmdet_hooks(signal_at(at)) if name == "rtmdet" else [signal_at(at)]
    key = "custom_hooks" if name == "rtmdet" else "+custom_hooks"
    with pytest.raises(SystemExit) as left:
        train(run, tmp_path / "run", {key: hooks})
    assert left.value.code == 75
    assert read_checkpoint((tmp_path / "run/last_checkpoint").read_text())["meta"]["iter"] == at + 1
    torch.rand(3)  # change the state of the generator
    train(run, tmp_path / "run", {"train_dataloader.num_workers": 2}, resume="auto")
    assert_same_end(undisturbed, tmp_path / "run")
    if name == "rtmdet":
        assert "Switch pipeline now!" in log_of(tmp_path / "run")


@pytest.mark.parametrize("name", ["dino", "rtmdet"])
def test_checkpoint_is_tested_by_its_written_config(runs, whole, name, tmp_path):
    run = runs[name]
    work_dir = whole(name, run)
    written = next(path for path in work_dir.glob("*.py"))
    metrics = evaluate_model(written, (work_dir / "last_checkpoint").read_text(), work_dir=str(tmp_path))
    assert 0 <= metrics["coco/bbox_mAP"] <= 1
    head = Config.fromfile(written).model.bbox_head
    assert head.num_classes == 6
    weights = read_checkpoint((work_dir / "last_checkpoint").read_text())["state_dict"]
    if name == "dino":
        assert weights["dn_query_generator.label_embedding.weight"].shape[0] == 6


@pytest.mark.parametrize("name", ["dino", "rtmdet"])
def test_two_processes_leave_no_parameter_unused(runs, name, tmp_path):
    """torch's DistributedDataParallel raises an error in the second iteration otherwise."""
    run = runs[name]
    gradients = dict(type="GradientsHook")
    hooks = {"custom_hooks": rtmdet_hooks(gradients)} if name == "rtmdet" else {"+custom_hooks": [gradients]}
    length = {"train_cfg.max_epochs": 1} if name == "rtmdet" else {"train_cfg.max_iters": 3}
    codes, said = train_together(run, tmp_path, {**hooks, **length, "train_dataloader.batch_size": 1})
    assert codes == [0, 0], said


@pytest.mark.parametrize("name", ["dino", "rtmdet"])
def test_rows_of_shared_classes_start_from_a_detector_with_other_classes(runs, whole, name, tmp_path, capfd):
    """The classes of a checkpoint are renamed: two are known, under other numbers, and four are new."""
    run = runs[name]
    content = read_checkpoint((whole(name, run) / "last_checkpoint").read_text())
    before = content["state_dict"]
    names = content["meta"]["dataset_meta"]["classes"]
    renamed = ["x", names[0], "y", names[3], "z", "w"]
    meta = dict(dataset_meta=dict(classes=renamed))
    torch.save(dict(state_dict=before, meta=meta), tmp_path / "other.pth")
    frozen = {"optim_wrapper.optimizer.lr": 0.0}  # the weights at the end are those at the start
    hooks = {"custom_hooks": []} if name == "rtmdet" else {}
    train(run, tmp_path / "run", {**frozen, **hooks}, init_from=str(tmp_path / "other.pth"))
    after = read_checkpoint((tmp_path / "run/last_checkpoint").read_text())["state_dict"]
    rows = [
        key for key in after if re.search(r"cls_branches\.\d\.weight|label_embedding\.weight|rtm_cls\.\d\.weight", key)
    ]
    assert len(rows) == (4 if name == "dino" else 3)
    for key in rows:
        assert torch.equal(after[key][[0, 3]], before[key][[1, 3]]), key
        assert not torch.equal(after[key][1], before[key][1]), key
    assert "2 of 6 classes start from their rows:" in capfd.readouterr().out


@pytest.mark.parametrize("name", sorted(MODELS))
def test_base_of_a_model_trains_and_tests(name, folder, tmp_path):
    """As somebody's own config would use it: with COCO's data and the schedule of Mask R-CNN."""
    bases = [f"models/{name}_convnext.py", "datasets/coco_instance.py", "schedules/adamw_3x.py"]
    config = tmp_path / f"{name}.py"
    paths = [str(CONFIGS / "_base_" / base) for base in bases]
    rates = "optim_wrapper = dict(optimizer=dict(lr=1e-4), paramwise_cfg=dict(decay_rate=0.9))"
    config.write_text(f"_base_ = {paths}\n{rates}\n")
    options = {**SMALL, **ONE_EPOCH, **MODELS[name], "+custom_hooks": [dict(type="GradientsHook")]}
    options.pop("model.backbone.init_cfg")
    if name == "rtmdet_ins":
        options |= {f"model.{part}.norm_cfg.num_groups": 4 for part in ("neck", "bbox_head")}
    train((config, options, folder), tmp_path / "run")
    checkpoint = (tmp_path / "run/last_checkpoint").read_text()
    metrics = evaluate_model(tmp_path / "run" / config.name, checkpoint, work_dir=str(tmp_path / "test"))
    wanted = {"coco/bbox_mAP"} if name == "retinanet" else {"coco/bbox_mAP", "coco/segm_mAP"}
    assert wanted <= set(metrics)
