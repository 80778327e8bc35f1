"""Every DINO config against detrex' recipe and results, which `published.json` holds with their source.

Models are built on the meta device, so that no weight is drawn or stored.
"""

import ast
import copy
import functools
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope
from torch import nn

import convnext_dense  # noqa: F401  (serves mmcv._ext, which mmdet imports)
from convnext_dense.description.dense import build_on_meta
from convnext_dense.description.published import read_published

ROOT = Path(__file__).parents[2]
PUBLISHED = read_published()
COMMON = PUBLISHED["dino"]["common"]
LEAVES = {model["config"]: model for model in PUBLISHED["dino"]["models"].values()}
MAX_BODY_LINES = 25

each_leaf = pytest.mark.parametrize("leaf", sorted(LEAVES), ids=lambda leaf: Path(leaf).stem)
each_arch = pytest.mark.parametrize("arch", ["tiny", "small", "base", "large"])


@functools.cache
def load(leaf: str) -> Config:
    return Config.fromfile(ROOT / leaf)


@functools.cache
def build(arch: str) -> nn.Module:
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    return build_on_meta(load(next(leaf for leaf, model in LEAVES.items() if model["arch"] == arch)))


def count(module: nn.Module) -> int:
    return sum(param.numel() for param in module.parameters())


def test_configs_and_published_detectors_are_the_same_set():
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("dino/*.py")} == set(LEAVES)


@each_leaf
def test_leaf_is_short_and_names_its_command_and_source(leaf):
    text = (ROOT / leaf).read_text(encoding="utf-8")
    tree = ast.parse(text)
    docstring = ast.get_docstring(tree) or ""
    assert len(text.rstrip().splitlines()) - tree.body[1].lineno + 1 <= MAX_BODY_LINES
    for wanted in (
        f"tools/dist_train.sh {leaf} {COMMON['gpus']}",
        f"{COMMON['gpus']} GPUs x {COMMON['images_per_gpu']} images = {COMMON['batch_size']}",
        "https://github.com/IDEA-Research/detrex/tree/e244e6c3/projects/dino",
        LEAVES[leaf]["source"].rpartition("/")[2],
    ):
        assert wanted in docstring, f"the docstring lacks {wanted!r}"
    assert ("Chosen here: which ImageNet-1K weights" in docstring) == (LEAVES[leaf]["pretrain"] == "1K")


@each_leaf
def test_backbone_and_neck_are_the_published_ones(leaf):
    model, cfg = LEAVES[leaf], load(leaf).model
    channels = PUBLISHED["architectures"][model["arch"]]["channels"]
    assert (cfg.backbone.type, cfg.backbone.arch) == ("convnext_dense.ConvNeXt", model["arch"])
    assert cfg.backbone.get("drop_path_rate", 0.0) == COMMON["drop_path"]
    assert cfg.backbone.layer_scale_init_value == COMMON["layer_scale_init"]
    assert cfg.backbone.output_norms == "all"
    weights = PUBLISHED["weights"]["urls"][model["weights"]]
    assert cfg.backbone.init_cfg == {"type": "Pretrained", "checkpoint": weights}
    strides = [(4, 8, 16, 32)[level] for level in cfg.backbone.out_indices]
    assert [*strides, 2 * strides[-1]] == COMMON["levels"]
    neck = COMMON["neck"]
    assert cfg.neck.in_channels == channels[1:]
    assert {key: cfg.neck[key] for key in ("kernel_size", "num_outs", "bias")} == {
        key: neck[key] for key in ("kernel_size", "num_outs", "bias")
    }
    assert cfg.neck.norm_cfg == {"type": "GN", "num_groups": neck["groups"]}
    assert cfg.neck.act_cfg is None


def test_every_leaf_has_the_same_data_schedule_and_heads():
    first, *others = [load(leaf) for leaf in sorted(LEAVES)]
    for cfg in others:
        for key in ("train_dataloader", "val_dataloader", "optim_wrapper", "param_scheduler", "train_cfg"):
            assert cfg[key] == first[key]
        for key in set(first.model) - {"backbone", "neck"}:
            assert cfg.model[key] == first.model[key]


CFG = load("configs/detection/dino/dino_convnext_t_12e.py")


def test_transformer_queries_losses_and_matching_are_the_published_ones():
    model = CFG.model
    assert (model.num_queries, model.test_cfg.max_per_img) == (COMMON["queries"], COMMON["detections"])
    assert (model.with_box_refine, model.as_two_stage) == (True, True)
    assert model.dn_cfg.label_noise_scale == COMMON["label_noise"]
    assert model.dn_cfg.box_noise_scale == COMMON["box_noise"]
    assert model.dn_cfg.group_cfg == dict(dynamic=True, num_groups=None, num_dn_queries=COMMON["denoising_queries"])
    for name in ("encoder", "decoder"):
        assert model[name].num_layers == COMMON[f"{name}_layers"]
        layer = model[name].layer_cfg
        assert layer.ffn_cfg.feedforward_channels == COMMON["feedforward"]
        assert {part.embed_dims for part in layer.values()} == {COMMON["embed_dims"]}
        assert {part.get("dropout", part.get("ffn_drop")) for part in layer.values()} == {COMMON["dropout"]}
    assert model.decoder.layer_cfg.self_attn_cfg.num_heads == COMMON["heads"]
    position = {key: model.positional_encoding[key] for key in COMMON["position"]}
    assert position == COMMON["position"]
    head, loss = model.bbox_head, COMMON["loss"]
    assert (head.loss_cls.loss_weight, head.loss_bbox.loss_weight, head.loss_iou.loss_weight) == (
        loss["classes"],
        loss["boxes"],
        loss["giou"],
    )
    assert (head.loss_cls.alpha, head.loss_cls.gamma) == (loss["alpha"], loss["gamma"])
    costs = [cost.weight for cost in model.train_cfg.assigner.match_costs]
    assert costs == [COMMON["matching"][key] for key in ("classes", "boxes", "giou")]


