"""Image folders and shards: their samples, whatever the number of workers and processes, and their errors."""

import io
import logging
import random
import tarfile

import numpy as np
import pytest
import torch
import webdataset
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.logging import MMLogger
from PIL import Image
from torch.utils.data import DataLoader

from convnext_dense.data import ImageFolder, ImageShards, build_transform
from convnext_dense.data.checks.inspection import NOTE, WARNING, Inspection
from convnext_dense.data.data_folder import DataFolder
from convnext_dense.data.own.classification import check_classification_data
from convnext_dense.data.own.tasks import check_data, use_folder
from convnext_dense.data.transforms import random_state_of

PLAIN = dict(input_size=32, is_training=False, crop_pct=1.0, interpolation="bicubic")
AUGMENTED = dict(input_size=32, is_training=True, auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.5, re_mode="pixel")


def png(value):
    """Return a 40 x 36 image of one grey value."""
    file = io.BytesIO()
    Image.fromarray(np.full((36, 40, 3), value, np.uint8)).save(file, "png")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Ten images in each of two classes, each of its own grey; natural order puts class 2 before class 10."""
    for split in ("train", "val"):
        for label, name in enumerate(("2", "10")):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(10):
                (tmp_path / split / name / f"{number}.png").write_bytes(png(10 * label + number))
    return tmp_path


@pytest.fixture
def shards(tmp_path):
    """Four shards of six images; the grey value of an image is its number."""
    for shard in range(4):
        with webdataset.TarWriter(str(tmp_path / f"train-{shard}.tar")) as writer:
            for number in range(6 * shard, 6 * shard + 6):
                writer.write({"__key__": f"{number:03d}", "png": png(number), "cls": number % 2})
    (tmp_path / "classes.txt").write_text("even\nodd\n")
    return tmp_path


def read_shards(root, num_workers=0, **kwargs):
    arguments = dict(shards=str(root / "train-{0..3}.tar"), num_images=24, classes=str(root / "classes.txt"))
    dataset = ImageShards(**{**arguments, "transform": PLAIN, **kwargs})
    loader = DataLoader(dataset, batch_size=4, num_workers=num_workers, collate_fn=default_collate, drop_last=True)
    return dataset, loader


def greys(batch):
    """The grey values of plain images, from 0 to 255."""
    return [round(float(image[0].mean() * 0.229 + 0.485) * 255) for image in batch["inputs"]]


@pytest.fixture
def warnings_of(caplog):
    """What mmengine's current logger writes."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_folder_gives_labels_in_natural_order_of_the_classes(folder):
    dataset = ImageFolder(folder / "train", PLAIN)
    assert dataset.metainfo["classes"] == ("2", "10")
    assert [dataset[index]["labels"] for index in range(20)] == [0] * 10 + [1] * 10
    assert [greys(default_collate([dataset[index]]))[0] for index in range(20)] == list(range(20))


def test_augmentation_depends_on_seed_epoch_and_index_alone(folder):
    dataset = ImageFolder(folder / "train", AUGMENTED)
    images = {}
    for workers in (0, 1, 2):
        loader = DataLoader(dataset, batch_size=5, num_workers=workers, persistent_workers=workers > 0)
        for seed, epoch in ((3, 0), (3, 1), (4, 0)):
            dataset.start_epoch(seed, epoch)
            images[workers, seed, epoch] = torch.cat([batch["inputs"] for batch in loader])
    for (workers, seed, epoch), batch in images.items():
        assert torch.equal(batch, images[0, seed, epoch]), f"{workers} workers, seed {seed}, epoch {epoch}"
    assert not torch.equal(images[0, 3, 0], images[0, 3, 1])
    assert not torch.equal(images[0, 3, 0], images[0, 4, 0])


def test_posterize_to_zero_bits_is_black():
    """RandAugment draws magnitude 10 at m9-mstd0.5: 4 - int(10 / 10 * 4) = 0 bits, a black image before Pillow 13."""
    operations = build_transform(AUGMENTED).transforms[2].ops
    posterize = next(operation for operation in operations if operation.name == "PosterizeIncreasing")
    posterize.prob, posterize.magnitude, posterize.magnitude_std = 1.0, 10, 0
    image = Image.open(io.BytesIO(png(200)))
    assert posterize(image).getextrema() == ((0, 0),) * 3
    posterize.magnitude = 5  # 4 - int(5 / 10 * 4) = 2 bits: 200 = 0b11001000 becomes 0b11000000
    assert posterize(image).getextrema() == ((192, 192),) * 3


def test_random_state_is_restored_after_a_sample():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    wanted = (random.random(), np.random.random(), torch.rand(1))
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    with random_state_of(1, 2, 3):
        inside = (random.random(), np.random.random(), torch.rand(1))
    assert (random.random(), np.random.random(), torch.rand(1)) == wanted
    assert inside != wanted


