"""The recipe of fine-tuning configs; the expected numbers are arithmetic by hand."""

import pytest
from mmengine.config import Config

from convnext_dense.config.finetuning import (
    Choices,
    check_recipe,
    describe_recipe,
    fit_image_size,
    fit_length,
    freeze_stages,
    record_image_size,
    set_early_stopping,
    use_trained_image_size,
    watched_metric,
)
from convnext_dense.errors import UserError
from convnext_dense.models import ConvNeXt


def recipe(**finetune):
    """A recipe for 16 images per step, with 4 images per batch."""
    pipeline = [dict(type="Resize", scale=(320, 320)), dict(type="RandomCrop", crop_size=(256, 256))]
    dataset = dict(type="CocoDataset", pipeline=pipeline)
    return Config(
        dict(
            model=dict(backbone=dict(type="convnext_dense.ConvNeXt")),
            finetune=dict(batch_size=16, epochs=50, steps=(1000, 30000), evaluations=20, **finetune),
            train_cfg=dict(type="IterBasedTrainLoop", max_iters=1000, val_interval=50),
            param_scheduler=[
                dict(type="LinearLR", by_epoch=False, begin=0, end=50),
                dict(type="CosineAnnealingLR", by_epoch=False, begin=0, end=1000),
            ],
            optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-4)),
            custom_hooks=[
                dict(type="EMAHook", momentum=0.02),
                dict(type="convnext_dense.EarlyStoppingHook", patience=6),
            ],
            default_hooks=dict(checkpoint=dict(by_epoch=False, interval=50, save_best="coco/bbox_mAP")),
            train_dataloader=dict(batch_size=4, dataset=dataset),
            augmentations=dict(light=[], strong=[]),
        )
    )


@pytest.mark.parametrize(
    ("num_images", "iterations"),
    [
        (300, 3750),  # 50 x 300 / 4
        (20, 1000),  # 250 would be too few
        (100_000, 30_000),
        (1, 1000),
    ],
)
def test_iterations_follow_from_the_number_of_images_within_bounds(num_images, iterations):
    cfg = recipe()
    fit_length(cfg, Choices(), num_images)
    assert cfg.train_cfg.max_iters == iterations
    assert cfg.param_scheduler[1].end == iterations
    assert cfg.param_scheduler[0].end == round(0.05 * iterations)


def test_epochs_replace_the_bounds():
    cfg = recipe()
    fit_length(cfg, Choices(epochs=20), 300)
    assert cfg.train_cfg.max_iters == 1500
    assert cfg.param_scheduler[0].end == 75


def test_learning_rate_follows_the_square_root_of_the_batch():
    cfg = recipe()
    fit_length(cfg, Choices(), 300)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-4 / 2)


def test_processes_count_in_the_batch(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    cfg = recipe()
    cfg.launcher = "pytorch"
    fit_length(cfg, Choices(), 300)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-4)
    assert cfg.train_cfg.max_iters == 1000  # 50 x 300 / 16 = 938


def test_accumulated_batch_keeps_the_rate_and_multiplies_the_iterations():
    cfg = recipe()
    cfg.effective_batch = 16
    fit_length(cfg, Choices(epochs=32), 1000)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-4)
    assert cfg.train_cfg.max_iters == 32 * 1000 // 16 * 4
    # the average goes over 5 % of the 2000 steps
    assert cfg.custom_hooks[0].momentum == pytest.approx(1 / 100)


def test_config_that_a_run_wrote_gives_the_same_run_again():
    cfg = recipe()
    fit_length(cfg, Choices(epochs=20), 300, num_evaluated=60)
    again = Config(cfg.to_dict())
    fit_length(again, Choices(), 300, num_evaluated=60)
    for key in ("train_cfg", "param_scheduler", "optim_wrapper", "custom_hooks", "default_hooks"):
        assert again[key] == cfg[key]


def test_given_iterations_set_the_length():
    cfg = recipe()
    cfg.train_cfg.max_iters = 200
    fit_length(cfg, Choices(), 300, given_iters=200)
    assert cfg.train_cfg.max_iters == 200
    assert cfg.param_scheduler[0].end == 10


