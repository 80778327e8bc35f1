"""tools/export.py from a checkpoint to a folder: each task and format beside PyTorch, 8 bits, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from convnext_dense.errors import UserError
from convnext_dense.export import exporting, quantising
from convnext_dense.export.exporting import export_model
from convnext_dense.export.parity import compare, losses
from convnext_dense.export.runtime import load_exported
from convnext_dense.inference import predict

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = "dict(_delete_=True, depths=[1, 1, 1, 1], channels=[16, 24, 32, 48])"
TENSORRT = set((Path(__file__).parent / "tensorrt_operators.txt").read_text().splitlines()[1:])
SHAPES = ("circle", "square", "triangle", "star", "cross", "crescent")


def operators(folder):
    import onnx

    return {node.op_type for node in onnx.load(folder / "model.onnx").graph.node}


def random_weights(config, names, path):
    cfg = Config.fromfile(config)
    init_default_scope(cfg.get("default_scope", "mmengine"))
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    torch.save({"state_dict": model.state_dict(), "meta": {"dataset_meta": {"classes": names}}}, path)
    return path


def small_model(config, base, change, names):
    """A config that changes another one, and a checkpoint of it."""
    config.write_text(f"_base_ = {str(base)!r}\n{change}")
    return config, random_weights(config, names, config.with_name("random.pth"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A config of two classes, a checkpoint, and the folder of their images."""
    root = tmp_path_factory.mktemp("classifier")
    generator = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 128)):
        (root / "val" / name).mkdir(parents=True)
        for number in range(4):
            pixels = generator.integers(low, low + 128, (70, 80, 3), np.uint8)
            Image.fromarray(pixels).save(root / "val" / name / f"{number}.png")
    config = root / "classifier.py"
    config.write_text(
        f"_base_ = {str(CONFIGS / 'finetune/classifier_atto.py')!r}\n"
        f"model = dict(num_classes=2, backbone=dict(arch={SMALL}))\n"
        f"val_dataloader = dict(num_workers=0, dataset=dict(root={str(root / 'val')!r}))\n"
        "test_dataloader = val_dataloader\n"
    )
    return config, random_weights(config, ("dark", "light"), root / "random.pth"), root / "val"


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return small_model(
        tmp_path_factory.mktemp("segmenter") / "upernet.py",
        CONFIGS / "demo/upernet_convnext_atto_shapes.py",
        f"model = dict(backbone=dict(arch={SMALL}), decode_head=dict(in_channels=[16, 24, 32, 48], channels=16), "
        "auxiliary_head=dict(in_channels=32, channels=16))\n",
        ("background", *SHAPES),
    )


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """A Mask R-CNN that keeps objects of any score: the weights are random."""
    return small_model(
        tmp_path_factory.mktemp("detector") / "mask_rcnn.py",
        CONFIGS / "demo/mask_rcnn_convnext_atto_shapes.py",
        f"model = dict(backbone=dict(arch={SMALL}), neck=dict(in_channels=[16, 24, 32, 48]), "
        "test_cfg=dict(rpn=dict(max_per_img=30), rcnn=dict(score_thr=0.0, max_per_img=20)))\n",
        SHAPES,
    )


@pytest.fixture(scope="module")
def images(shapes_folder):
    return sorted((shapes_folder / "val2017").glob("*.jpg"))


@pytest.mark.parametrize("form", ["onnx", "openvino", "torch"])
def test_a_classifier_in_every_format_gives_what_pytorch_gives(classifier, form, tmp_path):
    config, checkpoint, val = classifier
    out = tmp_path / "a model, with a comma"
    exported = export_model(config, checkpoint, out, form=form)
    paths = sorted(val.rglob("*.png"))
    results = load_exported(out, threads=1).predict(paths, batch_size=3)
    for wanted, given in zip(predict(config, checkpoint, paths, device="cpu"), results, strict=True):
        np.testing.assert_allclose(given["scores"], wanted["scores"], atol=1e-5)
        assert given["labels"].tolist() == wanted["labels"].tolist()
        assert given["names"] == wanted["names"]
    facts = json.loads((out / "model.json").read_text())
    assert facts == exported.facts
    assert facts["class_names"] == ["dark", "light"]
    assert facts["input_size"] == [64, 64]
    assert facts["parity"]["images"] == 8
    if form == "onnx":
        assert {"Conv", "MatMul"} <= operators(out) <= TENSORRT
    assert sorted(tmp_path.iterdir()) == [out]


