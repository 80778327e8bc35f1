"""convnext-dense benchmark: where the time of a training and a test goes."""

import json
import time

import pytest
import torch
from random_models import DETECTOR
from small_runs import LOADERS

from convnext_dense.cli import benchmark
from convnext_dense.cli.command_line import parser_of
from convnext_dense.config.reading import read_config
from convnext_dense.engine.phases import Phases, PhaseTimer, _shorten, describe_phases, measure_phases
from convnext_dense.errors import UserError
from convnext_dense.shipped import find_config


def test_phases_inside_others_are_taken_out(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0])
    monkeypatch.setattr("convnext_dense.engine.phases.time.perf_counter", lambda: next(clock))
    timer = PhaseTimer()
    with timer.phase("outer"), timer.phase("inner"):
        pass
    with timer.phase("outer"):
        pass
    # 0 outer 1 inner 3 outer 6 (other) 10 outer 15
    assert timer.seconds == {"outer": 1 + 3 + 5, "inner": 2, "other": 4}


def test_reset_forgets_what_was_timed_inside_a_phase(monkeypatch):
    clock = iter([0.0, 1.0, 3.0])
    monkeypatch.setattr("convnext_dense.engine.phases.time.perf_counter", lambda: next(clock))
    timer = PhaseTimer()
    with timer.phase("a"):
        timer.reset()
    assert timer.seconds == {"a": 2}  # from 1 to 3


def test_released_methods_are_those_of_the_class():
    layer, timer = torch.nn.Linear(2, 2), PhaseTimer()
    timer.wrap(layer, "forward", "layer")
    timer.wrap(layer, "missing", "nothing")
    layer(torch.zeros(1, 2))
    assert set(timer.seconds) == {"layer"}
    timer.release()
    assert "forward" not in layer.__dict__


@pytest.fixture
def slow_steps(monkeypatch):
    """Loading takes 20 ms longer, and the backbone 30 ms."""
    from mmcv.transforms import LoadImageFromFile

    from convnext_dense.models import ConvNeXt

    for owner, method, seconds in ((LoadImageFromFile, "transform", 0.02), (ConvNeXt, "forward", 0.03)):
        original = getattr(owner, method)

        def slow(*args, original=original, seconds=seconds, **kwargs):
            time.sleep(seconds)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, method, slow)


def test_a_detector_is_timed_by_phase(own_folder, slow_steps, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    parser = parser_of(benchmark)
    options = [f"{key}={value}" for key, value in LOADERS.items()]
    words = [str(DETECTOR), "--data", str(own_folder), "--iterations", "2", "--batch", "2", "--out", "times.json"]
    benchmark.run(parser.parse_args([*words, "--cfg-options", *options]))
    said = capsys.readouterr().out
    assert "training: " in said
    assert "test: " in said
    phases = json.loads((tmp_path / "times.json").read_text())
    training, test = phases["training"], phases["test"]
    assert training["images"] == 2 * 2
    assert training["batch_size"] == 2
    assert test["images"] == 2 * test["batch_size"]
    for part in (training, test):
        assert part["milliseconds"]["loading"] >= 20
        assert part["milliseconds"]["backbone"] >= 30 / part["batch_size"]
        assert part["peak_mb"] > 100
    assert {"heads and losses", "neck", "backward", "optimizer", "transforms"} <= set(training["milliseconds"])
    assert {"heads and post-processing", "evaluation: metric"} <= set(test["milliseconds"])
    assert {path.name for path in tmp_path.iterdir()} == {"own", "times.json"}  # nothing else is kept


def test_numbers_of_the_table():
    text = describe_phases({"training": Phases({"loading": 30.0, "backward": 70.0}, 4, 80, 512.4)})
    assert "training: 100.0 ms per image, 10.0 images per second (80 images, 4 at a time; " in text
    assert "peak memory of the process so far 512 MB)" in text
    assert "70.00 ms  70.0%" in text


def test_no_iteration_is_refused():
    with pytest.raises(UserError, match="iterations=0 must be at least 1"):
        measure_phases(DETECTOR, iterations=0)


def test_what_costs_time_in_an_iteration_stays():
    cfg = read_config(find_config("finetune/mask_rcnn_atto"))
    assert len(cfg.custom_hooks) > 1
    _shorten(cfg, 5, None)
    assert [hook.type for hook in cfg.custom_hooks] == ["EMAHook"]
