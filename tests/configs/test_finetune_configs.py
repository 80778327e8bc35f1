"""Every fine-tuning config: its form, its augmentations, and a step on small data with a small backbone."""

import ast
import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from convnext_dense.checkpoints import find_entry
from convnext_dense.config.augmentation import use_augmentation
from convnext_dense.config.class_counts import num_classes, task_of
from convnext_dense.config.finetuning import Choices
from convnext_dense.config.reading import read_config
from convnext_dense.data.own.tasks import use_folder
from convnext_dense.engine import train_model
from convnext_dense.plug import default_weights, has_weights, parse_backbone, plug_backbone

ROOT = Path(__file__).parents[2]
LEAVES = sorted((ROOT / "configs/finetune").glob("*.py"))
FORMATS = ROOT / "tests/fixtures/formats"
FOLDERS = {
    "detection": FORMATS / "original",
    "segmentation": FORMATS / "camvid_kaggle",
    "classification": FORMATS / "fiftyone_folders",
}
MODELS = {  # the models that were asked for, by their heads
    "classifier.py": "ImageClassifier",
    "dino.py": "DINO",
    "mask2former_instance.py": "Mask2Former",
    "mask2former_semantic.py": "TiledEncoderDecoder",
    "mask_rcnn.py": "MaskRCNN",
    "retinanet.py": "RetinaNet",
    "rtmdet.py": "RTMDet",
    "rtmdet_ins.py": "RTMDet",
    "upernet.py": "TiledEncoderDecoder",
}


@pytest.fixture(params=LEAVES, ids=lambda path: path.stem)
def leaf(request):
    return request.param


def test_every_model_has_a_config():
    for name, kind in MODELS.items():
        assert Config.fromfile(ROOT / "configs/finetune" / name).model.type.endswith(kind)


def test_leaf_is_a_difference_and_names_its_command(leaf):
    tree = ast.parse(leaf.read_text())
    docstring = ast.get_docstring(tree)
    body = tree.body[1:]
    assert body[-1].end_lineno - body[0].lineno < 35
    assert f"python tools/train.py configs/finetune/{leaf.name} --data DIR" in docstring
    assert "Batch: 1 " in docstring
    for name in re.findall(r"zoo:(\w+)", leaf.read_text()):
        assert find_entry(name).name == name


def test_recipe_is_whole(leaf):
    cfg = Config.fromfile(leaf)
    assert {"batch_size", "epochs", "steps", "evaluations", "augmentation"} <= set(cfg.finetune)
    assert list(cfg.augmentations) == ["light", "strong"]
    assert cfg.param_scheduler[0].end == 0.05 * cfg.train_cfg.max_iters
    assert cfg.param_scheduler[1].end == cfg.train_cfg.max_iters
    assert [hook.type for hook in cfg.custom_hooks] == ["EMAHook", "convnext_dense.EarlyStoppingHook"]
    metric = {"detection": "coco/", "segmentation": "mIoU", "classification": "accuracy/top1"}[task_of(cfg)]
    assert cfg.default_hooks.checkpoint.save_best.startswith(metric)


def test_default_augmentation_is_the_light_one(leaf):
    cfg = Config.fromfile(leaf)
    before = cfg.train_dataloader.to_dict()
    use_augmentation(cfg, "light")
    assert cfg.train_dataloader.to_dict() == before


@pytest.mark.parametrize("name", ["light", "strong"])
def test_augmentation_reads_a_folder_and_repeats_itself_from_a_dumped_config(leaf, name, tmp_path):
    cfg = read_config(leaf)
    init_default_scope(cfg.get("default_scope", "convnext_dense"))
    use_augmentation(cfg, name)
    use_folder(cfg, str(FOLDERS[task_of(cfg)]), work_dir=tmp_path)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    for place in range(3):
        sample = dataset[place]
        assert sample["inputs"].shape[0] == 3


def test_heads_are_sized_to_the_folder(leaf, tmp_path):
    cfg = read_config(leaf)
    init_default_scope(cfg.get("default_scope", "convnext_dense"))
    names = use_folder(cfg, str(FOLDERS[task_of(cfg)]), work_dir=tmp_path)
    assert num_classes(cfg.model) == len(names)


@pytest.mark.parametrize(
    ("leaf", "name"),
    [
        ("mask_rcnn", "convnext-base"),
        ("dino", "dinov3-convnext-small"),
        ("upernet", "convnextv2-tiny"),
        ("classifier", "convnextv2-tiny"),
    ],
)
def test_backbone_is_changed_with_its_weights_by_one_option(leaf, name):
    cfg = read_config(ROOT / f"configs/finetune/{leaf}.py")
    assert has_weights(cfg.model)
    arch, kwargs = parse_backbone(name)
    changed = plug_backbone(cfg, arch, default_weights(name), **kwargs)
    assert changed.model.backbone.arch == arch
    assert changed.model.backbone.get("drop_path_rate") == cfg.model.backbone.get("drop_path_rate")
    holder = changed.model if task_of(cfg) == "classification" else changed.model.backbone
    assert holder.init_cfg.checkpoint == default_weights(name)
    assert "tiny.fb" not in str(changed.model)
    assert "convnext_t_22k" not in str(changed.model)


@pytest.mark.slow
@pytest.mark.parametrize("leaf", ["dino", "mask2former_semantic", "classifier"])
def test_small_backbone_trains_on_a_folder(leaf, tmp_path):
    leaf = ROOT / f"configs/finetune/{leaf}.py"

    def shrink(cfg):
        cfg = plug_backbone(cfg, "pico")  # group norms of RTMDet need channels that 64 divides
        if "data_preprocessor" in cfg.model:  # from random weights, not with zeros
            cfg.model.data_preprocessor["pad_val" if "Seg" in cfg.model.data_preprocessor.type else "pad_value"] = 1.0
        if cfg.model.type == "DINO":
            cfg.model.num_queries = 20  # of 64 x 64 pixels, there are 85 positions
            cfg.model.test_cfg.max_per_img = 20
            cfg.model.encoder.num_layers = cfg.model.decoder.num_layers = 1
        if "Mask2Former" in cfg.model.get("decode_head", {}).get("type", ""):
            cfg.model.decode_head.train_cfg.num_points = 64
            cfg.model.decode_head.num_queries = 20
            cfg.model.decode_head.pixel_decoder.encoder.num_layers = 1
            cfg.model.decode_head.transformer_decoder.num_layers = 1
        for pipeline in (cfg.train_dataloader.dataset, cfg.val_dataloader.dataset):
            for step in pipeline.get("pipeline") or ():
                for key in ("scale", "scales"):
                    if key in step:
                        step[key] = (64, 64) if key == "scale" else [(64, 64)]
                if step.get("crop_size") == (512, 512):
                    step["crop_size"] = cfg.model.data_preprocessor["size"] = (64, 64)
                    cfg.model.test_cfg.update(crop_size=(64, 64), stride=(48, 48))
        return cfg

    options = {
        f"{loader}_dataloader.{key}": value
        for loader in ("train", "val")
        for key, value in dict(num_workers=0, persistent_workers=False).items()
    }
    task = task_of(read_config(leaf))
    train_model(
        leaf,
        options,
        change=shrink,
        data=str(FOLDERS[task]),
        choices=Choices(epochs=1, batch=3),
        work_dir=str(tmp_path),
    )
    assert (tmp_path / "iter_2.pth").is_file()
