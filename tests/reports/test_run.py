"""The curves of a run: what its logs say, by hand."""

import json
import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from mmengine.logging import MMLogger

from convnext_dense.engine import train_model
from convnext_dense.errors import UserError
from convnext_dense.reports.curves import fewer, headline, thinned
from convnext_dense.reports.curves_hook import CurvesHook
from convnext_dense.reports.run import Curve, read_run
from convnext_dense.reports.run_page import _duration, report_run

CLASSIFIER = Path(__file__).parents[2] / "configs/demo/pretrain_convnext_atto_shapes.py"


def step(iteration, loss, epoch=None, **more):
    """A row of training as mmengine writes it."""
    place = dict(iter=iteration, step=iteration, **({} if epoch is None else dict(epoch=epoch)))
    return dict(lr=0.1, data_time=0.5, loss=loss, time=2.0, **more, **place)


def write(work_dir, name, rows, resumed_at=None, config="a = 1\n"):
    """A log folder."""
    folder = work_dir / name
    (folder / "vis_data").mkdir(parents=True)
    (folder / "vis_data/scalars.json").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "vis_data/config.py").write_text(config)
    resumed = f"01/01 00:00:00 - mmengine - INFO - resumed epoch: 0, iter: {resumed_at}\n" if resumed_at else ""
    (folder / f"{name}.log").write_text(f"Config:\na = 1\n{resumed}... Iter(train) [1/9]\n")


def places(curve):
    return list(zip(curve.xs, curve.ys, strict=True))


def test_what_a_resumed_run_repeats_replaces_what_was_there(tmp_path):
    write(tmp_path, "20260101_000000", [step(10, 9.0), step(20, 8.0), dict(mIoU=50.0, step=20), step(30, 7.0)])
    rows = [dict(mIoU=51.0, step=20), step(30, 6.0), step(40, 5.0), dict(mIoU=60.0, step=40)]
    write(tmp_path, "20260102_000000", rows, resumed_at=20)
    write(tmp_path, "20260103_000000", [])  # a test, or a run that ended at once
    run = read_run(tmp_path)
    assert places(run.losses()[0]) == [(10, 9.0), (20, 8.0), (30, 6.0), (40, 5.0)]
    assert places(run.metrics()[0]) == [(20, 51.0), (40, 60.0)]
    assert run.starts[:2] == [0, 20]


def test_a_run_that_was_not_resumed_starts_anew(tmp_path):
    write(tmp_path, "20260101_000000", [step(10, 9.0), step(20, 8.0), dict(mIoU=50.0, step=20)])
    write(tmp_path, "20260102_000000", [step(15, 3.0)])
    run = read_run(tmp_path)
    assert places(run.losses()[0]) == [(15, 3.0)]
    assert run.metrics() == []
    assert [folder.name for folder in run.folders] == ["20260102_000000"]

    assert ([folder.name for folder in run.folders], run.starts) == (["20260102_000000"], [0])


def test_evaluations_that_count_epochs_stand_at_the_end_of_theirs(tmp_path):
    """Epochs of 7 iterations, of which every third is logged."""
    rows = [
        *(step(3, 9.0, epoch=1), step(6, 8.0, epoch=1), {"coco/bbox_mAP": 0.1, "step": 1}),
        *(step(10, 7.0, epoch=2), step(13, 6.0, epoch=2), {"coco/bbox_mAP": 0.2, "step": 2}),
    ]
    write(tmp_path, "20260101_000000", rows)
    run = read_run(tmp_path)
    assert run.epoch_length == 7
    assert places(run.metrics()[0]) == [(7, 0.1), (14, 0.2)]
    assert run.last_iteration == 14


def test_epochs_of_a_resumed_run_are_those_of_the_whole_run(tmp_path):
    """Epochs of 7 iterations, one in each part: neither of them knows their length by itself."""
    write(tmp_path, "20260101_000000", [step(3, 9.0, epoch=1), step(6, 8.0, epoch=1), dict(mAP=0.1, step=1)])
    assert places(read_run(tmp_path).metrics()[0]) == [(6, 0.1)]  # the last iteration that it knows
    rows = [dict(mAP=0.15, step=1), step(10, 7.0, epoch=2), step(13, 6.0, epoch=2), dict(mAP=0.2, step=2)]
    write(tmp_path, "20260102_000000", rows, resumed_at=7)
    run = read_run(tmp_path)
    assert run.epoch_length == 7
    assert places(run.metrics()[0])[-2:] == [(7, 0.15), (14, 0.2)]
    assert headline(run).endswith(": 14 iterations (2.0 epochs)")


