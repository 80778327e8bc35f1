"""Segmentation folders and checks before training: every error names the file and the value."""

import colorsys
import shutil

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

from convnext_dense.config.class_counts import task_of
from convnext_dense.data.data_folder import DataFolder
from convnext_dense.data.own.segmentation import make_palette, use_segmentation_folder
from convnext_dense.data.own.tasks import check_data, use_folder
from convnext_dense.data.shapes.ade import draw_ade_preview, label_image, write_ade
from convnext_dense.data.shapes.scenes import CLASS_NAMES, split_scene

CONFIG = "configs/segmentation/upernet_convnext_t_160k.py"
NAMES = ["background", *CLASS_NAMES]


@pytest.fixture
def cfg(request):
    init_default_scope("mmseg")
    return Config.fromfile(request.config.rootpath / CONFIG)


def check(cfg, folder, **kwargs):
    use_segmentation_folder(cfg, folder, **kwargs)
    return check_data(cfg, ("train", "val", "test"))


def write_label(path, change):
    labels = np.array(Image.open(path))
    Image.fromarray(change(labels)).save(path)


def set_pixel(value):
    def change(labels):
        labels[0, 0] = value
        return labels

    return change


def test_own_folder_sets_data_classes_and_heads(cfg, two_class_folder):
    assert use_segmentation_folder(cfg, two_class_folder) == ["background", "shape"]
    for loader, split in (("train", "train"), ("val", "val"), ("test", "val")):
        dataset = cfg[f"{loader}_dataloader"].dataset
        assert dataset.data_root == str(two_class_folder)
        assert dataset.data_prefix == {"img_path": split, "seg_map_path": f"semantic/{split}"}
        assert (dataset.img_suffix, dataset.seg_map_suffix) == (".jpg", ".png")
        assert dataset.metainfo.classes == ("background", "shape")
        assert dataset.reduce_zero_label is False
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == 2


def test_the_data_set_that_the_config_describes_is_the_folder(cfg, two_class_folder):
    """Built as the Runner builds it, the data set has pairs of image and label, with the label's own values."""
    from mmseg.registry import DATASETS
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    use_segmentation_folder(cfg, two_class_folder)
    init_default_scope("mmseg")
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    assert len(dataset) == 4
    label = dataset[0]["data_samples"].gt_sem_seg.data[0].numpy()
    np.testing.assert_array_equal(label, np.asarray(Image.open(two_class_folder / "semantic/val/00000001.png")))


@pytest.mark.parametrize(
    ("images", "labels", "train", "val", "ignores_zero"),
    [
        ("images", "labels", "train", "val", False),
        ("img_dir", "ann_dir", "train", "val", False),
        ("images", "annotations", "training", "validation", True),
    ],
)
def test_layouts_are_recognised(cfg, two_class_folder, tmp_path, images, labels, train, val, ignores_zero):
    root = tmp_path / "other"
    for split, name in (("train", train), ("val", val)):
        shutil.copytree(two_class_folder / split, root / images / name)
        shutil.copytree(two_class_folder / "semantic" / split, root / labels / name)
    use_segmentation_folder(cfg, root, ["one", "two"])
    assert cfg.train_dataloader.dataset.data_prefix == {
        "img_path": f"{images}/{train}",
        "seg_map_path": f"{labels}/{train}",
    }
    assert cfg.val_dataloader.dataset.data_prefix == {"img_path": f"{images}/{val}", "seg_map_path": f"{labels}/{val}"}
    assert cfg.train_dataloader.dataset.reduce_zero_label is ignores_zero


def test_names_come_from_the_option_then_the_file_then_the_checkpoint(cfg, two_class_folder):
    assert use_segmentation_folder(cfg, two_class_folder, ["a", "b"], ["x", "y"]) == ["a", "b"]
    assert use_segmentation_folder(cfg, two_class_folder, None, ["x", "y"]) == ["background", "shape"]
    (two_class_folder / "classes.txt").unlink()
    assert use_segmentation_folder(cfg, two_class_folder, None, ["x", "y"]) == ["x", "y"]
    with pytest.raises(
        ValueError, match=r"have no names: write them into .*classes\.txt, .* or give them with --classes"
    ):
        use_segmentation_folder(cfg, two_class_folder)
    with pytest.raises(ValueError, match="named twice: a, a"):
        use_segmentation_folder(cfg, two_class_folder, ["a", "a"])


def test_check_summarises_the_data(cfg, two_class_folder):
    write_label(two_class_folder / "semantic/val/00000001.png", set_pixel(255))
    train, val = check(cfg, two_class_folder)
    assert "8 images; in 8 labels read, 2 of 2 classes occur and 0.0% of the pixels are ignored" in train
    assert "4 images; in 4 labels read, 2 of 2 classes occur" in val


