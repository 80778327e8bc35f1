"""RTMDet on ConvNeXt-B against mmdet's recipe and results, which `published.json` holds with their source."""

import ast
import copy
import math
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

import convnext_dense  # noqa: F401  (serves mmcv._ext, which mmdet imports)
from convnext_dense.description import count_parameters
from convnext_dense.description.dense import build_on_meta, macs_by_part
from convnext_dense.description.published import read_published

ROOT = Path(__file__).parents[2]
PUBLISHED = read_published()
FACTS = PUBLISHED["rtmdet"]["convnext_b"]
CFG = Config.fromfile(ROOT / FACTS["config"])
SHIPPED = "rtmdet/rtmdet_l_8xb32-300e_coco.py"


def register():
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=False)


def test_there_is_one_leaf_and_it_names_its_command_and_source():
    assert [path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("rtmdet/*.py")] == [FACTS["config"]]
    text = (ROOT / FACTS["config"]).read_text(encoding="utf-8")
    tree = ast.parse(text)
    docstring = ast.get_docstring(tree) or ""
    assert len(text.rstrip().splitlines()) - tree.body[1].lineno + 1 <= 25
    for wanted in (
        f"tools/dist_train.sh {FACTS['config']} {FACTS['gpus']}",
        f"{FACTS['gpus']} GPUs x {FACTS['images_per_gpu']} images = {FACTS['batch_size']}",
        "https://github.com/open-mmlab/mmdetection/tree/v3.3.0/configs/rtmdet",
    ):
        assert wanted in docstring


def test_backbone_norms_and_learning_rates_are_the_published_ones():
    backbone, wrapper = CFG.model.backbone, CFG.optim_wrapper
    assert (backbone.arch, backbone.drop_path_rate) == (FACTS["arch"], FACTS["drop_path"])
    assert backbone.layer_scale_init_value == FACTS["layer_scale_init"]
    assert (backbone.out_indices, backbone.output_norms) == ((1, 2, 3), "all")
    assert backbone.init_cfg.checkpoint == PUBLISHED["weights"]["urls"][FACTS["weights"]]
    assert CFG.model.neck.in_channels == PUBLISHED["architectures"][FACTS["arch"]]["channels"][1:]
    assert {CFG.model[part].norm_cfg.type for part in ("neck", "bbox_head")} == {FACTS["norm"]}
    assert (wrapper.type, wrapper.optimizer.type, wrapper.optimizer.lr) == ("OptimWrapper", "AdamW", FACTS["lr"])
    assert wrapper.optimizer.weight_decay == FACTS["weight_decay"]
    assert wrapper.paramwise_cfg == dict(decay_rate=FACTS["layer_decay"], decay_type="layer_wise")


def test_everything_else_of_model_and_pipelines_is_that_of_the_shipped_config():
    """mmdet's own file, from the installed package: head, neck, assigner, test and both training pipelines."""
    import mmdet

    shipped = Config.fromfile(Path(mmdet.__file__).parent / ".mim/configs" / SHIPPED)
    for part in ("neck", "bbox_head", "train_cfg", "test_cfg"):
        ours = {key: value for key, value in CFG.model[part].items() if key not in ("norm_cfg", "in_channels")}
        theirs = {key: value for key, value in shipped.model[part].items() if key not in ("norm_cfg", "in_channels")}
        assert ours == theirs, part
    theirs = {loader: plain(shipped[f"{loader}_dataloader"].dataset.pipeline) for loader in ("train", "val")}
    assert {loader: plain(CFG[f"{loader}_dataloader"].dataset.pipeline) for loader in theirs} == theirs
    ema, switch = CFG.custom_hooks
    assert ema == shipped.custom_hooks[0]
    assert ema.momentum == FACTS["ema_momentum"]
    assert plain(switch.switch_pipeline) == plain(shipped.custom_hooks[1].switch_pipeline)
    assert switch.switch_epoch == FACTS["epochs"] - FACTS["plain_epochs"]


def plain(pipeline):
    return [{key: value for key, value in step.items() if key != "backend_args"} for step in pipeline]


def test_schedule_is_the_published_one():
    """By arithmetic, with epochs of 20 iterations and a warm-up of 1000 of them."""
    assert (CFG.train_cfg.max_epochs, CFG.train_cfg.dynamic_intervals) == (FACTS["epochs"], [(90, 1)])
    assert CFG.auto_scale_lr.base_batch_size == FACTS["batch_size"] == FACTS["gpus"] * CFG.train_dataloader.batch_size
    warmup, cosine = CFG.param_scheduler
    assert (warmup.end, warmup.start_factor) == (FACTS["warmup"]["iters"], FACTS["warmup"]["ratio"])
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=FACTS["lr"])
    options = dict(copy.deepcopy(cosine), optimizer=optimizer, epoch_length=20)
    options.pop("convert_to_iter_based")
    kind = PARAM_SCHEDULERS.get(options.pop("type"))
    scheduler = kind.build_iter_from_epoch(**options)
    rates = []
    for _ in range(FACTS["epochs"] * 20):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    begin, low = FACTS["cosine_from"] * 20, FACTS["eta_min"]
    assert rates[begin - 1] == FACTS["lr"]
    half = low + (FACTS["lr"] - low) * (1 + math.cos(math.pi / 2)) / 2
    assert rates[begin + 500] == pytest.approx(half, rel=1e-6)
    assert rates[-1] == pytest.approx(low, rel=0.01)


def test_neck_and_head_have_the_published_size_on_their_own_backbone():
    """Neither parameters nor FLOPs are published on ConvNeXt-B; on mmdet's CSPNeXt they are."""
    register()
    own, cfg = PUBLISHED["rtmdet"]["own_backbone"], copy.deepcopy(CFG)
    cfg.model.backbone = dict(
        type="CSPNeXt",
        arch="P5",
        expand_ratio=0.5,
        deepen_factor=1,
        widen_factor=1,
        channel_attention=True,
        norm_cfg=dict(type="BN"),
        act_cfg=dict(type="SiLU"),
    )
    model = build_on_meta(cfg)
    assert count_parameters(model) / 1e6 == pytest.approx(own["params_M"], rel=0.01)
    gmacs = sum(macs_by_part(model, (FACTS["size"], FACTS["size"])).values()) / 1e9
    assert gmacs == pytest.approx(own["gflops_640"], rel=0.01)
    assert count_parameters(build_on_meta(CFG).neck) == count_parameters(model.neck)