@pytest.mark.parametrize(
    ("num_evaluated", "evaluations"),
    [
        (60, 20),  # 0.3 x 1000 x 4 / 60
        (200, 6),
        (100_000, 3),  # never fewer
        (0, 20),
    ],
)
def test_evaluations_become_fewer_where_they_would_take_long(num_evaluated, evaluations):
    cfg = recipe()
    fit_length(cfg, Choices(), 20, num_evaluated=num_evaluated)
    assert cfg.train_cfg.val_interval == -(-1000 // evaluations)
    assert cfg.default_hooks.checkpoint.interval == cfg.train_cfg.val_interval


@pytest.mark.parametrize(
    ("image_size", "evaluations"),
    [
        (512, 5),  # 0.3 x 1000 x 4 / 60 / 4, because an image has four times the pixels of a crop
        (160, 20),
    ],
)
def test_evaluations_of_large_images_count_by_their_pixels(image_size, evaluations):
    cfg = recipe(object_size=32, image_size=image_size, crop_size=256)
    fit_length(cfg, Choices(), 20, num_evaluated=60)
    assert cfg.train_cfg.val_interval == 1000 // evaluations


def test_config_without_a_recipe_changes_only_with_epochs():
    cfg = recipe()
    cfg.pop("finetune")
    before = cfg.to_dict()
    assert fit_length(cfg, Choices(), 300) == []
    assert cfg.to_dict() == before
    fit_length(cfg, Choices(epochs=10), 300)
    assert cfg.train_cfg.max_iters == 750


def test_four_lines_say_what_will_run():
    cfg = recipe(augmentation="light")
    fit_length(cfg, Choices(), 300, num_evaluated=60)
    length, rate, evaluation, weights = describe_recipe(cfg)
    assert "3,750 steps of 4 images, 50.0 epochs of 300 images (50 epochs, within 1,000 to 30,000 steps" in length
    assert "5e-05" in rate
    assert "16 in the recipe" in rate
    assert "188 steps" in rate
    assert "every 188 iterations" in evaluation
    assert "coco/bbox_mAP" in evaluation
    assert "6 in a row" in evaluation
    assert "about 188 steps" in weights
    assert "0 of 4 stages" in weights
    assert "light, strong" in weights


def test_lines_say_what_the_weights_start_from():
    cfg = recipe()
    fit_length(cfg, Choices(), 300)
    assert "Weights: the run starts from random values; an average" in describe_recipe(cfg)[3]
    cfg.model.backbone.init_cfg = dict(type="Pretrained", checkpoint="timm:convnext_atto.d2_in1k")
    assert "starts from timm:convnext_atto.d2_in1k;" in describe_recipe(cfg)[3]
    cfg.load_from = "detector.pth"
    assert "starts from detector.pth;" in describe_recipe(cfg)[3]
    assert "starts" not in describe_recipe(cfg, resumed=True)[3]


def test_lines_of_a_run_of_few_steps():
    cfg = recipe()
    cfg.default_hooks.logger = dict(type="LoggerHook", interval=25)
    fit_length(cfg, Choices(epochs=1), 80)
    assert cfg.train_cfg.max_iters == 20
    assert cfg.train_cfg.val_interval == 1
    set_early_stopping(cfg, 1)
    assert "1 in a row without a better one ends the run" in describe_recipe(cfg)[2]
    cfg.train_cfg.val_interval = 7
    set_early_stopping(cfg, 3)
    assert "; 3 evaluations are too few to end the run early" in describe_recipe(cfg)[2]
    cfg.custom_hooks[0].momentum = 0.01
    assert "an average over about 20 steps" in describe_recipe(cfg)[3]
    assert cfg.default_hooks.logger.interval == 1


def test_line_says_that_an_option_set_the_length():
    cfg = recipe()
    fit_length(cfg, Choices(), 300, given_iters=200)
    assert "200 steps of 4 images, 2.7 epochs of 300 images (by train_cfg.max_iters" in describe_recipe(cfg)[0]


def test_accumulation_that_an_option_sets_counts_in_the_batch():
    cfg = recipe()
    cfg.optim_wrapper.accumulative_counts = 4
    fit_length(cfg, Choices(epochs=32), 1000, given_counts=4)
    assert cfg.train_cfg.max_iters == 32 * 1000 // 4
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-4)  # for 16 images, as in the recipe
    assert "2,000 steps of 16 images, 32.0 epochs" in describe_recipe(cfg)[0]


