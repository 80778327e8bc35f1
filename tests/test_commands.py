"""from convnext_dense import train, test, report, load_model: the commands as functions."""

import os

import pytest
from random_models import DETECTOR
from small_runs import LOADERS

import convnext_dense
from convnext_dense.errors import UserError

SHORT = {
    **LOADERS,
    "train_cfg.max_epochs": 1,
    "train_dataloader.batch_size": 2,
}


def test_train_test_load_and_report(own_folder, tmp_path, pytestconfig):
    os.chdir(pytestconfig.rootpath)
    run = convnext_dense.train(DETECTOR, data=own_folder, options=SHORT, work_dir=str(tmp_path / "run"))
    assert run.work_dir == tmp_path / "run"
    assert run.checkpoint.is_file()
    assert run.config.name == "mask_rcnn_convnext_atto_scratch.py"
    metrics = convnext_dense.test(run.config, run.checkpoint, data=str(own_folder), work_dir=str(tmp_path / "test"))
    assert 0 <= metrics["coco/bbox_mAP"] <= 1
    model = convnext_dense.load_model(run.config, run.checkpoint, device="cpu")
    assert model.class_names == ("even", "odd")
    report = convnext_dense.report(run.config, run.checkpoint, tmp_path / "report", data=own_folder, device="cpu")
    assert report.page.is_file()


def test_what_contradicts_itself_is_said():
    with pytest.raises(UserError, match=r"backbone_weights='a\.pth' needs a backbone"):
        convnext_dense.train(DETECTOR, backbone_weights="a.pth")
    with pytest.raises(UserError, match=r"replaces the backbone that change= is about"):
        convnext_dense.train(DETECTOR, backbone="convnext-tiny", change=lambda cfg: cfg)


def test_other_names_are_no_attributes():
    with pytest.raises(AttributeError, match="module 'convnext_dense' has no attribute 'trainn'"):
        _ = convnext_dense.trainn
