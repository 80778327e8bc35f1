"""Panoptic results: mmdet's numbers of segments as things and stuff."""

import os
from pathlib import Path

import mmdet
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from pycocotools import mask as masks

from convnext_dense.inference import Panoptic, load_model
from convnext_dense.inference.predictor import INSTANCE_OFFSET

STOCK = Path(mmdet.__file__).parent / ".mim/configs/mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py"
WIDE = dict(embed_dims=32)
SMALL = dict(
    backbone=dict(init_cfg=None),
    panoptic_head=dict(
        num_queries=5,
        feat_channels=32,
        out_channels=32,
        pixel_decoder=dict(
            encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=WIDE, ffn_cfg=dict(WIDE, feedforward_channels=32))),
            positional_encoding=dict(num_feats=16),
        ),
        positional_encoding=dict(num_feats=16),
        transformer_decoder=dict(
            num_layers=1,
            layer_cfg=dict(self_attn_cfg=WIDE, cross_attn_cfg=WIDE, ffn_cfg=dict(WIDE, feedforward_channels=32)),
        ),
    ),
)
PIPELINE = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(64, 64), keep_ratio=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """mmdet's own panoptic Mask2Former, smaller, with random weights."""
    from mmdet.datasets import CocoPanopticDataset

    folder = tmp_path_factory.mktemp("panoptic")
    config = folder / "config.py"
    config.write_text(
        f"_base_ = {os.fspath(STOCK)!r}\nmodel = {SMALL!r}\n"
        f"test_dataloader = dict(dataset=dict(pipeline={PIPELINE!r}))\n"
    )
    init_default_scope("mmdet")
    built = MODELS.build(Config.fromfile(config).model)
    meta = dict(dataset_meta=dict(CocoPanopticDataset.METAINFO))
    torch.save(dict(state_dict=built.state_dict(), meta=meta), folder / "random.pth")
    return load_model(config, folder / "random.pth", device="cpu")


def test_stock_panoptic_model_gives_things_stuff_and_objects(model, monkeypatch):
    numbers = torch.full((1, 40, 60), 133)  # none
    numbers[:, :, :20] = 100  # stuff
    numbers[:, :10, 30:] = 3 + 1 * INSTANCE_OFFSET
    numbers[:, 20:, 30:40] = 3 + 2 * INSTANCE_OFFSET
    forward = model.model.test_step

    def with_segments(inputs):
        samples = forward(inputs)
        for sample in samples:
            assert sample.pred_panoptic_seg.sem_seg.shape == (1, 40, 60)  # what mmdet gives
            sample.pred_panoptic_seg = PixelData(sem_seg=numbers)
        return samples

    monkeypatch.setattr(model.model, "test_step", with_segments)
    found = model(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    assert isinstance(found, Panoptic)
    assert len(found.class_names) == 133
    assert [(one["name"], one["is_thing"], one["area"]) for one in found.segments] == [
        ("road", False, 800),
        ("motorcycle", True, 300),
        ("motorcycle", True, 200),
    ]
    assert [one["id"] for one in found.segments] == [1, 2, 3]
    assert found.segment_map[0, 25] == 0
    assert (found.segment_map[:, :20] == 1).all()
    assert found.summary() == "3 segments (motorcycle, road)"
    assert found["boxes"].shape[1] == 4  # of the objects, as before
    coco = found.to_coco("a.jpg")
    assert [(one["category_id"], one["isthing"]) for one in coco] == [(101, 0), (4, 1), (4, 1)]
    np.testing.assert_array_equal(masks.decode(coco[2]["segmentation"]), found.segment_map == 3)
    assert found.to_rows()[1] == dict(name="motorcycle", area=300, is_thing=True, label=3, id=2)
    only = found.only(["motorcycle"], score_thr=1.1)
    np.testing.assert_array_equal(only.segment_map, np.where(found.segment_map > 1, found.segment_map, 0))
    assert [one["name"] for one in only.to_coco() and only.segments] == ["motorcycle"] * 2
    assert len(only["boxes"]) == 0
    picture = np.full((40, 60, 3), 100, np.uint8)
    scale = only.overlay(picture).shape[0] // 40
    assert (only.overlay(picture)[:, : 19 * scale] == 100).all()
    assert (found.overlay(picture, opacity=0) == 100).all()
    drawn = found.draw(picture, opacity=0)
    assert (drawn[:, 60 * scale + 4 : 120 * scale + 4] == 100).all()
    name = found.objects.names[0]
    assert set(found.only([name])["names"]) == {name}
    assert set(found["names"]) != {name}


def test_pixels_without_a_segment_are_drawn_as_they_are():
    segment_map = np.zeros((60, 80), int)
    segment_map[:, 40:] = 1
    segment = dict(id=1, label=0, name="a", is_thing=True, area=2400)
    found = Panoptic(segment_map, [segment], ("a", "b"), [[10, 20, 30], [0, 0, 0]])
    drawn = found.overlay(np.full((60, 80, 3), 100, np.uint8))
    assert drawn.shape == (480, 640, 3)
    assert (drawn[:, :300] == 100).all()
    np.testing.assert_allclose(drawn[240, 600], 45 + np.array([30, 20, 10]) * 0.55, atol=1)  # BGR
    assert found.draw(np.full((60, 80, 3), 100, np.uint8)).shape[1] > 1280
