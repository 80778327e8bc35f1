"""Single shapes as class folders: what is cut out, and that a folder is written once."""

import cv2
import numpy as np
import pytest

from convnext_dense.data.image_folder import find_samples
from convnext_dense.data.shapes.crops import crop_object, draw_crops_preview, write_crops
from convnext_dense.data.shapes.scenes import CLASS_NAMES, Scene, SceneObject


def scene_with_square(top, left, side=20):
    """A red square on grey, 100 x 120 pixels."""
    image = np.full((100, 120, 3), 128, np.uint8)
    mask = np.zeros((100, 120), bool)
    mask[top : top + side, left : left + side] = True
    image[mask] = (255, 0, 0)
    return Scene(image, [SceneObject(CLASS_NAMES.index("square"), mask)])


@pytest.mark.parametrize(("top", "left"), [(40, 50), (0, 0), (80, 100)])
def test_crop_is_the_square_around_the_object(top, left):
    scene = scene_with_square(top, left)
    crop = crop_object(scene, scene.objects[0])
    assert crop.shape == (26, 26, 3)  # 1.3 x 20
    red = (crop == (255, 0, 0)).all(axis=2)
    assert red[3:23, 3:23].all(), "the object is not whole, or not in the middle"
    if top == 40:
        assert red.sum() == 400


def test_folder_holds_the_crops_of_both_splits_and_is_written_once(tmp_path):
    root = tmp_path / "crops"
    assert write_crops(root, 60, num_val=30, image_size=(64, 64), seed=3)
    for split, count in (("train", 60), ("val", 30)):
        samples, classes = find_samples(root / split)
        assert len(samples) == count
        assert sorted(classes) == sorted(CLASS_NAMES)
    pictures = {path.read_bytes() for path in root.glob("*/*/*.png")}
    assert len(pictures) == 90, "a crop is in the folder twice"
    assert not write_crops(root, 60, num_val=30, image_size=(64, 64), seed=3)
    assert write_crops(tmp_path / "again", 60, num_val=30, image_size=(64, 64), seed=3)
    assert {path.read_bytes() for path in (tmp_path / "again").glob("*/*/*.png")} == pictures
    with pytest.raises(ValueError, match=r"was made with .*'seed': 3.*, not with .*'seed': 4.*: delete it or choose"):
        write_crops(root, 60, num_val=30, image_size=(64, 64), seed=4)
    assert cv2.imread(str(draw_crops_preview(root, 4))).shape == (6 * 96, 4 * 96, 3)


def test_wrong_numbers_are_reported(tmp_path):
    with pytest.raises(ValueError, match=r"num_val=0 must be 1 or more"):
        write_crops(tmp_path, 4, num_val=0)