def test_a_segmenter_takes_images_of_any_size(segmenter, images, tmp_path, run_tool):
    code, out, _ = run_tool("export.py", *segmenter, tmp_path / "out", "--images", *images)
    assert code == 0
    assert "share of equal pixels" in out
    assert {"Conv", "Resize"} <= operators(tmp_path / "out") <= TENSORRT
    small, odd = (Image.open(images[0]).resize(size) for size in ((20, 31), (123, 77)))  # below and off the strides
    for image in (small, odd):
        (wanted,) = predict(*segmenter, [image], device="cpu")
        (given,) = load_exported(tmp_path / "out").predict([image])
        assert (given["label_map"] == wanted["label_map"]).mean() > 0.999
        assert given["class_names"] == wanted["class_names"]
        assert np.array_equal(given["palette"], wanted["palette"])


def test_a_detector_fits_images_into_one_size_and_runs_without_the_package(detector, images, tmp_path, run_tool):
    code, out, _ = run_tool("export.py", *detector, tmp_path / "out", "--size", 96, 64, "--images", *images)
    assert code == 0
    assert "overlap of masks 1" in out
    assert {"RoiAlign", "NonMaxSuppression"} <= operators(tmp_path / "out") <= TENSORRT
    command = [sys.executable, "-I", tmp_path / "out/runtime.py", tmp_path / "out", images[0].parent, "--out-dir"]
    subprocess.run([*command, tmp_path / "pictures"], check=True, cwd=tmp_path)
    assert {path.stem for path in (tmp_path / "pictures").iterdir()} == {path.stem for path in images}
    assert load_exported(tmp_path / "out").facts["input_size"] == [96, 64]


def test_a_detector_that_finds_nothing_runs_as_a_program_of_torch(detector, images, tmp_path):
    nothing = {"model.test_cfg.rcnn.score_thr": 0.999}
    export_model(*detector, tmp_path / "out", form="torch", size=(96, 64), images=images, options=nothing)
    (result,) = load_exported(tmp_path / "out").predict([images[0]])
    assert result["boxes"].shape == (0, 4)
    assert result["masks"].shape == (0, *np.asarray(Image.open(images[0])).shape[:2])


def test_8_bits_cost_what_is_printed(classifier, tmp_path, run_tool):
    config, checkpoint, val = classifier
    code, out, _ = run_tool("export.py", config, checkpoint, tmp_path / "out", "--int8", val, "--max-loss", 1)
    assert code == 0
    assert "accuracy/top1: 32 bits" in out
    assert "Layers left in 32 bits: none" in out
    facts = json.loads((tmp_path / "out/model.json").read_text())
    assert facts["precision"] == "int8"
    names = {layer["name"] for layer in facts["int8"]["layers"]}
    assert {"backbone.stages.0.0.dwconv", "backbone.stages.3.0.pwconv2", "head"} <= names
    (result,) = load_exported(tmp_path / "out").predict([next(val.rglob("*.png"))])
    assert result["scores"].sum() == pytest.approx(1, abs=1e-5)
    assert not (tmp_path / "out/float.onnx").exists()


def test_8_bits_that_lose_more_than_allowed_are_refused(classifier, tmp_path, monkeypatch):
    config, checkpoint, val = classifier
    monkeypatch.setattr(quantising, "losses", lambda before, after: {"accuracy/top1": 0.2})
    with pytest.raises(UserError, match=r"8 bits lose 0\.2000 of accuracy/top1, more than --max-loss 0\.1, .* \d+ of"):
        export_model(config, checkpoint, tmp_path / "out", int8=sorted(val.rglob("*.png")), max_loss=0.1)
    assert not list(tmp_path.iterdir())


