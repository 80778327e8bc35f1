"""Configs of dense models on ConvNeXt V2 against arXiv 2301.00808, appendices A.3 and A.4 (published.json).

The paper publishes sweeps, not choices: each value must lie in its sweep, and the docstring must say that it was chosen
here. OpenMMLab published the choices of a run of its own, which have a config too."""

import ast
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

import convnext_dense  # noqa: F401  (serves mmcv._ext, which mmdet imports)
from convnext_dense.description.published import read_published

ROOT = Path(__file__).parents[2]
PUBLISHED = read_published()
V2 = PUBLISHED["dense_v2"]
LEAVES = {
    facts["config"]: (arch, facts, V2[f"{method}_recipe"])
    for method in ("mask_rcnn", "upernet")
    for arch, facts in V2[method].items()
    if "config" in facts
}
DETECTORS = [leaf for leaf in LEAVES if "mask_rcnn" in leaf]
OPENMMLAB = V2["mask_rcnn_openmmlab"]
MAX_BODY_LINES = 25

each_leaf = pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: Path(leaf).stem)


def test_configs_and_published_models_are_the_same_set():
    found = {
        path.relative_to(ROOT).as_posix()
        for task in ("detection", "segmentation")
        for path in (ROOT / "configs" / task).rglob("v2/*.py")
    }
    assert found == {*LEAVES, OPENMMLAB["config"]}


@each_leaf
def test_backbone_is_v2_with_its_fine_tuned_weights(leaf):
    arch, _, _ = LEAVES[leaf]
    backbone = Config.fromfile(ROOT / leaf).model.backbone
    assert (backbone.arch, backbone.use_grn, backbone.layer_scale_init_value) == (arch, True, 0.0)
    assert backbone.output_norms == "all"
    assert backbone.init_cfg == {"type": "Pretrained", "checkpoint": V2["weights"][arch]}


@each_leaf
def test_values_lie_in_the_published_sweeps(leaf):
    _, _, recipe = LEAVES[leaf]
    cfg = Config.fromfile(ROOT / leaf)
    wrapper = cfg.optim_wrapper
    assert wrapper.optimizer.lr in recipe.get("lr_sweep", [recipe.get("lr")])
    assert wrapper.optimizer.weight_decay == recipe["wd"]
    assert wrapper.paramwise_cfg.decay_rate in recipe["layer_decay_sweep"]
    assert cfg.model.backbone.drop_path_rate in recipe["drop_path_sweep"]
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size == recipe["batch"]


@each_leaf
def test_heads_take_the_widths_of_the_backbone(leaf):
    arch, _, _ = LEAVES[leaf]
    channels = PUBLISHED["architectures_v2"][arch]["channels"]
    model = Config.fromfile(ROOT / leaf).model
    if leaf in DETECTORS:
        assert model.neck.in_channels == channels
    else:
        assert (model.decode_head.in_channels, model.auxiliary_head.in_channels) == (channels, channels[2])


@each_leaf
def test_leaf_is_short_and_names_its_command_source_and_choices(leaf):
    text = (ROOT / leaf).read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.rstrip().splitlines()) - tree.body[1].lineno + 1 <= MAX_BODY_LINES
    docstring = ast.get_docstring(tree)
    cfg = Config.fromfile(ROOT / leaf)
    for wanted in (
        f"tools/dist_train.sh {leaf} 8",
        f"8 GPUs x {cfg.train_dataloader.batch_size} images = {cfg.auto_scale_lr.base_batch_size}",
        f"Source: arXiv:2301.00808, Table {6 if leaf in DETECTORS else 7} (result",
        "Chosen here, within the published sweeps: ",
        f"decay rate {cfg.optim_wrapper.paramwise_cfg.decay_rate}",
        f"drop path {cfg.model.backbone.drop_path_rate}",
        "CC-BY-NC 4.0",
    ):
        assert wanted in docstring, f"the docstring lacks {wanted!r}"


def test_multi_scale_test_has_the_published_ratios():
    leaf = next(leaf for leaf in LEAVES if leaf not in DETECTORS)
    [resizes, *_] = Config.fromfile(ROOT / leaf).tta_pipeline[1].transforms
    assert [resize.scale[1] / 512 for resize in resizes] == V2["upernet_recipe"]["ms_ratios"]


