"""Every detection config against the published recipe and results.

Expected numbers come from `published.json`, where each carries its source: the official repository at a
pinned commit and the paper's Table 3. Models are built on the meta device, so that no weight is drawn or stored.
"""

import ast
import functools
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import METRICS, DefaultScope
from torch import device, nn

import convnext_dense  # noqa: F401  (serves mmcv._ext, which mmdet imports)
from convnext_dense.description.published import read_published

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*.py"))
PUBLISHED = read_published()
COMMON = PUBLISHED["coco"]["common"]
DETECTORS = {model["config"]: model for model in PUBLISHED["coco"]["models"].values()}
DETECTOR_TYPES = {"Mask R-CNN": "MaskRCNN", "Cascade Mask R-CNN": "CascadeRCNN"}
MAX_BODY_LINES = 25

each_leaf = pytest.mark.parametrize("leaf", sorted(DETECTORS), ids=lambda leaf: Path(leaf).stem)
each_cascade = pytest.mark.parametrize(
    "leaf",
    [leaf for leaf in sorted(DETECTORS) if DETECTORS[leaf]["losses"] == "cascade"],
    ids=lambda leaf: Path(leaf).stem,
)


@functools.cache
def load(leaf: str) -> Config:
    return Config.fromfile(ROOT / leaf)


@functools.cache
def build(leaf: str) -> nn.Module:
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    from mmdet.registry import MODELS

    with DefaultScope.overwrite_default_scope("mmdet"), device("meta"):
        return MODELS.build(load(leaf).model)


def published_losses(leaf: str) -> dict:
    """The losses of a leaf's method, with fractions such as "1/9" as numbers."""
    losses = PUBLISHED["coco"]["losses"][DETECTORS[leaf]["losses"]]
    rpn_bbox = losses["rpn_bbox"]
    return losses | {"rpn_bbox": rpn_bbox | {k: float(Fraction(v)) for k, v in rpn_bbox.items() if k == "beta"}}


def box_heads(leaf: str) -> list:
    """The box heads of a leaf, one per stage."""
    heads = load(leaf).model.roi_head.bbox_head
    return list(heads) if isinstance(heads, list) else [heads]


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def described_policy(transforms: list) -> list[dict]:
    """One augmentation policy of a config in the words of published.json."""
    steps = []
    for transform in transforms:
        if transform.type == "RandomChoiceResize":
            assert transform.keep_ratio, f"a resize of the policy distorts the image: {transform}"
            shorts, longs = zip(*transform.scales, strict=True)
            assert len(set(longs)) == 1, f"the long side has more than one bound: {transform.scales}"
            steps.append({"resize_short_side": list(shorts), "long_side_at_most": longs[0]})
        elif transform.type == "RandomCrop":
            assert transform.crop_type == "absolute_range", f"not a crop of a drawn size: {transform}"
            steps.append(
                {
                    "crop_side_range": list(transform.crop_size),
                    "allow_negative_crop": transform.allow_negative_crop,
                }
            )
        else:
            pytest.fail(f"the published policies have no {transform.type}")
    return steps


def test_configs_and_published_detectors_are_the_same_set():
    paths = [path for path in CONFIGS if path.parent.name == "detection" and "roadmap" not in path.name]
    leaves = {path.relative_to(ROOT).as_posix() for path in paths}
    assert leaves, "no leaf found under configs/detection"
    assert leaves - set(DETECTORS) == set(), "configs without a published model in published.json"
    assert set(DETECTORS) - leaves == set(), "published models without a config"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.relative_to(ROOT / "configs").as_posix())
def test_no_config_types_layers_by_hand_or_replaces_a_backbone(path):
    text = path.read_text(encoding="utf-8")
    for statement in ast.parse(text).body:
        # Encoders and decoders have a number of layers; learning-rate decay takes that of the backbone.
        if "num_layers" in (ast.get_source_segment(text, statement) or ""):
            name = statement.targets[0].id if isinstance(statement, ast.Assign) else "the file"
            assert name == "model", f"{path.name}: {name} has num_layers, which comes from the backbone"
    assert "::" not in text, f"{path.name}: configs are self-contained, without other packages' bases"
    if "roadmap" in path.as_posix():
        return  # the steps before ConvNeXt are another class, with other arguments
    values = [
        node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.keyword) and node.arg == "backbone"
    ]
    deleting = [value.lineno for value in values if any(kw.arg == "_delete_" for kw in value.keywords)]
    assert not deleting, f"{path.name}: a backbone is deleted on lines {deleting}; start from one of our bases"