def test_folder_of_another_layout_is_refused(cfg, tmp_path):
    with pytest.raises(ValueError, match=r"--data .*nowhere is not a folder"):
        use_segmentation_folder(cfg, tmp_path / "nowhere", ["a"])
    with pytest.raises(ValueError, match=r"has no images and labels of 'train', 'val'\. Expected:\n +DIR/train"):
        use_segmentation_folder(cfg, tmp_path, ["a"])


def test_missing_ade20k_is_reported_with_its_layout(cfg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"There is no data at data/ade/ADEChallengeData2016: .* Put ADE20K there \(images"
    ):
        check_data(cfg, ("train",))


def test_value_that_is_not_a_class_is_reported_with_its_file(cfg, two_class_folder):
    write_label(two_class_folder / "semantic/train/00000003.png", set_pixel(7))
    with pytest.raises(ValueError, match=r"00000003\.png has the values 7, but 2 classes are numbered 0 to 1, and 255"):
        check(cfg, two_class_folder)


def test_labels_from_one_on_look_off_by_one(cfg, two_class_folder):
    for split in ("train", "val"):
        for path in (two_class_folder / "semantic" / split).iterdir():
            write_label(path, lambda labels: labels + np.uint8(1))
    with pytest.raises(ValueError, match=r"off by one: from 1 to 2; set reduce_zero_label=True"):
        check(cfg, two_class_folder)


def test_labels_from_zero_on_under_reduce_zero_label_look_off_by_one(cfg, ade_folder):
    use_segmentation_folder(cfg, ade_folder)
    (line,) = check_data(cfg, ("train",))
    assert "off by one" not in line  # 1 to 7, and 0 for what is ignored
    for loader in ("train", "val", "test"):
        cfg[f"{loader}_dataloader"].dataset.metainfo.classes = (*NAMES, "eighth")
    cfg.model.decode_head.num_classes = cfg.model.auxiliary_head.num_classes = 8
    path = ade_folder / "annotations/training/00000001.png"
    before = path.read_bytes()
    try:
        write_label(path, set_pixel(0))
        _, line, absent = check_data(cfg, ("train",))
    finally:
        path.write_bytes(before)
    assert "look off by one: 0 to 7 occur and 8 does not" in line
    assert "labels read in" in absent
    assert absent.endswith("is of 'eighth' (8).")


def test_wrong_suffix_of_labels_is_reported(cfg, two_class_folder):
    label = two_class_folder / "semantic/train/00000002.png"
    label.rename(label.with_name("00000002_mask.png"))
    with pytest.raises(
        ValueError, match=r"1 of 8 images of .*train have no label in .*, such as '00000002\.png'; it has 8"
    ):
        check(cfg, two_class_folder)


def test_images_of_two_kinds_and_none_are_refused(cfg, two_class_folder):
    (two_class_folder / "train" / "more.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"more than one ending \(8 \.jpg, 1 \.png\): convert them to one"):
        use_segmentation_folder(cfg, two_class_folder)
    for path in (two_class_folder / "train").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"There is no image in .*train: expected files ending in \.jpg"):
        use_segmentation_folder(cfg, two_class_folder)


def test_wrong_img_suffix_in_a_config_is_reported(cfg, two_class_folder):
    use_segmentation_folder(cfg, two_class_folder)
    cfg.train_dataloader.dataset.img_suffix = ".jpeg"
    with pytest.raises(ValueError, match=r"no image that ends in '\.jpeg' in .*; it has 8 files, such as"):
        check_data(cfg, ("train",))


def test_image_and_label_of_different_size_are_reported(cfg, two_class_folder):
    label = two_class_folder / "semantic/train/00000001.png"
    write_label(label, lambda labels: labels[:-1])
    with pytest.raises(ValueError, match=r"00000001\.png is 72x95 pixels, but its image .*00000001\.jpg is 72x96"):
        check(cfg, two_class_folder)


def test_image_stored_on_its_side_has_the_size_at_which_it_is_read(cfg, two_class_folder):
    """Cameras store pictures on their side and say so in EXIF; the reader turns them."""
    image = two_class_folder / "train/00000002.jpg"
    label = np.asarray(Image.open(two_class_folder / "semantic/train/00000002.png"))
    assert label.shape[0] != label.shape[1]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((*label.shape[::-1], 3), np.uint8)).save(image, exif=exif)
    assert len(check(cfg, two_class_folder)) == 2


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (np.zeros((96, 72, 3), np.uint8), "has 3 channels: it must have one"),
        (np.full((96, 72), 300, np.uint16), "has values up to 300; labels are read as 8-bit"),
    ],
)
def test_label_of_another_kind_is_reported(cfg, two_class_folder, labels, text):
    Image.fromarray(labels).save(two_class_folder / "semantic/train/00000001.png")
    with pytest.raises(ValueError, match=text):
        check(cfg, two_class_folder)