def test_corrupt_image_is_logged_counted_and_replaced_by_the_next(folder, warnings_of):
    (folder / "train/2/3.png").write_bytes(png(3)[:40])
    (folder / "train/2/4.png").write_text("no image")
    dataset = ImageFolder(folder / "train", PLAIN, max_corrupt_rate=0.1)
    with warnings_of.at_level(logging.WARNING):
        assert greys(default_collate([dataset[3]])) == [5]
    assert dataset.corrupt.count == 2
    assert "Skipped corrupt image 1:" in warnings_of.messages[0]
    assert str(folder / "train/2/3.png") in warnings_of.messages[0]
    with pytest.raises(ValueError, match=r"4\.png cannot be decoded .*3 of the 20 images of this epoch, more"):
        dataset[4]
    dataset.start_epoch(0, 1)
    assert dataset.corrupt.count == 0


def test_corrupt_images_are_counted_over_all_workers(folder):
    for name in ("2/0.png", "2/9.png", "10/5.png"):
        (folder / "train" / name).write_bytes(b"")
    dataset = ImageFolder(folder / "train", PLAIN, max_corrupt_rate=0.2)
    assert len(torch.cat([batch["labels"] for batch in DataLoader(dataset, batch_size=2, num_workers=2)])) == 20
    assert dataset.corrupt.count == 3


def test_first_corrupt_image_is_an_error_unless_a_rate_is_given(folder):
    (folder / "train/2/3.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"3\.png cannot be decoded .*1 of the 20 images"):
        ImageFolder(folder / "train", PLAIN)[3]


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda root: [path.unlink() for path in root.glob("train/*/*")], r"There is no image in the class folders of"),
        (lambda root: (root / "train/stray.png").write_bytes(png(1)), r"stray\.png is not in a class folder"),
        (lambda root: (root / "val/10").rename(root / "val/11"), r"/val/11 is not one of the 2 classes, which are '2'"),
        (lambda root: (root / "val").rename(root / "test"), r"has no folder val; it has 'train', 'test'\. Expected:"),
    ],
)
def test_wrong_folders_are_reported(folder, damage, text):
    damage(folder)
    with pytest.raises(ValueError, match=text):
        use_folder(config(), folder)


@pytest.mark.parametrize("is_empty", [False, True])
@pytest.mark.parametrize(("split", "severity"), [("val", NOTE), ("train", WARNING)])
def test_class_without_images_keeps_its_label_and_is_reported(folder, split, severity, is_empty):
    """Class 2 comes before class 10, which is label 1 whether or not there is an image of 2."""
    for path in (folder / split / "2").iterdir():
        path.unlink()
    if not is_empty:
        (folder / split / "2").rmdir()
    cfg = config()
    use_folder(cfg, DataFolder(str(folder), classes=["2", "10"]))
    assert cfg.model.num_classes == 2
    assert {label for _, label in ImageFolder(**only(cfg[f"{split}_dataloader"].dataset)).samples} == {1}
    inspection = Inspection()
    check_classification_data(cfg, ("train", "val"), inspection)
    [finding] = inspection.findings
    assert finding.severity == severity
    assert f"{folder / split} has no images of '2'" in finding.example
    assert f"Images of {split}: 1 classes in {folder / split}." in inspection.lines


def only(dataset):
    return {key: dataset[key] for key in ("root", "transform", "metainfo")}


def config():
    dataset = dict(type="convnext_dense.ImageFolder", root="nowhere", transform=PLAIN)
    loader = dict(batch_size=4, sampler=dict(type="DefaultSampler"), dataset=dataset)
    model = dict(type="convnext_dense.ImageClassifier", num_classes=1000)
    return Config(dict(model=model, train_dataloader=loader, val_dataloader=loader, test_dataloader=loader))


def test_custom_folder_sizes_the_head(folder):
    cfg = config()
    assert use_folder(cfg, folder) == ["2", "10"]
    assert cfg.model.num_classes == 2
    assert cfg.test_dataloader.dataset.root == str(folder / "val")
    assert check_data(cfg, ("train", "val")) == [f"Images of {s}: 2 classes in {folder / s}." for s in ("train", "val")]


def test_fewer_images_than_a_batch_are_an_error(folder):
    cfg = config()
    cfg.train_dataloader.batch_size = 32
    with pytest.raises(ValueError, match=r"train has 20 images, fewer than one batch: lower train_dataload"):
        use_folder(cfg, folder)


def test_custom_folder_is_read_in_the_trained_order_of_classes(folder):
    cfg = config()
    (folder / "train").rename(folder / "elsewhere")
    assert use_folder(cfg, folder, ("10", "2"), splits=dict(test="val")) == ["10", "2"]
    dataset = ImageFolder(folder / "val", PLAIN, metainfo=cfg.test_dataloader.dataset.metainfo)
    assert greys(default_collate([dataset[0]])) == [0]
    assert dataset[0]["labels"] == 1


def test_labels_that_the_head_does_not_have_are_an_error(folder):
    cfg = config()
    use_folder(cfg, folder)
    cfg.model.num_classes = 3
    with pytest.raises(ValueError, match=r"train has 2 classes, but the head has num_classes=3"):
        check_data(cfg, ("train",))


