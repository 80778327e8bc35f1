"""ConvNeXt in other people's configs: what is rewired, what is refused, and a training step and inference of each."""

import re
import runpy
import sys
from pathlib import Path

import noise_runs
import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from benchmarks import plug_matrix
from convnext_dense.checkpoints import read_checkpoint
from convnext_dense.config.reading import read_config
from convnext_dense.plug import diff_configs, parse_backbone, plug_backbone

ROOT = Path(__file__).parents[1]
RETINANET = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
# arXiv 2301.00808, appendix A.1
ATTO = [40, 80, 160, 320]


def read(name):
    return read_config(name, change=lambda cfg: cfg)


@pytest.mark.parametrize(
    "name",
    [
        RETINANET,
        "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
        "mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py",
        "mmdet::centernet/centernet_r18_8xb16-crop512-140e_coco.py",
        "mmdet::yolo/yolov3_d53_8xb8-320-273e_coco.py",
        "mmdet::detr/detr_r50_8xb2-150e_coco.py",
        "mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py",
        "mmseg::fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py",
        "mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py",
        "mmseg::fastfcn/fastfcn_r50-d32_jpu_enc_4xb4-80k_ade20k-512x512.py",
        "mmseg::ocrnet/ocrnet_hr18_4xb4-80k_ade20k-512x512.py",
        "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py",
    ],
)
def test_family_trains_a_step_and_infers(name):
    package, path = name.split("::")
    noise_runs.run_config(plug_matrix.config_folder(package) / path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("mmdet/yolox", "yolox_tiny_8xb8-300e_coco.py"),  # maps of three stages
        ("mmseg/knet", "knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py"),  # heads that hold heads
    ],
)
def test_family_trains_resumes_tests_and_infers_by_the_tools(family, config, tmp_path):
    package = family.split("/")[0]
    plug_matrix.write_data(tmp_path)
    path = plug_matrix.config_folder(package) / family.split("/")[1] / config
    row = plug_matrix.try_config(package, path, tmp_path, seconds=300, gigabytes=8)
    assert (row["reached"], row["error"]) == ("done", "")


def test_retinanet_differs_only_where_the_backbone_matters():
    before = read(RETINANET)
    changes = diff_configs(before, plug_backbone(before, "atto"))
    elsewhere = {key: (old, new) for key, old, new in changes if not key.startswith("model.backbone.")}
    # mmdet's own mean and deviation of RGB images are the same, so only the neck differs.
    assert elsewhere == {"model.neck.in_channels": ([256, 512, 1024, 2048], ATTO)}
    assert "model.neck.in_channels: [256, 512, 1024, 2048] -> [40, 80, 160, 320]" in str(changes)
    assert "model.backbone.depth: 50 -> (removed)" in str(changes)


def test_heads_without_a_neck_read_the_map_of_their_index():
    cfg = plug_backbone(read("mmseg::knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py"), "atto")
    head = cfg.model.decode_head.kernel_generate_head
    assert (head.in_channels, head.in_index) == (320, 3)
    # 512 is a width of ResNet-50 too, but these layers read the map of kernels.
    assert [stage.in_channels for stage in cfg.model.decode_head.kernel_update_head] == [512, 512, 512]
    assert (cfg.model.auxiliary_head.in_channels, cfg.model.auxiliary_head.in_index) == (160, 2)


def test_full_resolution_output_becomes_the_finest_map():
    """U-Net returns its maps from coarse to fine; ConvNeXt's finest has stride 4."""
    cfg = plug_backbone(read("mmseg::unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py"), "atto")
    assert cfg.model.backbone.out_indices == (0, 1, 2)
    assert (cfg.model.decode_head.in_channels, cfg.model.decode_head.in_index) == (40, 0)


