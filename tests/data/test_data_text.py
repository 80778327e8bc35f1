"""Text files in common encodings are read alike here and by the mm packages; others are reported."""

import json
from pathlib import Path

import mmengine
import pytest
from mmdet.evaluation import CocoMetric as StockMetric
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.fileio import get_local_path
from mmengine.registry import init_default_scope
from mmseg.datasets import BaseSegDataset
from PIL import Image

from convnext_dense.data import ImageShards, text_files
from convnext_dense.data.own.detection import use_coco_folder
from convnext_dense.data.own.segmentation import read_class_names
from convnext_dense.data.own.tasks import check_data
from convnext_dense.data.text_files import read_json, read_lines
from convnext_dense.evaluation.coco_metric import CocoMetric

DETECTOR = "configs/demo/mask_rcnn_convnext_atto_shapes.py"
NAMES = ["background", "straße", "背景"]

# The byte order marks of the Unicode Standard, section 23.8; PowerShell, Notepad and .NET write them.
MARKED = {
    "no mark": str.encode,
    "UTF-8": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "UTF-8 twice": lambda text: b"\xef\xbb\xbf\xef\xbb\xbf" + text.encode(),
    "UTF-16 LE": lambda text: b"\xff\xfe" + text.encode("utf-16-le"),
    "UTF-16 BE": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "UTF-32 LE": lambda text: b"\xff\xfe\x00\x00" + text.encode("utf-32-le"),
}


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", MARKED)
def test_class_names_are_those_that_were_typed(tmp_path, mark, ending):
    file = tmp_path / "classes.txt"
    file.write_bytes(MARKED[mark](ending.join([*NAMES[:2], "", f" {NAMES[2]} ", ""])))
    assert read_class_names(tmp_path) == NAMES
    shards = ImageShards(["https://nowhere/0.tar"], 1, classes=str(file), transform=dict(input_size=32))
    assert shards.metainfo["classes"] == tuple(NAMES)


def test_concatenated_files_may_have_marks_inside(tmp_path):
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfcat\n\xef\xbb\xbfdog\n")
    assert read_class_names(tmp_path) == ["cat", "dog"]


@pytest.mark.parametrize("mark", MARKED)
def test_detection_is_checked_trained_and_evaluated_on_the_same_objects(request, own_folder, mark):
    """The data set and both metrics open the file themselves."""
    init_default_scope("mmdet")
    contents = {}
    for split in ("train", "val"):
        path = own_folder / f"instances_{split}.json"
        contents[split] = json.loads(path.read_text().replace('"even"', '"gerade Größe"'))
        path.write_bytes(MARKED[mark](json.dumps(contents[split], ensure_ascii=False)))
    cfg = Config.fromfile(request.config.rootpath / DETECTOR)
    assert use_coco_folder(cfg, own_folder) == ["gerade Größe", "odd"]
    assert len(check_data(cfg, ("train", "val"))) == 2
    data = DATASETS.build(cfg.val_dataloader.dataset)
    num_read = sum(len(data.get_data_info(index)["instances"]) for index in range(len(data)))
    assert num_read == len(contents["val"]["annotations"])
    for metric in (StockMetric, CocoMetric):
        read = metric(ann_file=cfg.val_evaluator.ann_file)
        assert len(read._coco_api.dataset["annotations"]) == num_read


