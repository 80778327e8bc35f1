"""Every bad input of bad_inputs.json ends with the sentence listed there, without a traceback.

Each function below creates one bad input and returns the command line that meets it; its name is the key.
"""

import contextlib
import json
import pickle
import re
import runpy
import shutil
import struct
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from file_server import serving
from PIL import Image

from convnext_dense.description.documents import BAD_INPUTS, describe_bad_inputs
from convnext_dense.description.published import read_bad_inputs

ROOT = Path(__file__).parents[1]
TABLE = read_bad_inputs()
DETECTOR = ROOT / "configs/demo/mask_rcnn_convnext_atto_shapes.py"
SEGMENTER = ROOT / "configs/demo/upernet_convnext_atto_scratch.py"
CLASSIFIER = ROOT / "configs/demo/convnext_atto_small_images.py"
OFFICIAL = ROOT / "tests/fixtures/official_v1.pth"
CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


class Place:
    """Folders of valid data, which tests may damage, and files beside them."""

    def __init__(self, folder, sources, patch, servers):
        self.folder, self.sources, self.patch, self.servers = folder, sources, patch, servers
        patch.setenv("TORCH_HOME", str(folder / "torch"))

    def copy(self, name):
        return Path(shutil.copytree(self.sources[name], self.folder / name))

    def file(self, name, content=b""):
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def served(self, content, name, **behaviour):
        """Return the address of a file that a local server sends."""
        return self.servers.enter_context(serving(content, **behaviour)).address(name)

    def detect(self, change, split="train"):
        """Change the content of an annotation file, and train."""
        folder = self.copy("coco")
        path = folder / f"instances_{split}.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        return self.train(folder)

    def object(self, **values):
        """Change the first object, and train."""
        return self.detect(lambda content: content["annotations"][0].update(values))

    def image(self, content, folder="coco", name="train/000000000001.jpg"):
        """Put other bytes into an image, and train."""
        root = self.copy(folder)
        (root / name).write_bytes(content((root / name).read_bytes()))
        return self.train(root)

    def label(self, change):
        """Change the values of a label image, and train."""
        root = self.copy("labels")
        path = root / "semantic/train/00000001.png"
        Image.fromarray(change(np.array(Image.open(path)))).save(path)
        return self.train(root)

    def train(self, folder, *arguments):
        config = {"labels": SEGMENTER, "classes": CLASSIFIER}.get(folder.name, DETECTOR)
        return ["train.py", config, "--data", folder, "--work-dir", self.folder / "run", *arguments]

    def options(self, *options):
        return self.train(self.copy("coco"), "--cfg-options", *options)

    def infer(self, image, *arguments):
        arguments = ("--out-dir", self.folder / "out", "--device", "cpu", *arguments)
        return ["infer.py", DETECTOR, self.sources["checkpoint"], image, *arguments]

    def test(self, checkpoint, *arguments):
        return ["test.py", DETECTOR, checkpoint, "--data", self.copy("coco"), "--work-dir", self.folder, *arguments]

    def convert(self, checkpoint, out="out.pth"):
        return ["convert_checkpoint.py", checkpoint, self.folder / out, "--to", "timm"]