def test_the_layers_that_8_bits_change_most_stay_in_32():
    errors = {"good": 40.0, "bad": 14.9, "fair": 20.0, "fine": 30.0}  # decibels; 15 are the least
    assert quantising._worst(errors, 0.0) == ["bad"]
    assert quantising._worst(errors, 0.5) == ["bad", "fair"]
    assert quantising._worst({}, 0.5) == []


def test_examples_for_8_bits_are_spread_over_all_images():
    assert quantising._spread(list(range(320))) == list(range(0, 320, 10))
    assert quantising._spread([1, 2, 3]) == [1, 2, 3]


def test_losses_are_shares_of_one():
    before, after = {"mIoU": 81.6, "aAcc": 90.0}, {"mIoU": 81.1, "aAcc": 10.0}
    assert losses(before, after) == {"mIoU": pytest.approx(0.005)}
    assert losses({"coco/bbox_mAP": 0.5}, {"coco/bbox_mAP": 0.6}) == {"coco/bbox_mAP": pytest.approx(-0.1)}


@pytest.mark.parametrize("loss", [0.002, -0.002])
def test_a_model_with_another_metric_is_not_written(classifier, tmp_path, monkeypatch, loss):
    monkeypatch.setattr(exporting, "losses", lambda before, after: {"accuracy/top1": loss})
    with pytest.raises(UserError, match=r"exported model has accuracy/top1 0\.\d+, and PyTorch .*Nothing was written"):
        export_model(*classifier[:2], tmp_path / "out", form="torch", check_data=True)
    assert not list(tmp_path.iterdir())


def test_a_model_that_gives_other_results_is_not_written(classifier, tmp_path, monkeypatch):
    config, checkpoint, _ = classifier

    class Wrong(exporting.ExportedModel):
        def predict(self, images, **options):
            results = super().predict(images, **options)
            results[-1]["scores"] = results[-1]["scores"] + 0.01
            return results

    monkeypatch.setattr(exporting, "ExportedModel", Wrong)
    with pytest.raises(UserError, match=r"differs from PyTorch on .*3\.png: difference of scores is 0\.01.*Nothing"):
        export_model(config, checkpoint, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def objects(boxes, scores, labels):
    return dict(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        labels=np.array(labels, int),
    )


BOX, NEAR, FAR = [10, 10, 30, 30], [11, 10, 31, 30], [50, 50, 70, 70]
TWO = objects([BOX, FAR], [0.9, 0.8], [0, 1])


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (objects([BOX, FAR], [0.9, 0.79], [0, 1]), "difference of scores is 0.01"),
        (objects([NEAR, FAR], [0.9, 0.8], [0, 1]), "pixels between boxes is 1"),
        (objects([BOX, FAR], [0.9, 0.8], [0, 0]), "objects in one of the results alone is [12]"),
        (objects([FAR], [0.8], [1]), "objects in one of the results alone is [12]"),
        (objects([BOX, FAR, FAR], [0.9, 0.8, 0.85], [0, 1, 1]), "objects in one of the results alone is [12]"),
        (objects([], [], []), "objects in one of the results alone is [12]"),
    ],
)
def test_other_objects_are_a_difference(result, reason):
    with pytest.raises(UserError, match=f"differs from PyTorch on image: .*{reason}"):
        compare([TWO], [result], ["image"])


def test_objects_that_are_hardly_kept_or_equally_certain_may_differ():
    worst = compare(
        [objects([BOX, FAR, [50, 50, 70, 80]], [0.9, 0.3, 0.05], [0, 1, 1])],
        [objects([BOX, [50, 50, 75, 70]], [0.9, 0.3005], [0, 1])],  # one of two equally certain ones, and not the last
        ["image"],
        score_threshold=0.05,
    )
    ends = [objects([BOX, box], [0.9, 0.3], [0, 1]) for box in (FAR, BOX)]  # the last of the two that are kept
    compare([ends[0]], [ends[1]], ["image"], max_objects=2)
    assert worst["difference of scores"] == 0


