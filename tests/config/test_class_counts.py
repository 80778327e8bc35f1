"""Class counts in mmdet's and mmseg's configs, and the layers of their models that depend on them."""

import logging

import pytest
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope

from benchmarks.plug_matrix import config_folder
from convnext_dense.checkpoints import ClassDim
from convnext_dense.config.class_counts import check_class_counts, class_counts, num_classes, set_num_classes, task_of
from convnext_dense.config.coco_objects import use_coco_objects
from convnext_dense.config.datasets import leaf_datasets
from convnext_dense.engine.checkpoint_guard import find_class_dims

SIX = ["a", "b", "c", "d", "e", "f"]


def read(name):
    package, path = name.split("::")
    cfg = Config.fromfile(config_folder(package) / path, import_custom_modules=False)
    init_default_scope(package)
    return cfg


def test_every_head_of_a_cascade_counts_the_classes():
    cfg = read("mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py")
    set_num_classes(cfg.model, 6)
    assert [head.num_classes for head in cfg.model.roi_head.bbox_head] == [6, 6, 6]
    assert cfg.model.roi_head.mask_head.num_classes == 6
    assert "num_classes" not in cfg.model.rpn_head


def test_a_head_beside_the_others_that_finds_edges_is_left_alone():
    cfg = read("mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py")
    set_num_classes(cfg.model, 6)
    assert [head.num_classes for head in (cfg.model.decode_head, *cfg.model.auxiliary_head)] == [6, 6, 6, 2]
    check_class_counts(cfg.model, SIX, "a folder")
    set_num_classes(cfg.model, 2)
    set_num_classes(cfg.model, 5)
    assert [head.num_classes for head in cfg.model.auxiliary_head] == [5, 5, 2]


def test_equal_weights_per_class_follow_and_that_of_no_object_stays():
    cfg = read("mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py")
    set_num_classes(cfg.model, 6)
    assert cfg.model.decode_head.num_classes == 6
    assert cfg.model.decode_head.loss_cls.class_weight == [1.0] * 6 + [0.1]


def test_weights_of_other_classes_are_left_out_and_those_for_the_new_ones_stay(capsys):
    cfg = read("mmseg::ocrnet/ocrnet_hr18_4xb4-80k_ade20k-512x512.py")
    for head, weights in zip(cfg.model.decode_head, ([0.5, 2.0], [float(i) for i in range(150)]), strict=True):
        head.loss_decode.class_weight = weights
    set_num_classes(cfg.model, 2)
    assert cfg.model.decode_head[0].loss_decode.class_weight == [0.5, 2.0]
    assert cfg.model.decode_head[1].loss_decode.class_weight is None
    logged = capsys.readouterr()
    assert "model.decode_head.1: the 150 values of class_weight" in logged.err + logged.out


@pytest.mark.parametrize(
    ("weights", "fits"),
    [([1.0] * 2, True), ([1.0] * 3, True), ([1.0] * 7, False), ([1.0], False), (None, True), ("weights.npy", True)],
)
def test_weights_of_another_number_are_refused_by_name(weights, fits):
    loss = dict(type="CrossEntropyLoss", class_weight=weights)
    model = ConfigDict(type="EncoderDecoder", decode_head=dict(type="FCNHead", num_classes=2, loss_decode=[loss]))
    if fits:
        check_class_counts(model, ["a", "b"], "a folder")
    else:
        with pytest.raises(ValueError, match=rf"decode_head has {len(weights)} values of class_weight.* for 2 classes"):
            check_class_counts(model, ["a", "b"], "a folder")


def test_a_panoptic_config_becomes_one_for_objects():
    cfg = read("mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py")
    assert num_classes(cfg.model) == 80 + 53  # things and stuff of COCO
    use_coco_objects(cfg)
    set_num_classes(cfg.model, 6)
    for part in (cfg.model.panoptic_head, cfg.model.panoptic_fusion_head):
        assert (part.num_things_classes, part.num_stuff_classes) == (6, 0)
    assert cfg.model.panoptic_head.loss_cls.class_weight == [1.0] * 6 + [0.1]
    assert (cfg.model.test_cfg.panoptic_on, cfg.model.test_cfg.instance_on) == (False, True)
    assert [metric.type for metric in cfg.val_evaluator] == ["convnext_dense.CocoMetric"]
    loading = [step for step in cfg.train_dataloader.dataset.pipeline if "Annotations" in step.type]
    assert loading == [dict(type="mmdet.LoadAnnotations", with_bbox=True, with_mask=True)]


