"""The generated demo data set: its files are COCO's, and its ground truth is what was drawn."""

import contextlib
import io
import json
import runpy
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from convnext_dense.data.run_lengths import encode_rle
from convnext_dense.data.shapes import coco as shapes_coco
from convnext_dense.data.shapes.coco import draw_preview, encode_polygons, write_coco
from convnext_dense.data.shapes.scenes import CLASS_NAMES, _keep_visible, _Layer, make_scene, split_scene

IMAGE_SIZE = (96, 96)
NUM_TRAIN, NUM_VAL = 60, 12
TOOL = Path(__file__).parents[2] / "tools" / "make_shapes.py"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes") / "data"
    assert write_coco(folder, NUM_TRAIN, num_val=NUM_VAL, image_size=IMAGE_SIZE, seed=3)
    return folder


@pytest.fixture(scope="module")
def scenes():
    return [split_scene("train", i, seed=3, image_size=IMAGE_SIZE) for i in range(NUM_TRAIN)]


@pytest.fixture(scope="module")
def coco(root):
    return read_coco(root, "train")


def read_coco(root, split):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(root / "annotations" / f"instances_{split}2017.json"))


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pair_up(coco, scenes):
    """Return every written annotation with the object that was drawn."""
    objects = [scene_object for scene in scenes for scene_object in scene.objects]
    annotations = [coco.anns[i] for i in sorted(coco.anns)]
    return list(zip(annotations, objects, strict=True))


def test_same_seed_gives_the_same_bytes(root, tmp_path):
    write_coco(tmp_path, NUM_TRAIN, num_val=NUM_VAL, image_size=IMAGE_SIZE, seed=3)
    assert files_of(tmp_path) == files_of(root)


def test_a_picture_does_not_depend_on_how_many_there_are(root, tmp_path):
    write_coco(tmp_path, 2, num_val=1, image_size=IMAGE_SIZE, seed=3)
    name = "train2017/000000000002.jpg"
    assert (tmp_path / name).read_bytes() == (root / name).read_bytes()


def test_every_seed_split_and_index_gives_another_picture():
    keys = [(split, i, seed) for split in ("train", "val") for i in range(5) for seed in (0, 1)]
    pictures = {split_scene(s, i, seed=seed, image_size=IMAGE_SIZE).image.tobytes() for s, i, seed in keys}
    assert len(pictures) == len(keys)


def test_no_validation_image_is_a_training_image(root):
    train, val = ({path.read_bytes() for path in (root / name).glob("*.jpg")} for name in ("train2017", "val2017"))
    assert (len(train), len(val)) == (NUM_TRAIN, NUM_VAL)
    assert not train & val