def test_masks_and_label_maps_are_compared():
    mask = np.zeros((1, 40, 40), bool)
    mask[0, 10:30, 10:30] = True
    shifted = np.roll(mask, 1, 1)
    one = objects([BOX], [0.9], [0])
    with pytest.raises(UserError, match=r"overlap of masks is 0\.9"):
        compare([dict(one, masks=mask)], [dict(one, masks=shifted)], ["image"])
    labels = np.zeros((100, 100), int)
    changed = labels.copy()
    changed[0, :11] = 1
    with pytest.raises(UserError, match=r"share of equal pixels is 0\.9989"):
        compare([dict(label_map=labels)], [dict(label_map=changed)], ["image"])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--format", "tensorrt"], "invalid choice: 'tensorrt'"),
        (["--size", "64"], "expected 2 arguments"),
        (["--size", "64", "64", "--dynamic"], "not allowed with argument"),
        (["--size", "96", "96"], "--size 96 96 does not fit: the classifier's transform crops its images to 64x64"),
        (["--max-loss", "2"], "--max-loss 2.0 must be a share of 1"),
        (["--format", "torch", "--int8", "VAL"], "--int8 is for --format onnx and openvino"),
        (["--int8", "nowhere"], "nowhere does not exist"),
        (["--int8", "EMPTY"], "There is no image in"),
        (["--images", "nowhere.png"], "nowhere.png does not exist"),
        (["--cfg-options", "val_dataloader.dataset.root=nowhere"], "give some with --images"),
        (["--cfg-options", "val_dataloader.dataset.root=nowhere", "--check-data"], "nowhere"),
    ],
)
def test_wrong_use_is_one_sentence(classifier, arguments, reason, tmp_path, run_tool):
    config, checkpoint, val = classifier
    (tmp_path / "empty").mkdir()
    places = {"VAL": val, "EMPTY": tmp_path / "empty"}
    arguments = [places.get(argument, argument) for argument in arguments]
    code, _, err = run_tool("export.py", config, checkpoint, tmp_path / "out", *arguments)
    assert code != 0
    assert reason in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_other_wrong_uses_are_one_sentence(classifier, segmenter, detector, images, tmp_path, run_tool, monkeypatch):
    def refused(*arguments):
        code, _, err = run_tool("export.py", *arguments)
        assert code == 1
        assert "Traceback" not in err
        return err

    used = tmp_path / "used"
    used.mkdir()
    (used / "notes.txt").write_text("mine")
    assert "has files and no model.json" in refused(*classifier[:2], used)
    assert (used / "notes.txt").read_text() == "mine"
    assert "is a file" in refused(*classifier[:2], used / "notes.txt")
    assert "absent.py" in refused(tmp_path / "absent.py", classifier[1], tmp_path / "out")
    assert "absent.pth" in refused(classifier[0], tmp_path / "absent.pth", tmp_path / "out")
    assert "Could load only" in refused(classifier[0], detector[1], tmp_path / "out")  # a model of another task
    assert "sees images in windows" in refused(*segmenter, tmp_path / "out", "--size", 96, 96, "--images", images[0])
    assert "must be at least 32" in refused(*detector, tmp_path / "out", "--size", 16, 96, "--images", images[0])
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(images[0].read_bytes()[:200])
    assert "broken.jpg" in refused(*classifier[:2], tmp_path / "out", "--images", broken)
    soft = "model.test_cfg.rcnn.nms.type=soft_nms"
    assert "NMS of the type 'soft_nms'" in refused(
        *detector, tmp_path / "out", "--images", images[0], "--cfg-options", soft
    )
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert "--format onnx needs onnxscript: pip install" in refused(*classifier[:2], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_exported_model_is_replaced(classifier, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.json").write_text("{}")
    (out / "old.onnx").write_text("old")
    export_model(*classifier[:2], out, form="torch")
    assert sorted(file.name for file in out.iterdir()) == ["model.json", "model.pt2", "runtime.py"]