def test_what_learns_from_stuff_is_taken_out_of_detectors():
    htc = read("mmdet::htc/htc_r50_fpn_1x_coco.py")
    use_coco_objects(htc)
    assert not {"semantic_head", "semantic_roi_extractor"} & set(htc.model.roi_head)
    assert not any(step.get("with_seg") for step in htc.train_dataloader.dataset.pipeline)
    fpn = read("mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py")
    use_coco_objects(fpn)
    assert fpn.model.type == "mmdet.MaskRCNN"
    assert not {"semantic_head", "panoptic_fusion_head"} & set(fpn.model)


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("mmdet::pascal_voc/retinanet_r50_fpn_1x_voc0712.py", ["bbox"]),
        ("mmdet::lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1.py", ["bbox", "segm"]),
        ("mmdet::openimages/retinanet_r50_fpn_32xb2-1x_openimages.py", ["bbox"]),
        ("mmdet::cityscapes/mask-rcnn_r50_fpn_1x_cityscapes.py", ["bbox", "segm"]),
    ],
)
def test_other_data_sets_and_their_metrics_become_cocos(name, metric):
    cfg = read(name)
    use_coco_objects(cfg)
    for loader in ("train", "val"):
        leaves = list(leaf_datasets(cfg[f"{loader}_dataloader"].dataset))
        assert [leaf.type for leaf in leaves] == ["mmdet.CocoDataset"]
        assert not {"ann_file", "data_prefix", "label_file", "hierarchy_file", "data_root"} & set(leaves[0])
    evaluators = cfg.val_evaluator if isinstance(cfg.val_evaluator, list) else [cfg.val_evaluator]
    assert [evaluator.type for evaluator in evaluators] == ["convnext_dense.CocoMetric"]
    named = evaluators[0].metric
    assert ([named] if isinstance(named, str) else named) == metric


def test_the_class_of_the_model_tells_the_task():
    assert task_of(read("mmdet::rpn/rpn_r50_fpn_1x_coco.py")) == "detection"
    assert task_of(read("mmseg::knet/knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512.py")) == "segmentation"
    assert (
        task_of(read("mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py")) == "detection"
    )
    assert task_of(read("mmdet::qdtrack/qdtrack_faster-rcnn_r50_fpn_4e_base.py")) is None


def test_a_model_that_counts_no_classes_is_refused_unless_it_proposes_regions():
    with pytest.raises(ValueError, match="No part of the model Some counts classes"):
        set_num_classes(ConfigDict(type="Some", bbox_head=dict(type="Head")), 3)
    set_num_classes(read("mmdet::rpn/rpn_r50_fpn_1x_coco.py").model, 3)
    assert class_counts(ConfigDict(type="Some")) == []


# Layers that count classes, as the constructors of mmdet 3.3.0's and mmseg 1.2.2's heads build them.
LAST, PER_BOX = (ClassDim(),), (ClassDim(width=4),)
WITH_BACKGROUND = (ClassDim(after=1),)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
            {
                "roi_head.bbox_head.fc_cls": WITH_BACKGROUND,
                "roi_head.bbox_head.fc_reg": PER_BOX,
                "roi_head.mask_head.conv_logits": LAST,
            },
        ),
        ("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py", {"bbox_head.retina_cls": (ClassDim(groups=9),)}),
        (
            "mmdet::yolox/yolox_tiny_8xb8-300e_coco.py",
            {f"bbox_head.multi_level_conv_cls.{level}": LAST for level in range(3)},
        ),
        ("mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py", {f"bbox_head.rtm_cls.{level}": LAST for level in range(3)}),
        ("mmdet::detr/detr_r50_8xb2-150e_coco.py", {"bbox_head.fc_cls": WITH_BACKGROUND}),
        (
            "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py",
            {f"bbox_head.cls_branches.{layer}": LAST for layer in range(7)}
            | {"dn_query_generator.label_embedding": LAST},
        ),
        ("mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py", {"panoptic_head.cls_embed": WITH_BACKGROUND}),
        (
            "mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py",
            {"decode_head.conv_seg": LAST, "auxiliary_head.conv_seg": LAST},
        ),
        (
            "mmseg::point_rend/pointrend_r50_4xb4-160k_ade20k-512x512.py",
            {"decode_head.0.conv_seg": LAST, "decode_head.1.fc_seg": (ClassDim(), ClassDim(1, before=256))}
            | {f"decode_head.1.fcs.{layer}.conv": (ClassDim(1, before=256),) for layer in range(3)},
        ),
    ],
)
def test_layers_that_count_classes_are_found_by_building_the_model(name, expected):
    logging.disable(logging.WARNING)
    try:
        cfg = read(name)
        set_num_classes(cfg.model, 6)
        found = find_class_dims(cfg.model, 6)
    finally:
        logging.disable(logging.NOTSET)
    assert {key.removesuffix(".weight"): dims for key, dims in found.items() if key.endswith(".weight")} == expected
