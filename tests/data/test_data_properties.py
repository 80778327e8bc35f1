"""Random annotation files: each is refused with one sentence, or is read by mmdet and evaluates to an AP of 1."""

import copy
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image
from pycocotools import mask as coco_masks

from convnext_dense.data.checks.inspection import Inspection
from convnext_dense.data.checks.overlay import draw_overlay
from convnext_dense.data.checks.round_trip import inspect_round_trip
from convnext_dense.data.own.detection import read_annotations
from convnext_dense.data.own.tasks import inspect_data

HEIGHT, WIDTH = 24, 32
NUM_IMAGES = 3
# The same examples in every run; all of them write their data to one folder.
BOUNDED = settings(
    max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None
)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
junk = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner), max_leaves=5
)
coordinates = st.integers(-5, 40) | st.floats(-5, 40)
polygons = st.lists(st.lists(coordinates, min_size=6, max_size=6) | st.lists(coordinates, max_size=9), max_size=2)


@st.composite
def run_lengths(draw):
    """Draw valid run lengths of the image's size, as numbers or text."""
    bits = draw(st.integers(0, 2 ** (HEIGHT * WIDTH) - 1))
    pixels = np.array([bits >> place & 1 for place in range(HEIGHT * WIDTH)], np.uint8).reshape(HEIGHT, WIDTH)
    encoded = coco_masks.encode(np.asfortranarray(pixels))
    if draw(st.booleans()):
        return dict(size=[HEIGHT, WIDTH], counts=encoded["counts"].decode())
    flat = pixels.flatten(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    return dict(size=[HEIGHT, WIDTH], counts=np.diff([0, *edges, flat.size]).tolist())


@st.composite
def annotation_files(draw):
    """Draw mostly valid files: three images, two categories, objects of all kinds; at times any value anywhere."""
    first_id = draw(st.integers(-3, 3))
    content = dict(
        images=[dict(id=number, file_name=f"{number}.png", height=HEIGHT, width=WIDTH) for number in range(NUM_IMAGES)],
        categories=[dict(id=first_id, name="cat"), dict(id=first_id + draw(st.integers(1, 9)), name="dog")],
        annotations=[],
    )
    for number in range(draw(st.integers(0, 6))):
        x, y = draw(st.integers(0, WIDTH - 2)), draw(st.integers(0, HEIGHT - 2))
        width, height = draw(st.integers(0, WIDTH - x)), draw(st.integers(0, HEIGHT - y))
        outline = [x, y, x + width, y, x + width, y + height, x, y + height]
        content["annotations"].append(
            dict(
                id=first_id + number,
                image_id=draw(st.integers(0, NUM_IMAGES - 1)),
                category_id=draw(st.sampled_from(content["categories"]))["id"],
                bbox=[x, y, width, height],
                area=draw(st.just(width * height) | st.floats(0, HEIGHT * WIDTH)),
                iscrowd=draw(st.sampled_from([0, 0, 0, 1])),
                segmentation=draw(st.just([outline]) | st.just([outline]) | run_lengths() | polygons),
            )
        )
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        entry = draw(st.sampled_from([entry for entries in content.values() for entry in entries]))
        key = draw(st.sampled_from(sorted(entry)))
        if draw(st.booleans()):
            entry[key] = draw(junk)
        else:
            entry.pop(key)
    return content


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("properties")
    for number in range(NUM_IMAGES):
        Image.new("RGB", (WIDTH, HEIGHT), (number, 50, 90)).save(root / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def cfg(pytestconfig, folder):
    cfg = Config.fromfile(pytestconfig.rootpath / "configs/demo/mask_rcnn_convnext_atto_shapes.py")
    cfg.model.roi_head.bbox_head.num_classes = cfg.model.roi_head.mask_head.num_classes = 2
    cfg.val_dataloader.dataset.update(
        data_root=str(folder), ann_file="val.json", data_prefix=dict(img=""), metainfo=dict(classes=("cat", "dog"))
    )
    cfg.val_evaluator.ann_file = str(folder / "val.json")
    return cfg


@BOUNDED
@given(content=annotation_files())
def test_annotation_file_is_refused_with_one_sentence_or_evaluates_to_one(cfg, folder, content):
    init_default_scope("mmdet")
    (folder / "val.json").write_text(json.dumps(content))
    cfg = copy.deepcopy(cfg)
    inspection = Inspection()
    inspect_data(cfg, ("val",), inspection)
    event("refused" if inspection.of("error") else "evaluated")
    if inspection.of("error"):
        assert all(finding.example.rstrip().endswith((".", ")")) for finding in inspection.of("error"))
        return
    inspect_round_trip(cfg, ("val",), inspection, "detection")
    assert not inspection.of("error")
    if not inspection.of("warning"):
        (figures,) = (line for line in inspection.lines if line.startswith("Round trip"))
        assert "box AP 1.0000" in figures


@BOUNDED
@given(content=annotation_files())
def test_what_can_be_drawn_of_any_file_is_drawn(cfg, folder, content):
    """The sheet has room for six images, and the folder has three: each image with objects is on it."""
    init_default_scope("mmdet")
    (folder / "val.json").write_text(json.dumps(content))
    (folder / "sheet.png").unlink(missing_ok=True)
    drawn = draw_overlay(cfg, ("val",), folder / "sheet.png", "detection")
    assert drawn <= NUM_IMAGES
    assert (folder / "sheet.png").exists() == (drawn > 0)
    inspection = Inspection()
    inspect_data(copy.deepcopy(cfg), ("val",), inspection)
    event("refused" if inspection.of("error") else "drawn")
    if not inspection.of("error"):
        # Boxes without a width or height are left out.
        sized = [annotation for annotation in content["annotations"] if all(annotation["bbox"][2:])]
        assert drawn in (
            len({annotation["image_id"] for annotation in sized}),
            len({a["image_id"] for a in content["annotations"]}),
        )


@settings(BOUNDED, max_examples=100)
@given(content=st.fixed_dictionaries({}, optional={"images": junk, "annotations": junk, "categories": junk}) | junk)
def test_any_json_is_read_or_refused(folder, content):
    path = folder / "any.json"
    path.write_text(json.dumps(content))
    try:
        read = read_annotations(path)
    except ValueError as error:
        message, read = str(error), None
    assert (read["images"] and read["categories"]) if read else str(path) in message