def test_an_evaluation_that_a_resumed_run_begins_with_stands_where_it_was_resumed(tmp_path):
    write(tmp_path, "20260101_000000", [step(3, 9.0, epoch=1)])
    write(tmp_path, "20260102_000000", [dict(mAP=0.1, step=1), step(9, 8.0, epoch=1)], resumed_at=7)
    assert places(read_run(tmp_path).metrics()[0]) == [(7, 0.1)]


def test_evaluations_that_count_iterations_say_nothing_about_epochs(tmp_path):
    """As our runs log for trackers."""
    write(tmp_path, "20260101_000000", [step(5, 9.0, epoch=1), dict(mAP=0.1, iter=8, step=8)])
    run = read_run(tmp_path)
    assert run.epoch_length is None
    assert places(run.metrics()[0]) == [(8, 0.1)]


def test_seconds_are_those_of_the_iterations_between_two_rows(tmp_path):
    """10 iterations of 0.5 s + 1.5 s, 20 of the same, and 5 of which nothing is known."""
    rows = [step(10, 9.0), step(30, 8.0), {**step(35, 7.0), "time": math.nan, "data_time": math.nan}]
    write(tmp_path, "20260101_000000", rows)
    assert read_run(tmp_path).seconds() == {"data": 15.0, "step": 45.0}


def test_losses_begin_with_their_sum_and_the_scale_of_losses_is_none(tmp_path):
    row = dict(loss_cls=2.0, loss_box=1.0, loss_scale=512.0, memory=1000, **step(10, 3.0, acc=50.0))
    write(tmp_path, "20260101_000000", [row])
    run = read_run(tmp_path)
    assert [curve.name for curve in run.losses()] == ["loss", "loss_cls", "loss_box"]
    assert [curve.name for curve in run.others()] == ["loss_scale", "memory", "acc"]


def test_evaluations_that_say_their_iteration_stand_there(tmp_path):
    """As our runs log, with the phase in front of the names if a tracker is there too."""
    rows = [
        {"train/lr": 0.1, "train/loss": 9.0, "train/time": 2.0, "train/data_time": 0.5, "epoch": 1, "iter": 5},
        {"val/coco/bbox_mAP": 0.1, "val/iter": 8, "val/seconds": 12.0, "val/time": 0.3, "step": 1},
    ]
    write(tmp_path, "20260101_000000", rows)
    run = read_run(tmp_path)
    assert places(run.metrics()[0]) == [(8, 0.1)]
    assert run.epoch_length == 8
    # 5 iterations of 0.5 s of waiting and 1.5 s more.
    assert run.seconds() == {"data": 2.5, "step": 7.5, "validation": 12.0}


def test_a_row_that_is_being_written_and_an_interrupted_evaluation_are_left_out(tmp_path):
    write(tmp_path, "20260101_000000", [step(10, 9.0), dict(time=0.2, data_time=0.1, step=10)])
    with (tmp_path / "20260101_000000/vis_data/scalars.json").open("a") as file:
        file.write('{"lr": 0.1, "loss": 8.0, "it')
    run = read_run(tmp_path)
    assert places(run.losses()[0]) == [(10, 9.0)]
    assert run.evaluations == []


def test_metrics_that_are_not_defined_have_no_curve(tmp_path):
    rows = [
        step(10, 9.0),
        {"coco/bbox_mAP": 0.1, "coco/bbox_mAP_l": -1.0, "coco/bbox_mAP_s": -1.0, "step": 10},
        {"coco/bbox_mAP": 0.2, "coco/bbox_mAP_l": -1.0, "coco/bbox_mAP_s": 0.3, "step": 20},
    ]
    write(tmp_path, "20260101_000000", rows)
    whole, small = read_run(tmp_path).metrics()
    assert (whole.name, whole.ys) == ("coco/bbox_mAP", [0.1, 0.2])
    assert (small.name, math.isnan(small.ys[0]), small.ys[1]) == ("coco/bbox_mAP_s", True, 0.3)


