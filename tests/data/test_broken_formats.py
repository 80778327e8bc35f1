"""Broken files in the formats of many tools: each ends with a sentence that names the file, or is counted and said."""

import random
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convnext_dense.data.data_folder import DataFolder
from convnext_dense.data.own.converting import convert
from convnext_dense.errors import UserError

ROOT = Path(__file__).parents[1] / "fixtures/formats"
# Format -> the files that hold its annotations, and what one of them is in words that a message may use.
FILES = {
    "datumaro_cvat": "*.xml",
    "datumaro_cvat_masks": "*.xml",
    "datumaro_voc_one_based": "Annotations/*.xml",
    "datumaro_yolo": "obj_train_data/*.txt",
    "fiftyone_coco": "*/labels.json",
    "fiftyone_yolo_polygons": "labels/*/*.txt",
    "label_studio_coco": "result.json",
    "labelme": "*/*.json",
    "supervision_voc": "*/annotations/*.xml",
    "supervision_yolo": "data.yaml",
    "via": "*/*.json",
}
LABEL_FILES = {
    "camvid_kaggle": "class_dict.csv",
    "cvat_masks": "labelmap.txt",
    "datumaro_common_semantic_segmentation": "*/dataset_meta.json",
    "roboflow_masks": "*/_classes.csv",
}
LIST_FILES = {"csv": "*.csv"}
TASKS = {
    **dict.fromkeys(FILES, "detection"),
    **dict.fromkeys(LABEL_FILES, "segmentation"),
    **dict.fromkeys(LIST_FILES, "classification"),
}
EVERY = {**FILES, **LABEL_FILES, **LIST_FILES}
NUMBER = re.compile(r"-?\d+\.?\d*")
WORD = re.compile(r"[A-Za-z_]{3,}")


def cut(text):
    return text[: len(text) // 2]


def replace_number(value):
    def damage(text):
        found = list(NUMBER.finditer(text))
        if not found:
            return text + value
        place = found[len(found) * 2 // 3]
        return text[: place.start()] + value + text[place.end() :]

    return damage


def drop_words(word):
    return lambda text: text.replace(word, "")


def rename_words(word):
    return lambda text: text.replace(word, f"no_{word}")


def shuffle_lines(text):
    lines = text.splitlines()
    random.Random(0).shuffle(lines)
    return "\n".join(lines)


DAMAGES = {
    "empty": lambda text: "",
    "cut": cut,
    "cut at the end": lambda text: text[:-2],
    "spaces": lambda text: " \n \n",
    "twice": lambda text: text + text,
    "number is text": replace_number("abc"),
    "number is nan": replace_number("nan"),
    "number is infinite": replace_number("1e999"),
    "number is huge": replace_number("99999999999"),
    "number is negative": replace_number("-7"),
    "number is missing": replace_number(""),
    "number is a list": replace_number("[1]"),
    "number is null": replace_number("null"),
    "names of files": rename_words("train_0"),
    "no names of files": drop_words("train_0"),
    "classes": rename_words("circle"),
    "no classes": drop_words("circle"),
    "lines": shuffle_lines,
    "brackets": lambda text: "[" * 100000,
    "another format": lambda text: '{"a": [1, 2]}',
    "html": lambda text: "<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "zero bytes": lambda text: text[:40] + "\0" * 30 + text[70:],
}


def copy_of(name, folder):
    return Path(shutil.copytree(ROOT / name, folder / name))


def run(folder, name, cache):
    converted = convert(DataFolder(str(folder)), TASKS[name], cache)
    return None if converted is None else converted[1]


def counts(line):
    """Return the objects and images that a line reports, and all that it says was left out."""
    return sum(int(number.replace(",", "")) for number in re.findall(r"(\d[\d,]*) (?!splits?\b|classes\b)\w", line))


def splits_of(line):
    return re.search(r"splits? \((.*?)\)", line)[1]


def check(name, folder, file, cache, whole):
    """Assert that a sentence names the file or its folder, or that nothing is lost without a word."""
    try:
        line = run(folder, name, cache)
    except UserError as error:
        message = str(error)
    else:
        # Without a split that it had, or without a format, the task says what it expects.
        if line is not None and splits_of(line) == splits_of(whole):
            assert counts(line) >= counts(whole), f"{line} was {whole}"
        return
    assert file.name in message or str(folder) in message, message
    assert "\n" not in message


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    cache = tmp_path_factory.mktemp("whole")
    return {name: run(ROOT / name, name, cache) for name in EVERY}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", EVERY)
def test_broken_file_is_named_or_counted(name, damage, whole, tmp_path):
    folder = copy_of(name, tmp_path)
    file = sorted(folder.glob(EVERY[name]))[0]
    if "yolo" in name and damage in ("empty", "spaces", "cut", "cut at the end"):
        pytest.skip("a shorter file of boxes is as good as a longer one")
    file.write_text(DAMAGES[damage](file.read_text()))
    check(name, folder, file, tmp_path / "cache", whole[name])


@pytest.mark.parametrize("name", EVERY)
def test_binary_file_is_named(name, whole, tmp_path):
    folder = copy_of(name, tmp_path)
    file = sorted(folder.glob(EVERY[name]))[0]
    file.write_bytes(bytes(range(256)) * 4)
    check(name, folder, file, tmp_path / "cache", whole[name])


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=10, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_token_is_named_or_counted(name, whole, tmp_path, data):
    folder = tmp_path / name
    shutil.rmtree(tmp_path, ignore_errors=True)
    copy_of(name, tmp_path)
    file = data.draw(st.sampled_from(sorted(folder.glob(EVERY[name]))))
    text = file.read_text()
    found = [*NUMBER.finditer(text), *WORD.finditer(text)]
    place = data.draw(st.sampled_from(found))
    value = data.draw(
        st.sampled_from(["", "x", "-1", "0", "1e400", "nan", "null", '"', "<", "{", "[", ",", "\n", "\u2028", "é"])
    )
    file.write_text(text[: place.start()] + value + text[place.end() :])
    check(name, folder, file, tmp_path / "cache", whole[name])


@pytest.mark.parametrize("name", EVERY)
def test_image_that_is_missing_is_named(name, tmp_path):
    folder = copy_of(name, tmp_path)
    image = sorted(folder.rglob("*.jpg"))[0]
    image.unlink()
    if "yolo" in name or name in ("camvid_kaggle", "datumaro_common_semantic_segmentation", "roboflow_masks"):
        pytest.skip("the images that are there are the data set")
    with pytest.raises(UserError, match=re.escape(image.stem)):
        run(folder, name, tmp_path / "cache")
