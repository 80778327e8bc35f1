"""Train, resume and test with mmengine's Runner, on the CPU."""

import functools
import json
import struct
import zlib
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from small_runs import LOADERS

from convnext_dense.checkpoints import read_checkpoint
from convnext_dense.data.checks.inspection import Inspection
from convnext_dense.engine import evaluate_model, train_model

ROOT = Path(__file__).parents[2]
CASCADE = ROOT / "configs/detection/cascade_convnext_t_3x.py"
DEMO = ROOT / "configs/demo/mask_rcnn_convnext_atto_shapes.py"

# The published config, made small only by options: two iterations per epoch on images of at most 96 pixels.
SMALL_CASCADE = {
    "model.backbone.init_cfg": None,
    "train_cfg.max_epochs": 1,
    "+train_dataloader.dataset.indices": 4,
    "model.backbone.arch": "atto",
    "model.neck.in_channels": [40, 80, 160, 320],
    # Fewer regions, because 512 of them through three heads of four convolutions take a minute per iteration.
    "model.train_cfg.rpn_proposal.max_per_img": 30,
    "model.test_cfg.rpn.max_per_img": 10,
    "model.test_cfg.rcnn.max_per_img": 5,
    **{f"model.train_cfg.rcnn.{stage}.sampler.num": 16 for stage in range(3)},
    **{f"model.roi_head.bbox_head.{stage}.fc_out_channels": 64 for stage in range(3)},
    **{f"model.roi_head.bbox_head.{stage}.conv_out_channels": 32 for stage in range(3)},
    "model.roi_head.mask_head.conv_out_channels": 32,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "train_dataloader.dataset.pipeline.3.transforms.0.0.scales": [(96, 96)],
    "train_dataloader.dataset.pipeline.3.transforms.1.0.scales": [(96, 96)],
    "train_dataloader.dataset.pipeline.3.transforms.1.1.crop_size": (48, 64),
    "train_dataloader.dataset.pipeline.3.transforms.1.2.scales": [(96, 96)],
    **{
        f"{loader}_dataloader.{key}": value
        for loader in ("val", "test")
        for key, value in {
            "num_workers": 0,
            "persistent_workers": False,
            "dataset.pipeline.1.scale": (96, 96),
        }.items()
    },
}
SMALL_DEMO = {
    **LOADERS,
    "train_cfg.max_epochs": 1,
    "train_dataloader.batch_size": 4,
}


def log_of(work_dir):
    return "\n".join(path.read_text() for path in sorted(Path(work_dir).rglob("*.log")))


