"""tools/export.py from a checkpoint to a folder: each task and format beside PyTorch, 8 bits, and what is refused."""

import errno
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from convnext_dense.checkpoints import read_zoo
from convnext_dense.config.class_counts import set_num_classes
from convnext_dense.errors import UserError
from convnext_dense.export import exporting, quantising
from convnext_dense.export.exporting import check_arguments, export_model, published
from convnext_dense.export.facts import write_facts
from convnext_dense.export.parity import compare, losses
from convnext_dense.export.runtime import ExportedModelError, load_exported
from convnext_dense.inference import Tiles, load_model, predict

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
        f"model = dict(backbone=dict(arch={SMALL}, out_indices=(2, 3)), auxiliary_head=None, "
        "decode_head=dict(in_channels=[32, 48], in_index=[0, 1], pool_scales=(1, 3), channels=16))\n",
        ("background", *SHAPES),
    )


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """A Mask R-CNN that keeps objects of any score: the weights are random.

    Its pyramid has two maps: every map more takes torch many seconds to capture and to write.
    """
    pooled = "out_channels=32, featmap_strides=[16, 32]"
    return small_model(
        tmp_path_factory.mktemp("detector") / "mask_rcnn.py",
        CONFIGS / "demo/mask_rcnn_convnext_atto_shapes.py",
        f"model = dict(backbone=dict(arch={SMALL}, out_indices=(2, 3)), "
        "neck=dict(in_channels=[32, 48], out_channels=32, num_outs=2), "
        "rpn_head=dict(in_channels=32, feat_channels=32, anchor_generator=dict(strides=[16, 32])), "
        f"roi_head=dict(bbox_roi_extractor=dict({pooled}), bbox_head=dict(in_channels=32, fc_out_channels=64), "
        f"mask_roi_extractor=dict({pooled}), mask_head=dict(num_convs=1, in_channels=32, conv_out_channels=32)), "
        "test_cfg=dict(rpn=dict(max_per_img=30), rcnn=dict(score_thr=0.0, max_per_img=20)))\n",
        SHAPES,
    )


@pytest.fixture(scope="module")
def images(shapes_folder):
    return sorted((shapes_folder / "val2017").glob("*.jpg"))


@pytest.mark.parametrize("form", ["onnx", pytest.param("openvino", marks=pytest.mark.slow), "torch"])
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


@pytest.mark.slow
def test_a_detector_runs_without_the_package_and_is_used_like_a_model_in_pytorch(detector, images, tmp_path, run_tool):
    code, out, err = run_tool("export.py", *detector, tmp_path / "out", "--images", *images)
    assert code == 0, err
    assert "overlap of masks 1" in out
    assert {"RoiAlign", "NonMaxSuppression"} <= operators(tmp_path / "out") <= TENSORRT
    command = [sys.executable, "-I", tmp_path / "out/runtime.py", tmp_path / "out", images[0].parent, "--out-dir"]
    subprocess.run([*command, tmp_path / "alone"], check=True, cwd=tmp_path)
    assert {path.stem for path in (tmp_path / "alone").iterdir()} == {path.stem for path in images}
    ours, exported = load_model(*detector, device="cpu"), load_model(tmp_path / "out")
    assert (exported.task, exported.class_names) == (ours.task, ours.class_names)
    for image in (images[0], np.asarray(Image.open(images[1]).convert("RGB"))[..., ::-1]):
        one, other = ours(image), exported(image)
        assert one.names == other.names
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
        assert (one.masks != other.masks).mean() < 1e-4
    tiles = Tiles(48)
    np.testing.assert_allclose(ours(images[0], tiles=tiles).boxes, exported(images[0], tiles=tiles).boxes, atol=0.5)
    code, _, err = run_tool("infer.py", tmp_path / "out", *images, "--out-dir", tmp_path / "pictures")
    assert code == 0, err
    assert len(list((tmp_path / "pictures").glob("*.png"))) == len(images)
    with pytest.raises(UserError, match=r"none that this model takes"):
        exported(np.zeros((8, 8, 3), np.float32))
    with pytest.raises(UserError, match="has neither options nor a device"):
        load_model(tmp_path / "out", device="cpu")


