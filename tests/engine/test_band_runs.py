"""Images that are not RGB go the whole way of a user: train, test and infer, with options alone."""

import json
import logging
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from PIL import Image
from small_runs import LOADERS

from convnext_dense.checkpoints import read_checkpoint
from convnext_dense.cli.main import run
from convnext_dense.data.band_files import read_bands
from convnext_dense.engine import evaluate_model, train_model
from convnext_dense.errors import UserError
from convnext_dense.inference import Predictor, draw_result, predict

ROOT = Path(__file__).parents[2]
SEGMENTER = ROOT / "configs/demo/upernet_convnext_atto_shapes.py"
DETECTOR = ROOT / "configs/demo/mask_rcnn_convnext_atto_shapes.py"
SHORT_SEGMENTATION = {
    **LOADERS,
    "train_dataloader.batch_size": 2,
    "train_cfg.max_iters": 2,
    "train_cfg.val_interval": 2,
    "default_hooks.checkpoint.interval": 2,
    "default_hooks.logger.interval": 1,
    "model.data_preprocessor.size": (64, 64),
    "train_dataloader.dataset.pipeline.2.crop_size": (64, 64),
    "model.test_cfg.crop_size": (64, 64),
    "model.test_cfg.stride": (48, 48),
}
SHORT_DETECTION = {
    **LOADERS,
    "train_dataloader.batch_size": 4,
    "test_dataloader.batch_size": 1,  # as infer has it: larger batches are padded
    "train_cfg.max_epochs": 1,
    "train_cfg.val_interval": 1,
    "default_hooks.logger.interval": 1,
    "model.test_cfg.rcnn.score_thr": 0.0,
}


def more_channels(rgb, channels):
    """RGB, and mixtures of it."""
    rgb = rgb.astype(np.float64)
    return np.dstack([rgb, *(rgb.mean(2) * (1 - 0.2 * number) for number in range(channels - 3))])


def as_tiff(image, path):
    bands = np.rint(more_channels(image, 4) * 257).astype(np.uint16)
    tifffile.imwrite(path.with_suffix(".tif"), bands, photometric="minisblack", planarconfig="contig")


def as_array(image, path):
    np.save(path.with_suffix(".npy"), more_channels(image, 5).astype(np.float32) / 255)


def convert(source, target, write):
    """Copy a folder with its images in another format."""
    shutil.copytree(source, target)
    for path in sorted(target.rglob("*.jpg")):
        write(np.asarray(Image.open(path).convert("RGB")), path)
        path.unlink()
    for path in target.rglob("instances_*.json"):
        content = json.loads(path.read_text())
        for image in content["images"]:
            file = next(target.rglob(f"{Path(image['file_name']).stem}.*"))
            image["file_name"] = file.name
        path.write_text(json.dumps(content))
    return target


def log_of(work_dir):
    return "\n".join(path.read_text() for path in sorted(Path(work_dir).rglob("*.log")))


def pixels_of(folder, pattern):
    return np.concatenate([read_bands(path).reshape(-1, read_bands(path).shape[2]) for path in folder.glob(pattern)])


@pytest.fixture(scope="module", params=[(as_tiff, 4, ".tif"), (as_array, 5, ".npy")], ids=["tiff", "npy"])
def segmented(request, ade_folder, tmp_path_factory):
    """A folder of images, the number of their channels, their ending, and a run of two iterations on them."""
    write, channels, suffix = request.param
    root = tmp_path_factory.mktemp("bands")
    folder = convert(ade_folder, root / "data", write)
    shown = (3, 2, 1) if channels == 4 else None
    options = dict(data=str(folder), channels=channels, bands=shown, work_dir=str(root / "run"))
    train_model(SEGMENTER, SHORT_SEGMENTATION, **options)
    return folder, channels, suffix, root / "run"


