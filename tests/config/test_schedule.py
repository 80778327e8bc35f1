"""Changing the length of a schedule; the expected numbers are arithmetic by hand."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS

from convnext_dense.config.schedule import schedule_end, set_epochs, set_iterations
from convnext_dense.errors import UserError


def by_epochs(**more):
    """The 3x schedule of COCO, with a hook that counts epochs."""
    return Config(
        dict(
            train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=36, val_interval=1),
            param_scheduler=[
                dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
                dict(type="MultiStepLR", by_epoch=True, begin=0, end=36, milestones=[27, 33], gamma=0.1),
            ],
            custom_hooks=[dict(type="PipelineSwitchHook", switch_epoch=30)],
            **more,
        )
    )


def by_iterations():
    """The schedule of ADE20K, with a warm-up, in 160 000 iterations."""
    return Config(
        dict(
            train_cfg=dict(type="IterBasedTrainLoop", max_iters=160000, val_interval=16000),
            param_scheduler=[
                dict(type="LinearLR", by_epoch=False, begin=0, end=1500),
                dict(type="PolyLR", by_epoch=False, begin=1500, end=160000),
            ],
            default_hooks=dict(checkpoint=dict(by_epoch=False, interval=4000)),
        )
    )


def test_epochs_move_milestones_and_hooks_and_keep_a_short_warm_up():
    cfg = by_epochs()
    assert set_epochs(cfg, 12, iterations_per_epoch=7330) == []
    assert cfg.train_cfg.max_epochs == 12
    assert cfg.param_scheduler[1].milestones == [9, 11]
    assert cfg.param_scheduler[1].end == 12
    assert cfg.param_scheduler[0].end == 500
    assert cfg.custom_hooks[0].switch_epoch == 10


def test_warm_up_takes_at_most_a_tenth_of_a_shorter_run():
    cfg = by_epochs()
    notes = set_epochs(cfg, 4, iterations_per_epoch=75)
    assert cfg.param_scheduler[0].end == 30
    assert len(notes) == 1
    assert "30 iterations instead of 500" in notes[0]


def test_longer_run_keeps_its_warm_up():
    cfg = by_epochs()
    assert set_epochs(cfg, 72, iterations_per_epoch=5) == []
    assert cfg.param_scheduler[0].end == 500
    assert cfg.param_scheduler[1].milestones == [54, 66]


def test_schedule_by_iterations_inside_epochs_is_scaled_if_it_is_not_a_warm_up():
    cfg = by_epochs()
    cfg.param_scheduler.append(dict(type="PolyLR", by_epoch=False, begin=500, end=36000))
    set_epochs(cfg, 18, iterations_per_epoch=1000)
    assert (cfg.param_scheduler[2]["begin"], cfg.param_scheduler[2]["end"]) == (250, 18000)


def test_evaluation_still_happens_in_a_run_shorter_than_its_interval():
    cfg = by_epochs()
    cfg.train_cfg.val_interval = 6
    set_epochs(cfg, 3, iterations_per_epoch=100)
    assert cfg.train_cfg.val_interval == 3


def test_dynamic_intervals_begin_at_the_same_share():
    cfg = by_epochs()
    cfg.train_cfg.dynamic_intervals = [[30, 1]]
    set_epochs(cfg, 6, iterations_per_epoch=1000)
    assert cfg.train_cfg.dynamic_intervals == [[5, 1]]


def test_iterations_keep_every_share():
    cfg = by_iterations()
    set_iterations(cfg, 40000)
    assert cfg.train_cfg.max_iters == 40000
    assert cfg.train_cfg.val_interval == 4000
    assert cfg.default_hooks.checkpoint.interval == 1000
    assert [(part.begin, part.end) for part in cfg.param_scheduler] == [(0, 375), (375, 40000)]


def test_epochs_of_a_schedule_that_counts_iterations():
    cfg = by_iterations()
    set_epochs(cfg, 20, iterations_per_epoch=75)
    assert cfg.train_cfg.max_iters == 1500
    assert [(part.begin, part.end) for part in cfg.param_scheduler] == [(0, 14), (14, 1500)]


def test_length_that_an_option_changed_does_not_distort_the_shape():
    cfg = by_iterations()
    cfg.train_cfg.max_iters = 8000  # by --cfg-options
    set_iterations(cfg, 8000, before=schedule_end(cfg))
    assert [(part.begin, part.end) for part in cfg.param_scheduler] == [(0, 75), (75, 8000)]


@pytest.mark.parametrize("epochs", [0, -3])
def test_no_epochs_are_refused(epochs):
    with pytest.raises(UserError, match=f"--epochs {epochs} must be 1 or more"):
        set_epochs(by_epochs(), epochs, iterations_per_epoch=10)


def test_config_without_a_length_is_refused():
    with pytest.raises(UserError, match=r"max_epochs or train_cfg\.max_iters"):
        set_epochs(Config(dict(train_cfg=dict(type="Mine"))), 5, iterations_per_epoch=10)


@pytest.mark.parametrize("iterations", [1, 3, 10, 29])
def test_short_run_leaves_the_warm_up_and_no_scheduler_without_a_step(iterations):
    """Held against what mmengine's schedulers do to a rate of 1 from the third iteration on."""
    cfg = by_iterations()
    set_iterations(cfg, iterations)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    parts = [PARAM_SCHEDULERS.build({**part, "optimizer": optimizer}) for part in cfg.param_scheduler]
    rates = []
    for _ in range(max(iterations, 2)):
        rates.append(optimizer.param_groups[0]["lr"])
        for part in parts:
            part.step()
    assert rates[0] == pytest.approx(1 / 3)  # the warm-up's first factor
    assert max(rates) > 0.5


