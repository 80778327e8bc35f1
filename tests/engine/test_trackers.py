"""--log: what TensorBoard and MLflow hold after a run is what the run logged."""

import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.visualization import Visualizer
from PIL import Image
from record_losses import launch
from small_runs import LOADERS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from convnext_dense.data.shapes.ade import write_ade
from convnext_dense.data.shapes.coco import write_coco
from convnext_dense.engine import evaluate_model, train_model
from convnext_dense.engine.trackers import WandbVisBackend, add_trackers
from convnext_dense.errors import UserError

ROOT = Path(__file__).parents[2]
DETECTOR = ROOT / "configs/demo/mask_rcnn_convnext_atto_shapes.py"
SEGMENTER = ROOT / "configs/demo/upernet_convnext_atto_shapes.py"
CLASSIFIER = ROOT / "configs/demo/pretrain_convnext_atto_shapes.py"
# Two iterations in an epoch.
OPTIONS = {
    **LOADERS,
    "train_dataloader.batch_size": 2,
    "train_cfg.max_epochs": 2,
    "train_cfg.val_interval": 1,
    "default_hooks.logger.interval": 1,
    "default_hooks.checkpoint.max_keep_ckpts": 3,
}
# Of 11 images, the positions 0 * 11 // 8, 1 * 11 // 8, ..., 7 * 11 // 8.
CHOSEN = [0, 1, 2, 4, 5, 6, 8, 9]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    write_coco(root, 4, num_val=11, image_size=(64, 64), seed=1)
    return root


def train(*args, **kwargs):
    for kind in (MMLogger, Visualizer, *Visualizer.__subclasses__()):
        kind._instance_dict.clear()
    train_model(*args, **kwargs)


def run_and_resume(folder, work_dir, tracker):
    """Two epochs, and a third by a resumed run."""
    for epochs, resume in ((2, None), (3, "auto")):
        options = {**OPTIONS, "train_cfg.max_epochs": epochs}
        train(DETECTOR, options, data=str(folder), work_dir=str(work_dir), resume=resume, log=[tracker])
    return work_dir


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    return run_and_resume(folder, tmp_path_factory.mktemp("run"), "tensorboard")


@pytest.fixture(scope="module")
def mlflow_run(folder, tmp_path_factory):
    """MLflow takes ten seconds to make its data base."""
    for key in [key for key in os.environ if key.startswith("MLFLOW_")]:
        del os.environ[key]
    return run_and_resume(folder, tmp_path_factory.mktemp("mlflow_run"), "mlflow")


def rows_of(work_dir, number):
    """The log of the first or the second part of a run."""
    file = sorted(work_dir.glob("*/vis_data/scalars.json"))[number]
    return [json.loads(line) for line in file.read_text().splitlines()]


def events_of(work_dir, number=0):
    files = sorted(work_dir.rglob("events.out.*"))
    events = EventAccumulator(str(files[number]), size_guidance=dict(images=0, scalars=0, tensors=0))
    events.Reload()
    return events


