"""infer accepts what test accepts: files by the config's loading step, options, checkpoints without masks, --out."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image
from pycocotools import mask as coco_masks
from random_models import DETECTOR, NOISE, SEGMENTER, write_config, write_weights

from convnext_dense.inference import Predictor, draw_result, predict
from convnext_dense.visualization import draw_label_map


def inputs_of(predictor, images):
    """Return the input of the network before normalisation."""
    given = []

    def record(batch):
        given.extend(batch["inputs"])
        return batch["inputs"]

    predictor.model.test_step = record
    predictor._result = lambda sample: sample
    list(predictor.iterate(images))
    return given


def save_kinds(folder):
    """Files that different readers may read differently."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(NOISE[..., :3]).save(folder / "turned.jpg", exif=exif)
    Image.fromarray(NOISE).save(folder / "alpha.png")
    Image.fromarray(NOISE[..., 0].astype(np.uint16) * 200).save(folder / "deep.png")
    Image.fromarray(NOISE[..., :3]).quantize(9).save(folder / "palette.png", transparency=2)
    Image.fromarray(NOISE[..., :3]).convert("CMYK").save(folder / "cmyk.jpg")
    return sorted(folder.iterdir())


def test_detector_is_given_the_same_pixels_in_testing_and_by_infer(detector, tmp_path):
    (tmp_path / "val").mkdir()
    files = save_kinds(tmp_path / "val")
    images = [
        dict(id=i, file_name=file.name, height=cv2.imread(str(file)).shape[0], width=cv2.imread(str(file)).shape[1])
        for i, file in enumerate(files)
    ]
    content = dict(images=images, annotations=[], categories=[dict(id=1, name="red"), dict(id=2, name="blue")])
    (tmp_path / "val.json").write_text(json.dumps(content))
    cfg = Config.fromfile(detector[0])
    init_default_scope("mmdet")
    dataset = DATASETS.build(
        dict(
            type="CocoDataset",
            ann_file=str(tmp_path / "val.json"),
            data_prefix=dict(img=str(tmp_path / "val")),
            pipeline=cfg.test_dataloader.dataset.pipeline,
            test_mode=True,
        )
    )
    tested = [dataset[index]["inputs"] for index in range(len(dataset))]
    inferred = inputs_of(Predictor(*detector, device="cpu"), files)
    assert len(tested) == len(inferred) == 5
    for one, other in zip(tested, inferred, strict=True):
        assert torch.equal(one, other)


def test_segmenter_is_given_the_same_pixels_in_testing_and_by_infer(segmenter, tmp_path):
    (tmp_path / "val").mkdir()
    (tmp_path / "labels").mkdir()
    files = [file for file in save_kinds(tmp_path / "val") if file.suffix == ".png"]
    for file in files:
        Image.fromarray(np.zeros((40, 60), np.uint8)).save(tmp_path / "labels" / file.name)
    cfg = Config.fromfile(segmenter[0])
    init_default_scope("mmseg")
    dataset = DATASETS.build(
        dict(
            type="BaseSegDataset",
            data_root=str(tmp_path),
            data_prefix=dict(img_path="val", seg_map_path="labels"),
            img_suffix=".png",
            seg_map_suffix=".png",
            metainfo=dict(classes=("sky", "sea")),
            pipeline=cfg.test_dataloader.dataset.pipeline,
            test_mode=True,
        )
    )
    inferred = inputs_of(Predictor(*segmenter, device="cpu"), files)
    assert len(dataset) == len(inferred) == 3
    for index, given in enumerate(inferred):
        assert torch.equal(dataset[index]["inputs"], given)


@pytest.mark.parametrize("kind", ["detector", "segmenter"])
def test_file_array_and_pillow_image_are_one(kind, request, tmp_path):
    predictor = Predictor(*request.getfixturevalue(kind), device="cpu")
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    bgr = np.ascontiguousarray(NOISE[..., 2::-1])
    bgra = np.ascontiguousarray(NOISE[..., [2, 1, 0, 3]])
    given = inputs_of(predictor, [tmp_path / "a.png", str(tmp_path / "a.png"), bgr, bgra, Image.fromarray(NOISE)])
    assert len(given) == 5
    for other in given[1:]:
        assert torch.equal(given[0], other)