@pytest.fixture(scope="module")
def demo_run(shapes_folder, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("demo")
    train_model(DEMO, SMALL_DEMO, data=str(shapes_folder), work_dir=str(work_dir))
    return work_dir


@pytest.mark.slow
def test_published_cascade_trains_saves_resumes_and_tests(own_folder, tmp_path):
    work_dir = tmp_path / "run"
    train_model(CASCADE, SMALL_CASCADE, data=str(own_folder), work_dir=str(work_dir))
    first = read_checkpoint(work_dir / "epoch_1.pth")
    assert first["meta"]["iter"] == 2
    assert first["meta"]["dataset_meta"]["classes"] == ("even", "odd")
    log = log_of(work_dir)
    assert "Mixed precision is off" in log
    assert "SyncBN runs as BN on a CPU (3 places)" in log
    assert "Learning rates: layer_wise decay 0.7 from lr 0.0002" in log

    before = {name: tensor.clone() for name, tensor in first["state_dict"].items()}
    train_model(
        CASCADE,
        {**SMALL_CASCADE, "train_cfg.max_epochs": 2},
        data=str(own_folder),
        work_dir=str(work_dir),
        resume="auto",
    )
    second = read_checkpoint(work_dir / "epoch_2.pth")
    assert second["meta"]["iter"] == 4
    assert second["optimizer"]["state"][0]["step"] == 4
    changed = [name for name, tensor in second["state_dict"].items() if not torch.equal(tensor, before[name])]
    assert len(changed) > 0.9 * len(before)
    assert "resumed epoch: 1, iter: 2" in log_of(work_dir)

    metrics = evaluate_model(
        CASCADE, str(work_dir / "epoch_2.pth"), SMALL_CASCADE, data=str(own_folder), work_dir=str(tmp_path / "test")
    )
    assert {"coco/bbox_mAP", "coco/bbox_mAP_50", "coco/segm_mAP_75"} <= set(metrics)
    assert all(0.0 <= value <= 1.0 or value == -1.0 for value in metrics.values())
    for path in work_dir.glob("epoch_*.pth"):
        path.unlink()


@pytest.mark.parametrize("by", ["mmengine", "mmdet 2"])
def test_class_names_of_the_checkpoint_are_compared_with_the_test_set(by, demo_run, own_folder, tmp_path):
    checkpoint = (demo_run / "last_checkpoint").read_text()
    if by == "mmdet 2":  # which kept them as CLASSES
        content = read_checkpoint(checkpoint)
        content["meta"] = dict(CLASSES=content["meta"]["dataset_meta"]["classes"])
        checkpoint = str(tmp_path / "old.pth")
        torch.save(content, checkpoint)
    with pytest.raises(ValueError, match=r"was trained on the classes 'circle', .* but the test set has 'even', 'odd'"):
        evaluate_model(DEMO, checkpoint, SMALL_DEMO, data=str(own_folder), work_dir=str(demo_run / "test"))


def test_checkpoint_of_another_model_is_an_error(demo_run, shapes_folder, tmp_path):
    checkpoint = (demo_run / "last_checkpoint").read_text()
    options = {**SMALL_DEMO, "model.backbone.arch": "femto", "model.neck.in_channels": [48, 96, 192, 384]}
    with pytest.raises(ValueError, match=r"\d+ of another shape.*backbone\.downsample_layers\.0\.0\.weight"):
        evaluate_model(DEMO, checkpoint, options, data=str(shapes_folder), work_dir=str(tmp_path))


def test_predictions_are_written_in_coco_format_and_drawn(demo_run, shapes_folder, tmp_path):
    checkpoint = (demo_run / "last_checkpoint").read_text()
    evaluate_model(
        DEMO,
        checkpoint,
        {**SMALL_DEMO, "model.test_cfg.rcnn.score_thr": 0.0},
        data=str(shapes_folder),
        work_dir=str(tmp_path),
        out=str(tmp_path / "result.json"),
        show_dir="pictures",
    )
    boxes = json.loads((tmp_path / "result.bbox.json").read_text())
    assert {item["image_id"] for item in boxes} == {1, 2, 3, 4}
    pictures = list(tmp_path.rglob("pictures/**/*.jpg"))
    assert len(pictures) == 4
    assert f"Predictions: {tmp_path}/result.bbox.json, {tmp_path}/result.segm.json. Pictures: {tmp_path}/" in log_of(
        tmp_path
    )


def test_image_that_breaks_during_training_is_named(own_folder, tmp_path, monkeypatch):
    """The check before training decodes only a sample; a bad image outside of it is named when it is loaded."""
    monkeypatch.setattr("convnext_dense.data.own.tasks.Inspection", functools.partial(Inspection, 1))
    images = sorted((own_folder / "train").iterdir())
    for image in images[1:]:
        image.write_bytes(image.read_bytes()[:30])
    with pytest.raises(ValueError, match=r"Image .*/train/0+\d\.jpg cannot be decoded.*checkpoints written so far"):
        train_model(DEMO, SMALL_DEMO, data=str(own_folder), work_dir=str(tmp_path / "run"))


def test_image_that_claims_too_many_pixels_during_training_stops_it(own_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("convnext_dense.data.own.tasks.Inspection", functools.partial(Inspection, 1))
    pixels = zlib.compress(bytes(99))
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    ]
    for image in sorted((own_folder / "train").iterdir())[1:]:
        image.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with pytest.raises(ValueError, match=r"Image .*/train/0+\d\.jpg claims 60000x60000.*check_dataset.py --all-images"):
        train_model(DEMO, SMALL_DEMO, data=str(own_folder), work_dir=str(tmp_path / "run"))


def test_resume_without_a_checkpoint_says_so(shapes_folder, tmp_path):
    options = {**SMALL_DEMO, "+train_dataloader.dataset.indices": 4}
    train_model(DEMO, options, data=str(shapes_folder), work_dir=str(tmp_path), resume="auto")
    assert "to resume from: training starts at the beginning" in log_of(tmp_path)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        (dict(resume="nowhere.pth"), r"Checkpoint nowhere\.pth does not exist"),
        (dict(options={"train_dataloader.batchsize": 4}), r"nearest is 'train_dataloader\.batch_size'"),
    ],
)
def test_wrong_arguments_of_training_are_named(shapes_folder, tmp_path, kwargs, text):
    with pytest.raises(ValueError, match=text):
        train_model(DEMO, data=str(shapes_folder), work_dir=str(tmp_path), **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [(dict(tta=True), "--tta needs tta_model and tta_pipeline"), (dict(out="result.pkl"), r"must end in \.json")],
)
def test_wrong_arguments_of_testing_are_named(demo_run, shapes_folder, kwargs, text):
    with pytest.raises(ValueError, match=text):
        evaluate_model(
            DEMO, (demo_run / "last_checkpoint").read_text(), data=str(shapes_folder), work_dir=str(demo_run), **kwargs
        )


def test_tools_end_with_one_sentence_and_an_exit_code(run_tool, shapes_folder, tmp_path):
    arguments = ["configs/detection/cascade_convnext_x.py", "--data", shapes_folder, "--work-dir", tmp_path]
    code, _, err = run_tool("train.py", *arguments)
    assert code == 1
    assert "Error: Config configs/detection/cascade" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_run_resumes_from_the_config_that_it_wrote(demo_run):
    """mmengine writes the config of a run beside its checkpoints; reading it gives the same data and heads."""
    cfg = Config.fromfile(demo_run / DEMO.name)
    assert cfg.model.roi_head.bbox_head.num_classes == 6
    assert cfg.train_dataloader.dataset.metainfo.classes[0] == "circle"
