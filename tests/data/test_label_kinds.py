"""Label images of every kind: values, masks, palettes, colours with tables, files of several libraries."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext_dense.config.reading import read_config
from convnext_dense.data.data_folder import DataFolder
from convnext_dense.data.formats.class_tables import ClassTable, read_table
from convnext_dense.data.own.tasks import use_folder
from convnext_dense.errors import UserError

CONFIG = Path(__file__).parents[2] / "configs/demo/upernet_convnext_atto_shapes.py"
LABELS = np.array([[0, 1, 2], [2, 1, 255]], np.uint8)  # 255 is ignored


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


class Place:
    """A folder with one image per split, whose labels are written by a test."""

    def __init__(self, tmp_path):
        self.root, self.work = tmp_path / "data", tmp_path / "work"
        for split in ("train", "val"):
            (self.root / "images" / split).mkdir(parents=True)
            (self.root / "masks" / split).mkdir(parents=True)
            Image.new("RGB", (3, 2), (9, 9, 9)).save(self.root / "images" / split / "a.png")
        (self.root / "classes.txt").write_text("road\ncar\nsky\n")

    def write(self, save, suffix=".png"):
        for split in ("train", "val"):
            save(self.root / "masks" / split / f"a{suffix}")

    def read(self, split="train", **how):
        cfg = read_config(CONFIG)
        self.names = use_folder(cfg, DataFolder(str(self.root), **how), work_dir=self.work)
        dataset = cfg[f"{split}_dataloader"].dataset
        self.palette = dataset.metainfo.palette
        (line,) = Path(dataset.ann_file).read_text().split()
        return np.asarray(Image.open(Path(dataset.data_prefix.seg_map_path, f"{line}.png")))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp", ".npy", ".PNG"])
def test_labels_of_every_ending_are_read(suffix, place):
    place.write(lambda path: np.save(path, LABELS) if suffix == ".npy" else Image.fromarray(LABELS).save(path), suffix)
    np.testing.assert_array_equal(place.read(), LABELS)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16, np.float32])
def test_numbers_of_every_type_are_read(dtype, place):
    place.write(lambda path: np.save(path, LABELS.astype(dtype)), ".npy")
    np.testing.assert_array_equal(place.read(), LABELS)


@pytest.mark.parametrize("names", ["crack\n", "background\ncrack\n"])
@pytest.mark.parametrize("mode", ["L", "1", "RGB", "LA", "RGBA"])
def test_masks_of_0_and_255_are_background_and_object(mode, names, place):
    (place.root / "classes.txt").write_text(names)
    mask = Image.fromarray(np.array([[0, 255, 0], [255, 255, 0]], np.uint8)).convert(mode)
    place.write(mask.save)
    np.testing.assert_array_equal(place.read(), [[0, 1, 0], [1, 1, 0]])
    assert place.names == ["background", "crack"]


def test_255_is_ignored_where_1_occurs_in_another_label(place):
    (place.root / "classes.txt").write_text("background\ncrack\n")
    Image.fromarray(np.array([[0, 255, 0], [255, 255, 0]], np.uint8)).save(place.root / "masks/train/a.png")
    Image.fromarray(np.array([[0, 1, 0], [255, 1, 0]], np.uint8)).save(place.root / "masks/val/a.png")
    np.testing.assert_array_equal(place.read(format="labels"), [[0, 255, 0], [255, 255, 0]])


def test_one_named_class_has_a_background(place):
    (place.root / "classes.txt").write_text("crack\n")
    place.write(Image.fromarray(np.array([[0, 1, 0], [1, 1, 0]], np.uint8)).save)
    np.testing.assert_array_equal(place.read(format="labels"), [[0, 1, 0], [1, 1, 0]])
    assert place.names == ["background", "crack"]


COLOURS = np.array([[[0, 0, 0], [255, 0, 0], [0, 0, 255]], [[0, 0, 255], [255, 0, 0], [0, 0, 0]]], np.uint8)
EXPECTED = [[0, 1, 2], [2, 1, 0]]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("classes.txt", "road 0 0 0\ncar 255 0 0\nsky 0 0 255\n"),
        ("classes.txt", "road, 0, 0, 0\ncar, 255, 0, 0\nsky, 0, 0, 255\n"),
        ("classes.txt", "road #000000\ncar #FF0000\nsky #0000ff\n"),
        ("label_colors.txt", "0 0 0\troad\n255 0 0\tcar\n0 0 255\tsky\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nroad:0,0,0::\ncar:255,0,0::\nsky:0,0,255::\n"),
        ("class_dict.csv", "name,r,g,b\nroad,0,0,0\ncar,255,0,0\nsky,0,0,255\n"),
        (
            "dataset_meta.json",
            '{"label_map": {"0": "road", "1": "car", "2": "sky"}, '
            '"segmentation_colors": [[0, 0, 0], [255, 0, 0], [0, 0, 255]]}',
        ),
    ],
)
def test_colours_are_read_by_every_kind_of_table(file, text, place):
    (place.root / "classes.txt").unlink()
    (place.root / file).write_text(text)
    place.write(Image.fromarray(COLOURS).save)
    np.testing.assert_array_equal(place.read(), EXPECTED)
    assert place.names == ["road", "car", "sky"]
    assert [tuple(colour) for colour in place.palette] == [(0, 0, 0), (255, 0, 0), (0, 0, 255)]


def test_table_can_be_named(place):
    table = place.root.parent / "table.txt"
    table.write_text("road 0 0 0\ncar 255 0 0\nsky 0 0 255\n")
    place.write(Image.fromarray(COLOURS).save)
    np.testing.assert_array_equal(place.read(colors=str(table)), EXPECTED)


def test_palette_images_are_read_by_number(place):
    def save(path):
        image = Image.fromarray(LABELS, "P")
        image.putpalette([7, 7, 7, 200, 0, 0, 0, 200, 0] + [0] * 759)
        image.save(path)

    place.write(save)
    np.testing.assert_array_equal(place.read(format="labels"), LABELS)


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (np.array([[0, 1, 7]], np.uint8), r"has the value 7 at pixel \(2, 0\), which is none of the classes"),
        (np.array([[0, 300, 1]], np.uint16), "has the value 300: classes are numbered 0 to 255"),
        (np.array([[0, -1, 1]], np.int16), "has the value -1"),
        (np.array([[0, 0.5, 1]], np.float32), "has pixels that are not whole numbers, such as 0.5"),
        (np.zeros((1, 3, 5), np.uint8), r"has pixels of the shape \(5,\)"),
        (np.array(["a", "b"]), "has the type <U1: labels are class numbers"),
        (np.array([{"a": 1}], object), "is not an array of NumPy"),
    ],
)
def test_wrong_values_are_named(labels, text, place):
    place.write(lambda path: np.save(path, labels), ".npy")
    with pytest.raises(UserError, match=rf"Label .*a\.npy {text}"):
        place.read()


def test_colours_need_a_table(place):
    place.write(Image.fromarray(COLOURS).save)
    with pytest.raises(UserError, match=r"Label .*a\.png has colours, and nothing says .*--colors FILE"):
        place.read()


def test_unknown_colour_is_named_with_its_place(place):
    (place.root / "classes.txt").write_text("road 0 0 0\ncar 255 0 0\n")
    place.write(Image.fromarray(COLOURS).save)
    with pytest.raises(UserError, match=r"has the colour \(0, 0, 255\) at pixel \(2, 0\), which is none of the 2"):
        place.read()


def test_label_of_another_size_is_named(place):
    place.write(lambda path: np.save(path, np.zeros((2, 5), np.uint8)), ".npy")
    with pytest.raises(UserError, match=r"Label .*a\.npy is 5x2 pixels, but its image .*a\.png is 3x2"):
        place.read()


@pytest.mark.parametrize("ignored", [["car"], ["1"]])
def test_ignored_labels_count_for_nothing(ignored, place):
    place.write(Image.fromarray(LABELS).save)
    np.testing.assert_array_equal(place.read(ignored_labels=ignored), [[0, 255, 1], [1, 255, 255]])
    assert place.names == ["road", "sky"]


def test_ignored_label_need_not_be_a_class(place):
    place.write(lambda path: np.save(path, np.array([[0, 1, 11], [2, 1, 11]], np.uint8)), ".npy")
    np.testing.assert_array_equal(place.read(ignored_labels=["11"]), [[0, 1, 255], [2, 1, 255]])
    assert place.names == ["road", "car", "sky"]


def test_ignored_name_must_be_a_class(place):
    place.write(Image.fromarray(LABELS).save)
    with pytest.raises(UserError, match="--ignore-labels bike: the classes are road, car, sky"):
        place.read(ignored_labels=["bike"])


def test_images_and_labels_of_mixed_endings_are_read(place):
    Image.new("RGB", (3, 2)).save(place.root / "images/train/b.jpg")
    place.write(Image.fromarray(LABELS).save)
    np.save(place.root / "masks/train/b_mask.npy", LABELS)
    cfg = read_config(CONFIG)
    use_folder(cfg, str(place.root), work_dir=place.work)
    assert Path(cfg.train_dataloader.dataset.ann_file).read_text().split() == ["a.png", "b.jpg"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("road 0 0 0\ncar\n", "line 2, has 'car': either all classes have a colour, or none"),
        ("road 0 0 0\nroad 1 1 1\n", "line 2, names the class 'road' a second time"),
        ("road 0 0 0\ncar 0 0 0\n", r"line 2, gives 'car' the colour \(0, 0, 0\) of another class"),
        ("road 0 0 300\ncar 0 0 0\n", r"line 1, has the colour \(0, 0, 300\)"),
        ("\n\n", "has no class"),
    ],
)
def test_wrong_table_is_named_with_its_line(text, message, tmp_path):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=rf"Table of classes .*classes\.txt.*{message}"):
        read_table(tmp_path / "classes.txt")


def test_table_of_names_alone_is_read(tmp_path):
    (tmp_path / "classes.txt").write_text("traffic light\nroad, wet\n")
    assert read_table(tmp_path / "classes.txt") == ClassTable.of_names(["traffic light", "road, wet"])
