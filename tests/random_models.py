"""Configs of small models, and random weights for them."""

import os

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope

from convnext_dense.config.class_counts import set_num_classes

DETECTOR = "configs/demo/mask_rcnn_convnext_atto_scratch.py"
SHAPES = ("circle", "square", "triangle", "star", "cross", "crescent")
SEGMENTER = "configs/demo/upernet_convnext_atto_scratch.py"
ANY_SCORE = "test_cfg=dict(rcnn=dict(score_thr=0.0, max_per_img=20))"
NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 4), dtype=np.uint8)


def write_config(path, base, *lines):
    path.write_text("\n".join([f"_base_ = '{os.path.abspath(base)}'", *lines]))
    return path


def write_shapes_config(path, data_root, *lines):
    """A config of DETECTOR whose validation data is that of a folder of shapes."""
    return write_config(
        path,
        DETECTOR,
        f"val_dataloader = dict(dataset=dict(data_root='{data_root}/'))",
        f"val_evaluator = dict(ann_file='{data_root}/annotations/instances_val2017.json')",
        *lines,
    )


def write_weights(config, path, names, *, without=None, **meta):
    """Random weights with class names."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.get("default_scope", "mmengine"))
    torch.manual_seed(0)
    set_num_classes(cfg.model, len(names))
    state = revert_sync_batchnorm(MODELS.build(cfg.model)).state_dict()
    state = {name: value for name, value in state.items() if without is None or without not in name}
    torch.save(dict(state_dict=state, meta=dict(dataset_meta=dict(classes=names, **meta))), path)
    return path