def test_what_is_no_whole_model_is_refused(detector):
    with pytest.raises(UserError, match="is neither an exported model nor zoo:NAME: give a config and its checkpoint"):
        load_model(detector[0])
    backbone = next(name for name, entry in read_zoo().items() if entry.config is None)
    with pytest.raises(UserError, match=f"zoo:{backbone} is a backbone, not a detector or a segmenter"):
        load_model(f"zoo:{backbone}")


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_validation_data_is_that_of_a_folder_of_your_own(segmenter, two_class_folder, tmp_path, run_tool):
    config, _ = segmenter
    checkpoint = tmp_path / "two.pth"
    cfg = Config.fromfile(config)
    set_num_classes(cfg.model, 2)
    init_default_scope("mmseg")
    names = ("background", "shape")
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    torch.save({"state_dict": model.state_dict(), "meta": {"dataset_meta": {"classes": names}}}, checkpoint)
    code, out, err = run_tool(
        *("export.py", config, checkpoint, tmp_path / "out", "--format", "torch"),
        *("--data", two_class_folder, "--check-data"),
    )
    assert code == 0, err
    metric = next(line for line in out.splitlines() if line.startswith("mIoU: PyTorch "))
    facts = json.loads((tmp_path / "out/model.json").read_text())
    assert facts["parity"]["images"] == 4  # of val
    code, out, err = run_tool(
        "test.py", config, checkpoint, "--data", two_class_folder, "--work-dir", tmp_path / "work"
    )
    assert code == 0, err
    log = next((tmp_path / "work").rglob("*.log")).read_text()
    measured = float(re.search(r"mIoU: ([\d.]+)", log)[1])
    assert metric.split()[2] == f"{measured:.4f},"
    code, _, err = run_tool("export.py", config, checkpoint, tmp_path / "out", "--data", tmp_path / "nowhere")
    assert code == 1
    assert "nowhere" in err
    code, _, err = run_tool("export.py", config, checkpoint, tmp_path / "out", "--classes", "a", "b")
    assert code == 1
    assert "--classes says how a folder is read that is given with --data DIR" in err


@pytest.mark.slow
def test_a_detector_of_one_size_that_finds_nothing_runs_as_a_program_of_torch(detector, images, tmp_path, run_tool):
    code, _, err = run_tool(
        *("export.py", *detector, tmp_path / "out", "--format", "torch", "--size", 96, 64, "--images", *images),
        *("--cfg-options", "model.test_cfg.rcnn.score_thr=0.999"),
    )
    assert code == 0, err
    exported = load_exported(tmp_path / "out")
    assert exported.facts["input_size"] == [96, 64]
    (result,) = exported.predict([images[0]])
    assert result["boxes"].shape == (0, 4)
    assert result["masks"].shape == (0, *np.asarray(Image.open(images[0])).shape[:2])


