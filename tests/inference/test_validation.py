"""The labelled images of a config."""

import os

import pytest
from bright_detector import Bright
from mmengine.registry import init_default_scope
from random_models import SHAPES, write_shapes_config, write_weights

from convnext_dense.cli.server import validation_images
from convnext_dense.errors import UserError
from convnext_dense.inference import Predictor
from convnext_dense.inference.validation import evaluation_of


@pytest.fixture
def detector_of_shapes(shapes_folder, tmp_path, pytestconfig):
    os.chdir(pytestconfig.rootpath)
    config = write_shapes_config(tmp_path / "config.py", shapes_folder)
    model = Predictor(config, write_weights(config, tmp_path / "weights.pth", SHAPES), device="cpu")
    yield model
    init_default_scope("mmengine")


def test_images_are_found_whatever_was_loaded_since(detector_of_shapes, shapes_folder):
    init_default_scope("mmseg")
    images = sorted((shapes_folder / "val2017").iterdir())
    assert sorted(path.name for path in evaluation_of(detector_of_shapes, work_dir="x").paths) == [
        path.name for path in images
    ]
    assert len(validation_images(detector_of_shapes)) == len(images)


def test_data_that_is_not_there_is_said(detector_of_shapes, tmp_path, capsys):
    detector_of_shapes.cfg.val_dataloader.dataset.data_root = str(tmp_path / "nowhere") + "/"
    detector_of_shapes.cfg.val_dataloader.dataset.ann_file = "annotations/none.json"
    with pytest.raises(UserError, match=r"validation data of the config is not there .*--data DIR"):
        evaluation_of(detector_of_shapes, work_dir=tmp_path)
    assert validation_images(detector_of_shapes) == []
    assert "The page has no examples" in capsys.readouterr().out
    assert validation_images(Bright()) == []