def test_learning_rates_and_decay_of_the_groups_are_the_published_ones():
    """detectron2 gives torch's norms no decay; those of detrex' backbone are of its own class."""
    with DefaultScope.overwrite_default_scope("mmdet"):
        groups = build_optim_wrapper(build("tiny"), CFG.optim_wrapper.copy()).optimizer.param_groups
    names = {id(param): name for name, param in build("tiny").named_parameters()}
    modules = dict(build("tiny").named_modules())
    wanted = COMMON["optimizer"]
    seen = set()
    for group in groups:
        for param in group["params"]:
            name = names[id(param)]
            seen.add(name)
            in_backbone = name.startswith("backbone.")
            is_norm = isinstance(modules[name.rpartition(".")[0]], nn.LayerNorm | nn.GroupNorm)
            assert group["lr"] == pytest.approx(wanted["lr"] * (COMMON["backbone_lr_factor"] if in_backbone else 1)), (
                name
            )
            no_decay = is_norm and not in_backbone
            assert group["weight_decay"] == (COMMON["norm_weight_decay"] if no_decay else wanted["weight_decay"]), name
    assert seen == set(names.values())
    assert list(CFG.optim_wrapper.optimizer.betas) == wanted["betas"]
    assert CFG.optim_wrapper.clip_grad == dict(max_norm=COMMON["clip_norm"], norm_type=2)
    assert CFG.optim_wrapper.type == "OptimWrapper"  # no mixed precision


def test_schedule_and_batch_are_the_published_ones():
    assert CFG.train_cfg.max_iters == COMMON["iters"]
    [steps] = CFG.param_scheduler  # no warm-up
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = PARAM_SCHEDULERS.build(dict(copy.deepcopy(steps), optimizer=optimizer))
    rates = []
    for _ in range(COMMON["iters"]):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    [drop] = COMMON["lr_steps"]
    assert (rates[0], rates[drop - 1]) == (1.0, 1.0)
    assert (rates[drop], rates[-1]) == pytest.approx((COMMON["lr_gamma"], COMMON["lr_gamma"]))
    assert CFG.train_dataloader.batch_size == COMMON["images_per_gpu"]
    assert CFG.auto_scale_lr == {"enable": False, "base_batch_size": COMMON["batch_size"]}


def test_augmentation_has_the_published_sizes():
    load_image, load_boxes, flip, choice, _ = CFG.train_dataloader.dataset.pipeline
    assert (load_image.type, load_boxes, flip.prob) == (
        "LoadImageFromFile",
        {"type": "LoadAnnotations", "with_bbox": True},
        0.5,
    )
    [[whole], [first, crop, last]] = choice.transforms
    sizes = [(short, COMMON["long_side_at_most"]) for short in COMMON["resize_short_side"]]
    assert whole.scales == last.scales == sizes
    assert [short for short, _ in first.scales] == COMMON["crop_resize"]
    assert min(long / short for short, long in first.scales) >= 7
    assert (list(crop.crop_size), crop.crop_type) == (COMMON["crop_side_range"], "absolute_range")
    [resize] = [step for step in CFG.test_dataloader.dataset.pipeline if step.type == "Resize"]
    assert list(resize.scale) == COMMON["test_scale"]
    assert CFG.val_evaluator.metric == "bbox"
    assert CFG.default_hooks.checkpoint.save_best == "coco/bbox_mAP"


@each_arch
def test_parameters_are_those_of_detrex_definition(arch):
    """By arithmetic, layer by layer, with C = 256 channels; norms have two parameters per channel."""
    c, hidden, classes, queries = COMMON["embed_dims"], COMMON["feedforward"], 80, COMMON["queries"]
    heads, levels, points = COMMON["heads"], len(COMMON["levels"]), 4

    def linear(inputs, outputs):
        return inputs * outputs + outputs

    deformable = linear(c, 2 * heads * levels * points) + linear(c, heads * levels * points) + 2 * linear(c, c)
    feedforward = linear(c, hidden) + linear(hidden, c)
    attention = 4 * linear(c, c)
    encoder = deformable + feedforward + 2 * 2 * c
    decoder = attention + deformable + feedforward + 3 * 2 * c
    predictions = linear(c, classes) + 2 * linear(c, c) + linear(c, 4)
    channels = PUBLISHED["architectures"][arch]["channels"]
    neck = sum(linear(width, c) for width in channels[1:]) + linear(9 * channels[3], c) + 4 * 2 * c
    wanted = (
        6 * encoder
        + 6 * decoder
        + linear(2 * c, c) + linear(c, c)  # positions of queries
        + 2 * c  # norm of the decoder
        + 7 * predictions  # six layers and the proposals of the encoder
        + queries * c + classes * c + levels * c  # embeddings of queries, denoising labels and levels
        + linear(c, c) + 2 * c  # of the encoder's output
        + neck
    )  # fmt: skip
    model = build(arch)
    assert count(model) - count(model.backbone) == wanted
    architecture = PUBLISHED["architectures"][arch]
    head = 1000 * channels[-1] + 1000 + 2 * channels[-1]
    assert count(model.backbone) == architecture["params"] - head + 2 * sum(channels[1:])