@pytest.mark.parametrize(("name", "kind"), [("semantic/train/00000001.png", "Label"), ("train/00000001.jpg", "Image")])
def test_truncated_file_is_reported(cfg, two_class_folder, name, kind):
    path = two_class_folder / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"{kind} .*{name} cannot be decoded: it is truncated"):
        check(cfg, two_class_folder)


def test_labels_that_are_all_ignored_are_refused(cfg, two_class_folder):
    for path in (two_class_folder / "semantic/train").iterdir():
        write_label(path, lambda labels: np.full_like(labels, 255))
    with pytest.raises(ValueError, match=r"Every pixel of 8 labels read in .* is ignored"):
        check(cfg, two_class_folder)


def test_head_with_another_number_of_classes_is_reported(cfg, two_class_folder):
    use_segmentation_folder(cfg, two_class_folder)
    cfg.model.auxiliary_head.num_classes = 150
    with pytest.raises(
        ValueError, match=r"FCNHead has num_classes=150, but there are 2 classes \('background', 'shape'\)"
    ):
        check_data(cfg, ("train",))


def test_some_of_ade20ks_classes_may_be_used(cfg, ade_folder):
    """Files contain all 150 numbers, whatever classes the config selects."""
    dataset = cfg.train_dataloader.dataset
    dataset.update(data_root=str(ade_folder), metainfo=dict(classes=("wall", "sky")))
    cfg.model.decode_head.num_classes = cfg.model.auxiliary_head.num_classes = 2
    (line,) = check_data(cfg, ("train",))
    assert "of 150 classes occur" in line


def test_the_model_tells_the_task(cfg, request, ade_folder):
    assert task_of(cfg) == "segmentation"
    detector = Config.fromfile(request.config.rootpath / "configs/detection/cascade_convnext_t_3x.py")
    assert task_of(detector) == "detection"
    assert use_folder(cfg, ade_folder) == NAMES
    assert check_data(cfg, ("train",))[0].startswith(str(ade_folder))
    cfg.model = dict(type="ImageToSound")
    assert task_of(cfg) is None
    assert check_data(cfg, ("train",)) == []
    with pytest.raises(ValueError, match="not ImageToSound: name the data in the config"):
        use_folder(cfg, ade_folder)


def test_detection_takes_no_class_names(request, shapes_folder):
    cfg = Config.fromfile(request.config.rootpath / "configs/detection/cascade_convnext_t_3x.py")
    with pytest.raises(ValueError, match="--classes is for segmentation"):
        use_folder(cfg, DataFolder(str(shapes_folder), classes=["a"]))


def test_written_labels_are_the_drawn_masks(ade_folder):
    for index in range(8):
        scene = split_scene("train", index, seed=1, image_size=(96, 96), has_class_colours=True)
        labels = np.asarray(Image.open(ade_folder / f"annotations/training/{index + 1:08d}.png"))
        np.testing.assert_array_equal(labels, label_image(scene))
        for scene_object in scene.objects:
            wanted = 0 if scene_object.is_crowd else 2 + scene_object.class_index
            assert (labels[scene_object.mask] == wanted).all()
        covered = sum((scene_object.mask.astype(int) for scene_object in scene.objects), np.zeros(labels.shape, int))
        assert (labels[covered == 0] == 1).all()


def test_hues_tell_most_classes_and_grey_is_background():
    """By the definition of HSV class i has hue 60 i degrees; a deviation of a quarter step leaves 1 in 22 beyond."""
    right, saturation = [], {True: [], False: []}
    for index in range(60):
        scene = split_scene("train", index, seed=2, image_size=(96, 96), has_class_colours=True)
        covered = np.zeros(scene.image.shape[:2], bool)
        for scene_object in scene.objects:
            covered |= scene_object.mask
            red, green, blue = scene.image[scene_object.mask].mean(0) / 255
            hue, strength, _ = colorsys.rgb_to_hsv(red, green, blue)
            right.append(round(6 * hue) % 6 == scene_object.class_index)
            saturation[True].append(strength)
        saturation[False].append(colorsys.rgb_to_hsv(*(scene.image[~covered].mean(0) / 255))[1])
    assert 0.85 < np.mean(right) < 1
    assert np.median(saturation[True]) > 2 * np.median(saturation[False])


def test_ade_folder_is_found_again_and_previewed(ade_folder):
    assert not write_ade(ade_folder, 8, num_val=4, image_size=(96, 96), seed=1)
    sheet = draw_ade_preview(ade_folder, 2)
    width, height = Image.open(sheet).size
    assert (width, height) == (3 * 2 * (144 + 6), 192 + 6)  # two images of 72x96, doubled; room for three pairs
    sheet.unlink()
    with pytest.raises(ValueError, match="num_images=0 must be 1 or more"):
        draw_ade_preview(ade_folder, 0)


def test_colours_are_many_and_different():
    palette = make_palette(150)
    assert len({tuple(colour) for colour in palette}) == 150
    assert palette[0] == [40, 40, 40]
    assert np.min(palette) >= 0
    assert np.max(palette) <= 255