def test_lines_say_what_options_changed_last():
    cfg = recipe()
    fit_length(cfg, Choices(), 300)
    cfg.optim_wrapper.optimizer.lr, cfg.train_cfg.val_interval = 3e-4, 77
    _, rate, evaluation, _ = describe_recipe(cfg)
    assert "0.0003" in rate
    assert "every 77 iterations" in evaluation


def test_config_without_a_recipe_has_no_lines():
    cfg = recipe()
    cfg.pop("finetune")
    assert describe_recipe(cfg) == []


@pytest.mark.parametrize(
    ("share", "longest", "size"),
    [
        (0.1, 400, 320),  # 32 / 0.1
        (0.28, 160, 160),  # 114 would be smaller than the images, which are small
        (0.5, 2000, 256),  # of large ones, 64 would be too small
        (0.01, 2000, 512),  # 3200 would be too large
        (0.0578, 256, 512),
        (0.079, 1000, 416),  # 405, in steps of 32
    ],
)
def test_images_are_resized_so_that_the_median_object_has_32_pixels(share, longest, size):
    cfg = recipe(object_size=32, image_size=320, crop_size=256)
    fit_image_size(cfg, share, longest)
    steps = cfg.train_dataloader.dataset.pipeline
    assert steps[0].scale == (size, size)
    assert steps[1].crop_size == (min(256, size), min(256, size))
    assert cfg.finetune.image_size == size


def test_recipe_without_a_crop_leaves_crops_alone():
    cfg = recipe(object_size=32, image_size=320)
    fit_image_size(cfg, 0.28, 160)
    fit_length(cfg, Choices(), 20, num_evaluated=60)
    assert cfg.train_dataloader.dataset.pipeline[1].crop_size == (256, 256)


def test_crops_are_whole_again_once_images_are_larger():
    cfg = recipe(object_size=32, image_size=320, crop_size=256)
    for longest, crop in ((160, 160), (400, 256)):
        fit_image_size(cfg, 0.1 if longest == 400 else 0.28, longest)
        assert cfg.train_dataloader.dataset.pipeline[1].crop_size == (crop, crop)


def test_image_size_travels_with_the_checkpoint():
    cfg = recipe(object_size=32, image_size=320, crop_size=256)
    fit_image_size(cfg, 0.079, 1000)
    record_image_size(cfg)
    metainfo = cfg.train_dataloader.dataset.metainfo
    fresh = recipe(object_size=32, image_size=320, crop_size=256)
    use_trained_image_size(fresh, metainfo)
    assert fresh.train_dataloader.dataset.pipeline[0].scale == (416, 416)


def test_other_checkpoints_leave_the_image_size():
    cfg = recipe()
    use_trained_image_size(cfg, dict(image_size=128))
    assert cfg.train_dataloader.dataset.pipeline[0].scale == (320, 320)


def test_early_stopping_is_set_replaced_and_removed():
    cfg = recipe()
    set_early_stopping(cfg, 2)
    assert [hook.get("patience") for hook in cfg.custom_hooks] == [None, 2]
    set_early_stopping(cfg, 0)
    assert [hook["type"] for hook in cfg.custom_hooks] == ["EMAHook"]
    with pytest.raises(UserError, match="--early-stop -1"):
        set_early_stopping(cfg, -1)


@pytest.mark.parametrize("save_best", [None, "auto"])
def test_early_stopping_without_a_metric_is_refused(save_best):
    cfg = recipe()
    cfg.default_hooks.checkpoint.save_best = save_best
    with pytest.raises(UserError, match=r"--early-stop 3 needs a metric to watch: set .*save_best"):
        set_early_stopping(cfg, 3)
    set_early_stopping(cfg, 0)
    cfg.pop("default_hooks")
    with pytest.raises(UserError, match="--early-stop 3"):
        set_early_stopping(cfg, 3)


