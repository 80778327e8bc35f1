"""``zoo:NAME`` on every path that takes weights, and ``tools/zoo.py``, with a row whose file a local server sends."""

import hashlib
import io
import json
import re
import time
from pathlib import Path

import pytest
import torch
from file_server import serving
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from convnext_dense.checkpoints import Checkpoint, ZooEntry, convert_checkpoint, read_checkpoint, read_zoo
from convnext_dense.cli.zoo_entries import verify_entries
from convnext_dense.engine import train_model
from convnext_dense.inference import predict
from convnext_dense.models import ConvNeXt
from convnext_dense.plug import plug_backbone

ROOT = Path(__file__).parents[2]
DETECTOR = "configs/demo/mask_rcnn_convnext_atto_scratch.py"
SEGMENTER = "configs/demo/upernet_convnext_atto_shapes.py"
SHAPES = ("circle", "square", "triangle", "star", "cross", "crescent")
SINGLE_PROCESS = {"test_dataloader.num_workers": 0, "test_dataloader.persistent_workers": False}
FEW = {**SINGLE_PROCESS, "model.test_cfg.rcnn.max_per_img": 5}
# One iteration that changes nothing, so that the saved weights are those that were loaded.
ONE_STEP = {
    "train_cfg.max_epochs": 1,
    "train_dataloader.batch_size": 8,
    "train_dataloader.num_workers": 0,
    "val_dataloader": None,
    "val_cfg": None,
    "val_evaluator": None,
    "optim_wrapper.optimizer.lr": 0.0,
    "param_scheduler": [],
}


def random_model(config, scope):
    """The file of a model with random weights, as this package saves one."""
    init_default_scope(scope)
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(ROOT / config).model)
    classes = SHAPES if scope == "mmdet" else ("background", *SHAPES)
    file = io.BytesIO()
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=classes))), file)
    return file.getvalue()


@pytest.fixture(scope="module")
def detector():
    return random_model(DETECTOR, "mmdet")


@pytest.fixture(scope="module")
def segmenter():
    return random_model(SEGMENTER, "mmseg")