def mlflow_of(work_dir):
    """The runs in the store of the work dir, the oldest first."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{work_dir}/mlflow.db")
    experiment = client.get_experiment_by_name(DETECTOR.stem)
    return client, client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])


def test_tensorboard_has_the_losses_rates_and_metrics_of_the_log(run):
    rows = rows_of(run, 0)
    events = events_of(run)
    losses = [(row["iter"], row["train/loss"]) for row in rows if "train/loss" in row]
    metrics = [(row["val/iter"], row["val/coco/segm_mAP"]) for row in rows if "val/iter" in row]
    assert [step for step, _ in losses] == [1, 2, 3, 4]
    assert [step for step, _ in metrics] == [2, 4]
    for name, expected in (
        ("train/loss", losses),
        ("train/lr", [(row["iter"], row["train/lr"]) for row in rows if "train/lr" in row]),
        ("val/coco/segm_mAP", metrics),
    ):
        found = events.Scalars(name)
        assert [event.step for event in found] == [step for step, _ in expected]
        assert [event.value for event in found] == pytest.approx([value for _, value in expected], rel=1e-6)


def test_tensorboard_has_the_config(run):
    (text,) = events_of(run).Tensors("config/text_summary")
    assert "max_epochs=2" in text.tensor_proto.string_val[0].decode().replace(" ", "")


def test_the_same_eight_pictures_are_in_every_evaluation(run, folder):
    content = json.loads((folder / "annotations/instances_val2017.json").read_text())
    # The checkpoint was written before the evaluation at 4, which the resumed run repeats.
    stems = [Path(image["file_name"]).stem for image in content["images"]]
    names = [f"predictions/{number}_{stems[position]}" for number, position in enumerate(CHOSEN, 1)]
    for number, steps in ((0, [2, 4]), (1, [4, 6])):
        events = events_of(run, number)
        assert events.Tags()["images"] == names
        assert [[event.step for event in events.Images(name)] for name in names] == [steps] * 8


def test_a_picture_shows_the_image_in_its_colours_with_the_truth_beside(run, folder):
    events = events_of(run)
    name = events.Tags()["images"][2]
    picture = np.asarray(Image.open(io.BytesIO(events.Images(name)[0].encoded_image_string)))
    image = Image.open(next((folder / "val2017").glob(f"{name.rpartition('_')[2]}.*")))
    scale = 320 // max(image.size)
    width, height = scale * image.width, scale * image.height
    assert picture.shape == (height + 18, 2 * (width + 4), 3)  # a caption below, a gap beside
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    for left in (0, width + 4):
        part = picture[:height, left : left + width]
        assert np.median(np.abs(part - pixels)) < np.median(np.abs(part[:, :, ::-1] - pixels))


@pytest.mark.slow
def test_mlflow_has_the_losses_the_config_and_the_pictures(mlflow_run):
    client, (first, _) = mlflow_of(mlflow_run)
    rows = rows_of(mlflow_run, 0)
    for name in ("train/loss", "train/loss_mask"):
        history = client.get_metric_history(first.info.run_id, name)
        assert [(point.step, point.value) for point in history] == [
            (row["iter"], row[name]) for row in rows if name in row
        ]
    (metric, _) = client.get_metric_history(first.info.run_id, "val/coco/bbox_mAP")
    assert metric.step == 2
    assert first.data.params["train_cfg.max_epochs"] == "2"
    assert first.info.status == "FINISHED"
    artifacts = mlflow_run / "mlartifacts" / first.info.run_id / "artifacts"
    written = Config.fromfile(artifacts / "config.py", import_custom_modules=False)
    assert written.train_cfg.max_epochs == 2
    names = [path.name.split("+") for path in (artifacts / "images").glob("*.png")]
    assert sorted(int(step) for _, _, step, *_ in names) == [2] * 8 + [4] * 8
    assert len({name for name, *_ in names}) == 8


def test_a_resumed_run_goes_on_at_its_iteration(run):
    assert [event.step for event in events_of(run, 1).Scalars("train/loss")] == [5, 6]


@pytest.mark.slow
def test_mlflow_continues_the_run_that_the_environment_names(mlflow_run, folder, monkeypatch):
    """A resumed run is a run of the same experiment, unless the environment names one."""
    client, (_, second) = mlflow_of(mlflow_run)
    losses = client.get_metric_history(second.info.run_id, "train/loss")
    assert [point.step for point in losses] == [5, 6]
    monkeypatch.setenv("MLFLOW_RUN_ID", second.info.run_id)
    options = {**OPTIONS, "train_cfg.max_epochs": 3}  # the same config: MLflow's parameters never change
    train(
        DETECTOR,
        options,
        data=str(folder),
        work_dir=str(mlflow_run),
        resume=str(mlflow_run / "epoch_2.pth"),
        log=["mlflow"],
    )
    losses = client.get_metric_history(second.info.run_id, "train/loss")
    assert sorted(point.step for point in losses) == [5, 5, 6, 6]
    assert len(mlflow_of(mlflow_run)[1]) == 2


def test_the_config_in_the_work_dir_has_no_tracker(run):
    for file in (run / DETECTOR.name, *run.glob("*/vis_data/config.py")):
        cfg = Config.fromfile(file, import_custom_modules=False)
        assert [backend.type for backend in cfg.visualizer.vis_backends] == ["LocalVisBackend"]
        assert "log_with_hierarchy" not in cfg.log_processor


def test_a_test_sends_its_metrics_and_eight_pictures(run, folder, tmp_path):
    Visualizer._instance_dict.clear()
    metrics = evaluate_model(
        DETECTOR, str(run / "epoch_3.pth"), LOADERS, data=str(folder), work_dir=str(tmp_path), log=["tensorboard"]
    )
    events = events_of(tmp_path)
    (event,) = events.Scalars("test/coco/bbox_mAP")
    assert event.value == pytest.approx(metrics["coco/bbox_mAP"], rel=1e-6)
    assert len(events.Tags()["images"]) == 8


@pytest.mark.slow
def test_segmenters_send_pictures(tmp_path):
    folder = tmp_path / "ade"
    write_ade(folder, 4, num_val=9, image_size=(64, 64), seed=1)
    options = {
        **LOADERS,
        "train_dataloader.batch_size": 2,
        "train_cfg.max_iters": 2,
        "train_cfg.val_interval": 2,
        "default_hooks.logger.interval": 1,
        "model.test_cfg": dict(_delete_=True, mode="whole"),
    }
    train(SEGMENTER, options, data=str(folder), work_dir=str(tmp_path / "run"), log=["tensorboard"])
    events = events_of(tmp_path / "run")
    assert len(events.Tags()["images"]) == 8
    assert [event.step for event in events.Scalars("val/mIoU")] == [2]


def write_classes(root):
    """Bright and dark noise, eight images of each for training and five for validation."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 5)):
        for number in range(2 * count):
            name = ("bright", "dark")[number % 2]
            (root / split / name).mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 128, (40, 40, 3)) + 128 * (name == "bright")
            Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{number:03d}.png")