def test_neck_without_channels_hands_on_those_that_it_reads():
    """Re-identification in mmdet pools maps of upright pictures with a window too large for square ones."""
    model = dict(
        type="BaseReID",
        data_preprocessor=dict(type="ReIDDataPreprocessor", mean=[0, 0, 0], std=[1, 1, 1], to_rgb=True),
        backbone=dict(type="ResNet", depth=18, out_indices=(3,)),
        neck=dict(type="GlobalAveragePooling", kernel_size=(8, 4), stride=1),
        head=dict(type="LinearReIDHead", num_fcs=1, in_channels=512, fc_channels=16, out_channels=8),
    )
    cfg = plug_backbone(Config(dict(default_scope="mmdet", model=model)), "atto")
    assert cfg.model.head.in_channels == 320
    assert cfg.model.data_preprocessor.to_rgb
    assert "bgr_to_rgb" not in cfg.model.data_preprocessor


def test_pretrained_weights_and_layer_decay_are_asked_for():
    cfg = plug_backbone(read(RETINANET), "atto", "timm:convnext_atto.d2_in1k", layer_decay=0.9, drop_path_rate=0.1)
    assert cfg.model.backbone.init_cfg == dict(type="Pretrained", checkpoint="timm:convnext_atto.d2_in1k")
    assert cfg.model.backbone.drop_path_rate == 0.1
    assert cfg.optim_wrapper.optimizer.type == "AdamW"
    assert cfg.optim_wrapper.paramwise_cfg.decay_rate == 0.9


@MODELS.register_module()
class SumNeck(nn.Module):
    """A user's own neck: it brings all maps to one width and adds the coarser ones to the finest."""

    def __init__(self, in_channels, width):
        super().__init__()
        self.projections = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in in_channels)

    def forward(self, maps):
        first, *rest = [project(x) for project, x in zip(self.projections, maps, strict=True)]
        return (first + sum(nn.functional.interpolate(x, first.shape[2:]) for x in rest),)