@pytest.fixture
def zoo(monkeypatch, tmp_path):
    """A function that makes the zoo of one row, ``small``, whose file is sent from here."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    servers = []

    def make(content, **row):
        server = serving(content)
        digits = hashlib.sha256(content).hexdigest()[:8]
        address = server.__enter__().address(f"small-{digits}.pth")
        servers.append(server)
        values = dict(name="small", layout="official_dense", licence="CC0-1.0", source="random", sha256_prefix=digits)
        entry = ZooEntry(**{**values, "address": address, **row})
        monkeypatch.setattr("convnext_dense.checkpoints.zoo.read_zoo", lambda: {"small": entry})
        monkeypatch.setattr("convnext_dense.checkpoints.read_zoo", lambda: {"small": entry})
        return entry

    yield make
    for server in servers:
        server.__exit__(None, None, None)


@pytest.fixture
def detector_in_zoo(zoo, detector):
    return zoo(detector, task="detection", config=DETECTOR, published={"box AP": 46.2, "mask AP": 41.7})


def weights_of(content):
    return torch.load(io.BytesIO(content), weights_only=False)["state_dict"]


def assert_equal(after, before):
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name


def as_options(options):
    return [f"{name}={value}" for name, value in options.items()]


# Every path


@pytest.mark.parametrize("way", ["init_from", "load_from"])
def test_training_starts_from_a_name(way, detector_in_zoo, detector, shapes_folder, tmp_path):
    options = ONE_STEP if way == "init_from" else {**ONE_STEP, "load_from": "zoo:small"}
    kwargs = dict(init_from="zoo:small") if way == "init_from" else {}
    train_model(ROOT / DETECTOR, options, data=str(shapes_folder), work_dir=str(tmp_path), **kwargs)
    assert_equal(read_checkpoint(tmp_path / "epoch_1.pth")["state_dict"], weights_of(detector))


def test_init_from_of_the_command_takes_a_name(detector_in_zoo, run_tool, shapes_folder, tmp_path):
    code, _, err = run_tool(
        "train.py", ROOT / DETECTOR, "--data", shapes_folder, "--work-dir", tmp_path,
        "--init-from", "zoo:smaller",
    )  # fmt: skip
    assert (code, "The zoo has no 'smaller'; the nearest name is 'small'" in err) == (1, True)


def test_backbone_starts_from_a_name(zoo):
    torch.manual_seed(0)
    weights = ConvNeXt("atto").state_dict()
    file = io.BytesIO()
    torch.save(dict(model=weights), file)
    zoo(file.getvalue(), task="backbone", backbone=dict(arch="atto"))
    model = ConvNeXt("atto", init_cfg=dict(type="Pretrained", checkpoint="zoo:small"))
    model.init_weights()
    assert_equal(model.state_dict(), weights)
    plugged = plug_backbone(Config.fromfile(ROOT / DETECTOR), "atto", "zoo:small")
    assert plugged.model.backbone.init_cfg.checkpoint == "zoo:small"


def test_command_that_tests_takes_a_name(detector_in_zoo, run_tool, shapes_folder, tmp_path):
    code, out, err = run_tool(
        "test.py", ROOT / DETECTOR, "zoo:small", "--data", shapes_folder, "--work-dir", tmp_path,
        "--cfg-options", *as_options(FEW),
    )  # fmt: skip
    assert code == 0, err
    assert "0 missing" in out + err


def test_prediction_takes_a_name(detector_in_zoo, detector, shapes_folder, tmp_path):
    image = shapes_folder / "val2017/000000000001.jpg"
    options = {"model.test_cfg.rcnn.score_thr": 0.0, "model.test_cfg.rcnn.max_per_img": 5}
    (tmp_path / "file.pth").write_bytes(detector)
    named, from_file = (
        next(iter(predict(ROOT / DETECTOR, source, [image], options=options, device="cpu")))
        for source in ("zoo:small", tmp_path / "file.pth")
    )
    assert len(named["boxes"]) > 0
    assert named["boxes"].tolist() == from_file["boxes"].tolist()


def test_conversion_records_the_name_and_its_licence(zoo, tmp_path):
    torch.manual_seed(0)
    file = io.BytesIO()
    torch.save(dict(model=ConvNeXt("atto", output_norms="none").state_dict()), file)
    zoo(file.getvalue(), task="backbone", backbone=dict(arch="atto"))
    convert_checkpoint("zoo:small", tmp_path / "out.pth", to="timm")
    meta = Checkpoint(tmp_path / "out.pth").meta
    assert (meta["source"], meta["licence"]) == ("zoo:small", "CC0-1.0")


# The command


def test_list_has_every_name_and_filters_by_task(run_tool):
    names = {entry.name for entry in read_zoo().values() if entry.task == "detection"}
    code, everything, _ = run_tool("zoo.py", "list")
    assert code == 0
    assert len(everything.splitlines()) == 2 + len(read_zoo())
    _, detectors, _ = run_tool("zoo.py", "list", "--task", "detection")
    assert {line.split()[1] for line in detectors.splitlines()[2:]} == names
    assert re.search(
        r"\| cascade_convnext_t_3x +\| detection +\| box AP 50.4, mask AP 43.7 \| not measured +\| MIT", detectors
    )


def test_show_prints_all_that_is_known(run_tool):
    _, shown, _ = run_tool("zoo.py", "show", "rtmdet_l_convnext_b_100e")
    for text in ("box AP 53.1", "not measured", "d4731b3d...", "not known", "mmpretrain", "not stated"):
        assert text in shown
    assert "https://github.com/orange0-jp/orange-weights/releases/download/" in shown
    _, shown, _ = run_tool("zoo.py", "show", "dinov3_convnext_t")
    assert "arch='tiny', output_norms='last'" in shown
    assert "to be accepted at https://ai.meta.com/" in shown


def test_fetch_prints_path_digest_and_report(detector_in_zoo, detector, run_tool, tmp_path):
    code, out, err = run_tool("zoo.py", "fetch", "small")
    assert code == 0, err
    path, digest, report = out.splitlines()
    assert Path(path).read_bytes() == detector
    assert Path(path).parent == tmp_path / "torch/hub/checkpoints"
    assert digest == f"sha256 {hashlib.sha256(detector).hexdigest()}"
    total = len(weights_of(detector))
    assert report.startswith(f"Loaded {total} of {total} tensors from zoo:small: 0 output norms are new, 0 missing")


def test_fetch_of_a_file_that_does_not_fill_its_config_is_an_error(zoo, segmenter, run_tool):
    zoo(segmenter, task="detection", config=DETECTOR)
    code, _, err = run_tool("zoo.py", "fetch", "small")
    assert code == 1
    assert re.search(r"Error: .*zoo:small.* missing", err)


def measured_by_test(run_tool, config, folder, tmp_path):
    """The metrics that tools/test.py writes beside its log for the same weights and data."""
    root = "test_dataloader.dataset.data_root"
    options = {**(FEW if config == DETECTOR else SINGLE_PROCESS), root: folder}
    if config == DETECTOR:
        options["test_evaluator.ann_file"] = folder / "annotations/instances_val2017.json"
    code, _, err = run_tool(
        "test.py", ROOT / config, "zoo:small", "--work-dir", tmp_path / "test",
        "--cfg-options", *as_options(options),
    )  # fmt: skip
    assert code == 0, err
    (file,) = (tmp_path / "test").glob("*/*.json")
    return json.loads(file.read_text())


def rows_of(table):
    lines = [line for line in table.splitlines() if line.startswith("| small")]
    return {cells[1]: tuple(map(float, cells[2:])) for cells in (line.strip("| ").split(" | ") for line in lines)}


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_verify_measures_and_compares(task, zoo, detector, segmenter, shapes_folder, ade_folder, run_tool, tmp_path):
    config, content, folder, published, keys = {
        "detection": (
            DETECTOR, detector, shapes_folder, {"box AP": 46.2, "mask AP": 41.7},
            {"box AP": ("coco/bbox_mAP", 100), "mask AP": ("coco/segm_mAP", 100)},
        ),
        "segmentation": (
            SEGMENTER, segmenter, ade_folder, {"mIoU": 46.0, "mIoU, multi-scale and flip": 46.7},
            {"mIoU": ("mIoU", 1)},
        ),
    }[task]  # fmt: skip
    zoo(content, task=task, config=config, published=published)
    expected = measured_by_test(run_tool, config, folder, tmp_path)
    time.sleep(1)  # mmengine's loggers are named after the second in which they begin
    code, out, err = run_tool(
        "zoo.py", "verify", "small", "--data", folder, "--work-dir", tmp_path / "verify",
        "--cfg-options", *as_options(FEW if task == "detection" else SINGLE_PROCESS),
    )  # fmt: skip
    assert code == 0, err
    rows = {metric.strip(): values for metric, values in rows_of(out).items()}
    assert rows.keys() == keys.keys()
    for metric, (key, factor) in keys.items():
        value = factor * expected[key]
        assert rows[metric] == pytest.approx((published[metric], value, value - published[metric]), abs=0.006)
    assert list((tmp_path / "verify/small").glob("*/*.log"))


def test_verify_with_tta_compares_the_number_of_several_scales(zoo, segmenter, ade_folder, run_tool, tmp_path):
    zoo(segmenter, task="segmentation", config=SEGMENTER, published={"mIoU": 46.0, "mIoU, multi-scale and flip": 46.7})
    code, out, err = run_tool(
        "zoo.py", "verify", "small", "--tta", "--data", ade_folder,
        "--work-dir", tmp_path, "--cfg-options", *as_options(SINGLE_PROCESS),
    )  # fmt: skip
    assert code == 0, err
    assert [metric.strip() for metric in rows_of(out)] == ["mIoU, multi-scale and flip"]


def test_verify_points_a_classifier_at_the_folder_and_counts_per_cent(monkeypatch):
    seen = {}

    def evaluate(config, checkpoint, options, **_):
        seen.update(config=config, checkpoint=checkpoint, options=options)
        return {"accuracy/top1": 0.82}

    monkeypatch.setattr("convnext_dense.cli.zoo_entries.evaluate_model", evaluate)
    name, published = next(
        (entry.name, entry.published["top-1"])
        for entry in read_zoo().values()
        if entry.task == "classification" and entry.config and "top-1" in entry.published
    )
    table = verify_entries([name], {"a": 1}, data="my/images", work_dir="w", tta=False)
    assert seen["options"] == {"test_dataloader.dataset.root": "my/images", "a": 1}
    assert seen["checkpoint"] == f"zoo:{name}"
    cells = [cell.strip() for cell in table.splitlines()[-1].strip("| ").split("|")]
    assert cells == [name, "top-1", str(published), "82.00", f"{82 - published:+.2f}"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("convnextv2_t_1k", "it has no config"),
        ("convnext_t_22k", "it has no published number of this test"),
        ("dinov3_convnext_t", "it has no config"),
    ],
)
def test_what_cannot_be_verified_is_said_before_anything_is_downloaded(name, why, run_tool):
    code, _, err = run_tool("zoo.py", "verify", "cascade_convnext_t_3x", name)
    assert code == 1
    assert f"Error: zoo:{name} cannot be verified: {why}." in err