def test_detector_of_grey_images_reads_them_grey(tmp_path, pytestconfig, monkeypatch):
    monkeypatch.chdir(pytestconfig.rootpath)
    grey = "dict(type='LoadImageFromFile', color_type='grayscale')"
    meta = "meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')"
    config = write_config(
        tmp_path / "grey.py",
        DETECTOR,
        "model = dict(data_preprocessor=dict(mean=[120.0], std=[60.0]), backbone=dict(in_channels=1))",
        f"steps = [{grey}, dict(type='Resize', scale=(60, 40)), dict(type='PackDetInputs', {meta})]",
        "test_dataloader = dict(dataset=dict(pipeline=steps))",
    )
    weights = write_weights(config, tmp_path / "grey.pth", ("red", "blue"))
    Image.fromarray(NOISE[..., 0]).save(tmp_path / "a.png")
    predictor = Predictor(config, weights, device="cpu")  # bgr_to_rgb=True stays in the config, but has no effect
    result = next(predictor.iterate([tmp_path / "a.png"]))
    assert result["masks"].shape[1:] == (40, 60)
    for given in inputs_of(
        predictor, [tmp_path / "a.png", NOISE[..., 0], NOISE[..., :1], np.dstack([NOISE[..., 0]] * 3)]
    ):
        np.testing.assert_array_equal(given[0], NOISE[..., 0])


def test_four_channels_of_files_and_arrays_are_one(tmp_path, pytestconfig, monkeypatch):
    monkeypatch.chdir(pytestconfig.rootpath)
    config = write_config(
        tmp_path / "four.py",
        SEGMENTER,
        "model = dict(data_preprocessor=dict(mean=[120.0] * 4, std=[60.0] * 4), backbone=dict(in_channels=4))",
        "steps = [dict(type='LoadImageFromFile', color_type='unchanged'), dict(type='PackSegInputs')]",
        "test_dataloader = dict(dataset=dict(pipeline=steps))",
    )
    predictor = Predictor(config, write_weights(config, tmp_path / "four.pth", ("sky", "sea")), device="cpu")
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    bgra = NOISE[..., [2, 1, 0, 3]]
    assert next(predictor.iterate([tmp_path / "a.png"]))["label_map"].shape == (40, 60)
    with pytest.raises(ValueError, match=r"arrays of shape \(H, W, 4\)"):
        next(predictor.iterate([NOISE[..., :3]]))
    for given in inputs_of(predictor, [tmp_path / "a.png", bgra, Image.fromarray(NOISE)]):
        np.testing.assert_array_equal(given.permute(1, 2, 0), bgra)


@pytest.mark.parametrize("size", [(2, 3000), (3000, 2), (1, 1)])
def test_thin_image_is_inferred_and_drawn(detector, segmenter, tmp_path, size):
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(tmp_path / "thin.png")
    (objects,) = predict(*detector, [tmp_path / "thin.png"], device="cpu")
    assert objects["masks"].shape[1:] == size
    assert objects["boxes"].min() >= 0
    assert (objects["boxes"][:, 2:] <= size[::-1]).all()
    (labels,) = predict(*segmenter, [tmp_path / "thin.png"], device="cpu")
    assert labels["label_map"].shape == size
    for result in (objects, labels):
        draw_result(tmp_path / "thin.png", result, tmp_path / "picture.png")
        assert cv2.imread(str(tmp_path / "picture.png")) is not None


def test_checkpoint_of_boxes_alone_gives_boxes(detector, tmp_path):
    weights = write_weights(detector[0], tmp_path / "boxes.pth", ("red", "blue"), without="mask_head")
    (boxes,) = predict(detector[0], weights, [NOISE[..., :3]], device="cpu")
    (both,) = predict(*detector, [NOISE[..., :3]], device="cpu")
    assert "masks" not in boxes
    assert both["masks"].shape == (20, 40, 60)
    assert boxes["boxes"].shape == (20, 4)


def test_checkpoint_of_another_model_is_blamed_and_not_the_image(detector, segmenter):
    with pytest.raises(ValueError, match=r"weights\.pth") as caught:
        predict(detector[0], segmenter[1], [NOISE[..., :3]], device="cpu")
    assert "decoded" not in str(caught.value)


def test_options_are_those_of_the_config(detector):
    image = [NOISE[..., :3]]
    (few,) = predict(*detector, image, options={"model.test_cfg.rcnn.max_per_img": 3}, device="cpu")
    assert len(few["scores"]) == 3
    with pytest.raises(ValueError, match=r"has no key 'model\.test_cfg\.rcn'"):
        predict(*detector, image, options={"model.test_cfg.rcn": 3}, device="cpu")


def test_config_object_is_not_changed(detector):
    cfg = Config.fromfile(detector[0])
    before = cfg.to_dict()
    predict(cfg, detector[1], [NOISE[..., :3]], options={"model.test_cfg.rcnn.max_per_img": 3}, device="cpu")
    assert cfg.to_dict() == before