def png(width, height):
    """Return a PNG of a few bytes that claims a size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


# Detection: the annotation file


@case
def annotation_file_empty(place):
    folder = place.copy("coco")
    (folder / "instances_train.json").write_text("")
    return place.train(folder)


@case
def annotation_file_truncated(place):
    folder = place.copy("coco")
    path = folder / "instances_train.json"
    path.write_text(path.read_text()[:-40])
    return place.train(folder)


@case
def annotation_file_nested(place):
    folder = place.copy("coco")
    (folder / "instances_train.json").write_text("[" * 100_000)
    return place.train(folder)


@case
def annotation_file_of_another_format(place):
    folder = place.copy("coco")
    (folder / "instances_train.json").write_text('{"shapes": []}')
    return place.train(folder)


@case
def annotation_file_missing(place):
    folder = place.copy("coco")
    (folder / "instances_val.json").unlink()
    return place.train(folder)


@case
def data_folder_missing(place):
    return place.train(place.folder / "nowhere")


@case
def no_annotations(place):
    return place.detect(lambda content: content.update(annotations=[]))


@case
def no_annotations_in_val(place):
    return place.detect(lambda content: content.update(annotations=[]), split="val")


@case
def image_name_with_dots(place):
    return place.detect(lambda content: content["images"][0].update(file_name="../../etc/passwd"))


@case
def image_name_absolute(place):
    return place.detect(lambda content: content["images"][0].update(file_name="/etc/passwd"))


@case
def image_without_name(place):
    return place.detect(lambda content: content["images"][0].pop("file_name"))


@case
def image_height_with_a_fraction(place):
    return place.detect(lambda content: content["images"][0].update(height=96.5))


@case
def image_size_claimed_by_annotations(place):
    return place.detect(lambda content: content["images"][0].update(height=10**6, width=10**6))


@case
def image_ids_twice(place):
    return place.detect(lambda content: content["images"][1].update(id=content["images"][0]["id"]))


@case
def image_ids_of_one_number(place):
    return place.detect(lambda content: content["images"][1].update(id=str(content["images"][0]["id"])))


@case
def annotation_ids_twice(place):
    return place.detect(lambda content: content["annotations"].append(dict(content["annotations"][0])))


@case
def annotation_that_is_a_list(place):
    return place.detect(lambda content: content["annotations"].insert(0, [1, 2]))


@case
def unknown_image(place):
    return place.object(image_id=12345)


@case
def unknown_category(place):
    return place.object(category_id=77)


@case
def category_without_name(place):
    return place.detect(lambda content: content["categories"][0].pop("name"))


@case
def category_twice(place):
    def change(content):
        content["categories"][1]["name"] = content["categories"][0]["name"]

    place.detect(change)
    shutil.copy(place.folder / "coco/instances_train.json", place.folder / "coco/instances_val.json")
    return place.train(place.folder / "coco")


@case
def other_names_in_val(place):
    return place.detect(lambda content: content["categories"][1].update(name="uneven"), split="val")


@case
def box_of_three_numbers(place):
    return place.object(bbox=[1, 2, 3])


@case
def box_with_text(place):
    return place.object(bbox=[1, 2, "3 px", 4])


@case
def box_not_a_number(place):
    return place.object(bbox=[1, 2, float("nan"), 4])


@case
def box_of_negative_width(place):
    return place.object(bbox=[50, 2, -3, 4])


@case
def box_outside(place):
    return place.object(bbox=[500, 500, 10, 10])


@case
def area_not_a_number(place):
    return place.object(area=float("nan"))


@case
def crowd_of_two(place):
    return place.object(iscrowd=2)


@case
def polygon_odd(place):
    return place.object(segmentation=[[1, 1, 20, 1, 20, 20, 5]])


@case
def polygon_of_two_corners(place):
    return place.object(segmentation=[[1, 1, 20, 20]])


@case
def polygon_far_away(place):
    return place.object(segmentation=[[1, 1, 1e7, 1, 1e7, 1e7]])


@case
def polygon_with_text(place):
    return place.object(segmentation=[[1, 1, "left", 1, 20, 20]])


@case
def mask_as_text(place):
    return place.object(segmentation="circle")


@case
def run_lengths_of_another_size(place):
    return place.object(segmentation=dict(size=[10, 10], counts=[100]))


@case
def run_lengths_of_another_sum(place):
    def change(content):
        image = next(image for image in content["images"] if image["id"] == content["annotations"][0]["image_id"])
        content["annotations"][0]["segmentation"] = dict(size=[image["height"], image["width"]], counts=[5, 7])

    return place.detect(change)


@case
def run_lengths_garbled(place):
    def change(content):
        image = next(image for image in content["images"] if image["id"] == content["annotations"][0]["image_id"])
        content["annotations"][0]["segmentation"] = dict(size=[image["height"], image["width"]], counts="\u00e4\u00f6~")

    return place.detect(change)


@case
def some_masks_missing(place):
    arguments = place.detect(lambda content: content["annotations"][0].pop("segmentation"))
    return [*arguments, "--cfg-options", "model.roi_head.type=PointRendRoIHead"]


# Images


@case
def image_missing(place):
    folder = place.copy("coco")
    (folder / "train/000000000001.jpg").unlink()
    return place.train(folder)


@case
def image_empty(place):
    return place.image(lambda content: b"")


@case
def image_of_text(place):
    return place.image(lambda content: b"this is no picture")


@case
def image_half(place):
    return place.image(lambda content: content[: len(content) // 2])


@case
def image_bomb(place):
    return place.image(lambda content: png(60000, 60000))


@case
def image_of_another_size(place):
    return place.detect(lambda content: content["images"][0].update(height=50))


# Segmentation


@case
def label_value_outside(place):
    return place.label(lambda labels: np.where(labels == 1, 9, labels).astype(np.uint8))


@case
def labels_from_one(place):
    return place.label(lambda labels: labels + np.uint8(1))


@case
def label_in_colour(place):
    return place.label(lambda labels: np.stack([labels] * 3, -1))


@case
def label_of_16_bits(place):
    return place.label(lambda labels: labels.astype(np.uint16) + 300)


@case
def label_of_another_size(place):
    return place.label(lambda labels: labels[:-1])


@case
def labels_all_ignored(place):
    root = place.copy("labels")
    for path in (root / "semantic/train").iterdir():
        Image.fromarray(np.full_like(np.asarray(Image.open(path)), 255)).save(path)
    return place.train(root)


@case
def label_missing(place):
    root = place.copy("labels")
    (root / "semantic/train/00000002.png").unlink()
    return place.train(root)


@case
def label_half(place):
    return place.image(lambda content: content[: len(content) // 2], "labels", "semantic/train/00000001.png")


@case
def label_bomb(place):
    return place.image(lambda content: png(60000, 60000), "labels", "semantic/train/00000001.png")


@case
def class_names_missing(place):
    root = place.copy("labels")
    (root / "classes.txt").unlink()
    return place.train(root)


@case
def class_name_twice(place):
    return place.train(place.copy("labels"), "--classes", "sky", "sky")


# Classification


@case
def image_beside_the_class_folders(place):
    root = place.copy("classes")
    shutil.copy(root / "train/cat/0.png", root / "train/stray.png")
    return place.train(root)


@case
def classes_that_differ(place):
    root = place.copy("classes")
    (root / "val/dog").rename(root / "val/wolf")
    return place.train(root)


@case
def fewer_images_than_a_batch(place):
    return place.train(place.copy("classes"), "--cfg-options", "train_dataloader.batch_size=64", "effective_batch=64")


@case
def class_image_of_text(place):
    root = place.copy("classes")
    (root / "train/cat/0.png").write_bytes(b"this is no picture")
    return ["check_dataset.py", CLASSIFIER, "--data", root, "--overlay", place.folder / "sheet.png"]


def shards(place, change):
    path = place.folder / "train-000000.tar"
    with tarfile.open(path, "w") as tar:
        for kind in ("png", "cls"):
            tar.add(place.file(f"1.{kind}", change[kind]), f"1.{kind}")
    path.write_bytes(path.read_bytes()[: change.get("bytes")])
    config = place.file(
        "shards.py",
        f"_base_ = {str(CLASSIFIER)!r}\n"
        "train_dataloader = dict(sampler=None, batch_size=1, dataset=dict(_delete_=True, type='ImageShards', "
        f"shards={str(path)!r}, num_images=1, classes=['cat', 'dog'], transform=dict(input_size=16)))\n"
        "model = dict(num_classes=2)\nval_dataloader = val_evaluator = val_cfg = None\n"
        "test_dataloader = test_evaluator = test_cfg = None\n",
    )
    return ["check_dataset.py", config, "--overlay", place.folder / "sheet.png"]


@case
def shard_half(place):
    return shards(place, dict(png=(place.sources["classes"] / "train/cat/0.png").read_bytes(), cls="0", bytes=700))


@case
def shard_of_another_label(place):
    return shards(place, dict(png=(place.sources["classes"] / "train/cat/0.png").read_bytes(), cls="7"))


@case
def shard_with_a_bomb(place):
    return shards(place, dict(png=png(60000, 60000), cls="0"))


# Checkpoints


@case
def checkpoint_missing(place):
    return place.test(place.folder / "epoch_9.pth")


@case
def checkpoint_empty(place):
    return place.test(place.file("epoch_9.pth"))


@case
def checkpoint_of_html(place):
    return place.test(place.file("epoch_9.pth", "<!DOCTYPE html><title>404</title>"))


@case
def checkpoint_of_text(place):
    return place.test(place.file("epoch_9.pth", "version https://git-lfs.github.com/spec/v1\nsize 343\n"))


@case
def checkpoint_truncated(place):
    content = OFFICIAL.read_bytes()
    return place.convert(place.file("half.pth", content[: len(content) // 2]))


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        import os

        return os.system, (self.command,)


@case
def checkpoint_with_code(place):
    path = place.folder / "code.pth"
    torch.save({"state_dict": Command(f"touch {place.folder / 'RAN'}")}, path)
    return place.convert(path)


@case
def checkpoint_with_a_damaged_pickle(place):
    content = pickle.dumps({"state_dict": {"conv1.weight": [0] * 50}}, protocol=4)
    return place.convert(place.file("damaged.pth", content[:-20]))


@case
def safetensors_of_a_wrong_header(place):
    return place.convert(place.file("wrong.safetensors", struct.pack("<Q", 10**12) + b"{}"))


@case
def checkpoint_of_no_convnext(place):
    path = place.folder / "other.pth"
    torch.save({"conv1.weight": torch.zeros(4, 3, 3, 3)}, path)
    return place.convert(path)


@case
def checkpoint_of_another_model(place):
    content = torch.load(OFFICIAL, weights_only=True)
    path = place.folder / "other.pth"
    torch.save(dict(state_dict=content["model"], meta=dict(dataset_meta=dict(classes=("even", "odd")))), path)
    return place.test(path)


@case
def checkpoint_without_classes(place):
    image = place.sources["coco"] / "train/000000000001.jpg"
    return ["infer.py", DETECTOR, OFFICIAL, image, "--out-dir", place.folder, "--device", "cpu"]


@case
def checkpoint_of_other_classes(place):
    return place.test(place.sources["checkpoint"])


@case
def resume_from_a_missing_file(place):
    return place.train(place.copy("coco"), "--resume", place.folder / "epoch_9.pth")


@case
def no_epochs(place):
    return place.train(place.copy("coco"), "--epochs", "0")


@case
def batch_of_words(place):
    return place.train(place.copy("coco"), "--batch", "many")


@case
def early_stop_negative(place):
    return place.train(place.copy("coco"), "--early-stop", "-1")


@case
def frozen_stage_too_many(place):
    return place.train(place.copy("coco"), "--freeze", "5")


@case
def augmentation_unknown(place):
    config = ROOT / "configs/finetune/mask_rcnn_atto.py"
    return ["train.py", config, "--data", place.copy("coco"), "--work-dir", place.folder / "run", "--augment", "strang"]


@case
def augmentation_of_a_config_without_any(place):
    return place.train(place.copy("coco"), "--augment", "strong")


@case
def zoo_name_unknown(place):
    return place.test("zoo:cascade_convnext_t")


@case
def download_without_network(place):
    return place.test("http://127.0.0.1:1/none.pth")


@case
def download_of_the_hub_without_network(place):
    place.patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place.folder))
    place.patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return place.test("timm:convnext_tiny.fb_in1k")


@case
def download_of_another_file(place):
    return place.test(place.served(b"another file", "net-d4731b3d.pth"))


@case
def download_damaged_in_the_cache(place):
    cache = place.folder / "torch/hub/checkpoints"
    cache.mkdir(parents=True)
    (cache / "net-d4731b3d.pth").write_bytes(b"another file")
    return place.test("http://127.0.0.1:1/net-d4731b3d.pth")


@case
def download_truncated(place):
    return place.test(place.served(bytes(5000), "net.pth", cut=1000))


@case
def output_of_an_unknown_kind(place):
    return place.convert(OFFICIAL, "out.onnx")


# Configs and options


@case
def config_missing(place):
    return ["train.py", ROOT / "configs/demo/mask_rcnn_convnext_ato_shapes.py"]


@case
def config_of_broken_python(place):
    return ["train.py", place.file("broken.py", "model = dict(type='MaskRCNN'\n")]


@case
def config_without_model(place):
    return ["train.py", place.file("data.py", "train_cfg = dict(max_epochs=1)\n")]


@case
def config_of_an_unknown_base(place):
    return ["train.py", place.file("leaf.py", "_base_ = 'nowhere.py'\n")]


@case
def option_of_an_unknown_key(place):
    return place.options("train_dataloader.batchsize=2")


@case
def option_of_a_variable(place):
    return place.options("data_root=elsewhere")


@case
def arch_unknown(place):
    return place.options("model.backbone.arch=tinny")


@case
def arch_without_its_neck(place):
    return place.options("model.backbone.arch=femto")


@case
def type_unknown(place):
    return place.options("model.neck.type=FNP")


@case
def argument_unknown(place):
    return place.options("+model.backbone.drop_path=0.1")


@case
def batch_negative(place):
    return place.options("train_dataloader.batch_size=-1")


@case
def workers_negative(place):
    return place.options("train_dataloader.num_workers=-2")


@case
def classes_for_a_detector(place):
    return place.train(place.copy("coco"), "--classes", "cat")


@case
def classes_without_data(place):
    return ["train.py", SEGMENTER, "--classes", "cat"]


@case
def tta_without_a_description(place):
    return place.test(place.sources["own checkpoint"], "--tta")


@case
def out_as_pickle(place):
    return place.test(place.sources["own checkpoint"], "--out", place.folder / "out.pkl")


# tools/infer.py and others


@case
def infer_missing_image(place):
    return place.infer(place.folder / "none.jpg")


@case
def infer_folder_without_images(place):
    (place.folder / "pictures").mkdir()
    return place.infer(place.folder / "pictures")


@case
def infer_text(place):
    return place.infer(place.file("text.jpg", "this is no picture"))


@case
def infer_empty_file(place):
    return place.infer(place.file("empty.jpg"))


@case
def infer_half_image(place):
    content = (place.sources["coco"] / "train/000000000001.jpg").read_bytes()
    return place.infer(place.file("half.jpg", content[: len(content) // 2]))


@case
def infer_bomb(place):
    return place.infer(place.file("bomb.png", png(60000, 60000)))


@case
def infer_batch_of_none(place):
    return place.infer(place.sources["coco"] / "train/000000000001.jpg", "--batch-size", "0")


@case
def infer_on_an_unknown_device(place):
    return place.infer(place.sources["coco"] / "train/000000000001.jpg", "--device", "gpu")


@case
def shapes_negative(place):
    return ["make_shapes.py", place.folder / "shapes", "--num-train", "-5"]


@case
def plug_of_an_unknown_package(place):
    return ["plug.py", "detectron2::mask_rcnn.py", place.folder / "out.py"]


@pytest.fixture(scope="module")
def sources(shapes_folder, ade_folder, tmp_path_factory):
    """Valid data for each task, and checkpoints with random weights and the names of six classes and of two."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    root = tmp_path_factory.mktemp("sound")
    for split in ("train", "val"):
        shutil.copytree(shapes_folder / f"{split}2017", root / "coco" / split)
        content = json.loads((shapes_folder / "annotations" / f"instances_{split}2017.json").read_text())
        for annotation in content["annotations"]:
            annotation["category_id"] %= 2
        content["categories"] = [dict(id=0, name="even"), dict(id=1, name="odd")]
        (root / "coco" / f"instances_{split}.json").write_text(json.dumps(content))
    rng = np.random.default_rng(0)
    for ours, theirs in (("train", "training"), ("val", "validation")):
        shutil.copytree(ade_folder / "images" / theirs, root / "labels" / ours)
        (root / "labels/semantic" / ours).mkdir(parents=True)
        for path in (ade_folder / "annotations" / theirs).iterdir():
            labels = (np.asarray(Image.open(path)) > 1).astype(np.uint8)
            Image.fromarray(labels).save(root / "labels/semantic" / ours / path.name)
        for name in ("cat", "dog"):
            (root / "classes" / ours / name).mkdir(parents=True)
            for number in range(16):
                pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "classes" / ours / name / f"{number}.png")
    (root / "labels/classes.txt").write_text("background\nshape\n")
    found = {name: root / name for name in ("coco", "labels", "classes")}

    init_default_scope("mmdet")
    torch.manual_seed(0)
    weights = MODELS.build(Config.fromfile(DETECTOR).model).state_dict()
    names = ("circle", "square", "triangle", "star", "cross", "crescent")
    for key, classes in (("checkpoint", names), ("own checkpoint", ("even", "odd"))):
        found[key] = root / f"{len(classes)}.pth"
        torch.save(dict(state_dict=weights, meta=dict(dataset_meta=dict(classes=classes))), found[key])
    return found