@pytest.mark.parametrize(
    ("form", "file"), [("onnx", "model.onnx"), pytest.param("openvino", "model.xml", marks=pytest.mark.slow)]
)
def test_8_bits_cost_what_is_printed(classifier, form, file, tmp_path, run_tool):
    config, checkpoint, val = classifier
    (tmp_path / "out").mkdir()
    code, out, _ = run_tool(
        *("export.py", config, checkpoint, tmp_path / "out", "--format", form, "--check-data"),
        *("--int8", val, "--max-loss", 1),
    )
    assert code == 0
    assert "In float32, beside PyTorch on 8 images: difference of scores" in out
    assert "accuracy/top1: PyTorch" in out
    assert "accuracy/top1: 32 bits" in out
    assert "Layers left in 32 bits: none" in out
    facts = json.loads((tmp_path / "out/model.json").read_text())
    assert facts["precision"] == "int8"
    names = {layer["name"] for layer in facts["int8"]["layers"]}
    assert {"backbone.stages.0.0.dwconv", "backbone.stages.3.0.pwconv2", "head"} <= names
    (result,) = load_exported(tmp_path / "out").predict([next(val.rglob("*.png"))])
    assert result["scores"].sum() == pytest.approx(1, abs=1e-5)
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"model.json", "runtime.py", file, *(["model.bin"] if form == "openvino" else [])}
    content = (tmp_path / "out" / file).read_bytes()
    assert b"FakeQuantize" in content or b"QuantizeLinear" in content
    assert str(Path(__file__).parents[2]).encode() not in content  # no path of this machine
    assert facts["source"]["config"] == "classifier.py"