SMALL_CLASSIFIER = {
    **LOADERS,
    "train_dataloader.batch_size": 4,
    "effective_batch": 4,
    "train_cfg.max_epochs": 1,
    "train_cfg.val_interval": 1,
    "param_scheduler": [],
}


def test_classifiers_send_pictures_of_the_images_of_their_labels(tmp_path):
    write_classes(tmp_path / "own")
    train(CLASSIFIER, SMALL_CLASSIFIER, data=str(tmp_path / "own"), work_dir=str(tmp_path / "run"), log=["tensorboard"])
    events = events_of(tmp_path / "run")
    # Ten images: 0, 1, 2, 3 and 5 bright, with even numbers, then dark ones; 4 and 9 are left out.
    names = [name.partition("_")[2] for name in events.Tags()["images"]]
    assert names == ["000", "002", "004", "006", "001", "003", "005", "007"]
    for place, name in enumerate(events.Tags()["images"]):
        picture = np.asarray(Image.open(io.BytesIO(events.Images(name)[0].encoded_image_string)))
        assert (picture[:100].mean() > 128) == (place < 4)


@pytest.mark.slow
def test_one_of_several_processes_logs(tmp_path):
    write_classes(tmp_path / "own")
    job = dict(
        out=str(tmp_path / "losses.json"),
        config=str(CLASSIFIER),
        options={**SMALL_CLASSIFIER, "effective_batch": 8},
        data=str(tmp_path / "own"),
        work_dir=str(tmp_path / "run"),
        log=["tensorboard"],
    )
    launch([job], tmp_path)
    assert len(list((tmp_path / "run").rglob("events.out.*"))) == 1
    # Of ten images, the main process has every second one: three bright ones, 000, 004, 008, and two dark ones.
    names = [name.partition("_")[2] for name in events_of(tmp_path / "run").Tags()["images"]]
    assert names == ["000", "004", "008", "003", "007"]


def config_with(*backends):
    visualizer = dict(type="Visualizer", vis_backends=list(backends))
    return Config(dict(work_dir="runs/x", visualizer=visualizer), filename=__file__)


def test_backends_of_the_config_stay_and_are_not_doubled():
    mine = dict(type="TensorboardVisBackend", save_dir="mine", name="board")
    cfg = config_with(dict(type="LocalVisBackend"), mine)
    (hook,) = add_trackers(cfg, ["tensorboard", "wandb", "wandb"], "val")
    assert hook["backends"] == ["board", "WandbVisBackend"]
    local, same, added = cfg.visualizer.vis_backends
    assert (local.type, same, added.type) == ("LocalVisBackend", mine, "convnext_dense.WandbVisBackend")
    assert added.init_kwargs == dict(project="test_trackers")


def test_a_config_without_a_visualizer_keeps_the_local_log():
    cfg = Config(dict(work_dir="runs/x"), filename=__file__)
    add_trackers(cfg, ["tensorboard"], "val")
    assert [backend.type for backend in cfg.visualizer.vis_backends] == ["LocalVisBackend", "TensorboardVisBackend"]
    assert cfg.default_hooks.logger.log_metric_by_epoch is False
    assert cfg.log_processor.log_with_hierarchy


def test_the_environment_of_a_tracker_goes_first(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "ours")
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    cfg = config_with()
    add_trackers(cfg, ["mlflow", "wandb"], "val")
    mlflow, wandb = cfg.visualizer.vis_backends
    assert (mlflow.tracking_uri, mlflow.exp_name) == ("http://tracking.example", "ours")
    assert "project" not in wandb.init_kwargs