def test_files_have_the_fields_of_coco(root):
    for split, count in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        content = json.loads((root / "annotations" / f"instances_{split}2017.json").read_text())
        assert set(content) == {"info", "licenses", "images", "annotations", "categories"}
        assert len(content["images"]) == count
        assert [c["id"] for c in content["categories"]] == list(range(1, len(CLASS_NAMES) + 1))
        assert [c["name"] for c in content["categories"]] == list(CLASS_NAMES)
        assert all(set(c) == {"id", "name", "supercategory"} for c in content["categories"])
        assert [a["id"] for a in content["annotations"]] == list(range(1, len(content["annotations"]) + 1))
        fields = {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"}
        assert all(set(a) == fields for a in content["annotations"])


def test_images_on_disk_look_like_the_scenes_and_have_the_stated_size(root, coco, scenes):
    sizes = set()
    for image_id, scene in enumerate(scenes, start=1):
        info = coco.imgs[image_id]
        bgr = cv2.imread(str(root / "train2017" / info["file_name"]))
        assert bgr.shape == (info["height"], info["width"], 3) == scene.image.shape
        # JPEG reduces colour noise, and smoothing removes it; swapped channels differ by tens of grey levels.
        written, drawn = (cv2.blur(picture.astype(np.float32), (9, 9)) for picture in (bgr[..., ::-1], scene.image))
        assert np.abs(written - drawn).mean() < 2.5
        sizes.add(bgr.shape[:2])
    assert sizes == {(96, 96), (72, 96), (96, 72)}


def test_written_masks_are_the_drawn_masks_pixel_for_pixel(coco, scenes):
    pairs = pair_up(coco, scenes)
    assert len(pairs) > 100
    for annotation, scene_object in pairs:
        np.testing.assert_array_equal(coco.annToMask(annotation), scene_object.mask)
        assert annotation["area"] == scene_object.mask.sum()
        assert annotation["category_id"] == scene_object.class_index + 1


def test_boxes_enclose_the_masks_exactly(coco, scenes):
    for annotation, scene_object in pair_up(coco, scenes):
        y, x = np.nonzero(scene_object.mask)
        assert annotation["bbox"] == [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]


def test_single_objects_are_polygons_unless_they_have_a_hole(coco):
    single = [a for a in coco.anns.values() if not a["iscrowd"]]
    polygons = [a for a in single if isinstance(a["segmentation"], list)]
    assert len(polygons) > 0.95 * len(single)
    # fewer than three corners are dropped by every reader of COCO
    assert all(len(p) >= 6 and len(p) % 2 == 0 for a in polygons for p in a["segmentation"])


def test_crowds_are_run_lengths_that_pycocotools_decodes_to_the_stated_area(coco):
    crowds = [a for a in coco.anns.values() if a["iscrowd"]]
    assert crowds
    for annotation in crowds:
        height, width = annotation["segmentation"]["size"]
        assert isinstance(annotation["segmentation"]["counts"], list)
        rle = coco_mask.frPyObjects(annotation["segmentation"], height, width)
        assert coco_mask.area(rle) == annotation["area"]


def test_images_without_objects_are_listed_and_have_no_annotation(coco, scenes):
    empty = [i for i, scene in enumerate(scenes, start=1) if not scene.objects]
    assert empty
    for image_id in empty:
        assert image_id in coco.imgs
        assert coco.getAnnIds(imgIds=image_id) == []


def test_visible_masks_of_a_scene_are_disjoint(scenes):
    for scene in scenes:
        owners = np.sum([o.mask for o in scene.objects], axis=0)
        assert np.max(owners) <= 1


def test_some_objects_are_partly_hidden(scenes):
    shares = []
    for scene_object in (o for s in scenes for o in s.objects if CLASS_NAMES[o.class_index] == "circle"):
        points = np.argwhere(scene_object.mask)[:, ::-1].astype(np.int32)
        hull = cv2.fillConvexPoly(np.zeros(scene_object.mask.shape, np.uint8), cv2.convexHull(points), 1)
        if not scene_object.is_crowd:
            shares.append(scene_object.mask.sum() / hull.sum())
    assert max(shares) > 0.97  # a whole circle fills its hull
    assert min(shares) < 0.8


def test_a_hidden_object_is_dropped_and_then_hides_nothing():
    def layer(columns):
        mask = np.zeros((1, 10), dtype=bool)
        mask[0, columns] = True
        return _Layer(class_index=0, is_crowd=False, coverages=[], mask=mask)

    bottom, middle, top = layer(slice(0, 6)), layer(slice(3, 9)), layer(slice(4, 10))
    kept = _keep_visible([bottom, middle, top])  # of the middle one, a single column of six is seen
    assert [kept_layer for kept_layer, _ in kept] == [bottom, top]
    np.testing.assert_array_equal(np.flatnonzero(kept[0][1]), [0, 1, 2, 3])


def test_colour_does_not_reveal_the_class(scenes):
    objects = [(s.image[o.mask].mean(axis=0), o.class_index) for s in scenes for o in s.objects]
    colours, labels = np.stack([colour for colour, _ in objects]), np.array([label for _, label in objects])
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    accuracy = (labels[distances.argmin(axis=1)] == labels).mean()
    assert accuracy < 0.35  # nearest neighbour by mean colour; one in six by chance


def test_polygons_follow_pixel_corners():
    mask = np.zeros((4, 5), dtype=bool)
    mask[1:3, 2] = True  # columns 2 to 3, rows 1 to 3 in corner coordinates
    (polygon,) = encode_polygons(mask)
    assert sorted(zip(polygon[::2], polygon[1::2], strict=True)) == [(2, 1), (2, 3), (3, 1), (3, 3)]


def test_polygons_of_ragged_masks_fill_back_to_the_mask():
    # Random pixels have diagonal contacts, notches and single pixels at the border, more than any drawn shape.
    rng = np.random.default_rng(0)
    num_compared = 0
    for _ in range(200):
        mask = rng.random((6, 7)) < 0.35
        polygons = encode_polygons(mask) if mask.any() else None
        if polygons is not None:
            filled = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *mask.shape)))
            np.testing.assert_array_equal(filled, mask)
            num_compared += 1
    assert num_compared > 50


def test_a_mask_with_a_hole_is_not_a_polygon():
    mask = np.ones((5, 5), dtype=bool)
    mask[2, 2] = False
    assert encode_polygons(mask) is None