def test_one_epoch_of_a_schedule_whose_parts_follow_each_other():
    cfg = by_epochs()
    cfg.param_scheduler.append(dict(type="CosineAnnealingLR", by_epoch=True, begin=35, end=36))
    set_epochs(cfg, 1, iterations_per_epoch=10)
    assert all(part["end"] > part["begin"] for part in cfg.param_scheduler)


def test_intervals_of_evaluations_may_be_tuples_as_in_mmdet():
    cfg = by_epochs()
    cfg.train_cfg.dynamic_intervals = [(27, 1)]
    set_epochs(cfg, 12, iterations_per_epoch=100)
    assert cfg.train_cfg.dynamic_intervals == [[9, 1]]


def test_every_position_is_scaled():
    cfg = by_epochs()
    cfg.train_cfg.val_begin = 18
    cfg.param_scheduler[0].type = "ConstantLR"
    cfg.param_scheduler.append(dict(type="CosineAnnealingLR", by_epoch=True, T_max=36, total_steps=36))
    cfg.custom_hooks.append(dict(type="YOLOXModeSwitchHook", num_last_epochs=15, begin_epoch=30))
    set_epochs(cfg, 12, iterations_per_epoch=7330)
    assert cfg.train_cfg.val_begin == 6
    assert cfg.param_scheduler[0].end == 500
    assert (cfg.param_scheduler[2]["T_max"], cfg.param_scheduler[2]["total_steps"]) == (12, 12)
    assert (cfg.custom_hooks[1]["num_last_epochs"], cfg.custom_hooks[1]["begin_epoch"]) == (5, 10)


def test_saving_begins_at_the_same_share_and_epochs_of_a_hook_stay():
    cfg = by_iterations()
    cfg.train_cfg.val_begin = cfg.default_hooks.checkpoint.save_begin = 80000
    set_iterations(cfg, 40000)
    assert cfg.train_cfg.val_begin == cfg.default_hooks.checkpoint.save_begin == 20000
    cfg = by_iterations()
    cfg.default_hooks.checkpoint = dict(by_epoch=True, interval=4)
    set_iterations(cfg, 40000)
    assert cfg.default_hooks.checkpoint.interval == 4


def test_shortest_warm_up_is_the_one_that_is_said():
    cfg = by_epochs()
    (note,) = set_epochs(cfg, 1, iterations_per_epoch=5)
    assert cfg.param_scheduler[0].end == 2
    assert "takes 2 iterations instead of 500" in note
