"""Options of the command line take precedence, with --data and other arguments too."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from small_runs import SMALLEST_ARCH

from convnext_dense.config.options import check_flag, option_value
from convnext_dense.data.own.tasks import use_folder
from convnext_dense.data.shapes.crops import write_crops
from convnext_dense.engine import evaluate_model, read_config, train_model

ROOT = Path(__file__).parents[2]
DETECTION = ROOT / "configs/demo/mask_rcnn_convnext_atto_shapes.py"
SEGMENTATION = ROOT / "configs/demo/upernet_convnext_atto_shapes.py"
CLASSIFICATION = ROOT / "configs/demo/pretrain_convnext_atto_shapes.py"
SMALL = {
    "model.backbone.arch": SMALLEST_ARCH,
    "model.neck.in_channels": [8, 16, 24, 32],
    "test_dataloader.num_workers": 0,
}


def read(config, folder, options):
    return read_config(config, options, use_data=partial(use_folder, data=folder))


def test_options_come_after_the_data(own_folder):
    options = {
        "test_dataloader.dataset.ann_file": "instances_test.json",
        "test_dataloader.dataset.data_prefix.img": "test/",
        "test_evaluator.ann_file": "elsewhere.json",
        "train_dataloader.dataset.pipeline.2.prob": 0.25,
        "+val_dataloader.dataset.indices": 2,
        "model.roi_head.mask_head.num_classes": 7,
        "train_dataloader.dataset.metainfo": dict(_delete_=True, classes=("a", "b")),
        "optim_wrapper": dict(_delete_=True, type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1)),
    }
    cfg = read(DETECTION, own_folder, options)
    assert cfg.test_dataloader.dataset.ann_file == "instances_test.json"
    assert cfg.test_dataloader.dataset.data_prefix.img == "test/"
    assert cfg.test_evaluator.ann_file == "elsewhere.json"
    assert cfg.train_dataloader.dataset.pipeline[2].prob == 0.25
    assert cfg.val_dataloader.dataset.indices == 2
    assert cfg.train_dataloader.dataset.metainfo == dict(classes=("a", "b"))
    assert cfg.model.roi_head.mask_head.num_classes == 7
    # keys that no option names come from the folder
    assert cfg.model.roi_head.bbox_head.num_classes == 2
    assert cfg.val_dataloader.dataset.ann_file == "instances_val.json"
    assert cfg.test_dataloader.dataset.data_root == str(own_folder)
    assert "clip_grad" not in cfg.optim_wrapper
    assert options["optim_wrapper"]["_delete_"]  # the caller's own are not changed


def test_key_that_the_data_adds_needs_no_plus(ade_folder):
    key = "test_dataloader.dataset.seg_map_suffix"
    with pytest.raises(ValueError, match="no key"):
        read_config(SEGMENTATION, {key: ".tif"})
    assert read(SEGMENTATION, ade_folder, {key: ".tif"}).test_dataloader.dataset.seg_map_suffix == ".tif"


def test_data_sees_the_options(own_folder):
    """A head that an option changes is sized like the file's head, unless the option gives its size."""
    head = read_config(DETECTION).model.roi_head.bbox_head
    options = {
        "model.roi_head.bbox_head": dict(_delete_=True, type="ConvFCBBoxHead", num_classes=6, in_channels=64),
        "model.roi_head.bbox_head.num_classes": 3,
    }
    assert read(DETECTION, own_folder, options).model.roi_head.bbox_head.num_classes == 3
    cfg = read(DETECTION, own_folder, {"+model.roi_head.bbox_head.reg_class_agnostic": True})
    assert cfg.model.roi_head.bbox_head == {**head, "num_classes": 2, "reg_class_agnostic": True}


def test_data_smaller_than_a_batch_is_accepted_if_an_option_lowers_the_batch(tmp_path):
    write_crops(tmp_path, 24, num_val=12, seed=1)
    with pytest.raises(ValueError, match=r"24 images, fewer than one batch: lower train_dataloader\.batch_size"):
        read(CLASSIFICATION, tmp_path, {})
    assert read(CLASSIFICATION, tmp_path, {"train_dataloader.batch_size": 4}).model.num_classes == 6


def test_class_count_that_contradicts_the_data_is_reported_before_the_run(own_folder, tmp_path):
    with pytest.raises(ValueError, match="num_classes=5"):
        train_model(
            DETECTION, {"model.roi_head.bbox_head.num_classes": 5}, data=str(own_folder), work_dir=str(tmp_path)
        )