@pytest.fixture
def servers():
    with contextlib.ExitStack() as stack:
        yield stack


def as_pattern(message):
    """Return a pattern in which three dots match any text."""
    return ".*?".join(map(re.escape, message.split("...")))


def test_table_matches_the_cases():
    """Each row has a case and each case a row; two cases of one name would leave the first one untested."""
    assert set(TABLE) == set(CASES)
    assert len(TABLE) == Path(__file__).read_text(encoding="utf-8").count("\n@case\ndef ")
    page = (ROOT / BAD_INPUTS).read_text(encoding="utf-8")
    header_and_rule = 2
    assert len(TABLE) == sum(line.startswith("| ") for line in page.splitlines()) - header_and_rule


@pytest.mark.parametrize("key", CASES)
def test_bad_input_ends_with_its_sentence(key, sources, servers, tmp_path, monkeypatch, capfd):
    arguments = CASES[key](Place(tmp_path, sources, monkeypatch, servers))
    tool = ROOT / "tools" / arguments[0]
    assert TABLE[key]["command"].startswith(arguments[0].removesuffix(".py").replace("_", "-"))
    monkeypatch.setattr(sys, "argv", [str(tool), *map(str, arguments[1:])])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(tool), run_name="__main__")
    assert end.value.code not in (0, None)
    captured = capfd.readouterr()
    text = captured.out + captured.err + (end.value.code if isinstance(end.value.code, str) else "")
    assert re.search(as_pattern(TABLE[key]["message"]), text, re.DOTALL), text
    assert "Traceback" not in text
    assert not (tmp_path / "RAN").exists()


def test_documentation_names_every_bad_input_and_its_sentence():
    """If this fails, run python tools/write_docs.py."""
    text = (ROOT / BAD_INPUTS).read_text(encoding="utf-8")
    assert text == describe_bad_inputs()
    for row in TABLE.values():
        assert re.search(rf"\| {re.escape(row['input'])} +\| {re.escape(row['message'])} +\| ", text)
