"""What is read of a config for an exported model, and which configs are refused."""

import pytest
from mmengine.config import Config

from convnext_dense.config.reading import read_config
from convnext_dense.errors import UserError
from convnext_dense.export.preparation import read_preparation

DETECTOR = "configs/demo/mask_rcnn_convnext_atto_shapes.py"
CLASSIFIER = "configs/finetune/classifier_atto.py"


@pytest.fixture(scope="module")
def path_of(pytestconfig):
    return lambda name: str(pytestconfig.rootpath / name)


def test_means_are_red_first_even_if_the_model_sees_blue_first(path_of):
    cfg = read_config(path_of(DETECTOR))
    cfg.model.data_preprocessor.update(mean=[103.5, 116.3, 123.7], std=[1.0, 2.0, 3.0], bgr_to_rgb=False, pad_value=2)
    found = read_preparation(cfg, "detection", None)
    assert found.swaps_colours
    assert found.mean == [123.7, 116.3, 103.5]
    assert found.std == [3, 2, 1]
    (pad,) = [step["pad"] for step in found.steps if "pad" in step]
    assert pad["value"] == [2 * 3 + 123.7, 2 * 2 + 116.3, 2 * 1 + 103.5]  # before it is normalised


def resize(cfg, **changes):
    next(step for step in cfg.test_dataloader.dataset.pipeline if step.type == "Resize").update(changes)


def change_step(cfg, kind):
    cfg.test_dataloader.dataset.pipeline.insert(1, dict(type=kind))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda cfg: resize(cfg, interpolation="nearest"), "Resize takes scale"),
        (lambda cfg: resize(cfg, backend="pillow"), "Resize takes scale"),
        (lambda cfg: resize(cfg, scale=None, scale_factor=2.0), "Resize takes scale"),
        (lambda cfg: cfg.model.backbone.update(in_channels=4), "images of 4 channels; exported models read RGB alone"),
        (lambda cfg: change_step(cfg, "PhotoMetricDistortion"), "The step PhotoMetricDistortion of the test pipeline"),
        (lambda cfg: cfg.test_dataloader.dataset.pipeline.pop(0), "A test pipeline that starts with"),
    ],
)
def test_what_the_runtime_does_not_know_is_refused(change, reason, path_of):
    cfg = read_config(path_of(DETECTOR))
    change(cfg)
    with pytest.raises(UserError, match=reason):
        read_preparation(cfg, "detection", None)


def test_unknown_steps_of_classifiers_are_refused(path_of):
    cfg: Config = read_config(path_of(CLASSIFIER))
    cfg.test_dataloader.dataset.transform = dict(
        type="Compose", transforms=[dict(type="Grayscale"), dict(type="ToTensor")]
    )
    with pytest.raises(UserError, match="Grayscale"):
        read_preparation(cfg, "classification", None)