def test_unknown_key_is_an_error_with_data_too(own_folder):
    with pytest.raises(ValueError, match=r"no key 'train_dataloader\.batchsize'.*'train_dataloader\.batch_size'"):
        read(DETECTION, own_folder, {"train_dataloader.batchsize": 1})


@pytest.mark.parametrize(
    "options", [{"+train_dataloader.dataset.pipeline.9.prob": 1}, {"+train_cfg.max_epochs.more": 1}]
)
def test_option_that_does_not_fit_is_one_sentence(options):
    with pytest.raises(ValueError, match=r"--cfg-options .* does not fit"):
        read_config(DETECTION, options)


def test_runner_arguments_need_no_plus():
    assert read_config(DETECTION, {"work_dir": "here", "resume": True}).work_dir == "here"


def test_value_of_an_option_is_found_inside_dicts():
    options = {"optim_wrapper": dict(type="A", optimizer=dict(lr=1)), "+optim_wrapper.optimizer.lr": 2}
    assert option_value(options, "optim_wrapper.type") == "A"
    assert option_value(options, "optim_wrapper.optimizer.lr") == 2
    assert option_value(options, "optim_wrapper.optimizer") == dict(lr=1)
    assert option_value(options, "optim") is None
    check_flag(options, "optim_wrapper.type", "A", "--a")
    with pytest.raises(ValueError, match=r"--b and optim_wrapper\.type='A' in --cfg-options contradict each other"):
        check_flag(options, "optim_wrapper.type", "B", "--b")


@pytest.mark.parametrize(
    ("options", "kwargs", "text"),
    [
        ({"work_dir": "there"}, {}, r"--work-dir .* and work_dir='there' in --cfg-options contradict"),
        ({"resume": False}, dict(resume="auto"), "--resume and resume=False"),
        ({"load_from": "a.pth"}, dict(resume="b.pth"), r"--resume b\.pth and load_from='a\.pth'"),
        ({"optim_wrapper.type": "OptimWrapper"}, dict(amp=True), r"--amp and optim_wrapper\.type='OptimWrapper'"),
        ({"optim_wrapper": dict(type="OptimWrapper")}, dict(amp=True), r"--amp and optim_wrapper\.type='OptimWrapper'"),
        ({"launcher": "pytorch"}, {}, "launcher='pytorch' in --cfg-options starts no processes: use --launcher"),
        ({"+auto_scale_lr.enable": False}, dict(auto_scale_lr=True), r"--auto-scale-lr and auto_scale_lr\.enable"),
    ],
)
def test_contradicting_argument_and_option_are_refused(own_folder, tmp_path, options, kwargs, text):
    with pytest.raises(ValueError, match=text):
        train_model(DETECTION, options, data=str(own_folder), work_dir=str(tmp_path), **kwargs)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"load_from": "other.pth"}, r"CHECKPOINT c\.pth and load_from='other\.pth'"),
        ({"resume": True}, "resume in --cfg-options is for training"),
    ],
)
def test_test_refuses_options_of_a_training(options, text):
    with pytest.raises(ValueError, match=text):
        evaluate_model(DETECTION, "c.pth", options)


def test_options_choose_what_is_tested_with_data(own_folder, tmp_path):
    """A test split of three images, and a val split of four."""
    shutil.copytree(own_folder / "val", own_folder / "test")
    content = json.loads((own_folder / "instances_val.json").read_text())
    content["images"] = content["images"][:3]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] in kept]
    annotations = own_folder / "instances_test.json"
    annotations.write_text(json.dumps(content))
    cfg = read(DETECTION, own_folder, SMALL)
    init_default_scope("mmdet")
    weights = MODELS.build(cfg.model).state_dict()
    torch.save(dict(state_dict=weights, meta=dict(dataset_meta=dict(classes=("even", "odd")))), tmp_path / "c.pth")
    options = {
        **SMALL,
        "test_dataloader.dataset.ann_file": "instances_test.json",
        "test_dataloader.dataset.data_prefix.img": "test/",
        "test_evaluator.ann_file": str(annotations),
        "model.test_cfg.rcnn.score_thr": 0.0,
    }
    out = tmp_path / "found.json"
    evaluate_model(
        DETECTION, str(tmp_path / "c.pth"), options, data=str(own_folder), work_dir=str(tmp_path / "t"), out=str(out)
    )
    assert {item["image_id"] for item in json.loads((tmp_path / "found.bbox.json").read_text())} == kept
    written = Config.fromfile(tmp_path / "t" / DETECTION.name)
    assert written.load_from is None
    assert "outfile_prefix" not in written.test_evaluator