@each_leaf
def test_leaf_is_short_and_names_its_command_and_source(leaf):
    text = (ROOT / leaf).read_text(encoding="utf-8")
    tree = ast.parse(text)
    docstring = ast.get_docstring(tree) or ""
    body_lines = len(text.rstrip().splitlines()) - tree.body[1].lineno + 1
    assert body_lines <= MAX_BODY_LINES, f"{body_lines} lines of body; a leaf is a difference"
    model = DETECTORS[leaf]
    for wanted in (
        f"tools/dist_train.sh {leaf} {COMMON['gpus']}",
        f"{COMMON['gpus']} GPUs x {COMMON['images_per_gpu']} images = {COMMON['batch_size']}",
        "https://github.com/facebookresearch/ConvNeXt/blob/048efcea",
        "Source: arXiv:2201.03545v2, Table 3 (results)",
    ):
        assert wanted in docstring, f"the docstring lacks {wanted!r}"
    official_config = model["source"].partition("configs/convnext/")[2].partition(";")[0]
    assert official_config in docstring, f"the docstring does not link to {official_config}"


@each_leaf
def test_backbone_is_the_published_one(leaf):
    model, backbone = DETECTORS[leaf], load(leaf).model.backbone
    assert backbone.type == "convnext_dense.ConvNeXt", "not our backbone"
    assert backbone.arch == model["arch"], "architecture"
    assert backbone.drop_path_rate == model["drop_path"], "drop path"
    assert backbone.layer_scale_init_value == COMMON["layer_scale_init"], "layer scale"
    assert backbone.output_norms == "all", "the paper's dense models normalise every output"
    weights = PUBLISHED["weights"]["urls"][model["weights"]]
    assert backbone.init_cfg == {"type": "Pretrained", "checkpoint": weights}, "weights"


@each_leaf
def test_pyramid_takes_the_widths_of_the_backbone(leaf):
    neck = load(leaf).model.neck
    channels = PUBLISHED["architectures"][DETECTORS[leaf]["arch"]]["channels"]
    assert neck.in_channels == channels, "the pyramid does not fit the backbone"
    assert {key: neck[key] for key in COMMON["fpn"]} == COMMON["fpn"], "pyramid"


@each_leaf
def test_optimizer_is_the_published_one(leaf):
    model, wrapper = DETECTORS[leaf], load(leaf).optim_wrapper
    optimizer = dict(wrapper.optimizer)
    assert optimizer.pop("lr") == model["lr"], "learning rate"
    optimizer["betas"] = list(optimizer["betas"])
    optimizer.pop("fused")  # how torch computes the step, not what
    assert optimizer == COMMON["optimizer"], "optimizer"
    assert wrapper.constructor == "convnext_dense.LayerDecayOptimWrapperConstructor", "constructor"
    paramwise = {"decay_rate": model["layer_decay"], "decay_type": COMMON["decay_type"]}
    assert wrapper.paramwise_cfg == paramwise, "layer decay"
    assert wrapper.get("clip_grad") == COMMON["grad_clip"], "gradient clipping"


@each_leaf
def test_mixed_precision_is_used_where_the_official_run_used_it(leaf):
    wanted = "AmpOptimWrapper" if DETECTORS[leaf]["fp16"] else "OptimWrapper"
    assert load(leaf).optim_wrapper.type == wanted, "precision"


@each_leaf
def test_learning_rates_fall_with_depth_as_published(leaf):
    """The number of layers, 6 or 12, is nowhere in the configs: this is where it shows."""
    model = DETECTORS[leaf]
    wrapper_cfg = load(leaf).optim_wrapper.copy()
    wrapper_cfg.type = "OptimWrapper"  # AmpOptimWrapper refuses to start without an accelerator
    with DefaultScope.overwrite_default_scope("mmdet"):
        groups = build_optim_wrapper(build(leaf), wrapper_cfg).optimizer.param_groups
    scales = sorted({round(group["lr"] / model["lr"], 6) for group in groups})
    assert scales == pytest.approx(sorted(model["lr_scales_by_id"]), abs=2e-6), "scales of the learning rate"