def test_stages_are_frozen_by_number():
    cfg = recipe()
    freeze_stages(cfg, 3)
    assert cfg.model.backbone.frozen_stages == 3
    with pytest.raises(UserError, match=r"--freeze 5 must be a number of stages in 0\.\.4"):
        freeze_stages(cfg, 5)
    with pytest.raises(UserError, match=r"model\.backbone"):
        freeze_stages(Config(dict(model=dict(type="X"))), 1)


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ("batch_size", "--batch N"),
        ("image_size", r"finetune\.object_size"),
        ("augmentation", "--augment NAME"),
        ("num_images", "are counted"),
    ],
)
def test_what_a_run_finds_out_is_no_option(option, instead):
    with pytest.raises(UserError, match=rf"finetune\.{option} is no option: .*{instead}"):
        check_recipe(recipe(), {f"finetune.{option}": 8})


@pytest.mark.parametrize(
    "numbers", [dict(evaluations=0), dict(epochs=0), dict(steps=(5, 2)), dict(steps=(0, None))], ids=str
)
def test_recipe_with_impossible_numbers_is_refused(numbers):
    cfg = recipe()
    cfg.finetune.update(numbers)
    with pytest.raises(UserError, match=r"finetune has epochs=.*must be above 0"):
        check_recipe(cfg, None)
    check_recipe(recipe(), {"train_cfg.max_iters": 5})


def test_a_recipe_that_a_run_fitted_keeps_the_batch_that_its_rate_was_for():
    cfg = recipe()
    fit_length(cfg, Choices(), 300)
    fit_length(cfg, Choices(), 300)
    assert cfg.finetune.base_batch_size == 16
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(5e-5)  # 1e-4 x sqrt(4 / 16), once


def test_freezing_follows_the_numbers_of_openmmlabs_backbones():
    """In mmdet's ResNet, 1 is the stem and the first stage, 0 the stem and -1 nothing."""
    cfg = Config(dict(model=dict(backbone=dict(type="mmdet.ResNet", depth=50))))
    for number, theirs in ((0, -1), (1, 1), (4, 4)):
        freeze_stages(cfg, number)
        assert cfg.model.backbone.frozen_stages == theirs
    cfg = Config(dict(model=dict(backbone=dict(type="mmdet.ResNeXt", depth=50))))  # hands its arguments on to ResNet
    freeze_stages(cfg, 2)
    assert cfg.model.backbone.frozen_stages == 2
    cfg = Config(dict(model=dict(backbone=dict(type=ConvNeXt))))  # a class, as in configs in Python
    freeze_stages(cfg, 0)
    assert cfg.model.backbone.frozen_stages == 0
    with pytest.raises(UserError, match=r"can freeze stages, but mmdet\.HRNet cannot"):
        freeze_stages(Config(dict(model=dict(backbone=dict(type="mmdet.HRNet")))), 1)


def test_lines_count_steps_of_accumulated_batches_and_say_size_and_frozen_stages():
    cfg = recipe(object_size=32, image_size=320, crop_size=256)
    cfg.effective_batch = 16
    cfg.optim_wrapper.accumulative_counts = 4
    freeze_stages(cfg, 2)
    fit_length(cfg, Choices(epochs=32), 1000)
    length, rate, _, weights = describe_recipe(cfg)
    assert "2,000 steps of 16 images, 32.0 epochs" in length
    assert "resized to 320" in length
    assert "warm-up of 100 steps" in rate
    assert "2 of 4 stages" in weights


def test_epochs_go_below_the_least_number_of_steps():
    cfg = recipe()
    fit_length(cfg, Choices(epochs=2), 300)
    assert cfg.train_cfg.max_iters == 150


def test_epochs_of_a_config_without_a_recipe_and_fewer_images_than_half_a_batch():
    cfg = recipe()
    cfg.pop("finetune")
    fit_length(cfg, Choices(epochs=3), 1)
    assert cfg.train_cfg.max_iters == 3


def test_images_without_objects_keep_the_size():
    cfg = recipe(object_size=32, image_size=320, crop_size=256)
    fit_image_size(cfg, None, 400)
    assert cfg.finetune.image_size == 320


def test_metric_that_mmengine_chooses_is_none_to_watch():
    assert watched_metric("auto") is None
    assert watched_metric(["mIoU"]) == "mIoU"
