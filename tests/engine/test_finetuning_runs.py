"""Fine-tuning configs on a user's way: one option, four lines, early stopping, resuming, a test, a prediction."""

import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from small_runs import LOADERS

from convnext_dense.checkpoints import read_checkpoint
from convnext_dense.config.finetuning import Choices
from convnext_dense.config.reading import read_config
from convnext_dense.data.own.tasks import use_folder
from convnext_dense.engine import evaluate_model, fitting, train_model
from convnext_dense.engine.batch_search import FoundBatch
from convnext_dense.errors import UserError
from convnext_dense.inference import predict

ROOT = Path(__file__).parents[2]
FORMATS = ROOT / "tests/fixtures/formats"
OBJECTS = FORMATS / "original"
LABELS = FORMATS / "camvid_kaggle"
CLASSES = FORMATS / "fiftyone_folders"
CONFIGS = ROOT / "configs/finetune"
QUIET = {**LOADERS, "default_hooks.logger.interval": 1}
NAMES = ("Length:", "Learning rate: ", "Evaluation:", "Weights:")
DATA = {"mask_rcnn_atto.py": OBJECTS, "upernet_atto.py": LABELS, "classifier_atto.py": CLASSES}  # six images each


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns the folder of a run of one epoch of a config, made once. Tests must not change it."""
    folders = {}

    def get(config):
        if config not in folders:
            folders[config] = tmp_path_factory.mktemp(config.removesuffix(".py"))
            options = dict(data=str(DATA[config]), choices=Choices(epochs=1), work_dir=str(folders[config]))
            train_model(CONFIGS / config, QUIET, **options)
        return folders[config]

    return get


def lines_of(work_dir):
    """The four lines of the newest log."""
    log = max(Path(work_dir).glob("*/*.log"), key=lambda path: path.stat().st_mtime).read_text()
    found = [line.split(" - INFO - ")[1] for line in log.splitlines() if " - INFO - " in line]
    return [line for name in NAMES for line in found if line.startswith(name) and "decay" not in line]


@pytest.mark.slow
@pytest.mark.parametrize("config", DATA)
def test_config_takes_a_folder_and_nothing_else(trained, tmp_path, config):
    work_dir = trained(config)
    length, rate, evaluation, weights = lines_of(work_dir)
    batch = min(6, Config.fromfile(CONFIGS / config).train_dataloader.batch_size)
    steps = -(-6 // batch)
    assert f"{steps} steps of {batch} images" in length
    assert "of 6 images (1 epochs; --epochs N)" in length
    assert "warm-up" in rate
    assert "too few to end the run early (--early-stop N)" in evaluation
    assert "augmentation light" in weights
    checkpoint = work_dir / f"iter_{steps}.pth"
    assert checkpoint.is_file()
    assert evaluate_model(CONFIGS / config, str(checkpoint), LOADERS, data=str(DATA[config]), work_dir=str(tmp_path))


@pytest.mark.slow
def test_images_of_a_test_and_a_prediction_have_the_size_of_the_training(trained, tmp_path, monkeypatch):
    checkpoint = next(trained("mask_rcnn_atto.py").glob("iter_*.pth"))
    size = read_checkpoint(checkpoint)["meta"]["dataset_meta"]["image_size"]
    assert size != 320  # what the config says before it has seen any data
    seen = []
    original = torch.nn.Conv2d.forward

    def forward(self, x):
        if self.in_channels == 3:
            seen.append(max(x.shape[-2:]))
        return original(self, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", forward)
    options = {**LOADERS, "model.test_cfg.rcnn.score_thr": 0.0}
    evaluate_model(CONFIGS / "mask_rcnn_atto.py", str(checkpoint), options, data=str(OBJECTS), work_dir=str(tmp_path))
    predict(CONFIGS / "mask_rcnn_atto.py", checkpoint, sorted((OBJECTS / "val").iterdir())[:1])
    assert set(seen) == {size}


@pytest.mark.slow
def test_early_stopping_ends_a_run_and_a_resumed_one_at_the_same_iteration(tmp_path):
    options = {
        **QUIET,
        "train_cfg.max_iters": 6,
        "train_cfg.val_interval": 1,
        "default_hooks.checkpoint.interval": 1,
        "default_hooks.checkpoint.max_keep_ckpts": -1,
        "+custom_hooks.1.min_gain": 1e6,  # nothing is an improvement
    }
    arguments = dict(data=str(LABELS), choices=Choices(early_stop=2))
    train_model(CONFIGS / "upernet_atto.py", options, work_dir=str(tmp_path / "whole"), **arguments)
    # the first evaluation is the best, and two more end the run
    assert not (tmp_path / "whole" / "iter_4.pth").exists()
    assert (tmp_path / "whole" / "iter_3.pth").is_file()
    log = next((tmp_path / "whole").glob("*/*.log")).read_text()
    assert "Early stopping: mIoU has not been better than" in log
    assert "in the last 2 evaluations" in log

    (tmp_path / "resumed").mkdir()
    for name in ("iter_2.pth", "converted"):
        source = tmp_path / "whole" / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / "resumed" / name)
    checkpoint = str(tmp_path / "resumed/iter_2.pth")
    train_model(
        CONFIGS / "upernet_atto.py", options, work_dir=str(tmp_path / "resumed"), resume=checkpoint, **arguments
    )
    assert (tmp_path / "resumed" / "iter_3.pth").is_file()
    assert not (tmp_path / "resumed" / "iter_4.pth").exists()


@pytest.mark.slow
def test_config_that_a_run_wrote_starts_the_same_run(tmp_path):
    choices = Choices(epochs=1, augment="strong", early_stop=2)
    train_model(CONFIGS / "upernet_atto.py", QUIET, data=str(LABELS), choices=choices, work_dir=str(tmp_path / "first"))
    train_model(tmp_path / "first/upernet_atto.py", QUIET, data=str(LABELS), work_dir=str(tmp_path / "second"))
    first, second = (lines_of(tmp_path / name) for name in ("first", "second"))
    assert first[0] == second[0]
    assert first[2:] == second[2:]
    assert first[1].split(",")[0] == second[1].split(",")[0]  # the rate; the batch that it was for is another one
    a, b = (read_checkpoint(next((tmp_path / name).glob("iter_*.pth")))["state_dict"] for name in ("first", "second"))
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.slow
def test_frozen_stages_do_not_learn(trained, tmp_path):
    start = next(trained("upernet_atto.py").glob("iter_*.pth"))
    train_model(
        CONFIGS / "upernet_atto.py",
        QUIET,
        data=str(LABELS),
        choices=Choices(epochs=1, freeze=2),
        init_from=str(start),
        work_dir=str(tmp_path / "frozen"),
    )
    before = read_checkpoint(start)["state_dict"]
    after = read_checkpoint(next((tmp_path / "frozen").glob("iter_*.pth")))["state_dict"]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not [name for name in changed if name.startswith(("backbone.stages.0", "backbone.stages.1."))]
    assert [name for name in changed if name.startswith("backbone.stages.2")]


def test_epochs_and_the_same_key_in_options_contradict_each_other(tmp_path):
    with pytest.raises(UserError, match=r"--epochs 2 and train_cfg\.max_iters=9"):
        train_model(
            CONFIGS / "upernet_atto.py",
            {"train_cfg.max_iters": 9},
            data=str(LABELS),
            choices=Choices(epochs=2),
            work_dir=str(tmp_path),
        )


def test_automatic_batch_is_for_gpus_and_a_single_process(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="in a single process"):
        train_model(
            CONFIGS / "upernet_atto.py",
            data=str(LABELS),
            choices=Choices(batch="auto"),
            work_dir=str(tmp_path),
            launcher="pytorch",
        )


@pytest.mark.parametrize("config", ["mask_rcnn_atto.py", "upernet_atto.py", "classifier_atto.py"])
def test_config_without_a_folder_asks_for_one(tmp_path, config):
    with pytest.raises(
        UserError, match=rf"{config} is for your own data \(data/own\S* does not exist\): add --data DIR"
    ):
        train_model(CONFIGS / config, work_dir=str(tmp_path))


@pytest.mark.slow
def test_resuming_with_other_images_is_refused_and_the_work_dir_keeps_its_config(trained, tmp_path):
    shutil.copytree(trained("upernet_atto.py"), tmp_path / "run")
    written = (tmp_path / "run/upernet_atto.py").read_text()
    shutil.copytree(LABELS, tmp_path / "more")
    for folder in ("train", "train_labels"):
        for file in sorted((tmp_path / "more" / folder).iterdir()):
            shutil.copy(file, file.with_name(f"again_{file.name}"))
    message = (
        r"schedule than the config's: 6 training images then, 12 now; 1 epochs \(--epochs\) then, 3 now; .*--init-from"
    )
    with pytest.raises(UserError, match=message):
        train_model(
            CONFIGS / "upernet_atto.py",
            QUIET,
            data=str(tmp_path / "more"),
            choices=Choices(epochs=3),
            work_dir=str(tmp_path / "run"),
            resume="auto",
        )
    best = next((tmp_path / "run").glob("best_mIoU_iter_*.pth"))
    with pytest.raises(UserError, match=rf"{best.stem}\.pth holds weights alone.* with --init-from .*{best.stem}"):
        train_model(
            CONFIGS / "upernet_atto.py",
            QUIET,
            data=str(LABELS),
            choices=Choices(epochs=1),
            work_dir=str(tmp_path / "run"),
            resume=str(best),
        )
    assert (tmp_path / "run/upernet_atto.py").read_text() == written
    train_model(
        CONFIGS / "upernet_atto.py", QUIET, data=str(LABELS), choices=Choices(epochs=1), work_dir=str(tmp_path / "run")
    )
    log = max((tmp_path / "run").glob("*/*.log"), key=lambda path: path.stat().st_mtime).read_text()
    assert "has checkpoints of an earlier run, which --resume would continue: this is a new run." in log


def test_unknown_augmentation_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has light, strong\. Did you mean strong"):
        train_model(
            CONFIGS / "upernet_atto.py", data=str(LABELS), choices=Choices(augment="stronger"), work_dir=str(tmp_path)
        )


def test_data_of_another_kind_is_built_to_be_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "training_images", lambda cfg, loader="train": [])
    cfg = read_config(CONFIGS / "upernet_atto.py")
    init_default_scope("mmseg")
    use_folder(cfg, str(LABELS), work_dir=tmp_path)
    fitting.fit_recipe(cfg, Choices(epochs=3), None, launcher="none")
    assert cfg.finetune.num_images == 6
    assert cfg.train_cfg.max_iters == 3  # three epochs of one batch of six


def fitted(tmp_path, choices, options=None, launcher="none"):
    """The config that a run of UperNet on six images would start with, and the lines for its log."""
    cfg = read_config(CONFIGS / "upernet_atto.py")
    init_default_scope("mmseg")
    use_folder(cfg, str(LABELS), work_dir=tmp_path)
    return cfg, fitting.fit_recipe(cfg, choices, options, launcher=launcher)


def test_zero_switches_early_stopping_and_freezing_off(tmp_path):
    cfg, _ = fitted(tmp_path, Choices(early_stop=0, freeze=0))
    assert "EarlyStopping" not in str(cfg.custom_hooks)
    assert cfg.model.backbone.frozen_stages == 0
    assert fitted(tmp_path, Choices(freeze=4))[0].model.backbone.frozen_stages == 4


@pytest.mark.parametrize(
    ("found", "images", "accumulated"),
    [(2, 2, 8), (4, 4, 8), (8, 6, 6)],  # there are six images; the recipe is for eight
)
def test_automatic_batch_accumulates_to_the_recipe(tmp_path, monkeypatch, found, images, accumulated):
    assert fitted(tmp_path, Choices(batch="auto"))[1][0].startswith("--batch auto is for GPUs")
    for batch in (0, -1, "4"):
        with pytest.raises(UserError, match=rf"--batch {batch!r} must be a number of images, 1 or more, or auto"):
            fitted(tmp_path, Choices(batch=batch))
    monkeypatch.setattr(fitting, "find_batch", lambda *_, **__: FoundBatch(found, 1, 2))
    cfg, _ = fitted(tmp_path, Choices(batch="auto"))
    assert (cfg.train_dataloader.batch_size, cfg.effective_batch) == (images, accumulated)


def test_batch_of_a_process_is_its_share_of_few_images(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    cfg, notes = fitted(tmp_path, Choices(), launcher="pytorch")
    assert cfg.train_dataloader.batch_size == 3
    assert notes[0].startswith("A batch has 3 images instead of")
    assert notes[0].endswith("there are no more.")


def test_batch_that_an_option_names_is_kept(tmp_path):
    cfg, notes = fitted(tmp_path, Choices(), {"train_dataloader.batch_size": 8})
    assert not notes
    assert cfg.train_dataloader.batch_size == read_config(CONFIGS / "upernet_atto.py").train_dataloader.batch_size


def test_evaluations_follow_the_images_of_the_evaluation(tmp_path, monkeypatch):
    """A million of them leave room for three."""
    numbers = dict(train=6, val=10**6)
    monkeypatch.setattr(fitting, "training_images", lambda cfg, loader="train": [0] * numbers[loader])
    cfg, _ = fitted(tmp_path, Choices())
    assert cfg.train_cfg.val_interval == -(-cfg.train_cfg.max_iters // 3)


@pytest.mark.parametrize(
    ("choices", "key"),
    [
        (Choices(freeze=2), "model.backbone.frozen_stages"),
        (Choices(batch=2), "train_dataloader.batch_size"),
        (Choices(epochs=2), "train_cfg.max_epochs"),
        (Choices(early_stop=2), "custom_hooks.1.patience"),
    ],
)
def test_choice_and_another_value_in_options_contradict(choices, key, tmp_path):
    with pytest.raises(UserError, match="contradict each other"):
        fitted(tmp_path, choices, {key: 3})
