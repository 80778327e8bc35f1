"""mmcv resizes thin images to at least one pixel, and pads and resizes any number of channels; all else as before."""

import subprocess
import sys

import numpy as np
import pytest


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((3000, 2), (128, 128), (128, 1)),  # 2 * 128 / 3000 = 0.09
        ((2, 3000), (1333, 800), (1, 1333)),
        ((1, 1), 0.1, (1, 1)),
        ((100, 50), (128, 128), (128, 64)),
        ((3000, 20), (128, 128), (128, 1)),  # 0.85, rounded by mmcv too
        ((640, 480), (1333, 800), (1067, 800)),
    ],
)
def test_shorter_side_keeps_a_pixel(size, scale, expected):
    import mmcv

    assert mmcv.rescale_size(size, scale) == expected
    assert mmcv.imrescale(np.zeros((size[1], size[0], 3), np.uint8), scale).shape[:2] == expected[::-1]


def test_images_masks_and_boxes_of_detection_agree():
    from mmcv.transforms import Compose
    from mmdet.registry import TRANSFORMS
    from mmdet.structures.mask import BitmapMasks, PolygonMasks

    for masks in (
        BitmapMasks(np.ones((1, 2, 3000), np.uint8), 2, 3000),
        PolygonMasks([[np.array([0.0, 0, 3000, 0, 3000, 2])]], 2, 3000),
    ):
        resize = TRANSFORMS.build(dict(type="mmdet.Resize", scale=(128, 128), keep_ratio=True))
        boxes = np.array([[0, 0, 3000, 2]], np.float32)
        image = np.zeros((2, 3000, 3), np.uint8)
        result = Compose([resize])(dict(img=image, img_shape=(2, 3000), gt_bboxes=boxes, gt_masks=masks))
        assert result["img"].shape[:2] == result["img_shape"] == (1, 128)
        assert (result["gt_masks"].height, result["gt_masks"].width) == (1, 128)
        np.testing.assert_allclose(result["scale_factor"], (128 / 3000, 1 / 2))


@pytest.mark.parametrize("order", ["import convnext_dense, mmcv", "import mmcv, convnext_dense"])
def test_order_of_imports_does_not_matter(order):
    code = (
        f"{order}; import numpy as np; from mmcv import image; a = np.zeros((2, 9), np.uint8);"
        "assert mmcv.imresize(a, (4, 0)).shape == image.imresize(a, (4, 0)).shape == (1, 4);"
        "assert mmcv.imrescale(a, 0.1).shape == (1, 1); b = np.zeros((2, 2, 5), np.uint8);"
        "assert mmcv.impad(b, shape=(3, 2), pad_val=1)[2].all() and image.impad(b, shape=(3, 2), pad_val=1)[2].all()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [2, 4, 5, 6, 9, 13])
def test_any_number_of_channels_is_padded_and_resized_like_its_channels(channels, dtype):
    import mmcv

    image = (np.random.default_rng(0).random((20, 30, channels)) * 200).astype(dtype)
    values = tuple(range(1, channels + 1))
    padded = mmcv.impad(image, shape=(24, 33), pad_val=values)
    assert padded.dtype == dtype
    np.testing.assert_array_equal(padded[:20, :30], image)
    assert (padded[20:] == values).all()
    assert (padded[:, 30:] == values).all()
    mirrored = mmcv.impad(image, padding=(1, 2, 3, 4), padding_mode="reflect")
    np.testing.assert_array_equal(mirrored, np.pad(image, ((2, 4), (1, 3), (0, 0)), mode="reflect"))
    for kind in ("area", "bilinear", "nearest"):
        resized, *factors = mmcv.imresize(image, (11, 7), return_scale=True, interpolation=kind)
        each = [
            mmcv.imresize(np.ascontiguousarray(image[..., i]), (11, 7), interpolation=kind) for i in range(channels)
        ]
        np.testing.assert_allclose(resized, np.dstack(each), atol=1 if dtype == np.uint8 else 1e-3)
        assert factors == [11 / 30, 7 / 20]
    np.testing.assert_array_equal(mmcv.imresize(image, (11, 7), False, "area").shape, (7, 11, channels))


def test_more_than_four_channels_are_padded_by_one_number_and_checked():
    import mmcv

    image = np.zeros((4, 4, 6), np.float32)
    assert (mmcv.impad(image, shape=(5, 4), pad_val=3)[4] == 3).all()
    with pytest.raises(ValueError, match=r"pad_val=\(1, 2\) must have one value per channel, 6"):
        mmcv.impad(image, shape=(5, 4), pad_val=(1, 2))