def backend_of(name, tmp_path, **more):
    """The backend of a tracker in the config of a run, without what is its type."""
    cfg = config_with()
    cfg.work_dir = str(tmp_path / "run")
    cfg.merge_from_dict(more)
    (hook,) = add_trackers(cfg, [name], "val")
    assert hook["score_thr"] == 0.3
    return {key: value for key, value in cfg.visualizer.vis_backends[0].items() if key != "type"}


def test_trackers_get_the_name_of_the_run_and_no_checkpoints_or_code(tmp_path, monkeypatch):
    for key in [key for key in os.environ if key.startswith(("WANDB_", "MLFLOW_", "NEPTUNE_"))]:
        monkeypatch.delenv(key)
    name = Path(__file__).stem
    started = dict(project_name=name, task_name="run", reuse_last_task_id=False)
    assert backend_of("clearml", tmp_path) == dict(init_kwargs=started, artifact_suffix=(".py",))
    started = dict(save_dvc_exp=False, cache_images=False)
    assert backend_of("dvclive", tmp_path) == dict(init_kwargs=started, artifact_suffix=())
    assert backend_of("neptune", tmp_path) == dict(init_kwargs=dict(name=name, mode="offline"))
    monkeypatch.setenv("NEPTUNE_PROJECT", "ours")
    assert backend_of("neptune", tmp_path) == dict(init_kwargs=dict(name=name))
    assert backend_of("mlflow", tmp_path)["artifact_suffix"] == ()
    axes = {axis["name"]: axis["step_metric"] for axis in backend_of("wandb", tmp_path)["define_metric_cfg"]}
    assert axes == {"train/*": "iter", "val/*": "val/iter", "predictions/*": "val/iter"}


def test_a_log_of_ones_own_stays_as_it_is():
    cfg = config_with()
    cfg.default_hooks, cfg.log_processor = dict(logger=None), dict(type="OwnLogProcessor")
    add_trackers(cfg, ["tensorboard"], "val")
    assert cfg.default_hooks.logger is None
    assert cfg.log_processor == dict(type="OwnLogProcessor")


def test_weights_and_biases_gets_the_config_and_no_code(monkeypatch, tmp_path):
    sent = {}
    fake = SimpleNamespace(
        init=lambda **kwargs: sent.update(start=kwargs),
        define_metric=lambda *args, **kwargs: None,
        config=SimpleNamespace(update=lambda values, **more: sent.update(config=values, **more)),
        run=None,  # whose log_code would upload the current folder
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    WandbVisBackend(str(tmp_path), init_kwargs=dict(project="x")).add_config(Config(dict(a=1)))
    assert (sent["config"], sent["allow_val_change"]) == (dict(a=1), True)
    assert sent["start"] == dict(project="x", dir=str(tmp_path))


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_missing_tracker_is_one_sentence_before_anything_is_written(run_tool, folder, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    work_dir = tmp_path / "run"
    for tool, more in (("train.py", ()), ("test.py", ("missing.pth",))):
        arguments = (DETECTOR, *more, "--data", folder, "--work-dir", work_dir, "--log", name)
        code, _, error = run_tool(tool, *arguments)
        assert code == 1
        assert error.count("\n") == 1
        assert f"--log {name} needs a package" in error
        assert f"pip install 'convnext-dense[{name}]'" in error
    assert not work_dir.exists()


def test_an_unknown_tracker_is_named():
    with pytest.raises(UserError, match="--log excel is unknown: choose of tensorboard, wandb, mlflow"):
        train_model(DETECTOR, log=["excel"])


@pytest.mark.slow
def test_a_fault_in_drawing_is_a_warning_and_the_run_goes_on(folder, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ValueError("no colour left")

    monkeypatch.setattr("convnext_dense.engine.drawn_samples.draw_objects", fail)
    options = {**OPTIONS, "train_cfg.max_epochs": 2}
    train(DETECTOR, options, data=str(folder), work_dir=str(tmp_path), log=["tensorboard"])
    log = "".join(path.read_text() for path in tmp_path.rglob("*.log"))
    assert log.count("There are no more pictures of predictions: ValueError: no colour left") == 1
    assert len(events_of(tmp_path).Scalars("val/coco/bbox_mAP")) == 2


@pytest.mark.slow
def test_a_run_that_fails_keeps_what_it_sent(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("convnext_dense.evaluation.coco_metric.CocoMetric.compute_metrics", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(DETECTOR, OPTIONS, data=str(folder), work_dir=str(tmp_path), log=["tensorboard"])
    assert [event.step for event in events_of(tmp_path).Scalars("train/loss")] == [1, 2]
