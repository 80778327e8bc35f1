"""Arrays and Pillow images become what a model gets from files, or one sentence says what it takes."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from convnext_dense.data.given_images import to_array

BGR = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = BGR[..., 1]
BGRA = np.dstack([BGR, GREY])


def luma(bgr):
    """ITU-R BT.601's weights, with which OpenCV converts colours to grey."""
    return np.round(bgr @ np.array([0.114, 0.587, 0.299]))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (BGR, BGR),
        (BGR[:, ::-1][:, ::-1], BGR),
        (GREY, np.dstack([GREY] * 3)),
        (GREY[..., None], np.dstack([GREY] * 3)),
        (BGRA, BGR),
        (Image.fromarray(BGR[..., ::-1]), BGR),
        (Image.fromarray(GREY), np.dstack([GREY] * 3)),
        (Image.fromarray(BGRA[..., [2, 1, 0, 3]]), BGR),
        (Image.fromarray(GREY > 99), np.dstack([np.where(GREY > 99, 255, 0)] * 3)),
        (Image.fromarray(np.uint16([[65535, 256, 255]])), np.uint8([[[255] * 3, [1] * 3, [0] * 3]])),
    ],
)
def test_model_of_colours_takes_colours_grey_alpha_and_pillow(given, expected):
    array = to_array(given)
    assert array.dtype == np.uint8
    assert array.flags.c_contiguous
    np.testing.assert_array_equal(array, expected)


def test_model_of_grey_images_takes_colours_by_their_luma():
    for given in (BGR, BGRA, Image.fromarray(BGR[..., ::-1])):
        array = to_array(given, 1)
        assert array.shape == (5, 7)
        assert np.abs(array - luma(BGR)).max() <= 1
    for given in (GREY, GREY[..., None], Image.fromarray(GREY)):
        np.testing.assert_array_equal(to_array(given, 1), GREY)


def test_model_of_four_channels_takes_four():
    np.testing.assert_array_equal(to_array(BGRA, 4, dtypes=None), BGRA)
    np.testing.assert_array_equal(to_array(Image.fromarray(BGRA[..., [2, 1, 0, 3]]), 4, dtypes=None), BGRA)
    for given in (BGR, GREY):
        with pytest.raises(ValueError, match=r"arrays of shape \(H, W, 4\) in BGRA order"):
            to_array(given, 4, dtypes=None)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ((BGR / 255).astype(np.float32), r"type float32 \(from 0 to 1: multiply by 255\)"),
        (BGR.astype(np.float64), "type float64"),
        (BGR.astype(np.uint16), "type uint16"),
        (BGR.astype(np.int64), "type int64"),
        (GREY > 9, "type bool"),
        (BGR.astype(object), "type object"),
        (BGR[:0], r"no pixels in its shape \(0, 7, 3\)"),
        (BGR[:, :, :0], r"shape \(5, 7, 0\)"),
        (BGR[:, :, :2], r"shape \(5, 7, 2\)"),
        (np.dstack([BGR, BGR]), r"shape \(5, 7, 6\)"),
        (BGR[None], r"shape \(1, 5, 7, 3\)"),
        (BGR.transpose(2, 0, 1), r"shape \(3, 5, 7\)"),
        (np.uint8(3), "is a uint8"),
        (BGR[0, 0], r"shape \(3,\)"),
        (BGR.tolist(), "is a list"),
        (torch.from_numpy(BGR), "is a Tensor"),
        (None, "is a NoneType"),
        (Image.fromarray(np.ones((3, 3), np.float32)), r"32 bits per pixel \(mode F\)"),
        (Image.new("RGB", (0, 4)), "no pixels"),
    ],
)
def test_anything_else_is_refused_with_one_sentence(given, fault):
    with pytest.raises(ValueError, match=fault) as caught:
        to_array(given)
    wanted = r"arrays of shape (H, W, 3) in BGR order, or (H, W) for grey, uint8, 0 to 255"
    assert wanted in str(caught.value) or "mode F" in fault


def test_model_of_files_as_they_are_takes_any_type_but_no_other_scale():
    deep = np.uint16([[1000, 60000]])
    for given in (deep, Image.fromarray(deep)):
        array = to_array(given, 1, dtypes=None, mean=[30000.0])
        assert array.dtype == np.uint16
        np.testing.assert_array_equal(array, deep)
    floats = np.float32([[0.25, 1.0]])
    np.testing.assert_array_equal(to_array(floats, 1, dtypes=None, mean=[0.5]), floats)
    np.testing.assert_array_equal(to_array(255 * floats, 1, dtypes=None, mean=[120.0]), 255 * floats)
    with pytest.raises(ValueError, match=r"between 0 and 1, but mean=\[120\.0\]"):
        to_array(floats, 1, dtypes=None, mean=[120.0])


def test_pillow_image_equals_its_file(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(BGR[..., ::-1]).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(to_array(image), cv2.imread(str(tmp_path / "a.png")))
        np.testing.assert_array_equal(to_array(image), np.rot90(BGR))
