"""Lists of classified images as people write them."""

from pathlib import Path

import pytest
from PIL import Image

from convnext_dense.config.reading import read_config
from convnext_dense.data.data_folder import DataFolder
from convnext_dense.data.image_folder import find_samples
from convnext_dense.data.own.tasks import use_folder
from convnext_dense.errors import UserError

CONFIG = Path(__file__).parents[2] / "configs/demo/pretrain_convnext_atto_shapes.py"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data/images").mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"data/images/{number}.png")
    return tmp_path / "data"


def read(root, split="train", **how):
    """Return the class name of each image of a split."""
    cfg = read_config(CONFIG)
    cfg.train_dataloader.batch_size = 1
    splits = {"train": "train"} if split == "train" else {"test": split}
    names = use_folder(cfg, DataFolder(str(root), **how), splits=splits, work_dir=root.parent / "work")
    dataset = cfg[f"{next(iter(splits))}_dataloader"].dataset
    samples, _ = find_samples(Path(dataset.root), names, dataset.ann_file)
    return {Path(path).stem: names[label] for path, label in samples}


@pytest.mark.parametrize(
    "text",
    [
        "filename,label\n0.png,cat\n1.png,dog\n",
        "image_id,Label\n0,cat\n1,dog\n",  # without endings, as on Kaggle
        "path;class\nimages/0.png;cat\nimages\\1.png;dog\n",
        'file\tcategory\n0.png\t"cat"\n\n1.png\tdog\n',
        "\ufefffilename,label,note\r\n0.png,cat,a\r\n1.png,dog,b\r\n",
        "filename, cat, dog\n0.png, 1, 0\n1.png, 0, 1\n",  # Roboflow
    ],
)
def test_lists_of_every_kind_are_read(text, root):
    (root / "train.csv").write_text(text, encoding="utf-8")
    assert read(root) == {"0": "cat", "1": "dog"}


def test_one_list_has_a_column_of_splits(root):
    (root / "all.csv").write_text(
        "filename,label,split\n0.png,cat,train\n1.png,dog,valid\n2.png,dog,train\n3.png,cat,test\n"
    )
    assert read(root) == {"0": "cat", "2": "dog"}
    assert read(root, "val") == {"1": "dog"}
    assert read(root, "test") == {"3": "cat"}


def test_ignored_class_is_left_out(root):
    (root / "train.csv").write_text("filename,label\n0.png,cat\n1.png,dog\n2.png,bad\n")
    assert read(root, ignored_labels=["bad"]) == {"0": "cat", "1": "dog"}


def test_classes_give_the_order(root):
    (root / "train.csv").write_text("filename,label\n0.png,cat\n1.png,dog\n")
    cfg = read_config(CONFIG)
    cfg.train_dataloader.batch_size = 1
    data = DataFolder(str(root), classes=["dog", "bird", "cat"])
    assert use_folder(cfg, data, splits={"train": "train"}, work_dir=root.parent) == ["dog", "bird", "cat"]
    assert cfg.model.num_classes == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,label\n0.png,cat\n9.png,dog\n", r"line 3, names the image 9\.png, which does not exist"),
        ("filename,label\n0.png,cat\n0.png,dog\n", r"line 3, names the image .*0\.png, which .* line 2 names too"),
        ("filename,label\n0.png,cat\n1.png\n", "line 3, has 1 values, but the header has 2"),
        ("filename,label\n0.png,\n", "line 2, has no label"),
        ("filename,cat,dog\n0.png,1,1\n", "line 2, has 2 classes: an image must have exactly one"),
        ("filename,label,split\n0.png,cat,later\n", "line 2, has the split 'later'"),
    ],
)
def test_wrong_list_is_named_with_its_line(text, message, root):
    (root / "list.csv").write_text(text)
    with pytest.raises(UserError, match=rf"List of images .*list\.csv, {message}"):
        read(root)


def test_two_lists_without_a_split_are_refused(root):
    for name in ("one", "two"):
        (root / f"{name}.csv").write_text("filename,label\n0.png,cat\n")
    with pytest.raises(UserError, match=r"has several lists of images, 'one\.csv', 'two\.csv'"):
        read(root)


@pytest.mark.parametrize("table", ["class_dict.csv", None])
def test_label_images_are_no_classes(root, table):
    """CamVid's layout: images of a split in one folder, their labels in another, and perhaps a table of colours."""
    for name in ("train", "train_labels", "val", "val_labels"):
        (root / name).mkdir()
        Image.new("RGB", (8, 8)).save(root / name / "0.png")
    if table:
        (root / table).write_text("name,r,g,b\ncat,255,0,0\ndog,0,255,0\n")
    with pytest.raises(UserError) as raised:
        read(root)
    assert "List of images" not in str(raised.value)
    assert "CLASS" in str(raised.value)