@pytest.mark.parametrize(
    ("mask", "counts"),
    [
        ([[0, 1], [1, 0]], [1, 2, 1]),
        ([[1, 0], [1, 1]], [0, 2, 1, 1]),
        ([[0, 0], [0, 0]], [4]),
    ],
)
def test_run_lengths_go_down_the_columns_and_start_with_background(mask, counts):
    assert encode_rle(np.array(mask, dtype=bool)) == {"size": [2, 2], "counts": counts}


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_ground_truth_as_prediction_scores_one(root, split, iou_type):
    coco = read_coco(root, split)
    predictions = [
        {k: a[k] for k in ("image_id", "category_id", "bbox")} | {"segmentation": coco.annToRLE(a), "score": 1.0}
        for a in coco.anns.values()
        if not a["iscrowd"]
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(predictions), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_the_same_data_set_is_found_and_left_alone(root, caplog):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    with caplog.at_level("INFO"):
        assert not write_coco(root, NUM_TRAIN, num_val=NUM_VAL, image_size=IMAGE_SIZE, seed=3)
    assert "nothing to do" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_other_parameters_do_not_overwrite(root):
    with pytest.raises(ValueError, match="delete it or choose another folder"):
        write_coco(root, NUM_TRAIN, num_val=NUM_VAL, image_size=IMAGE_SIZE, seed=4)


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "annotations").mkdir()
    foreign = tmp_path / "annotations" / "instances_train2017.json"
    foreign.write_text('{"info": {}, "images": []}')
    with pytest.raises(ValueError, match=r"another program made it: delete it or choose another folder"):
        write_coco(tmp_path, 1, num_val=1, image_size=IMAGE_SIZE)
    assert files_of(tmp_path) == {"annotations/instances_train2017.json": b'{"info": {}, "images": []}'}


def test_images_without_annotations_are_refused(tmp_path):
    (tmp_path / "train2017").mkdir()
    with pytest.raises(ValueError, match=r"has \['train2017'\] but no shapes.json"):
        write_coco(tmp_path, 1, num_val=1, image_size=IMAGE_SIZE)


def test_a_lost_image_is_reported(tmp_path):
    write_coco(tmp_path, 2, num_val=1, image_size=IMAGE_SIZE)
    (tmp_path / "train2017" / "000000000002.jpg").unlink()
    with pytest.raises(ValueError, match=r"lacks 1 files, train2017/000000000002\.jpg first"):
        write_coco(tmp_path, 2, num_val=1, image_size=IMAGE_SIZE)


def test_an_interrupted_run_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail_at_validation(split, index, **kwargs):
        if split == "val":
            raise KeyboardInterrupt
        return split_scene(split, index, **kwargs)

    monkeypatch.setattr(shapes_coco, "split_scene", fail_at_validation)
    with pytest.raises(KeyboardInterrupt):
        write_coco(tmp_path, 2, num_val=1, image_size=IMAGE_SIZE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"num_train": 0}, "num_train=0 must be 1 or more"),
        ({"num_val": -1}, "num_val=-1 must be 1 or more"),
        ({"image_size": (160, 32)}, r"image_size=\(160, 32\) is too small: .* 64 or more"),
        ({"seed": -1}, "seed=-1 must be 0 or more"),
    ],
)
def test_impossible_arguments_are_refused(tmp_path, arguments, text):
    with pytest.raises(ValueError, match=text):
        write_coco(tmp_path / "data", **arguments)
    assert not (tmp_path / "data").exists()


def test_scenes_refuse_impossible_arguments():
    with pytest.raises(ValueError, match="split='test' is unknown"):
        split_scene("test", 0, seed=0, image_size=IMAGE_SIZE)
    with pytest.raises(ValueError, match="index=-1 and seed=0 must both be 0 or more"):
        split_scene("val", -1, seed=0, image_size=IMAGE_SIZE)
    with pytest.raises(ValueError, match="48 or more"):
        make_scene(np.random.default_rng(0), (40, 96))


def test_preview_shows_images_beside_their_ground_truth(root, tmp_path):
    folder = shutil.copytree(root, tmp_path / "data")  # the picture is written into it
    sheet = cv2.imread(str(draw_preview(folder, 4)))
    assert sheet.shape == (2 * (192 + 6), 6 * (192 + 6), 3)
    with pytest.raises(ValueError, match="num_images=0 must be 1 or more"):
        draw_preview(folder, 0)


def test_tool_writes_data_set_and_preview(tmp_path, monkeypatch, capsys):
    arguments = ["--num-train", "2", "--num-val", "1", "--image-size", "64", "--seed", "5", "--preview", "2"]
    monkeypatch.setattr(sys, "argv", ["make_shapes.py", str(tmp_path / "out"), *arguments])
    runpy.run_path(str(TOOL), run_name="__main__")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"train2017", "val2017", "annotations", "shapes.json", "preview.png"}
    assert str(tmp_path / "out") in capsys.readouterr().out