@each_leaf
def test_schedule_is_the_published_one(leaf):
    cfg = load(leaf)
    warmup, steps = cfg.param_scheduler
    assert cfg.train_cfg.max_epochs == COMMON["epochs"], "epochs"
    assert (steps.type, steps.by_epoch, steps.milestones) == ("MultiStepLR", True, COMMON["lr_steps"]), "steps"
    assert steps.gamma == COMMON["lr_gamma"], "factor of a step"
    assert steps.end == COMMON["epochs"], "the steps end before training does"
    assert (warmup.type, warmup.by_epoch, warmup.begin) == ("LinearLR", False, 0), "warm-up"
    assert warmup.end == COMMON["warmup"]["iters"], "warm-up iterations"
    assert warmup.start_factor == COMMON["warmup"]["ratio"], "warm-up ratio"


@each_leaf
def test_batch_is_sixteen_images_on_eight_gpus(leaf):
    cfg = load(leaf)
    assert cfg.train_dataloader.batch_size == COMMON["images_per_gpu"], "images per GPU"
    assert cfg.train_dataloader.batch_size * COMMON["gpus"] == COMMON["batch_size"], "images per step"
    assert cfg.auto_scale_lr == {"enable": False, "base_batch_size": COMMON["batch_size"]}, "batch that lr is for"


@each_leaf
def test_augmentation_is_the_two_published_policies(leaf):
    pipeline = load(leaf).train_dataloader.dataset.pipeline
    order = [transform.type for transform in pipeline]
    assert order == ["LoadImageFromFile", "LoadAnnotations", "RandomFlip", "RandomChoice", "PackDetInputs"], (
        "order of transforms"
    )
    assert pipeline[2].prob == COMMON["flip_probability"], "flip"
    assert "prob" not in pipeline[3], "the policies are equally likely"
    policies = [described_policy(policy) for policy in pipeline[3].transforms]
    assert policies == COMMON["augmentation_policies"], "augmentation policies"


@each_leaf
def test_images_are_filtered_padded_and_tested_as_published(leaf):
    cfg = load(leaf)
    wanted_filter = {key: value for key, value in COMMON["train_filter"].items() if key != "source"}
    assert cfg.train_dataloader.dataset.filter_cfg == wanted_filter, "training images left out"
    for name in ("val_dataloader", "test_dataloader"):
        resizes = [step for step in cfg[name].dataset.pipeline if step.type == "Resize"]
        assert [list(step.scale) for step in resizes] == [COMMON["test_scale"]], f"{name}: test scale"
        assert all(step.keep_ratio for step in resizes), f"{name}: the image is distorted"
    preprocessor = cfg.model.data_preprocessor
    assert preprocessor.pad_size_divisor == COMMON["pad_divisor"], "padding"
    assert preprocessor.bgr_to_rgb, "the weights were trained on RGB"


@each_leaf
def test_evaluation_reports_boxes_and_masks_and_keeps_the_best(leaf):
    cfg = load(leaf)
    for evaluator, dataloader in (("val_evaluator", "val_dataloader"), ("test_evaluator", "test_dataloader")):
        dataset = cfg[dataloader].dataset
        assert cfg[evaluator].type == "convnext_dense.CocoMetric", f"{evaluator}: not our metric"
        assert METRICS.get(cfg[evaluator].type) is not None, f"{cfg[evaluator].type} is not registered"
        assert cfg[evaluator].metric == ["bbox", "segm"], f"{evaluator}: kinds of AP"
        assert cfg[evaluator].ann_file == dataset.data_root + dataset.ann_file, f"{evaluator} reads other annotations"
    assert cfg.default_hooks.checkpoint.save_best == "coco/bbox_mAP", "the key under which CocoMetric reports box AP"


@each_leaf
def test_losses_are_the_published_ones(leaf):
    cfg, losses = load(leaf).model, published_losses(leaf)
    assert cfg.type == DETECTOR_TYPES[DETECTORS[leaf]["method"]], "detector"
    assert cfg.rpn_head.loss_cls == losses["rpn_cls"], "RPN classification"
    assert cfg.rpn_head.loss_bbox == losses["rpn_bbox"], "RPN boxes"
    for stage, head in enumerate(box_heads(leaf)):
        assert head.loss_cls == losses["bbox_cls"], f"box head {stage}: classification"
        assert head.loss_bbox == losses["bbox_reg"], f"box head {stage}: boxes"
        assert {key: head.get(key) for key in losses["bbox_head"]} == losses["bbox_head"], f"box head {stage}"
    assert cfg.roi_head.mask_head.loss_mask == losses["mask"], "masks"


