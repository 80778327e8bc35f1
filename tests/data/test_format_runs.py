"""Formats go through the commands for training, testing, checking and predicting: one of each kind of file.

What is read from every format and exporter is held against the original in test_formats.py.
"""

import os
from functools import partial
from pathlib import Path

import pytest
from test_formats import LABELS, ROOT

from convnext_dense.cli import main

CONFIGS = Path(__file__).parents[2] / "configs/demo"
# Models and loaders as small as they can be: what is tested is the way of the data.
_SMALL = """
_base_ = "{base}"
model = dict(backbone=dict(arch=dict(_delete_=True, depths=(1, 1, 1, 1), channels=(8, 16, 24, 32))))
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
"""
_DETECTOR = """
model.update(neck=dict(in_channels=[8, 16, 24, 32]), train_cfg=dict(rcnn=dict(sampler=dict(num=8))))
train_cfg = dict(max_epochs=1)
"""
_SEGMENTER = """
model.update(decode_head=dict(in_channels=[8, 16, 24, 32]), auxiliary_head=dict(in_channels=24))
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2))
"""
_CLASSIFIER = "train_cfg = dict(max_epochs=1)"


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run a command of tools/ in the temporary folder, and return what it prints."""

    def run(name, *arguments):
        monkeypatch.chdir(tmp_path)
        run_command = partial(main.run, name.replace("_", "-"), list(map(str, arguments)))
        if name == "check_dataset":
            with pytest.raises(SystemExit) as leaving:
                run_command()
            assert leaving.value.code == 0, capsys.readouterr().out
        else:
            run_command()
        return capsys.readouterr().out

    return run


def image_of(name):
    """Return an image of a format; LabelMe's may be inside its JSON files."""
    return next(iter(sorted((ROOT / name).rglob("*.jpg")) or sorted((ROOT / "original").rglob("*.jpg"))))


def all_commands(run, base, changes, name, extra, tmp_path):
    """Run the four commands on a format and return the report of the check."""
    config = tmp_path / "small.py"
    config.write_text(_SMALL.format(base=CONFIGS / base) + changes)
    data, work = ["--data", os.path.relpath(ROOT / name, tmp_path), *extra], tmp_path / "run"
    run("train", config, *data, "--work-dir", work)
    checkpoint = Path((work / "last_checkpoint").read_text())
    run("test", config, checkpoint, *data, "--work-dir", work)
    report = run("check_dataset", config, *data)
    assert "0 errors" in report, report
    assert (tmp_path / "work_dirs/small/overlay.png").is_file()
    run("infer", config, checkpoint, image_of(name), "--out-dir", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.png"))) == 1
    return report


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "datumaro_cvat",
        "datumaro_voc",
        "fiftyone_yolo_polygons",
        "label_studio_coco",
        "labelme_embedded",
        "roboflow_coco",
        "via",
    ],
)
def test_format_of_objects_is_trained_tested_checked_and_predicted(name, run, tmp_path):
    extra = ["--val-share", "0.4"] if name.startswith("label_studio") else []  # it exports one split
    report = all_commands(run, "mask_rcnn_convnext_atto_shapes.py", _DETECTOR, name, extra, tmp_path)
    assert "box AP 1.0000" in report


@pytest.mark.slow
@pytest.mark.parametrize("name", ["camvid_kaggle", "cvat_masks", "datumaro_cityscapes", "datumaro_voc"])
def test_format_of_label_images_is_trained_tested_checked_and_predicted(name, run, tmp_path):
    extra = ["--classes", *LABELS[name]["classes"]] if LABELS[name] else []
    report = all_commands(run, "upernet_convnext_atto_shapes.py", _SEGMENTER, name, extra, tmp_path)
    assert "mIoU 1.0000" in report


@pytest.mark.slow
@pytest.mark.parametrize("name", ["csv", "supervision_folders"])
def test_format_of_classified_images_is_trained_tested_checked_and_predicted(name, run, tmp_path):
    report = all_commands(run, "pretrain_convnext_atto_shapes.py", _CLASSIFIER, name, [], tmp_path)
    assert "top-1 1.0000" in report
