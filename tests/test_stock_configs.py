"""The backbone in configs of the installed mmdet and mmseg, without custom_imports."""

from pathlib import Path

import mmdet
import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import convnext_dense  # noqa: F401  (serves mmcv._ext)

ATTO = dict(type="convnext_dense.ConvNeXt", arch="atto")
CHANNELS = [40, 80, 160, 320]


def stock_config(package, name):
    cfg = Config.fromfile(Path(package.__file__).parent / ".mim" / "configs" / name)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone = dict(ATTO)
    cfg.model.pop("pretrained", None)
    return cfg


def step(model, batch):
    """Run one step of plain SGD; return the parameters without a gradient."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = model(**model.data_preprocessor(batch, training=True), mode="loss")
    total, _ = model.parse_losses(losses)
    total.backward()
    optimizer.step()
    assert torch.isfinite(total)
    return [name for name, param in model.named_parameters() if param.requires_grad and param.grad is None]


@pytest.mark.parametrize("with_cp", [False, True])
def test_retinanet_of_mmdet_builds_and_steps(with_cp):
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    cfg = stock_config(mmdet, "retinanet/retinanet_r50_fpn_1x_coco.py")
    cfg.model.backbone.with_cp = with_cp
    cfg.model.neck.in_channels = CHANNELS
    model = MODELS.build(cfg.model)
    sample = DetDataSample(metainfo=dict(img_shape=(64, 96), ori_shape=(64, 96), scale_factor=(1.0, 1.0)))
    sample.gt_instances = InstanceData(bboxes=torch.tensor([[8.0, 8.0, 40.0, 50.0]]), labels=torch.tensor([3]))
    unused = step(model, dict(inputs=[torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8)], data_samples=[sample]))
    # mmdet's RetinaNet starts its pyramid at the second level and does not use the first output.
    assert set(unused) <= {"backbone.norm0.weight", "backbone.norm0.bias"}


def test_semantic_fpn_of_mmseg_builds_and_steps():
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    cfg = stock_config(mmseg, "sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py")
    cfg.model.neck.in_channels = CHANNELS
    cfg.model.decode_head.norm_cfg = dict(type="BN")  # the stock config synchronises batch norm over GPUs
    cfg.model.data_preprocessor.size = (64, 96)  # the stock config pads to 512 x 512
    model = MODELS.build(cfg.model)
    sample = SegDataSample(metainfo=dict(img_shape=(64, 96), ori_shape=(64, 96)))
    sample.gt_sem_seg = PixelData(data=torch.randint(0, 150, (1, 64, 96)))
    image = torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8)
    assert step(model, dict(inputs=[image, image], data_samples=[sample, sample])) == []


def test_config_written_for_mmpretrain_moves_over_by_its_type():
    """The backbone of mmdet's own ConvNeXt config, unchanged except for type and weights."""
    cfg = Config.fromfile(
        Path(mmdet.__file__).parent / ".mim/configs/convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py",
        import_custom_modules=False,  # mmpretrain, which is not installed
    )
    backbone = cfg.model.backbone
    assert backbone.type == "mmpretrain.ConvNeXt"
    backbone.type = "convnext_dense.ConvNeXt"
    model = MODELS.build(backbone)
    assert model.channels == (96, 192, 384, 768)
    assert model.init_cfg["prefix"] == "backbone."