def test_custom_neck_that_reads_in_channels_plugs():
    cfg = Config(read("mmseg::fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py").to_dict())
    cfg.model.neck = dict(type="mmengine.SumNeck", in_channels=[256, 512, 1024, 2048], width=32)
    cfg.model.decode_head.update(in_channels=32, in_index=0)
    cfg.model.auxiliary_head.update(in_channels=32, in_index=0)
    cfg = plug_backbone(cfg, "atto")
    assert cfg.model.neck.in_channels == ATTO
    assert cfg.model.decode_head.in_channels == 32
    noise_runs.shrink(cfg)
    model = MODELS.build(cfg.model)
    noise_runs.training_step(model, noise_runs.segmentation_batch(cfg))
    noise_runs.check_gradient(model)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "mmdet::cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py",
            r"model\.backbone \(HourglassNet\) cannot be replaced: the detector reads maps of the strides \[4, 4\]",
        ),
        (
            "mmdet::detectors/detectors_htc-r50_1x_coco.py",
            # The neck runs the backbone again, on the image that this backbone returns first.
            r"model\.backbone \(DetectoRS_ResNet\) cannot be replaced: .*\[1, 4, 8, 16, 32\]",
        ),
        (
            "mmseg::ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py",
            # The head has a separate branch for the second map, which only exists in training.
            r"model\.backbone \(DDRNet\) cannot be replaced: .*\[64, 128\] in training and \[128\] in inference",
        ),
        (
            "mmseg::dpt/dpt_vit-b16_8xb2-160k_ade20k-512x512.py",
            r"model\.backbone \(VisionTransformer\) cannot be replaced: it returns something else than feature maps",
        ),
    ],
)
def test_what_cannot_be_rewired_is_named(name, message):
    with pytest.raises(ValueError, match=message):
        plug_backbone(read(name), "atto")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plug_backbone(Config(dict(model={})), "tinny"), "Did you mean 'tiny'"),
        (lambda: plug_backbone(Config(dict(model={})), "tiny", drop_path=0.1), "Did you mean 'drop_path_rate'"),
        (lambda: plug_backbone(Config(dict(model={})), "tiny"), "model has no backbone"),
        (lambda: parse_backbone("convnxt-tiny"), "Did you mean convnext-"),
        (lambda: read_config("mmdet::retinanet/retinant_r50_fpn_1x_coco.py"), f"Did you mean {RETINANET}"),
        (lambda: read_config("mmdett::a.py"), "it must be convnext_dense, mmdet or mmseg"),
    ],
)
def test_wrong_name_answers_with_the_nearest(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_backbone_name_of_v2_brings_its_arguments():
    assert parse_backbone("convnextv2-base") == ("base", dict(use_grn=True, layer_scale_init_value=0.0))


# mmdet's own config, made small only by options: two iterations of two images of at most 64 pixels.
SMALL_RETINANET = {
    "train_cfg.max_epochs": 1,
    "train_dataloader.batch_size": 2,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "+train_dataloader.dataset.indices": 4,
    "train_dataloader.dataset.pipeline.2.scale": "(64,64)",
    "val_dataloader.num_workers": 0,
    "val_dataloader.persistent_workers": False,
    "val_dataloader.dataset.pipeline.1.scale": "(64,64)",
}


@pytest.fixture
def train_retinanet(own_folder, tmp_path, monkeypatch, capfd):
    """Run tools/train.py with weights for the backbone; return its exit code and its output."""

    def train(weights):
        options = [f"{key}={value}" for key, value in SMALL_RETINANET.items()]
        command = ["tools/train.py", RETINANET, "--backbone", "convnext-atto", "--backbone-weights", weights]
        command += ["--data", own_folder, "--work-dir", tmp_path / "run", "--cfg-options", *options]
        monkeypatch.setattr(sys, "argv", [str(word) for word in command])
        code = 0
        try:
            runpy.run_path(str(ROOT / "tools/train.py"), run_name="__main__")
        except SystemExit as end:
            code = end.code
        return code, "".join(capfd.readouterr())

    return train


def test_stock_config_trains_on_own_data_from_weights_of_timm(train_retinanet, tmp_path):
    timm_model = timm.create_model("convnext_atto")
    torch.save(timm_model.state_dict(), tmp_path / "atto.pth")
    code, printed = train_retinanet(tmp_path / "atto.pth")
    assert code in (None, 0), printed
    assert "model.backbone.type: 'ResNet' -> 'convnext_dense.ConvNeXt'" in printed
    assert "atto.pth: 8 output norms are new, 0 missing, 0 of another shape" in printed
    trained = read_checkpoint(tmp_path / "run/epoch_1.pth")
    assert trained["meta"]["iter"] == 2
    weight = trained["state_dict"]["backbone.downsample_layers.0.0.weight"]
    # mmdet's learning rate of 0.01, in its warm-up, moves a weight by far less in two iterations.
    torch.testing.assert_close(weight, timm_model.stem[0].weight.detach(), rtol=0, atol=1e-2)
    assert not weight.equal(timm_model.stem[0].weight)


def test_weights_of_another_size_are_refused(train_retinanet, tmp_path):
    code, printed = train_retinanet(ROOT / "tests/fixtures/timm_v1.pth")
    assert code not in (None, 0)
    assert re.search(r"Could load only .* tensors from .*timm_v1\.pth.*Nothing was loaded", printed)
    assert not list(tmp_path.glob("run/*.pth"))


def test_tool_writes_a_config_that_stands_alone(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.py"
    monkeypatch.setattr(sys, "argv", ["tools/plug.py", RETINANET, str(out), "--arch", "atto"])
    runpy.run_path(str(ROOT / "tools/plug.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "model.backbone.type: 'ResNet' -> 'convnext_dense.ConvNeXt'" in printed
    assert "_base_ =" not in out.read_text()
    assert read_config(out).model.neck.in_channels == ATTO