def test_equal_learning_rates_are_one_curve(tmp_path):
    write(tmp_path, "20260101_000000", [step(10, 9.0, base_lr=0.1, **{"head.lr": 0.2}), step(20, 9.0, base_lr=0.1)])
    assert [curve.name for curve in read_run(tmp_path).learning_rates()] == ["lr", "head.lr"]


def test_the_best_checkpoint_is_found_with_its_evaluation(tmp_path):
    rows = [step(10, 9.0), {"coco/segm_mAP": 0.1, "step": 10}, {"coco/segm_mAP": 0.3, "step": 20}]
    write(tmp_path, "20260101_000000", rows)
    assert read_run(tmp_path).best() is None
    (tmp_path / "best_coco_segm_mAP_iter_20.pth").touch()
    best = read_run(tmp_path).best()
    assert (best.metric, best.iteration, best.value) == ("coco/segm_mAP", 20, 0.3)


def test_the_newest_of_several_best_checkpoints_counts(tmp_path):
    """An earlier run in the same folder has left one; epochs have 7 iterations."""
    rows = [step(7, 9.0, epoch=1), dict(mIoU=50.0, step=1), step(14, 9.0, epoch=2), dict(mIoU=60.0, step=2)]
    write(tmp_path, "20260101_000000", rows)
    for epoch, time in ((1, 2000), (2, 1000)):
        path = tmp_path / f"best_mIoU_epoch_{epoch}.pth"
        path.touch()
        os.utime(path, (time, time))
    best = read_run(tmp_path).best()
    assert (best.file, best.iteration, best.value) == ("best_mIoU_epoch_1.pth", 7, 50.0)


def test_the_newest_config_is_the_runs(tmp_path):
    write(tmp_path, "20260101_000000", [step(10, 9.0)])
    for name, time in (("b", 3000), ("a", 1000), ("c", 2000)):
        (tmp_path / f"{name}.py").write_text("")
        os.utime(tmp_path / f"{name}.py", (time, time))
    assert read_run(tmp_path).config.name == "b.py"


def test_a_folder_without_a_log_is_an_error_that_says_so(tmp_path):
    with pytest.raises(UserError, match=r"has no log of a training run"):
        read_run(tmp_path)


def test_one_figure_shows_no_more_than_eight_metrics_the_details_go_first():
    kinds = ("", "_50", "_75", "_s", "_m", "_l")
    metrics = [Curve(f"coco/{what}_mAP{kind}", [1], [0.5]) for what in ("bbox", "segm") for kind in kinds]
    names = [curve.name.removeprefix("coco/") for curve in fewer(metrics)]
    assert names == [f"{what}_mAP{kind}" for what in ("bbox", "segm") for kind in ("", "_50", "_75")]
    assert fewer(metrics[:8]) == metrics[:8]
    assert len(fewer([Curve(f"metric {number}", [1], [0.5]) for number in range(20)])) == 8


def test_a_long_curve_is_thinned_and_keeps_its_end():
    curve = thinned(Curve("loss", list(range(1, 1001)), [0.0] * 1000), 100)
    assert curve.xs == list(range(10, 1001, 10))
    odd = thinned(Curve("loss", list(range(1, 1051)), [0.0] * 1050), 100)
    assert len(odd.xs) <= 100
    assert odd.xs[-1] == 1050
    short = Curve("loss", [1, 2, 3], [0.0] * 3)
    assert thinned(short, 100) == short


@pytest.fixture
def logged(tmp_path):
    """A run that was resumed with another length."""
    first = [step(10, 9.0, acc=50.0), dict(mIoU=50.0, step=10), step(20, 8.0)]
    write(tmp_path, "20260101_000000", first, config="train_cfg = dict(max_iters=20)\n")
    second = [step(20, 7.0), step(30, math.nan), dict(mIoU=60.0, step=30)]
    write(tmp_path, "20260102_000000", second, resumed_at=10, config="train_cfg = dict(max_iters=30)\n")
    (tmp_path / "upernet.py").write_text("a = 1\n")
    (tmp_path / "best_mIoU_iter_30.pth").touch()
    (tmp_path / "iter_30.pth").touch()
    (tmp_path / "last_checkpoint").write_text("/elsewhere/run/iter_30.pth")
    return tmp_path


