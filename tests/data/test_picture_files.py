"""Every image has its own picture, and a picture that cannot be written is an error."""

import itertools
import os

import cv2
import numpy as np
import pytest

from convnext_dense.data.picture_files import picture_names
from convnext_dense.data.prediction_files import find_images, name_pictures
from convnext_dense.export.runtime import place_labels
from convnext_dense.files import names_unwritable
from convnext_dense.visualization import DrawnObject, draw_objects, to_picture, write_picture


def names(*images, **options):
    return list(picture_names([f"/data/{image}" for image in images], **options).values())


def test_name_is_the_stem_where_that_is_enough():
    assert names("one/a.jpg", "one/b.png", "two/c.d.jpg") == ["a", "b", "c.d"]
    assert names("one/a.jpg", "one/b.png", keeps_suffix=True) == ["a.jpg", "b.png"]


def test_suffix_and_folders_tell_equal_names_apart():
    assert names("one/a.jpg", "one/a.png") == ["a.jpg", "a.png"]
    assert names("one/a.jpg", "two/a.jpg", "two/b.jpg") == ["one/a.jpg", "two/a.jpg", "b"]
    assert names("x/one/a.jpg", "y/one/a.jpg") == ["x/one/a.jpg", "y/one/a.jpg"]
    assert names("one/a.jpg", "one/a.jpg.png", "two/a.png")[0] != names("one/a.jpg", "one/a.jpg.png", "two/a.png")[1]


def test_image_given_twice_is_one():
    assert names("a.jpg", "a.jpg", "x/../a.jpg") == ["a", "a"]


def test_no_two_files_share_a_name_even_on_case_insensitive_file_systems():
    parts = (["", "one/", "One/", "one/two/"], ["a", "A", "b"], [".jpg", ".JPG", ".jpg.png", ".png"])
    files = ["".join(choice) for choice in itertools.product(*parts)]
    for length in (2, 3):
        for chosen in itertools.combinations(files[::3], length):
            given = [name.casefold() for name in names(*chosen)]
            assert len(set(given)) == length, (chosen, given)
    assert len({name.casefold() for name in names(*files)}) == len(files)


def test_accents_written_in_two_ways_are_one_name():
    assert len(set(names("caf\u00e9.jpg", "cafe\u0301.png"))) == 2
    assert names("caf\u00e9.jpg", "cafe\u0301.png")[0].endswith(".jpg")


def test_picture_is_written_with_its_folder(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    write_picture(tmp_path / "new" / "b\u00e4r.png", picture)
    content = np.frombuffer((tmp_path / "new" / "b\u00e4r.png").read_bytes(), np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(content, cv2.IMREAD_UNCHANGED), picture)


def test_picture_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    picture = np.zeros((2, 2, 3), np.uint8)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ValueError, match=r"file/a\.png cannot be written: (File exists|Not a directory)"):
        write_picture(tmp_path / "file" / "a.png", picture)
    with pytest.raises(ValueError, match=r"a\.xyz cannot be written: OpenCV knows no format '\.xyz'"):
        write_picture(tmp_path / "a.xyz", picture)
    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, None))
    with pytest.raises(ValueError, match=r"a\.png cannot be written as \.png"):
        write_picture(tmp_path / "a.png", picture)
    with pytest.raises(ValueError, match="p cannot be written: the disk is full"), names_unwritable("p"):
        raise OSError(28, "No space left on device")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder_is_reported(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="cannot be written: Permission denied"):
        write_picture(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8))


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.uint8([[7, 9]]), [[[7] * 3, [9] * 3]]),
        (np.uint8([[[1, 2, 3, 4, 5]]]), [[[1, 2, 3]]]),
        (np.uint8([[[1, 2]]]), [[[1] * 3]]),
        (np.uint16([[1000, 1100, 1500]]), [[[0] * 3, [51] * 3, [255] * 3]]),
        (np.float32([[0, 0.2, 1]]), [[[0] * 3, [51] * 3, [255] * 3]]),
        (np.float32([[0, 20, 200]]), [[[0] * 3, [20] * 3, [200] * 3]]),
    ],
)
def test_any_pixels_can_be_looked_at(pixels, expected):
    np.testing.assert_array_equal(to_picture(pixels), expected)


@pytest.mark.parametrize(
    ("shown", "expected"), [((1, 2, 3), [30, 20, 10]), ((5, 1, 4), [40, 10, 50]), ((2,), [20] * 3)]
)
def test_named_channels_are_red_green_and_blue(shown, expected):
    pixels = np.uint8([[[10, 20, 30, 40, 50]]])
    np.testing.assert_array_equal(to_picture(pixels, shown), [[expected]])


