"""Predictions from Python and with tools/infer.py: the same numbers as in evaluation, and pictures of them."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from convnext_dense.engine import evaluate_model
from convnext_dense.inference import draw_result, predict

CONFIG = "configs/demo/mask_rcnn_convnext_atto_shapes.py"
NAMES = ("circle", "square", "triangle", "star", "cross", "crescent")
SINGLE_PROCESS = {"test_dataloader.num_workers": 0, "test_dataloader.persistent_workers": False}


@pytest.fixture(scope="module")
def config(pytestconfig, tmp_path_factory):
    """The demo config, keeping objects of any score: the weights are random."""
    path = tmp_path_factory.mktemp("config") / "any_score.py"
    base = pytestconfig.rootpath / CONFIG
    path.write_text(f"_base_ = '{base}'\nmodel = dict(test_cfg=dict(rcnn=dict(score_thr=0.0, max_per_img=20)))\n")
    return path


@pytest.fixture(scope="module")
def checkpoint(config, tmp_path_factory):
    init_default_scope("mmdet")
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(config).model)
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save({"state_dict": model.state_dict(), "meta": {"dataset_meta": {"classes": NAMES}}}, path)
    return path


@pytest.fixture(scope="module")
def images(shapes_folder):
    return sorted((shapes_folder / "val2017").glob("*.jpg"))


def test_predictions_are_those_of_the_evaluation(config, checkpoint, images, shapes_folder, tmp_path):
    evaluate_model(
        config,
        str(checkpoint),
        {**SINGLE_PROCESS, "test_dataloader.batch_size": 1},
        data=str(shapes_folder),
        work_dir=str(tmp_path),
        out=str(tmp_path / "result.json"),
    )
    expected = json.loads((tmp_path / "result.bbox.json").read_text())
    content = json.loads((shapes_folder / "annotations/instances_val2017.json").read_text())
    category_ids = [{item["name"]: item["id"] for item in content["categories"]}[name] for name in NAMES]
    for image_id, result in enumerate(predict(config, checkpoint, images, device="cpu"), start=1):
        of_image = [item for item in expected if item["image_id"] == image_id]
        boxes = np.array([item["bbox"] for item in of_image])
        boxes[:, 2:] += boxes[:, :2]  # COCO's x, y, width, height
        labels = [category_ids.index(item["category_id"]) for item in of_image]
        # Whole objects are compared: with random weights scores are close to one another, and their order may differ.
        wanted = np.column_stack([boxes, 1e3 * np.array([item["score"] for item in of_image]), labels])
        given = np.column_stack([result["boxes"], 1e3 * result["scores"], result["labels"]])
        distances = np.abs(given[:, None] - wanted).max(axis=2)
        assert distances.min(axis=1).max() < 1e-2
        assert sorted(distances.argmin(axis=1)) == list(range(len(wanted)))
        assert (np.diff(result["scores"]) <= 0).all()
        assert result["names"] == [NAMES[label] for label in result["labels"]]


def test_batches_give_what_single_images_give(config, checkpoint, images):
    same_size = [cv2.resize(cv2.imread(str(image)), (96, 96)) for image in images]
    single = predict(config, checkpoint, same_size, device="cpu")
    batched = predict(config, checkpoint, same_size, device="cpu", batch_size=3)
    assert len(single) == len(batched) == len(images)
    for one, other in zip(single, batched, strict=True):
        np.testing.assert_allclose(one["scores"], other["scores"], atol=1e-5)
        assert one["masks"].shape == other["masks"].shape == (len(one["scores"]), 96, 96)


def test_heads_follow_the_classes_in_the_checkpoint(config, tmp_path, images):
    cfg = Config.fromfile(config)
    cfg.model.roi_head.bbox_head.num_classes = cfg.model.roi_head.mask_head.num_classes = 2
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    path = tmp_path / "two.pth"
    torch.save({"state_dict": model.state_dict(), "meta": {"dataset_meta": {"classes": ("cat", "dog")}}}, path)
    (result,) = predict(config, path, images[:1], device="cpu")
    assert set(result["names"]) <= {"cat", "dog"}
    assert result["class_names"] == ("cat", "dog")


def test_picture_shows_only_objects_above_the_threshold(tmp_path):
    image = np.full((60, 80, 3), 128, np.uint8)
    mask = np.zeros((2, 60, 80), bool)
    mask[0, 20:40, 10:30] = True
    mask[1, 30:50, 50:70] = True
    result = dict(
        boxes=np.array([[10, 20, 30, 40], [50, 30, 70, 50]], np.float32),
        scores=np.array([0.9, 0.2], np.float32),
        labels=np.array([0, 0]),
        names=["cat", "cat"],
        class_names=("cat",),
        masks=mask,
    )
    draw_result(image, result, tmp_path / "picture.png", score_thr=0.5)
    picture = cv2.imread(str(tmp_path / "picture.png"))
    assert picture.shape == (480, 640, 3)  # eight times larger, to make room for names
    changed = np.abs(picture.astype(int) - 128).max(axis=2) > 8
    assert changed[8 * 25 : 8 * 38, 8 * 12 : 8 * 28].mean() > 0.9
    assert not changed[8 * 28 :, 8 * 48 :].any()


def test_tool_writes_one_picture_per_image(config, checkpoint, images, tmp_path, run_tool):
    code, out, err = run_tool("infer.py", config, checkpoint, images[0].parent, "--out-dir", tmp_path)
    assert code in (None, 0), err
    assert {path.stem for path in tmp_path.glob("*.png")} == {image.stem for image in images}
    assert f"Pictures are in {tmp_path}" in out


@pytest.mark.parametrize(
    ("content", "text"), [(None, r"Image .*a\.jpg does not exist"), (b"\xff\xd8", r"Image .*a\.jpg cannot be decoded")]
)
def test_bad_image_is_named(config, checkpoint, tmp_path, content, text):
    if content is not None:
        (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=text):
        predict(config, checkpoint, [tmp_path / "a.jpg"], device="cpu")


def test_checkpoint_without_class_names_is_refused(config, tmp_path, images):
    torch.save({"state_dict": {}, "meta": {}}, tmp_path / "bare.pth")
    with pytest.raises(ValueError, match="does not say which classes it was trained on"):
        predict(config, tmp_path / "bare.pth", images[:1])
