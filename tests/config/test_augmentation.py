"""Augmentations that a config lists by name."""

import pytest
from mmengine.config import Config

from convnext_dense.config.augmentation import use_augmentation
from convnext_dense.errors import UserError

LOAD = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
PACK = dict(type="PackDetInputs")
LIGHT = [dict(type="RandomFlip", prob=0.5)]
STRONG = [dict(type="Pad", size=(8, 8)), dict(type="CopyPaste"), dict(type="PhotoMetricDistortion")]


def config(dataset=None, **augmentations):
    """A config that trains on one data set."""
    dataset = dataset or dict(type="CocoDataset", pipeline=[*LOAD, *LIGHT, PACK])
    return Config(
        dict(
            model=dict(type="X"),
            finetune={},
            augmentations=augmentations,
            train_dataloader=dict(dataset=dataset),
        )
    )


def names(steps):
    return [step["type"] for step in steps]


def test_steps_come_between_loading_and_packing():
    cfg = config(light=LIGHT, colours=[dict(type="PhotoMetricDistortion"), dict(type="RandomFlip", prob=0.1)])
    use_augmentation(cfg, "colours")
    steps = names(cfg.train_dataloader.dataset.pipeline)
    assert steps == ["LoadImageFromFile", "LoadAnnotations", "PhotoMetricDistortion", "RandomFlip", "PackDetInputs"]
    assert cfg.finetune.augmentation == "colours"


@pytest.mark.parametrize("step", ["CopyPaste", "MixUp", "Mosaic", "RandomMosaic"])  # of mmdet, and one of mmseg
def test_steps_that_read_further_images_get_a_wrapper(step):
    cfg = config(strong=[STRONG[0], dict(type=step), STRONG[2]])
    use_augmentation(cfg, "strong")
    dataset = cfg.train_dataloader.dataset
    assert dataset.type == "MultiImageMixDataset"
    assert names(dataset.dataset.pipeline) == ["LoadImageFromFile", "LoadAnnotations", "Pad"]
    assert names(dataset.pipeline) == [step, "PhotoMetricDistortion", "PackDetInputs"]


def test_wrapper_goes_where_nothing_needs_it():
    cfg = config(strong=STRONG, light=LIGHT)
    use_augmentation(cfg, "strong")
    use_augmentation(cfg, "light")
    dataset = cfg.train_dataloader.dataset
    assert dataset.type == "CocoDataset"
    assert names(dataset.pipeline) == ["LoadImageFromFile", "LoadAnnotations", "RandomFlip", "PackDetInputs"]


def test_every_one_of_several_data_sets_is_augmented():
    leaf = dict(type="CocoDataset", pipeline=[*LOAD, *LIGHT, PACK])
    cfg = config(dict(type="ConcatDataset", datasets=[leaf, leaf]), strong=STRONG)
    use_augmentation(cfg, "strong")
    inner = cfg.train_dataloader.dataset.dataset
    assert [names(child.pipeline)[-1] for child in inner.datasets] == ["Pad", "Pad"]


def test_classifiers_take_arguments_of_a_transform():
    cfg = config(
        dict(type="convnext_dense.ImageFolder", transform=dict(input_size=8)), strong=dict(input_size=8, hflip=0)
    )
    use_augmentation(cfg, "strong")
    assert cfg.train_dataloader.dataset.transform == dict(input_size=8, hflip=0)


def test_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"has light, strong\. Did you mean strong"):
        use_augmentation(config(light=LIGHT, strong=STRONG), "strongs")
    with pytest.raises(UserError, match="which has none"):
        use_augmentation(config(), "light")


def test_configs_without_a_recipe_may_list_augmentations_too():
    cfg = config(light=LIGHT)
    cfg.pop("finetune")
    use_augmentation(cfg, "light")
    assert names(cfg.train_dataloader.dataset.pipeline)[2] == "RandomFlip"
    assert "finetune" not in cfg


def test_wrapped_data_sets_are_augmented_again():
    leaf = dict(type="CocoDataset", pipeline=[*LOAD, *LIGHT, PACK])
    cfg = config(dict(type="ConcatDataset", datasets=[leaf, leaf]), strong=STRONG, light=LIGHT)
    use_augmentation(cfg, "strong")
    use_augmentation(cfg, "light")
    for child in cfg.train_dataloader.dataset.datasets:
        assert names(child.pipeline) == ["LoadImageFromFile", "LoadAnnotations", "RandomFlip", "PackDetInputs"]
