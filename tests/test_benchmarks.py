"""What the benchmarks compare, count and write; the times themselves are not tested."""

import pytest
import torch
from torch import nn

from benchmarks import report, small_data
from benchmarks.backbone import compare_with_float64, measure_backbones
from benchmarks.kernels import faster_from, measure_kernels
from benchmarks.peers import OFFICIAL_ORDER, OURS, build_backbones, in_official_order
from benchmarks.run import run_task, summarise
from benchmarks.run_overhead import summarise as summarise_overhead
from benchmarks.run_overhead import time_methods
from benchmarks.sizes import draw_sizes
from benchmarks.timing import measure_in_turns, saved_megabytes
from convnext_dense.kernels.choice import OPERATORS
from convnext_dense.models import ConvNeXt


def test_every_way_is_called_as_often_and_its_quantiles_are_in_order():
    calls = []
    ways = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = measure_in_turns(ways, device="cpu", rounds=6, warmups=2)
    assert sorted(calls) == sorted("abc" * 8)
    assert {calls[3 * turn] for turn in range(8)} == set("abc")  # none is always first
    assert all(time["ms_p10"] <= time["ms"] <= time["ms_p90"] for time in times.values())


def test_kept_activations_are_counted_once_and_without_parameters():
    # x: 250 * 1000 * 4 bytes = 1 MB. The product keeps x twice, the linear layer x and its own weight.
    layer, x = nn.Linear(1000, 10), torch.rand(250, 1000, requires_grad=True)
    assert saved_megabytes(lambda: (x * x).sum() + layer(x).sum(), layer) == 1.0


def test_backbones_are_compared_with_float64_before_their_times_count():
    result = measure_backbones(
        "tiny", (1, 64, 64), device="cpu", precision="float32", modes=["forward"], peers=["timm", OFFICIAL_ORDER],
        kinds=["eager"], rounds=1, warmups=0,
    )  # fmt: skip
    errors = result["relative_error_to_float64"]
    assert set(errors) == {OURS, OFFICIAL_ORDER, "timm"}
    assert all(0 < error["maps"] < 1e-5 for error in errors.values())
    assert set(result["times"]["forward"]) == {
        f"{name}, {layout}, eager" for name in errors for layout in ("NCHW", "NHWC")
    }


def test_backbone_that_gives_something_else_is_not_timed():
    models = build_backbones("tiny", [OFFICIAL_ORDER])
    models[OURS].stages[0][0].gamma.data.mul_(1.01)
    with pytest.raises(ValueError, match="The error of convnext_dense's maps to float64 is"):
        compare_with_float64(models, torch.rand(1, 3, 64, 64), "float32")


def test_official_order_stays_where_the_model_is():
    model = in_official_order(ConvNeXt("atto").to("meta", torch.bfloat16))
    assert {(param.device.type, param.dtype) for param in model.parameters()} == {("meta", torch.bfloat16)}


def test_sizes_are_multiples_of_32_within_cocos_training_sizes():
    sizes = draw_sizes(200, 1)
    assert all(side % 32 == 0 and 480 <= side <= 1344 for size in sizes for side in size)
    assert len(set(sizes)) > 20


def test_table_has_the_faster_layout_and_the_ratio():
    times = {
        f"{OURS}, NHWC, eager": {"ms": 10.0}, f"{OURS}, NCHW, eager": {"ms": 12.0},
        "timm, NHWC, eager": {"ms": 30.0}, "timm, NCHW, eager": {"ms": 25.0},
    }  # fmt: skip
    result = dict(task="backbone", arch="tiny", size=(1, 8, 8), precision="float32", times={"training": times})
    result["setting"] = dict(date="2000-01-01", device="cpu", hardware="abacus", threads=1, versions={})
    row = "| backbone tiny, 1x8x8, float32, forward + backward (abacus) | timm, eager | NCHW | 25.0 | 10.0 | 2.50 |"
    assert row in report.write_tables([result])