@pytest.mark.parametrize("one", ["a.jpg", NOISE[..., :3], NOISE[..., 0], Image.fromarray(NOISE)])
def test_one_image_instead_of_a_list_is_refused(segmenter, one):
    with pytest.raises(ValueError, match="is one image: give a list of images"):
        predict(*segmenter, one, device="cpu")


def test_stream_and_stack_of_images_are_taken(segmenter):
    stack = np.stack([NOISE[..., :3]] * 3)
    assert len(predict(*segmenter, iter(stack), device="cpu", batch_size=2)) == 3
    assert len(predict(*segmenter, stack, device="cpu", batch_size=2)) == 3
    assert predict(*segmenter, [], device="cpu") == []


def test_results_are_written_in_coco_format(detector, tmp_path, infer):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        Image.fromarray(NOISE[..., :3]).save(tmp_path / folder / "a.png")
    code, printed = infer(
        *detector, tmp_path / "one", tmp_path / "two", "--out-dir", tmp_path / "drawn",
        "--out", tmp_path / "new" / "result.json", "--cfg-options", "model.test_cfg.rcnn.max_per_img=5",
    )  # fmt: skip
    assert code == 0, printed
    boxes, masks = (json.loads((tmp_path / "new" / f"result.{kind}.json").read_text()) for kind in ("bbox", "segm"))
    assert [item["image_id"] for item in boxes] == ["one/a.png"] * 5 + ["two/a.png"] * 5
    options = {"model.test_cfg.rcnn.max_per_img": 5}
    (expected,) = predict(*detector, [tmp_path / "one/a.png"], device="cpu", options=options)
    for index, (box, mask) in enumerate(zip(boxes[:5], masks[:5], strict=True)):
        x, y, width, height = box["bbox"]
        np.testing.assert_allclose([x, y, x + width, y + height], expected["boxes"][index], rtol=1e-5)
        assert box["category_id"] == expected["labels"][index] + 1
        assert box["category_name"] == expected["names"][index]
        assert box["score"] == pytest.approx(float(expected["scores"][index]))
        np.testing.assert_array_equal(coco_masks.decode(mask["segmentation"]), expected["masks"][index])
    assert len(list((tmp_path / "drawn").rglob("*.png"))) == 2


@pytest.mark.parametrize(("reduces", "first"), [(False, 0), (True, 1)])
def test_label_images_are_numbered_as_the_files_were(segmenter, tmp_path, infer, reduces, first):
    weights = write_weights(SEGMENTER, tmp_path / "w.pth", ("sky", "sea"), reduce_zero_label=reduces)
    Image.fromarray(NOISE[..., :3]).save(tmp_path / "a.png")
    code, printed = infer(
        SEGMENTER, weights, tmp_path / "a.png", "--out-dir", tmp_path / "drawn", "--out",
        tmp_path / "labels",
    )  # fmt: skip
    assert code == 0, printed
    (expected,) = predict(SEGMENTER, weights, [tmp_path / "a.png"], device="cpu")
    written = np.asarray(Image.open(tmp_path / "labels" / "a.png"))
    np.testing.assert_array_equal(written, expected["label_map"] + first)


def test_a_jpg_beside_a_png_gives_two_pictures_and_a_second_mention_none(segmenter, tmp_path, infer):
    for name in ("a.jpg", "a.png"):
        Image.fromarray(NOISE[..., :3]).save(tmp_path / name)
    code, printed = infer(*segmenter, tmp_path, tmp_path / "a.jpg", "--out-dir", tmp_path / "drawn")
    assert code == 0, printed
    assert sorted(path.name for path in (tmp_path / "drawn").glob("*.png")) == ["a.jpg.png", "a.png.png"]
    assert "[2/2]" in printed


def test_picture_that_cannot_be_written_ends_with_a_sentence(segmenter, tmp_path, infer):
    Image.fromarray(NOISE[..., :3]).save(tmp_path / "a.png")
    (tmp_path / "file").write_text("no folder")
    code, printed = infer(*segmenter, tmp_path / "a.png", "--out-dir", tmp_path / "file")
    assert code == 1
    assert printed.splitlines()[-1].startswith("Error: ")
    assert "cannot be written: " in printed


def test_class_beyond_255_has_its_own_colour():
    palette = [[0, 0, 0]] * 300 + [[250, 10, 20]]
    result = dict(label_map=np.full((64, 64), 300), class_names=tuple(map(str, range(301))), palette=palette)
    drawn = draw_label_map(np.zeros((64, 64, 3), np.uint8), result)
    np.testing.assert_allclose(drawn[10, 80], np.array([20, 10, 250]) * 0.55, atol=1)  # BGR, under 55 per cent