@each_cascade
def test_cascade_stages_have_the_published_weights_thresholds_and_deviations(leaf):
    cfg, losses = load(leaf).model, published_losses(leaf)
    assert cfg.roi_head.num_stages == len(losses["iou_thr"]), "number of stages"
    assert cfg.roi_head.stage_loss_weights == losses["stage_loss_weights"], "stage weights"
    assert [head.bbox_coder.target_stds for head in box_heads(leaf)] == losses["target_stds"], (
        "deviations of box targets"
    )
    for key in ("pos_iou_thr", "neg_iou_thr", "min_pos_iou"):
        assert [stage.assigner[key] for stage in cfg.train_cfg.rcnn] == losses["iou_thr"], key


@each_leaf
def test_only_cascade_box_heads_are_normalised(leaf):
    norms = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
    detector = build(leaf)
    normalised = {
        name
        for part in ("neck", "rpn_head", "roi_head")
        for name, module in getattr(detector, part).named_modules(prefix=part)
        if isinstance(module, norms)
    }
    losses = published_losses(leaf)
    wanted = {
        f"roi_head.bbox_head.{stage}.shared_convs.{conv}.bn"
        for stage in range(len(losses.get("iou_thr", [])))
        for conv in range(losses["bbox_head"].get("num_shared_convs", 0))
    }
    assert normalised == wanted, "which layers of neck and heads are normalised"
    assert all(isinstance(detector.get_submodule(name), nn.SyncBatchNorm) for name in normalised), "not SyncBN"


@each_leaf
def test_test_time_settings_are_the_published_ones(leaf):
    cfg, wanted = load(leaf).model.test_cfg, PUBLISHED["coco"]["losses"]["test"]
    assert cfg.rpn.nms.iou_threshold == wanted["rpn_nms_iou"], "overlap of proposals"
    assert cfg.rpn.max_per_img == wanted["proposals"], "number of proposals"
    assert cfg.rcnn.score_thr == wanted["score_thr"], "score threshold"
    assert cfg.rcnn.nms.iou_threshold == wanted["nms_iou"], "overlap of detections"
    assert cfg.rcnn.max_per_img == wanted["max_per_img"], "number of detections"


@each_leaf
def test_detector_has_the_published_number_of_parameters(leaf):
    model = DETECTORS[leaf]
    millions = count_parameters(build(leaf)) / 1e6
    assert millions == pytest.approx(model["params_M"], rel=0.01), f"{millions:.2f} M, published {model['params_M']} M"


@each_leaf
def test_backbone_has_the_classifiers_parameters_less_its_head(leaf):
    architecture = PUBLISHED["architectures"][DETECTORS[leaf]["arch"]]
    backbone, channels = build(leaf).backbone, architecture["channels"]
    assert (list(backbone.depths), list(backbone.channels)) == (architecture["depths"], channels), "blocks, widths"
    head = 1000 * channels[-1] + 1000 + 2 * channels[-1]  # linear layer to 1000 classes, and the LayerNorm before it
    output_norms = 2 * sum(channels)  # weight and bias of norm0..norm3
    assert count_parameters(backbone) == architecture["params"] - head + output_norms, "parameters of the backbone"


def test_training_pipeline_yields_images_of_the_published_sizes(tmp_path):
    from mmcv.transforms import Compose
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), np.zeros((96, 128, 3), np.uint8))
    polygon = [10.0, 10.0, 100.0, 10.0, 100.0, 80.0, 10.0, 80.0]
    instance = {"bbox": [10.0, 10.0, 100.0, 80.0], "bbox_label": 0, "mask": [polygon], "ignore_flag": 0}
    shorts = COMMON["augmentation_policies"][0][0]["resize_short_side"]
    with DefaultScope.overwrite_default_scope("mmdet"):
        pipeline = Compose(load(sorted(DETECTORS)[0]).train_dataloader.dataset.pipeline)
        for seed in range(8):  # both policies are drawn
            np.random.seed(seed)
            sample = pipeline({"img_path": str(image), "img_id": 0, "instances": [instance]})
            height, width = sample["inputs"].shape[1:]
            # no side of a 4:3 image or of a crop of 384..600 pixels a side reaches 1333 pixels: the short side decides
            assert min(height, width) in shorts, f"{height}x{width} is not of a published size"
            masks = sample["data_samples"].gt_instances.masks
            assert (masks.height, masks.width) == (height, width), "the masks do not fit the image"
