"""An error about an image names it and the step that failed; the file is blamed only if it is at fault."""

import errno

import cv2
import numpy as np
import pytest
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from PIL import Image

from convnext_dense.data.named_pipeline import NamedPipeline, name_images_of

LOAD = dict(type="LoadImageFromFile")


@pytest.fixture(autouse=True)
def scope():
    init_default_scope("mmdet")


@pytest.fixture
def image(tmp_path):
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def run(path, *steps, hint=""):
    return NamedPipeline([LOAD, *steps], hint)(dict(img_path=str(path)))


def test_sound_image_goes_through(image):
    assert run(image, dict(type="Resize", scale=(12, 8), keep_ratio=True))["img"].shape == (8, 12, 3)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, r"Image .*b\.png does not exist"),
        (b"", r"Image .*b\.png is empty"),
        (b"no image", r"Image .*b\.png cannot be decoded: it is truncated or not an image"),
    ],
)
def test_file_at_fault_is_blamed(tmp_path, content, text):
    if content is not None:
        (tmp_path / "b.png").write_bytes(content)
    with pytest.raises(ValueError, match=text + ".*kept"):
        run(tmp_path / "b.png", hint=" Checkpoints are kept.")


def test_deep_image_is_not_called_truncated(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(ValueError, match=r"f\.tif has 32 bits per pixel \(mode F\).*color_type='unchanged'"):
        run(tmp_path / "f.tif")


def test_error_of_opencv_in_a_later_step_blames_the_step(image):
    def crop_too_far(results):
        cv2.resize(results["img"][9:], (3, 3))

    with pytest.raises(
        ValueError, match=r"Image .*a\.png of 6x4 pixels cannot go through function: OpenCV says"
    ) as caught:
        run(image, crop_too_far)
    assert "decoded" not in str(caught.value)
    assert isinstance(caught.value.__cause__, cv2.error)


@pytest.mark.parametrize("error", [KeyError("x"), AssertionError("our own"), OSError(errno.EIO, "I/O error")])
def test_error_that_is_not_about_the_image_is_left_unchanged(image, error):
    def fail(results):
        raise error

    with pytest.raises(type(error)) as caught:
        run(image, fail)
    assert caught.value is error


def test_image_that_a_step_drops_is_dropped(image):
    assert run(image, lambda results: None) is None


def test_pipelines_inside_wrappers_are_replaced_once(image):
    class Data:
        pipeline = None

        def __init__(self, **parts):
            self.__dict__.update(parts)

    leaves = [Data(pipeline=Compose([LOAD])) for _ in range(2)]
    dataset = Data(dataset=Data(datasets=leaves))
    name_images_of(dataset)
    named = [leaf.pipeline for leaf in leaves]
    assert all(isinstance(pipeline, NamedPipeline) for pipeline in named)
    name_images_of(dataset)
    assert [leaf.pipeline for leaf in leaves] == named
