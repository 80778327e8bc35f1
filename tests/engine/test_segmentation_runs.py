"""Train, test and infer UperNet with the same commands as detectors, on the CPU."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger

from convnext_dense.checkpoints import read_checkpoint
from convnext_dense.data.data_folder import DataFolder
from convnext_dense.data.shapes.ade import SEGMENTATION_CLASS_NAMES
from convnext_dense.engine import evaluate_model, train_model
from convnext_dense.errors import UserError
from convnext_dense.inference import draw_result, predict

ROOT = Path(__file__).parents[2]
UPERNET = ROOT / "configs/segmentation/upernet_convnext_t_160k.py"

# The published config, made small only by options: the smallest backbone, two iterations, images of 48 pixels.
SMALL = {
    "model.backbone.arch": "atto",
    "model.decode_head.in_channels": [40, 80, 160, 320],
    "model.decode_head.channels": 64,
    "model.auxiliary_head.in_channels": 160,
    "model.auxiliary_head.channels": 32,
    "model.backbone.init_cfg": None,
    "model.test_cfg.crop_size": (48, 48),
    "model.test_cfg.stride": (32, 32),
    "model.data_preprocessor.size": (48, 48),
    "train_cfg.max_iters": 2,
    "train_cfg.val_interval": 2,
    "default_hooks.checkpoint.interval": 2,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "train_dataloader.dataset.pipeline.2.scale": (96, 48),
    "train_dataloader.dataset.pipeline.3.crop_size": (48, 48),
    **{f"tta_pipeline.1.transforms.0.{index}.scale": (64 + 16 * index, 64) for index in range(6)},
    **{
        f"{loader}_dataloader.{key}": value
        for loader in ("val", "test")
        for key, value in {
            "num_workers": 0,
            "persistent_workers": False,
            "dataset.pipeline.1.scale": (96, 48),
        }.items()
    },
    "+val_dataloader.dataset.indices": 2,
    "+test_dataloader.dataset.indices": 2,
}


def log_of(work_dir):
    return "\n".join(path.read_text() for path in sorted(Path(work_dir).rglob("*.log")))


@pytest.fixture(scope="module")
def trained(ade_folder, tmp_path_factory):
    """A run of two iterations, resumed for a third and a fourth."""
    work_dir = tmp_path_factory.mktemp("upernet")
    train_model(UPERNET, SMALL, data=str(ade_folder), work_dir=str(work_dir))
    MMLogger._instance_dict.clear()
    train_model(
        UPERNET,
        {**SMALL, "train_cfg.max_iters": 4, "train_cfg.val_interval": 4},
        data=str(ade_folder),
        work_dir=str(work_dir),
        resume="auto",
    )
    return work_dir


@pytest.mark.slow
def test_published_upernet_trains_saves_and_resumes(trained):
    first, second = (read_checkpoint(trained / f"iter_{iteration}.pth") for iteration in (2, 4))
    assert (first["meta"]["iter"], second["meta"]["iter"]) == (2, 4)
    assert second["optimizer"]["state"][0]["step"] == 4
    assert first["meta"]["dataset_meta"]["classes"] == SEGMENTATION_CLASS_NAMES
    changed = [
        name for name, tensor in second["state_dict"].items() if not torch.equal(tensor, first["state_dict"][name])
    ]
    assert len(changed) > 0.9 * len(first["state_dict"])
    log = log_of(trained)
    assert "resumed epoch: 0, iter: 2" in log
    assert "SyncBN runs as BN on a CPU (2 places)" in log
    assert "Mixed precision is off" in log
    assert "Learning rates: stage_wise decay 0.9 from lr 0.0001" in log
    assert "8 images; in 8 labels read, 7 of 7 classes occur" in log


@pytest.mark.slow
def test_one_option_switches_to_the_augmented_test(trained, ade_folder, tmp_path):
    checkpoint = str(trained / "iter_4.pth")
    for name, tta in (("single", False), ("augmented", True)):
        MMLogger._instance_dict.clear()
        metrics = evaluate_model(
            UPERNET,
            checkpoint,
            SMALL,
            data=str(ade_folder),
            work_dir=str(tmp_path / name),
            tta=tta,
            out=str(tmp_path / name / "labels"),
            show_dir=str(tmp_path / name / "pictures"),
        )
        assert 0 <= metrics["mIoU"] <= 100
        (table,) = (tmp_path / name).rglob("per_class.csv")
        with table.open() as file:
            assert [row["name"] for row in csv.DictReader(file)] == list(SEGMENTATION_CLASS_NAMES)
        labels = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (tmp_path / name / "labels").iterdir()]
        assert len(labels) == 2
        assert all(label.min() >= 1 and label.max() <= 7 for label in labels)
        assert len(list((tmp_path / name / "pictures").rglob("*.png"))) == 2
        wanted = f"Predictions: {tmp_path / name / 'labels'}. Pictures: {tmp_path / name / 'pictures'}."
        assert wanted in log_of(tmp_path / name)
    assert "'mode': 'whole'" in log_of(tmp_path / "augmented") or "mode='whole'" in log_of(tmp_path / "augmented")


@pytest.mark.slow
def test_predictions_are_those_of_the_test_and_are_drawn_with_a_legend(trained, ade_folder, tmp_path):
    checkpoint = str(trained / "iter_4.pth")
    evaluate_model(
        UPERNET, checkpoint, SMALL, data=str(ade_folder), work_dir=str(tmp_path / "t"), out=str(tmp_path / "labels")
    )
    images = sorted((ade_folder / "images/validation").glob("*.jpg"))[:2]
    for image, result in zip(images, predict(trained / UPERNET.name, checkpoint, images, device="cpu"), strict=True):
        written = cv2.imread(str(tmp_path / "labels" / f"{image.stem}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(result["label_map"] + 1, written)
        assert result["class_names"] == SEGMENTATION_CLASS_NAMES
        height, width = result["label_map"].shape
        result["label_map"][:] = 0
        result["label_map"][: height // 2] = 4  # star
        picture = tmp_path / "picture.png"
        draw_result(image, result, picture)
        drawn, original = cv2.imread(str(picture)), cv2.imread(str(image))
        scale = round(640 / max(height, width))
        assert drawn.shape[0] >= scale * height
        assert drawn.shape[1] > 2 * scale * width  # the image, the overlay, and the legend
        overlay = drawn[: scale * height, scale * width + 4 : 2 * scale * width + 4]
        star = np.array(result["palette"][4][::-1])
        expected = 0.45 * original[2 : height // 2 - 2].mean((0, 1)) + 0.55 * star
        np.testing.assert_allclose(overlay[2 * scale : scale * (height // 2 - 2)].mean((0, 1)), expected, atol=3)
        legend = drawn[:, 2 * (scale * width + 4) :]
        assert (legend == star).all(-1).sum() > 100
        crescent = np.array(result["palette"][6][::-1])
        assert not (legend == crescent).all(-1).any()  # only classes that occur


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (None, "There is no data at data/ade/ADEChallengeData2016"),
        ("images", "has no images and labels of 'train', 'val'. Expected:"),
    ],
)
def test_missing_data_is_told_in_one_sentence(data, text, ade_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=text):
        train_model(UPERNET, data=data and str(ade_folder / data))


@pytest.mark.slow
def test_checkpoint_of_other_classes_is_refused(trained, ade_folder, tmp_path):
    with pytest.raises(ValueError, match=r"was trained on the classes 'background', .* but the test set has 'a', 'b'"):
        evaluate_model(
            UPERNET,
            str(trained / "iter_4.pth"),
            SMALL,
            data=DataFolder(str(ade_folder), classes=[*"abcdefg"]),
            work_dir=str(tmp_path),
        )
