"""Which split a file belongs to, which image a name means, and what is kept between two starts."""

import json
import multiprocessing
from pathlib import Path

import pytest
from PIL import Image

from convnext_dense.config.reading import read_config
from convnext_dense.data.data_folder import DataFolder
from convnext_dense.data.formats.finding import ImageIndex, by_split, split_of
from convnext_dense.data.own import detection
from convnext_dense.data.own.converting import convert
from convnext_dense.data.own.tasks import check_data, use_folder
from convnext_dense.errors import UserError

FORMATS = Path(__file__).parents[1] / "fixtures/formats"
CONFIG = Path(__file__).parents[2] / "configs/demo/mask_rcnn_convnext_atto_shapes.py"


@pytest.mark.parametrize(
    ("path", "is_whole", "split"),
    [
        ("train/a.xml", False, "train"),
        ("Annotations/VALID/a.xml", False, "val"),
        ("obj_train_data/a.txt", False, "train"),
        ("train2017/a.jpg", False, "train"),
        ("train_000001.xml", False, None),  # an image of a train
        ("instances_val2017.json", True, "val"),
        ("annotations/via-test.json", True, "test"),
        ("constraints/a.xml", False, None),
        ("a/training/valley/b.jpg", False, "train"),
    ],
)
def test_split_is_a_word_in_a_name(path, is_whole, split):
    assert split_of(Path("/data", path), Path("/data"), is_whole=is_whole) == split


def test_files_without_a_split_beside_others_are_named(tmp_path):
    files = [tmp_path / "train/a.xml", tmp_path / "b.xml"]
    with pytest.raises(UserError, match=r"has annotations of 'train', and others .*b\.xml"):
        by_split(files, tmp_path, is_whole=False)
    assert by_split(files[1:], tmp_path, is_whole=False) == {"train": files[1:]}


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    return path


def test_image_is_found_where_its_name_leads_or_by_its_name_alone(tmp_path):
    beside, elsewhere = image(tmp_path / "train/a.jpg"), image(tmp_path / "pictures/b.jpg")
    index, near = ImageIndex(tmp_path), tmp_path / "train/labels.json"
    assert index.find("a.jpg", near, "train") == beside
    assert index.find("..\\train\\a.jpg", near, "train") == beside
    assert index.find("/home/somebody/b.jpg", near, "train") == elsewhere
    assert index.find("../../../../etc/b.jpg", near, "train") == elsewhere
    assert not index.find("c.jpg", near, "train").exists()


def test_image_of_another_split_is_another_image(tmp_path):
    image(tmp_path / "val/images/a.jpg")
    index = ImageIndex(tmp_path)
    assert not index.find("a.jpg", tmp_path / "train/labels.json", "train").exists()
    assert index.find("a.jpg", tmp_path / "val/labels.json", "val").exists()


def test_two_images_of_one_name_are_told_apart_by_their_folders_or_refused(tmp_path):
    first, _ = image(tmp_path / "one/a.jpg"), image(tmp_path / "two/a.jpg")
    index = ImageIndex(tmp_path)
    assert index.find("one/a.jpg", tmp_path / "x.json", "train") == first
    with pytest.raises(UserError, match=r"x\.json names the image a\.jpg, and there are several"):
        index.find("a.jpg", tmp_path / "x.json", "train")


def test_converted_file_is_read_whole_only_once(tmp_path, monkeypatch):
    def start():
        cfg = read_config(CONFIG)
        use_folder(cfg, FORMATS / "via", work_dir=tmp_path)
        cfg.work_dir = str(tmp_path)
        return check_data(cfg, ("train", "val")), cfg

    lines, _ = start()
    with monkeypatch.context() as patch:
        patch.setattr(detection, "read_json", None)
        again, cfg = start()
    assert again == lines
    assert any("10 annotations" in line for line in lines)
    path = Path(cfg.train_dataloader.dataset.data_root, "instances_train.json")
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"] = [500, 500, 3, 3]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="outside of its image"):  # it was changed by hand
        start()


def test_processes_that_start_together_convert_once(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()

    def start():
        results.put(convert(DataFolder(str(FORMATS / "via")), "detection", tmp_path)[0])

    processes = [context.Process(target=start) for _ in range(2)]
    for process in processes:
        process.start()
    outputs = [results.get() for _ in processes]
    for process in processes:
        process.join()
    assert outputs[0] == outputs[1]
    assert [process.exitcode for process in processes] == [0, 0]
    assert not list(tmp_path.rglob("*.partial"))


def test_image_beside_other_annotations_is_another_image(tmp_path):
    image(tmp_path / "b/0001.jpg")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "0001.json").touch()
    assert not ImageIndex(tmp_path).find("0001.jpg", tmp_path / "a/0001.json", "train").exists()
    assert ImageIndex(tmp_path).find("0001.jpg", tmp_path / "b/0001.json", "train").exists()