def test_the_page_has_the_files_the_evaluations_and_what_changed(logged):
    report = report_run(logged)
    text = report.page.read_text()
    for name in ("best_mIoU_iter_30.pth", "iter_30.pth", "upernet.py", "20260102_000000/20260102_000000.log"):
        assert f'<a href="{name}">{name}</a>' in text
    assert "resumed after iteration 10" in text
    assert "upernet: 30 iterations, best mIoU 60 at 30" in text
    table = text.partition("Evaluations</h2>")[2].partition("</table>")[0]
    assert [cell.partition("</td>")[0] for cell in table.split("<td>")[1:]] == ["30 (best)", "60.0000", "10", "50.0000"]
    times = text.partition("Time</h2>")[2].partition("</table>")[0]
    cells = [cell.partition("</td>")[0] for cell in times.split("<td>")[1:]]
    # 30 iterations of 0.5 s and 1.5 s.
    assert cells == ["waiting for data", "15 s", "25%", "training", "45 s", "75%"]
    changes = text.partition("Changes of the config</h2>")[2].partition("</table>")[0]
    cells = [cell.partition("</td>")[0] for cell in changes.split("<td>")[1:]]
    assert cells == ["10", "train_cfg.max_iters", "20", "30"]


def test_the_page_of_a_long_run_has_the_last_fifty_evaluations(tmp_path):
    """60 evaluations, one after each epoch of 2 iterations; a metric of at most 1 is a share."""
    rows = [(step(2 * epoch, 1.0, epoch=epoch), dict(mAP=1.0, low=0.5, step=epoch)) for epoch in range(1, 61)]
    write(tmp_path, "20260101_000000", [row for pair in rows for row in pair])
    text = report_run(tmp_path).page.read_text()
    table = text.partition("Evaluations</h2>")[2].partition("</table>")[0]
    assert "The 10 evaluations before these are in the curves." in table
    cells = [cell.partition("</td>")[0] for cell in table.split("<td>")[1:]]
    assert len(cells) == 4 * 50
    assert cells[:4] == ["120", "60.0", "1.0000", "0.5000"]
    assert cells[-4:-2] == ["22", "11.0"]
    assert "Metrics above 1" not in text


def test_durations_are_said_in_two_units():
    assert [_duration(seconds) for seconds in (59.4, 125, 3600 + 25 * 60)] == ["59 s", "2 min 5 s", "1 h 25 min"]


def test_the_picture_has_the_curves_in_colour(logged):
    picture = cv2.imread(str(report_run(logged).curves))
    assert picture.shape == (900, 1400, 3)
    for colour in ("0072B2", "D55E00"):
        bgr = [int(colour[place : place + 2], 16) for place in (4, 2, 0)]
        assert (np.abs(picture.astype(int) - bgr).max(axis=2) < 3).any()


def test_without_bokeh_the_picture_is_written_and_one_sentence_says_how_to_get_the_page(logged, monkeypatch):
    monkeypatch.setitem(sys.modules, "bokeh", None)
    report = report_run(logged)
    assert report.page is None
    assert report.curves.is_file()
    assert not (logged / "report.html").exists()
    assert "pip install 'convnext-dense[report]'" in report.hint


def test_the_command_reports_on_a_work_dir(logged, run_tool):
    code, out, _ = run_tool("report.py", logged)
    assert code == 0
    assert out.split() == [str(logged / "curves.png"), str(logged / "report.html")]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: path / "nowhere", "is no work dir of a training; to report on a model, give its CHECKPOINT too"),
        (lambda path: path, "has no log of a training run"),
    ],
)
def test_the_command_says_what_is_missing(run_tool, tmp_path, make, text):
    code, _, error = run_tool("report.py", make(tmp_path))
    assert code == 1
    assert text in error


class Log(list):
    """A logger that remembers."""

    def info(self, text):
        self.append(("info", text))

    def warning(self, text):
        self.append(("warning", text))


def draw(hook, runner, evaluations):
    hook.before_train(runner)
    for _ in range(evaluations):
        hook.after_val_epoch(runner, dict(mIoU=1.0))
    hook.after_train(runner)
    return runner.logger