def test_every_operator_is_measured_on_every_stage():
    result = measure_kernels("atto", (1, 64, 64), device="cpu", precision="autocast", rounds=1, warmups=0)
    assert [stage["map"] for stage in result["stages"]] == [
        [1, 40, 16, 16], [1, 80, 8, 8], [1, 160, 4, 4], [1, 320, 2, 2]
    ]  # fmt: skip
    assert all(set(stage["times"]) == set(OPERATORS) for stage in result["stages"])
    assert result["faster_from"] == {}  # Triton's kernels need a GPU
    result["setting"] = dict(device="cpu", hardware="abacus")
    assert "160x4x4 depthwise" in summarise(result)


def test_triton_is_chosen_from_the_size_on_where_it_is_faster_on_all_maps():
    def stage(height, ours):
        ways = {"torch, NHWC, eager": {"ms": 2.0}, "triton, NHWC, eager": {"ms": ours}}
        return {
            "map": [1, 8, height, 1],
            "times": {**{operator: {} for operator in OPERATORS}, "depthwise": ways, "block": ways},
        }

    entry = faster_from([stage(8, 1.0), stage(4, 1.5), stage(2, 2.5), stage(1, 1.0)])
    assert entry == {"depthwise": 8 * 4, "block": 8 * 4}
    assert faster_from([stage(8, 3.0), stage(4, 1.0)]) == {}


def test_tf32_needs_a_gpu():
    with pytest.raises(ValueError, match="precision='tf32' is a mode of NVIDIA GPUs"):
        run_task(
            task="block", arch="tiny", size=(1, 64, 64), device="cpu", precision="tf32", modes=["forward"], peers=None,
            kinds=["eager"], rounds=1, warmups=0,
        )  # fmt: skip


def test_images_of_a_small_data_set_are_spread_evenly():
    content = dict(
        images=[dict(id=number) for number in range(10)],
        annotations=[dict(id=number, image_id=number % 10) for number in range(20)],
        categories=[dict(id=1, name="a")],
    )
    kept = small_data.keep_images(content, 4)
    assert [image["id"] for image in kept["images"]] == [0, 2, 5, 7]
    assert {item["image_id"] for item in kept["annotations"]} == {0, 2, 5, 7}
    assert len(kept["annotations"]) == 8
    assert kept["categories"] == content["categories"]


def test_epochs_fill_the_seconds_by_the_difference_of_two_probes(monkeypatch, tmp_path):
    # of 20 images, 40 steps of 4 are 8 epochs more; start-up takes 10 s, an epoch 5 s
    taken = iter([0.0, 15.0, 100.0, 155.0])
    monkeypatch.setattr(small_data, "command", lambda *arguments: None)
    monkeypatch.setattr(small_data, "seconds_of_children", lambda: next(taken))
    assert small_data.fit_epochs("config.py", tmp_path, tmp_path, 20, 310.0) == 60


def test_time_inside_a_hook_counts_once_with_what_it_calls(monkeypatch):
    class Hook:
        def after_train(self):
            self.release()

        def release(self):
            return None

    clock = iter([1.0, 2.0, 3.5, 10.0, 10.25])
    monkeypatch.setattr("benchmarks.run_overhead.time.process_time", lambda: next(clock))
    inside = []
    time_methods(Hook, inside)
    Hook().after_train()
    Hook().release()
    assert inside == [2.5, 0.25]


def test_overhead_is_the_difference_of_medians_and_the_share_of_the_hooks():
    """Medians 10 and 11 seconds are 10 % more; 0.1 of 11 and 0.2 of 10 seconds in hooks are 0.909 and 2 %."""
    plain = [dict(processor_s=seconds, hooks_s=0.0) for seconds in (9.0, 10.0, 30.0)]
    shown = [dict(processor_s=seconds, hooks_s=inside) for seconds, inside in ((11.0, 0.1), (11.0, 0.1), (10.0, 0.2))]
    ways = summarise_overhead(dict(plain=plain, display=shown))["ways"]
    assert ways["display"]["more_percent"] == 10.0
    assert ways["display"]["hooks_percent"] == 0.909
    assert ways["plain"]["processor_s"] == 10.0