def test_kept_layers_stay_in_float_and_errors_are_those_of_the_rounding(tmp_path):
    import onnx
    from onnx import helper, numpy_helper

    generator = np.random.default_rng(0)
    weights = [generator.normal(size=shape).astype(np.float32) for shape in ((4, 6), (5, 4))]
    weights[0] *= np.array([[1], [2], [3], [50]], np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "w0"], ["y"], name="first", transB=1),
        helper.make_node("Gemm", ["y", "w1"], ["z"], name="second", transB=1),
    ]
    sizes = {"x": 6, "z": 5}
    kinds = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, size]) for name, size in sizes.items()]
    constants = [numpy_helper.from_array(value, f"w{number}") for number, value in enumerate(weights)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", kinds[:1], kinds[1:], constants), opset_imports=[helper.make_opsetid("", 18)]
    )
    model.ir_version = 10
    onnx.save(model, tmp_path / "float.onnx")
    inputs = [{"x": generator.random((1, 6), np.float32)} for _ in range(4)]
    quantising.quantise(tmp_path / "float.onnx", tmp_path / "int8.onnx", inputs, ["second"])
    graph = onnx.load(tmp_path / "int8.onnx").graph
    makers = {name: node for node in graph.node for name in node.output}
    first, second = (next(node for node in graph.node if node.name == name) for name in ("first", "second"))
    assert makers[first.input[0]].op_type == makers[first.input[1]].op_type == "DequantizeLinear"
    assert second.input[1] == "w1"  # as it was
    constants = {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
    whole, scale = (constants[name] for name in makers[first.input[1]].input[:2])
    assert scale.shape == (4,)  # one per output channel
    rounded = whole * scale[:, None]
    activation = constants[makers[makers[first.input[0]].input[0]].input[1]]
    values = np.concatenate([one["x"] for one in inputs])
    noise = np.square(values - np.rint(values / activation) * activation).sum() / np.square(values).sum()
    noise += np.square(weights[0] - rounded).sum() / np.square(weights[0]).sum()
    errors = quantising.layer_errors(tmp_path / "float.onnx", tmp_path / "int8.onnx", inputs)
    assert errors == {"first": pytest.approx(-10 * np.log10(noise), abs=0.1)}


@pytest.mark.slow
def test_8_bits_that_lose_more_than_allowed_are_refused(classifier, tmp_path, monkeypatch):
    config, checkpoint, val = classifier
    lost = {"accuracy/top1": 0.2, "accuracy/top5": 0.0}
    monkeypatch.setattr(quantising, "losses", lambda before, after: lost)
    monkeypatch.setattr(quantising, "print_log", lambda *arguments, **more: None)
    with pytest.raises(UserError, match=r"8 bits lose 0\.2000 of accuracy/top1, more than --max-loss 0\.1, .* \d+ of"):
        export_model(config, checkpoint, tmp_path / "out", int8=sorted(val.rglob("*.png")), max_loss=0.1)
    assert not list(tmp_path.iterdir())


def test_the_layers_that_8_bits_change_most_stay_in_32():
    errors = {"good": 40.0, "bad": 14.9, "fair": 20.0, "fine": 30.0}  # decibels; 15 are the least
    assert quantising._worst(errors, 0.0) == ["bad"]
    assert quantising._worst(errors, 0.5) == ["bad", "fair"]
    assert quantising._worst({}, 0.5) == []


def test_examples_for_8_bits_are_spread_and_read_before_the_export(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(64)]
    for path in paths:
        Image.new("RGB", (2, 2)).save(path)
    assert quantising.choose_examples(paths) == paths[::2]  # 32 of them
    paths[2].write_bytes(b"no image")
    with pytest.raises(ExportedModelError, match=r"2\.png cannot be read"):
        quantising.choose_examples(paths)


def test_only_the_files_of_an_export_are_replaced(tmp_path):
    with published(tmp_path / "new" / "model") as folder:
        for name in ("model.xml", "model.bin", "runtime.py"):
            (folder / name).write_text("old")
        write_facts(folder, dict(format=1))
    target = tmp_path / "new" / "model"
    (target / "notes.txt").write_text("mine")
    with published(target) as folder:
        (folder / "model.onnx").write_text("new")
        (folder / "runtime.py").write_text("new")
        write_facts(folder, dict(format=1))
    assert {path.name for path in target.iterdir()} == {"model.onnx", "runtime.py", "model.json", "notes.txt"}
    assert (target / "runtime.py").read_text() == "new"


def fail_in_the_middle(target):
    with published(target) as folder:
        (folder / "model.onnx").write_text("half")
        raise ValueError("stop")


def test_an_export_that_fails_leaves_what_was_there(tmp_path):
    for target, before in ((tmp_path / "none", None), (tmp_path / "empty", set())):
        if before is not None:
            target.mkdir()
        with pytest.raises(ValueError, match="stop"):
            fail_in_the_middle(target)
        assert target.exists() == (before is not None)
        assert before is None or set(target.iterdir()) == before
    with pytest.raises(UserError, match="cannot be written: the disk is full"), published(tmp_path / "none"):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("content", ["{}", "[1]", "no json", '{"format": 1, "modelTopology": {}}'])
def test_a_folder_with_somebody_elses_model_json_is_refused(tmp_path, content):
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(UserError, match="has files and is not an exported model: choose an empty folder"):
        check_arguments("onnx", tmp_path, int8=None, max_loss=0.01)


def test_losses_are_shares_of_one():
    before, after = {"mIoU": 81.6, "aAcc": 90.0}, {"mIoU": 81.1, "aAcc": 10.0}
    assert losses(before, after) == {"mIoU": pytest.approx(0.005)}
    assert losses({"coco/bbox_mAP": 0.5}, {"coco/bbox_mAP": 0.6}) == {"coco/bbox_mAP": pytest.approx(-0.1)}


@pytest.mark.parametrize("loss", [-0.002, pytest.param(0.002, marks=pytest.mark.slow)])
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
        export_model(config, checkpoint, tmp_path / "out", form="torch")
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
    both = [dict(TWO, masks=np.concatenate([mask, other])) for other in (mask, shifted)]
    with pytest.raises(UserError, match=r"overlap of masks is 0\.9"):
        compare(both[:1], both[1:], ["image"])
    one = objects([BOX], [0.9], [0])
    with pytest.raises(UserError, match=r"overlap of masks is 0\.9"):
        compare([dict(one, masks=mask)], [dict(one, masks=shifted)], ["image"])
    classes = [dict(labels=np.array(labels), scores=np.array([0.6, 0.4])) for labels in ([0, 1], [2, 3])]
    with pytest.raises(UserError, match=r"difference of scores is 0\.2"):  # 0.4 is the most that the others can have
        compare(classes[:1], classes[1:], ["image"])
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
    assert "has files and is not an exported model" in refused(*classifier[:2], used)
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