@pytest.fixture
def two_classes(tmp_path):
    """Bright and dark noise: 16 images for training, 4 for validation."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 4)):
        for number in range(count):
            folder = tmp_path / "own" / split / ("bright", "dark")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 128, (40, 40, 3)) + 128 * (number % 2)
            cv2.imwrite(str(folder / f"{number}.png"), pixels.astype(np.uint8))
    return tmp_path / "own"


@pytest.mark.usefixtures("drawn_curves")
def test_a_training_and_its_resumed_run_are_one_page(two_classes, tmp_path):
    """Four iterations in an epoch, of which the third is logged; two epochs, and two more."""
    work_dir = tmp_path / "run"
    for epochs, resume in ((2, None), (4, "auto")):
        options = {
            **{f"{part}_dataloader.num_workers": 0 for part in ("train", "val", "test")},
            **{f"{part}_dataloader.persistent_workers": False for part in ("train", "val", "test")},
            "train_dataloader.batch_size": 4,
            "effective_batch": 4,
            "train_cfg.max_epochs": epochs,
            "train_cfg.val_interval": 1,
            "default_hooks.logger.interval": 3,
            "param_scheduler": [],
        }
        MMLogger._instance_dict.clear()
        train_model(CLASSIFIER, options, data=str(two_classes), work_dir=str(work_dir), resume=resume)
        assert (work_dir / "curves.png").is_file()
    run = read_run(work_dir)
    assert [row["iter"] for row in run.training] == [3, 7, 11, 15]
    assert [row["iter"] for row in run.evaluations] == [4, 8, 12, 16]
    assert (run.starts, run.epoch_length) == ([0, 8], 4)
    assert run.seconds()["validation"] > 0
    text = (work_dir / "report.html").read_text()
    assert "resumed after iteration 8" in text
    assert "train_cfg.max_epochs" in text.partition("Changes of the config</h2>")[2]
    log = max(work_dir.glob("*/*.log")).read_text()
    assert f"Curves: {work_dir / 'report.html'}." in log


@pytest.mark.usefixtures("drawn_curves")
def test_a_fault_is_one_warning_and_nothing_more(tmp_path):
    runner = SimpleNamespace(work_dir=str(tmp_path), logger=Log(), iter=0)
    ((level, text),) = draw(CurvesHook(), runner, 3)
    assert level == "warning"
    assert "has no log of a training run" in text


@pytest.mark.usefixtures("drawn_curves")
def test_evaluations_in_quick_succession_are_left_out_and_the_end_is_drawn(logged, monkeypatch):
    drawn = []
    clock = [0.0]

    def report(work_dir):
        drawn.append(clock[0])
        clock[0] += 2.0  # seconds that drawing takes
        return SimpleNamespace(page=Path("report.html"), curves=Path("curves.png"), hint="")

    monkeypatch.setattr("convnext_dense.reports.run_page.report_run", report)
    monkeypatch.setattr("convnext_dense.reports.curves_hook.time", SimpleNamespace(monotonic=lambda: clock[0]))
    hook, runner = CurvesHook(), SimpleNamespace(work_dir=str(logged), logger=Log(), iter=0)
    hook.before_train(runner)
    for number, now in enumerate((50.0, 100.0, 150.0, 250.0, 300.0, 460.0)):
        clock[0], runner.iter = now, number
        hook.after_val_epoch(runner, dict(mIoU=1.0))
    hook.after_train(runner)
    assert drawn[-1] == 460.0  # nothing has happened since the last evaluation
    clock[0], runner.iter = 470.0, 6
    hook.after_train(runner)
    # The first does not count. After the second, 2 s are a hundredth of 200 s, and after the third, 4 s of 400 s.
    assert drawn == [50.0, 100.0, 250.0, 460.0, 470.0]
    assert runner.logger == [("info", "Curves: report.html.")] * 2


@pytest.mark.usefixtures("drawn_curves")
def test_an_interrupted_evaluation_draws_nothing(logged):
    hook, runner = CurvesHook(), SimpleNamespace(work_dir=str(logged), logger=Log(), iter=0)
    hook.before_train(runner)
    hook.after_val_epoch(runner, {})
    assert not (logged / "curves.png").exists()
    hook.after_val_epoch(runner, dict(mIoU=1.0))
    assert (logged / "curves.png").exists()