def test_unknown_argument_of_a_transform_is_reported(folder):
    with pytest.raises(ValueError, match=r"not what timm's create_transform takes: .*'rand_augment'"):
        ImageFolder(folder / "train", dict(PLAIN, rand_augment=1))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_image_of_the_shards_is_read_once_per_epoch(shards, num_workers):
    dataset, loader = read_shards(shards, num_workers)
    assert dataset.metainfo["classes"] == ("even", "odd")
    orders = []
    for epoch in range(2):
        dataset.start_epoch(7, epoch, batch_size=4)
        batches = list(loader)
        assert len(batches) == len(loader) == 6
        orders.append([grey for batch in batches for grey in greys(batch)])
        assert [grey % 2 for grey in orders[-1]] == torch.cat([batch["labels"] for batch in batches]).tolist()
        assert sorted(orders[-1]) == list(range(24))
    assert orders[0] != orders[1]
    dataset.start_epoch(7, 0, batch_size=4)
    assert [grey for batch in loader for grey in greys(batch)] == orders[0], "the same epoch of the same run differs"


def test_processes_share_the_shards_without_overlap(shards, monkeypatch):
    seen = []
    for rank in range(2):
        monkeypatch.setattr("convnext_dense.data.shards.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr("convnext_dense.data.shards.get_world_size", lambda: 2)
        dataset, loader = read_shards(shards)
        dataset.start_epoch(7, 0, batch_size=4)
        assert len(dataset) == 12
        seen += [grey for batch in loader for grey in greys(batch)]
    assert sorted(seen) == list(range(24))


def test_uneven_shards_give_the_stated_number_of_full_batches(shards):
    dataset, loader = read_shards(shards, 2, num_images=40)
    dataset.start_epoch(7, 0, batch_size=4)
    assert [len(batch["labels"]) for batch in loader] == [4] * 10


def test_truncated_shard_is_reported(shards):
    content = (shards / "train-2.tar").read_bytes()
    (shards / "train-2.tar").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"Shard .*train-2\.tar ends in the middle \(\d+ bytes\): copy it again"):
        read_shards(shards)


def test_shard_that_is_truncated_while_reading_is_reported(shards):
    """A remote stream may be truncated, which shows only when it is read."""
    _, loader = read_shards(shards)
    content = (shards / "train-2.tar").read_bytes()
    (shards / "train-2.tar").write_bytes(content[:700])  # within the first image, after its 512-byte header
    with pytest.raises(ValueError, match=r"Shard .*train-2\.tar is truncated or not a tar file"):
        list(loader)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        (dict(shards="nowhere-{0..3}.tar"), r"Shard nowhere-0\.tar does not exist"),
        (dict(num_workers=5), r"4 shards cannot be distributed over 1 processes x 5 workers"),
        (dict(classes=["only"]), r"has the label 1, but there are 1 classes"),
        (dict(max_corrupt_rate=2), r"max_corrupt_rate=2 must be in \[0, 1\]"),
    ],
)
def test_wrong_arguments_of_shards_are_reported(shards, kwargs, text):
    with pytest.raises(ValueError, match=text):
        list(read_shards(shards, **kwargs)[1])


def test_shard_without_labels_is_reported(shards):
    with tarfile.open(shards / "train-1.tar", "w") as tar:
        info = tarfile.TarInfo("000.png")
        info.size = len(png(1))
        tar.addfile(info, io.BytesIO(png(1)))
    with pytest.raises(ValueError, match=r"000 in .*train-1\.tar has .*but needs one of jpg, jpeg, png, webp, and cls"):
        list(read_shards(shards)[1])


def test_names_in_a_shard_are_not_written_to_disk(shards):
    """Members are read into memory under their names; none is written to disk, wherever its name points."""
    before = sorted(shards.parent.rglob("*"))
    with tarfile.open(shards / "train-0.tar", "w") as tar:
        for name, content in (
            ("../../out.png", png(9)),
            ("../../out.cls", b"1"),
            ("/out.png", png(9)),
            ("/out.cls", b"1"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    _, loader = read_shards(shards, shards=str(shards / "train-0.tar"), num_images=4)
    assert [grey for batch in loader for grey in greys(batch)] == [9] * 4
    assert sorted(shards.parent.rglob("*")) == before


def test_corrupt_image_in_a_shard_is_skipped(shards):
    with webdataset.TarWriter(str(shards / "train-0.tar")) as writer:
        for number in range(6):
            writer.write({"__key__": f"{number:03d}", "png": png(number) if number else b"x", "cls": number % 2})
    dataset, loader = read_shards(shards, max_corrupt_rate=0.1)
    dataset.start_epoch(0, 0, batch_size=4)
    seen = [grey for batch in loader for grey in greys(batch)]
    assert len(seen) == 24
    assert 0 not in seen
    assert 1 <= dataset.corrupt.count <= 2  # it may occur again when the epoch is filled up