@pytest.mark.parametrize("mark", MARKED)
def test_mmsegs_list_of_images_is_read(tmp_path, mark):
    for name in ("a", "b"):
        Image.new("L", (8, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / "list.txt").write_bytes(MARKED[mark]("a\nb"))
    data = BaseSegDataset(
        ann_file=str(tmp_path / "list.txt"),
        img_suffix=".png",
        data_prefix=dict(img_path=str(tmp_path), seg_map_path=str(tmp_path)),
        metainfo=dict(classes=("x",)),
        pipeline=[],
    )
    assert [Path(data.get_data_info(index)["img_path"]).name for index in range(len(data))] == ["a.png", "b.png"]


def test_mmengine_gives_other_files_as_they_are(tmp_path):
    """Bytes that look like a mark in a file that is not text, and text formats that declare their encoding."""
    for name, content in (("film.mp4", b"\xff\xfe\x00\x01"), ("voc.xml", b"\xef\xbb\xbf<a/>"), ("plain.json", b"{}")):
        path = tmp_path / name
        path.write_bytes(content)
        with get_local_path(path) as local:
            assert Path(local) == path
        assert mmengine.fileio.get(path) == content
    (tmp_path / "latin.txt").write_bytes(b"stra\xdfe")
    assert mmengine.fileio.get_file_backend(tmp_path).get_text(tmp_path / "latin.txt", "latin-1") == "straße"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            "a\nstraße\n".encode("latin-1"),
            r"is not in UTF-8: line 2 has the byte 0xDF after 'stra'\. Save it as UTF-8",
        ),
        ("\nFußgänger\nb".encode("cp1252"), r"is not in UTF-8: line 2 has the byte 0xDF after 'Fu'"),
        ("背景\n".encode("shift-jis"), r"is not in UTF-8: line 1 has the byte 0x94\. Save it as UTF-8"),
        (b"a\ncaf\xe9", r"is truncated or not in UTF-8: line 2 has the byte 0xE9 after 'caf', where it ends"),
        ("cat\ndog\n".encode("utf-16-le"), r"seems to be in UTF-16 without a byte order mark\. Save it as UTF-8"),
        ("cät\ndog\n".encode("utf-16-be"), r"seems to be in UTF-16 without a byte order mark"),
        (b"\xff\xfea", r"begins with the byte order mark of UTF-16 but is not in that encoding \(truncated data\)"),
        (b"cat\n\0\0\0\0", r"has a zero byte in line 2: it is damaged"),
    ],
)
def test_other_encodings_are_reported_with_file_and_line(tmp_path, content, text):
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^Text file .*classes\.txt {text}"):
        read_lines(path)


def test_every_truncated_file_is_called_truncated(tmp_path):
    """Wherever they are cut; and only truncated files are to be copied again."""
    path = tmp_path / "a.json"
    whole = json.dumps({"images": [{"name": 'ä"\u2028', "ok": True, "no": None, "x": -1.5e-3, "y": float("-inf")}]})
    for length in range(1, len(whole)):
        path.write_text(whole[:length])
        with pytest.raises(
            ValueError, match=r"a\.json is truncated: what begins at line 1, column \d+ does not end\. C"
        ):
            read_json(path)
    path.write_text(whole)
    assert read_json(path) == json.loads(whole)


@pytest.mark.parametrize("position", [16, 17], ids=["Python 3.13", "earlier"])
def test_comma_before_a_bracket_is_reported_wherever_python_points(position):
    """Python 3.13 points at the comma, earlier versions at the bracket."""
    content = '{"images": [1, 2,]}'
    fault = text_files._json_fault(content, json.JSONDecodeError("Illegal trailing comma", content, position))
    assert fault == "is not JSON: there is a comma before the ']' at line 1, column 18. Remove the comma."


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            '{"images": [1, 2,]}',
            r"is not JSON: there is a comma before the '\]' at line 1, column 18\. Remove the comma",
        ),
        ('{"images": 1,\n}', r"is not JSON: there is a comma before the '}' at line 2, column 1\."),
        ("{'images': 1}", r"is not JSON: .*double quotes at line 1, column 2, before \"'images': 1}\"\. Correct it"),
        ('{"a": 1}\n{"a": 2}', r"is not JSON: Extra data at line 2, column 1"),
        ('{"a": "x\ny"}', r"is not JSON: Invalid control character at line 1, column 9"),
        ("\ufeff \r\n", r"is empty \(6 bytes\)\."),
        ("[" * 100_000, r"is nested too deeply\."),
        ("9" * 5000, r"has a number that cannot be read"),
    ],
)
def test_invalid_json_is_reported_with_its_place(tmp_path, content, text):
    path = tmp_path / "a.json"
    path.write_bytes(content.encode())
    with pytest.raises(ValueError, match=rf"^JSON file .*a\.json {text}") as caught:
        read_json(path)
    assert "Copy it again" not in str(caught.value)
