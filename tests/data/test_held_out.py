"""Holding out a part to validate on: its share, its seed, its classes, and what stays together."""

import json
import shutil
from collections import Counter
from pathlib import Path

import cv2
import imagehash
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageEnhance

from convnext_dense.config.reading import read_config
from convnext_dense.data import near_duplicates
from convnext_dense.data.data_folder import DataFolder
from convnext_dense.data.held_out import Sample, choose_groups, hold_out
from convnext_dense.data.image_folder import find_samples
from convnext_dense.data.near_duplicates import group_images
from convnext_dense.data.own.tasks import use_folder
from convnext_dense.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs/demo"
FORMATS = Path(__file__).parents[1] / "fixtures/formats"


def picture(seed):
    """Return an image that looks like no other: a coarse pattern, enlarged."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((96, 80), Image.Resampling.BICUBIC)


def write(folder, **images):
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        image.save(folder / f"{name}.jpg", quality=92)
    return [folder / f"{name}.jpg" for name in images]


def together(paths):
    """Return the names of the images of each group of several."""
    groups = {}
    for path, number in zip(paths, group_images(paths), strict=True):
        groups.setdefault(number, set()).add(path.stem)
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)


def test_other_images_are_in_groups_of_their_own(tmp_path):
    assert together(write(tmp_path, **{f"a{n}": picture(n) for n in range(40)})) == []


def test_versions_of_an_image_are_in_one_group(tmp_path):
    one = picture(1)
    paths = write(
        tmp_path,
        one=one,
        smaller=one.resize((48, 40)),
        brighter=ImageEnhance.Brightness(one).enhance(1.2),
        other=picture(2),
        copy=one,
    )
    assert together(paths) == [["brighter", "copy", "one", "smaller"]]
    first, second = (imagehash.phash(Image.open(path).convert("L")) for path in paths[:2])
    assert first - second <= 6  # the library's own distance


def test_frames_that_follow_each_other_are_in_one_group(tmp_path):
    noise = np.random.default_rng(0)
    frames = {}
    for number, seed in ((1, 1), (2, 1), (3, 1), (4, 2), (5, 2)):  # a cut after the third frame
        pixels = np.asarray(picture(seed), np.float64) + noise.normal(0, 12, (80, 96, 3))
        frames[f"clip{number * 30:04d}"] = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    assert together(write(tmp_path, **frames)) == [["clip0030", "clip0060", "clip0090"], ["clip0120", "clip0150"]]


def test_frames_of_several_videos_are_told_by_their_names(tmp_path):
    names = [[f"{video}_frame_{n}" for n in range(3)] for video in ("street", "yard")]
    images = {name: picture(number) for number, name in enumerate(name for each in names for name in each)}
    assert together(write(tmp_path, **images)) == names


def test_versions_in_an_export_of_roboflow_are_in_one_group(tmp_path):
    images = {"cat_jpg.rf.0a1b2c": picture(1), "cat_jpg.rf.3d4e5f": picture(2), "dog_jpg.rf.aa11bb": picture(3)}
    assert together(write(tmp_path, **images)) == [["cat_jpg.rf.0a1b2c", "cat_jpg.rf.3d4e5f"]]


def test_unreadable_images_are_left_to_the_check(tmp_path):
    paths = write(tmp_path, a=picture(1), b=picture(2), c=picture(3))
    for path in paths[:2]:
        path.write_bytes(b"no image")
    assert len(set(group_images(paths))) == 3


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".png"])
def test_images_of_16_bits_and_more_channels_are_compared(suffix, tmp_path):
    paths = []
    for name, seed in (("a", 1), ("b", 2), ("copy", 1)):
        pixels = np.asarray(picture(seed)).astype(np.uint16) * 257
        paths.append(tmp_path / f"{name}{suffix}")
        if suffix == ".npy":
            np.save(paths[-1], np.dstack([pixels, pixels]))
        elif suffix == ".tif":
            tifffile.imwrite(paths[-1], np.dstack([pixels, pixels]), photometric="minisblack")
        else:
            cv2.imwrite(str(paths[-1]), pixels)
    assert together(paths) == [["a", "copy"]]


def samples_of(counts):
    """Return images that look like no other, so many of each list of classes."""
    samples = []
    for classes, number in counts:
        samples += [Sample(Path(f"{len(samples) + place:05d}.jpg"), classes) for place in range(number)]
    return samples


def test_every_class_has_its_share():
    samples = samples_of([(["cat"], 100), (["cat", "dog"], 20), (["bird"] * 3, 10), ([], 30)])
    held = choose_groups([[place] for place in range(len(samples))], samples, 0.2, 0)
    counts = Counter(name for place in held for name in samples[place].classes or ["none"])
    assert len(held) == pytest.approx(32, abs=1)
    assert counts["cat"] == pytest.approx(24, abs=1)
    assert counts["dog"] == pytest.approx(4, abs=1)
    assert counts["bird"] == pytest.approx(6, abs=3)
    assert counts["none"] == pytest.approx(6, abs=1)


def test_class_of_one_image_is_learnt():
    samples = samples_of([(["cat"], 20), (["rare"], 1)])
    held = choose_groups([[place] for place in range(21)], samples, 0.3, 5)
    assert 20 not in held


def test_groups_are_not_divided():
    samples = samples_of([(["cat"], 60)])
    groups = [list(range(start, start + 6)) for start in range(0, 60, 6)]
    held = choose_groups(groups, samples, 0.2, 3)
    assert len(held) == 2


def test_seed_chooses_and_the_order_of_images_does_not(tmp_path):
    paths = write(tmp_path, **{f"a{n:02d}": picture(n) for n in range(20)})
    samples = [Sample(path, ["cat"]) for path in paths]

    def held(samples, seed):
        return {samples[place].image.name for place in hold_out(samples, 0.25, seed)[0]}

    assert held(samples, 0) == held(samples[::-1], 0) != held(samples, 1)
    assert len(held(samples, 0)) == 5


@pytest.mark.parametrize("share", [0, 1, -0.2, 20])
def test_share_must_be_a_share(share):
    with pytest.raises(UserError, match=r"--val-share .* must be above 0 and below 1"):
        hold_out([], share, 0)


def test_one_group_cannot_be_divided(tmp_path):
    paths = write(tmp_path, a=picture(1), b=picture(1), c=picture(1))
    with pytest.raises(UserError, match="3 images form 1 groups"):
        hold_out([Sample(path, ["cat"]) for path in paths], 0.3, 0)


@pytest.mark.parametrize("name", ["label_studio_coco", "via"])
def test_detection_data_without_val_is_divided(name, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(FORMATS / name, folder)
    shutil.rmtree(folder / "val", ignore_errors=True)
    cfg = read_config(CONFIGS / "mask_rcnn_convnext_atto_shapes.py")
    use_folder(cfg, DataFolder(str(folder), val_share=0.3), work_dir=tmp_path / "work")
    datasets = [cfg[f"{split}_dataloader"].dataset for split in ("train", "val")]
    contents = [json.loads(Path(dataset.data_root, dataset.ann_file).read_text()) for dataset in datasets]
    names = [{image["file_name"] for image in content["images"]} for content in contents]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 6
    assert contents[0]["categories"] == contents[1]["categories"]
    assert sum(len(content["annotations"]) for content in contents) == 10


def test_label_images_without_val_are_divided(two_class_folder, tmp_path):
    shutil.rmtree(two_class_folder / "val")
    cfg = read_config(CONFIGS / "upernet_convnext_atto_shapes.py")
    use_folder(cfg, DataFolder(str(two_class_folder), val_share=0.25), work_dir=tmp_path / "work")
    lists = [Path(cfg[f"{split}_dataloader"].dataset.ann_file).read_text().split() for split in ("train", "val")]
    assert sorted(map(len, lists)) == [2, 6]
    assert not set(lists[0]) & set(lists[1])


@pytest.mark.parametrize("has_train", [False, True])
def test_class_folders_without_val_are_divided(has_train, tmp_path):
    root = tmp_path / "data"
    for place, name in enumerate(("cat", "dog")):
        folder = root / "train" / name if has_train else root / name
        write(folder, **{f"{name}{n}": picture(100 * place + n) for n in range(10)})
    cfg = read_config(CONFIGS / "pretrain_convnext_atto_shapes.py")
    cfg.train_dataloader.batch_size = 4
    names = use_folder(cfg, DataFolder(str(root), val_share=0.2), work_dir=tmp_path / "work")
    assert names == ["cat", "dog"]
    counts = []
    for split in ("train", "val"):
        dataset = cfg[f"{split}_dataloader"].dataset
        samples, _ = find_samples(Path(dataset.root), names, dataset.ann_file)
        assert all(Path(path).is_file() and names[label] in path for path, label in samples)
        counts.append(Counter(label for _, label in samples))
    assert counts == [{0: 8, 1: 8}, {0: 2, 1: 2}]


def test_folder_with_val_is_not_divided(two_class_folder, tmp_path):
    cfg = read_config(CONFIGS / "upernet_convnext_atto_shapes.py")
    with pytest.raises(UserError, match=r"--val-share makes a val split, and .* has one"):
        use_folder(cfg, DataFolder(str(two_class_folder), val_share=0.25), work_dir=tmp_path / "work")


def test_bits_are_counted_with_and_without_numpy_2(monkeypatch):
    numbers = np.array([0, 1, 2**63, 2**64 - 1, 0x0F0F], np.uint64)
    assert near_duplicates._bits(numbers).tolist() == [0, 1, 1, 64, 8]
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert near_duplicates._bits(numbers).tolist() == [0, 1, 1, 64, 8]