def test_detectors_suppress_softly():
    for leaf in DETECTORS:
        assert Config.fromfile(ROOT / leaf).model.test_cfg.rcnn.nms.type == "soft_nms"


def test_large_scale_jitter_gives_images_of_1024_pixels(tmp_path):
    from mmcv.transforms import Compose
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), np.full((96, 128, 3), 255, np.uint8))
    polygon = [10.0, 10.0, 100.0, 10.0, 100.0, 80.0, 10.0, 80.0]
    instance = {"bbox": [10.0, 10.0, 100.0, 80.0], "bbox_label": 0, "mask": [polygon], "ignore_flag": 0}
    cfg = Config.fromfile(ROOT / DETECTORS[0])
    with DefaultScope.overwrite_default_scope("mmdet"):
        pipeline = Compose(cfg.train_dataloader.dataset.pipeline)
        preprocessor = MODELS.build(cfg.model.data_preprocessor)
        samples = []
        for seed in range(6):
            np.random.seed(seed)
            samples.append(pipeline({"img_path": str(image), "img_id": 0, "instances": [instance]}))
        samples = [sample for sample in samples if sample is not None]
        assert len({sample["inputs"].shape for sample in samples}) > 2, "sizes are drawn"
        # 1024 is the longer side at a factor of 1, and a crop is no larger
        assert all(max(sample["inputs"].shape[1:]) <= 1024 for sample in samples)
        batch = {key: [sample[key] for sample in samples[:2]] for key in ("inputs", "data_samples")}
        batch = preprocessor(batch, training=True)
    assert batch["inputs"].shape == (2, 3, 1024, 1024)
    assert batch["data_samples"][0].gt_instances.masks.masks.shape[1:] == (1024, 1024)


def test_config_of_openmmlabs_run_has_its_choices():
    leaf = OPENMMLAB["config"]
    cfg = Config.fromfile(ROOT / leaf)
    backbone, wrapper = cfg.model.backbone, cfg.optim_wrapper
    assert (backbone.arch, backbone.use_grn, backbone.layer_scale_init_value) == (OPENMMLAB["arch"], True, 0.0)
    assert backbone.drop_path_rate == OPENMMLAB["drop_path"]
    assert backbone.init_cfg == {"type": "Pretrained", "checkpoint": OPENMMLAB["weights"]}
    assert (wrapper.type, wrapper.optimizer.lr) == ("AmpOptimWrapper", OPENMMLAB["lr"])
    assert wrapper.optimizer.weight_decay == OPENMMLAB["wd"]
    assert wrapper.paramwise_cfg == dict(decay_rate=OPENMMLAB["layer_decay"], decay_type="layer_wise")
    warmup, steps = cfg.param_scheduler
    assert dict(iters=warmup.end, ratio=warmup.start_factor) == OPENMMLAB["warmup"]
    assert (steps.milestones, cfg.train_cfg.max_epochs) == (OPENMMLAB["lr_steps"], OPENMMLAB["epochs"])
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size == OPENMMLAB["batch"]
    assert cfg.model.test_cfg.rcnn.nms.type == OPENMMLAB["nms"]
    assert cfg.model.test_cfg.rpn.nms.type == "nms"
    assert cfg.model.data_preprocessor.batch_augments is None
    docstring = ast.get_docstring(ast.parse((ROOT / leaf).read_text(encoding="utf-8"))) or ""
    for wanted in (
        f"tools/dist_train.sh {leaf} 8",
        "8 GPUs x 4 images = 32",
        "https://github.com/open-mmlab/mmdetection/tree/v3.3.0/projects/ConvNeXt-V2",
        "CC-BY-NC 4.0",
    ):
        assert wanted in docstring


def test_crops_drawn_from_equal_bounds_are_the_same_under_both_names():
    """OpenMMLab's config crops with `absolute_range`, ours with `absolute`."""
    from mmdet.datasets.transforms import RandomCrop

    crops = [RandomCrop((1024, 1024), kind) for kind in ("absolute", "absolute_range")]
    for size in ((512, 2048), (1500, 1200), (300, 400)):
        assert len({crop._get_crop_size(size) for crop in crops}) == 1