def test_few_extreme_values_do_not_darken_a_picture():
    pixels = np.linspace(100, 200, 1000).astype(np.float32).reshape(20, 50, 1)
    pixels[0, 0], pixels[0, 1] = -9999, 60000
    picture = to_picture(pixels, (1,))
    assert picture.min() == 0
    assert picture.max() == 255
    assert abs(picture.mean() - 127) < 3
    assert to_picture(np.full((2, 2), 7, np.uint16)).max() == 0  # one value, and nothing to stretch
    nearly = np.zeros((100, 100), np.uint16)
    nearly[0, 0] = 9
    assert to_picture(nearly).max() == 255


def test_images_are_found_once_and_in_order(tmp_path):
    for name in ("b.jpg", "a.PNG", ".hidden.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "c.jpg").mkdir()
    expected = [tmp_path / "a.PNG", tmp_path / "b.jpg"]
    assert find_images([str(tmp_path), str(tmp_path / "b.jpg")]) == expected
    (tmp_path / "d.npy").write_bytes(b"x")
    assert find_images([str(tmp_path)]) == expected  # arrays beside images are no images
    (tmp_path / "arrays").mkdir()
    (tmp_path / "arrays" / "d.npy").write_bytes(b"x")
    assert find_images([str(tmp_path / "arrays")]) == [tmp_path / "arrays" / "d.npy"]
    (tmp_path / "classes" / "star").mkdir(parents=True)
    (tmp_path / "classes" / ".thumbnails").mkdir()
    for folder in ("star", ".thumbnails"):
        (tmp_path / "classes" / folder / "e.jpg").write_bytes(b"x")
    assert find_images([str(tmp_path / "classes")]) == [tmp_path / "classes" / "star" / "e.jpg"]
    with pytest.raises(ValueError, match=r"There is no image in .*c\.jpg"):
        find_images([str(tmp_path / "c.jpg")])
    with pytest.raises(ValueError, match=r"Image .*gone\.jpg does not exist"):
        find_images([str(tmp_path / "gone.jpg")])


def test_pictures_do_not_overwrite_images(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "b.jpg").write_bytes(b"x")
    assert name_pictures([tmp_path / "b.jpg"], tmp_path) == {tmp_path / "b.jpg": tmp_path / "b.png"}
    with pytest.raises(ValueError, match=r"would overwrite the image .*a\.png: choose another --out-dir"):
        name_pictures([tmp_path / "a.png"], tmp_path)


@pytest.mark.parametrize("is_below", [False, True])
def test_label_is_above_its_box_and_that_of_a_crowd_below(is_below):
    drawn = draw_objects(np.zeros((100, 100, 3), np.uint8), [DrawnObject((10, 40, 90, 60), "a", 0, None, is_below)])
    assert drawn[:39].any() != is_below
    assert drawn[61:].any() == is_below


def place(boxes, size=(40, 10), shape=(200, 300), below=None):
    boxes = np.array(boxes, float).reshape(-1, 4)
    return place_labels(boxes, [size] * len(boxes), shape, below=below or [False] * len(boxes))


def test_label_stands_above_its_box_or_below_or_where_there_is_room():
    box = [50, 60, 120, 150]
    assert place([box]) == [(50, 50)]
    assert place([box], below=[True]) == [(50, 150)]
    assert place([[50, 2, 120, 80]]) == [(50, 80)]  # no room above
    assert place([[290, 60, 299, 80]]) == [(260, 50)]  # inside the picture


def test_labels_cover_neither_each_other_nor_small_objects():
    corners = [(20 * column + 5, 15 * row + 2) for row in range(13) for column in range(14)]
    boxes = [[left, top, left + 10, top + 10] for left, top in corners]
    places = place(boxes)
    labels = [(left, top, left + 40, top + 10) for left, top in filter(None, places)]
    assert 5 <= len(labels) < len(boxes)
    for label in labels:
        for other in boxes:
            width = min(label[2], other[2]) - max(label[0], other[0])
            height = min(label[3], other[3]) - max(label[1], other[1])
            assert max(width, 0) * max(height, 0) <= 40 or other == boxes[places.index(label[:2])]
    top = [50, 60, 90, 100]  # two objects of one box: the labels are beside each other
    first, second = place([top, top])
    assert abs(first[0] - second[0]) >= 40 or abs(first[1] - second[1]) >= 10