@pytest.mark.slow
def test_segmenter_learns_with_measured_values_and_records_them(segmented):
    folder, channels, suffix, work_dir = segmented
    checkpoint = read_checkpoint(work_dir / "iter_2.pth")
    meta = checkpoint["meta"]["dataset_meta"]
    pixels = pixels_of(folder, f"images/training/*{suffix}").astype(np.float64)
    np.testing.assert_allclose(meta["band_mean"], pixels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(meta["band_std"], pixels.std(0), rtol=1e-6)
    assert meta["channels"] == channels
    assert tuple(meta["shown_bands"]) == ((3, 2, 1) if channels == 4 else (1, 2, 3))
    stem = checkpoint["state_dict"]["backbone.downsample_layers.0.0.weight"]
    assert stem.shape[1] == channels
    log = log_of(work_dir)
    assert f"Images have {channels} channels, with values from" in log
    assert "measured on 8 images of train" in log


@pytest.mark.slow
def test_segmenter_is_tested_and_infers_without_naming_channels_again(segmented, tmp_path):
    folder, channels, suffix, work_dir = segmented
    checkpoint = str(work_dir / "iter_2.pth")
    images = sorted(folder.glob(f"images/validation/*{suffix}"))
    found = {}
    for name, config in (("given", SEGMENTER), ("written", work_dir / SEGMENTER.name)):
        MMLogger._instance_dict.clear()
        options = {
            key: value
            for key, value in SHORT_SEGMENTATION.items()
            if key.startswith(("test_dataloader", "model.test_cfg"))
        }
        metrics = evaluate_model(
            config,
            checkpoint,
            options,
            data=str(folder),
            work_dir=str(tmp_path / name),
            out=str(tmp_path / name / "labels"),
            show_dir=str(tmp_path / name / "shown"),
        )
        assert 0 <= metrics["mIoU"] <= 100
        assert len(list((tmp_path / name / "shown").rglob("*.png"))) == 4
        found[name] = [cv2.imread(str(path), -1) for path in sorted((tmp_path / name / "labels").iterdir())]
    for one, other in zip(found["given"], found["written"], strict=True):
        np.testing.assert_array_equal(one, other)
    assert f"Images have {channels} channels, as " in log_of(tmp_path / "given")

    options = {key: value for key, value in SHORT_SEGMENTATION.items() if key.startswith("model.test_cfg")}
    predictor = Predictor(SEGMENTER, checkpoint, options=options, device="cpu")
    arrays = [read_bands(path) for path in images]
    for given in (images, arrays, [np.moveaxis(array, -1, 0) for array in arrays]):
        for result, written in zip(predictor.iterate(given), found["given"], strict=True):
            np.testing.assert_array_equal(result["label_map"] + 1, written)
    draw_result(predictor.picture(images[-1]), result, tmp_path / "a.png")
    draw_result(images[-1], result, tmp_path / "b.png")
    assert cv2.imread(str(tmp_path / "a.png")).shape == cv2.imread(str(tmp_path / "b.png")).shape
    with pytest.raises(UserError, match=rf"An image array has 3 channels, but {channels} are wanted"):
        list(predictor.iterate([np.zeros((32, 32, 3), np.uint8)]))


@pytest.mark.slow
def test_pictures_show_the_channels_that_were_named_and_predictions_do_not_depend_on_them(segmented):
    folder, channels, suffix, work_dir = segmented
    checkpoint, image = work_dir / "iter_2.pth", min(folder.glob(f"images/validation/*{suffix}"))
    predictor = Predictor(SEGMENTER, checkpoint, device="cpu")
    picture = predictor.picture(image)
    np.testing.assert_array_equal(picture, predictor.picture(read_bands(image)))
    bands = read_bands(image)[..., :3].astype(np.float64)
    low, high = np.percentile(bands, (2, 98))
    expected = np.clip((bands - low) / (high - low), 0, 1) * 255
    # Channels 3, 2, 1 as red, green, blue: BGR pictures have them in the order of the file.
    np.testing.assert_allclose(picture, expected if channels == 4 else expected[..., ::-1], atol=1)
    config = Config.fromfile(work_dir / SEGMENTER.name)
    config.test_dataloader.dataset.pipeline[0].shown = (4,)
    options = {key: value for key, value in SHORT_SEGMENTATION.items() if key.startswith("model.test_cfg")}
    (one,), (other,) = (predict(cfg, checkpoint, [image], options=options, device="cpu") for cfg in (SEGMENTER, config))
    np.testing.assert_array_equal(one["label_map"], other["label_map"])
    grey = Predictor(config, checkpoint, device="cpu").picture(image)
    assert (grey[..., 0] == grey[..., 2]).all()


@pytest.mark.slow
def test_options_contradictions_and_rgb_are_told_apart(segmented, ade_folder, tmp_path):
    folder, channels, suffix, work_dir = segmented
    checkpoint = str(work_dir / "iter_2.pth")
    with pytest.raises(UserError, match=rf"--channels 7 contradicts .*iter_2\.pth, .* with --channels {channels}"):
        evaluate_model(SEGMENTER, checkpoint, data=str(folder), channels=7, work_dir=str(tmp_path))
    with pytest.raises(UserError, match=rf"\{suffix} has {channels} channels of (16|32) bits, .*--channels {channels}"):
        train_model(SEGMENTER, SHORT_SEGMENTATION, data=str(folder), work_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"jpg has 3 channels, but 4 are wanted"):
        train_model(SEGMENTER, SHORT_SEGMENTATION, data=str(ade_folder), channels=4, work_dir=str(tmp_path))
    with pytest.raises(UserError, match="--bands chooses among the channels of --channels: give it too"):
        train_model(SEGMENTER, SHORT_SEGMENTATION, data=str(folder), bands=[3, 2, 1], work_dir=str(tmp_path))


def check_dataset(monkeypatch, capsys, *args):
    monkeypatch.setattr(sys, "argv", ["check_dataset.py", *map(str, args)])
    with pytest.raises(SystemExit) as leaving:
        run("check-dataset")
    return leaving.value.code, "".join(capsys.readouterr())


@pytest.mark.parametrize(("write", "channels", "bits"), [(as_tiff, 4, 16), (as_array, 5, 32)], ids=["tiff", "npy"])
def test_check_names_the_option_and_with_it_draws_and_measures(
    ade_folder, tmp_path, monkeypatch, capsys, write, channels, bits
):
    folder = convert(ade_folder, tmp_path / "data", write)
    monkeypatch.chdir(tmp_path)
    options = (SEGMENTER, "--data", folder, "--overlay", tmp_path / "overlay.png")
    code, text = check_dataset(monkeypatch, capsys, *options)
    assert code == 1
    assert f"has {channels} channels of {bits} bits, and LoadImageFromFile reads 3 of 8 bits: train with" in text
    code, text = check_dataset(monkeypatch, capsys, *options, "--channels", channels, "--bands", 3, 2, 1)
    assert code == 0
    assert f"Images have {channels} channels, with values from" in text
    assert "0 errors, 0 warnings" in text
    assert cv2.imread(str(tmp_path / "overlay.png")).std() > 20
    code, text = check_dataset(monkeypatch, capsys, *options, "--channels", 3)
    assert code == 1
    assert f"has {channels} channels, but 3 are wanted (--channels 3)" in text


@pytest.mark.slow
def test_given_mean_wins_and_nothing_is_measured(ade_folder, tmp_path, monkeypatch):
    folder = convert(ade_folder, tmp_path / "data", as_tiff)
    monkeypatch.setattr("convnext_dense.data.own.bands.measure_files", None)
    options = {"model.data_preprocessor.mean": [1.0, 2, 3, 4], "model.data_preprocessor.std": [9.0] * 4}
    options = {**SHORT_SEGMENTATION, **options, "train_cfg.max_iters": 1, "default_hooks.checkpoint.interval": 1}
    train_model(SEGMENTER, options, data=str(folder), channels=4, work_dir=str(tmp_path / "run"))
    meta = read_checkpoint(tmp_path / "run/iter_1.pth")["meta"]["dataset_meta"]
    assert (list(meta["band_mean"]), list(meta["band_std"])) == ([1, 2, 3, 4], [9] * 4)
    assert "mean and std are those of --cfg-options" in log_of(tmp_path / "run")


@pytest.mark.slow
def test_detector_learns_is_tested_and_infers(shapes_folder, tmp_path):
    channels = 5
    folder = convert(shapes_folder, tmp_path / "data", as_array)
    train_model(DETECTOR, SHORT_DETECTION, data=str(folder), channels=channels, work_dir=str(tmp_path / "run"))
    checkpoint = str(tmp_path / "run/epoch_1.pth")
    meta = read_checkpoint(checkpoint)["meta"]["dataset_meta"]
    assert (meta["channels"], len(meta["band_mean"])) == (channels, channels)
    MMLogger._instance_dict.clear()
    options = {key: value for key, value in SHORT_DETECTION.items() if key.startswith(("test_dataloader", "model"))}
    metrics = evaluate_model(
        DETECTOR,
        checkpoint,
        options,
        data=str(folder),
        work_dir=str(tmp_path / "test"),
        out=str(tmp_path / "out.json"),
        show_dir="shown",
    )
    assert "coco/bbox_mAP" in metrics
    assert len(list((tmp_path / "test").rglob("shown/*.png"))) == 4
    tested = json.loads((tmp_path / "out.bbox.json").read_text())
    image = min(path for path in (folder / "val2017").iterdir())
    (result,) = predict(DETECTOR, checkpoint, [image], options={"model.test_cfg.rcnn.score_thr": 0.0}, device="cpu")
    content = json.loads((folder / "annotations/instances_val2017.json").read_text())
    (number,) = (entry["id"] for entry in content["images"] if entry["file_name"] == image.name)
    scores = sorted((item["score"] for item in tested if item["image_id"] == number), reverse=True)
    np.testing.assert_allclose(result["scores"], scores, atol=1e-5)


@pytest.mark.slow
def test_stem_of_rgb_weights_is_fitted_to_the_channels(ade_folder, tmp_path, caplog):
    from convnext_dense.models import ConvNeXt

    backbone = ConvNeXt(arch="atto")
    torch.save(dict(state_dict=backbone.state_dict()), tmp_path / "rgb.pth")
    folder = convert(ade_folder, tmp_path / "data", as_tiff)
    options = {
        **SHORT_SEGMENTATION,
        "model.backbone.init_cfg": dict(_delete_=True, type="Pretrained", checkpoint=str(tmp_path / "rgb.pth")),
        "train_cfg.max_iters": 1,
        "default_hooks.checkpoint.interval": 1,
        "optim_wrapper.optimizer.lr": 0.0,
    }
    with caplog.at_level(logging.INFO):
        train_model(SEGMENTER, options, data=str(folder), channels=4, work_dir=str(tmp_path / "run"))
    stem = read_checkpoint(tmp_path / "run/iter_1.pth")["state_dict"]["backbone.downsample_layers.0.0.weight"]
    ours = backbone.state_dict()["downsample_layers.0.0.weight"]
    assert stem.shape[1] == 4
    # What every channel learnt is shared evenly, so that a grey image gives the stem the same output.
    torch.testing.assert_close(stem.sum(1), ours.sum(1), rtol=1e-5, atol=1e-6)
