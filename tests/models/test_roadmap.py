"""The road from ResNet to ConvNeXt. Accuracies and parameters come from arXiv 2201.03545v2, tables 9 to 11
(published.json); MACs are held against it by the tests of the tables; features of the first step from
torchvision's ResNet-50; those of the last step from ConvNeXt, which other tests hold against the official code."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from convnext_dense.data.shapes.scenes import CLASS_NAMES, split_scene
from convnext_dense.description import count_parameters
from convnext_dense.description.published import read_published
from convnext_dense.models import ConvNeXt, RoadmapNet
from convnext_dense.models.roadmap import REGIMES, STEPS

PUBLISHED = read_published()["roadmap"]
TARGETS = {"resnet50": "tiny", "resnet200": "base"}

each_step = pytest.mark.parametrize("step", STEPS)


def build_on_meta(step: str, regime: str) -> RoadmapNet:
    with torch.device("meta"):
        return RoadmapNet(step, regime, output_norms="none").eval()


def test_steps_are_those_of_the_paper_in_its_order():
    for regime in REGIMES:
        assert [step for step in PUBLISHED[regime] if step != "source"] == list(STEPS)


@pytest.mark.parametrize("step", PUBLISHED["params_M"]["resnet50"])
def test_ends_of_the_road_have_the_published_parameters(step):
    model = build_on_meta(step, "resnet50")
    head = 1000 * model.channels[-1] + 1000 + 2 * model.channels[-1] * model.ends_with_norm
    millions = (count_parameters(model) + head) / 1e6
    assert millions == pytest.approx(PUBLISHED["params_M"]["resnet50"][step], abs=0.05)


def test_first_step_is_torchvisions_resnet50():
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(weights=None).eval()
    ours = RoadmapNet("original", output_norms="none").eval()
    for module in theirs.modules():  # otherwise batch norm is an identity
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.0)
    weights = [tensor for name, tensor in theirs.state_dict().items() if not name.startswith("fc.")]
    ours.load_state_dict(dict(zip(ours.state_dict(), weights, strict=True)))
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        features = ours(image)
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
        for feature, layer in zip(features, (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4), strict=True):
            x = layer(x)
            torch.testing.assert_close(feature, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("regime", REGIMES)
def test_last_step_has_the_parameters_of_convnext(regime):
    with torch.device("meta"):
        convnext = ConvNeXt(TARGETS[regime])
        roadmap = RoadmapNet("separate_downsampling", regime)
    shapes = {name: tensor.shape for name, tensor in convnext.state_dict().items()}
    assert {name: tensor.shape for name, tensor in roadmap.state_dict().items()} == shapes


def test_last_step_gives_the_features_of_convnext():
    torch.manual_seed(0)
    convnext = ConvNeXt("tiny", layer_scale_init_value=1.0).eval()
    roadmap = RoadmapNet("separate_downsampling").eval()
    roadmap.load_state_dict(convnext.state_dict())
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for ours, theirs in zip(roadmap(image), convnext(image), strict=True):
            assert torch.equal(ours, theirs)
    rates = [block.drop_path.drop_prob for stage in RoadmapNet("gelu", drop_path_rate=0.17).stages for block in stage]
    assert rates == pytest.approx([0.01 * block for block in range(18)])  # 18 blocks, 17 steps


@pytest.mark.parametrize(
    ("regime", "step"),
    # The other steps of the ResNet-200 regime only differ from these in depth and width.
    [*(("resnet50", step) for step in STEPS), ("resnet200", "stage_ratio"), ("resnet200", "gelu")],
)
def test_every_step_emits_four_maps_that_upernet_takes(regime, step):
    model = RoadmapNet(step, regime, width_factor=1 / 8).eval()
    head = upernet_head(model.channels)
    with torch.no_grad():
        features = model(torch.rand(1, 3, 64, 96))
        logits = head(features)
    assert [tuple(feature.shape) for feature in features] == [
        (1, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(model.channels, (4, 8, 16, 32), strict=True)
    ]
    assert logits.shape == (1, 150, 16, 24)


def upernet_head(channels: tuple[int, ...]) -> nn.Module:
    from mmseg.models.decode_heads import UPerHead

    return UPerHead(
        in_channels=list(channels),
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=16,
        num_classes=150,
        norm_cfg=dict(type="BN"),
        align_corners=False,
    ).eval()


def shape_crops(num_crops: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Crop and scale the largest shape of each generated scene: images (N, 3, size, size) and class indices."""
    images, labels = [], []
    index = 0
    while len(images) < num_crops:
        scene = split_scene("train", index, seed=0, image_size=(96, 96))
        index += 1
        shapes = [shape for shape in scene.objects if not shape.is_crowd]
        if not shapes:
            continue
        shape = max(shapes, key=lambda each: each.mask.sum())
        x, y, width, height = shape.box
        crop = torch.from_numpy(np.ascontiguousarray(scene.image[y : y + height, x : x + width])).permute(2, 0, 1)
        images.append(nn.functional.interpolate(crop[None].float(), (size, size), mode="bilinear")[0])
        labels.append(shape.class_index)
    pixels = torch.stack(images)
    return (pixels - pixels.mean()) / pixels.std(), torch.tensor(labels)


@pytest.fixture(scope="module")
def crops():
    return shape_crops(16, 48)


@each_step
def test_every_step_learns_the_shapes(step, crops):
    """With an eighth of the width and all crops in every batch, the loss falls to half of that of guessing."""
    torch.manual_seed(0)
    images, labels = crops
    backbone = RoadmapNet(step, width_factor=1 / 8, output_norms="none")
    head_norm = nn.LayerNorm(backbone.channels[-1]) if backbone.ends_with_norm else nn.Identity()
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head_norm, nn.Linear(backbone.channels[-1], 6))
    assert len(CLASS_NAMES) == 6
    model = nn.Sequential(backbone, head)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.05)
    losses = []
    for _ in range(60):
        loss = nn.functional.cross_entropy(head(backbone(images)[-1]), labels)
        losses.append(loss.item())
        if losses[-1] < losses[0] / 2:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2, f"from {losses[0]:.3f} to {losses[-1]:.3f}"


def test_norm_eval_keeps_the_running_statistics():
    image = torch.rand(2, 3, 64, 64)
    for norm_eval in (False, True):
        model = RoadmapNet("stage_ratio", width_factor=1 / 8, norm_eval=norm_eval).train()
        before = model.downsample_layers[0][1].running_mean.clone()
        model(image)
        assert torch.equal(before, model.downsample_layers[0][1].running_mean) is norm_eval


def test_layer_decay_knows_the_blocks_of_every_step():
    """Ids of arXiv 2201.03545, appendix A.3, for nine blocks in stage 2: the head has id 7."""
    for step in ("depthwise", "separate_downsampling"):
        model = RoadmapNet(step, width_factor=1 / 8)
        ids = {name: model.get_layer_depth(name) for name, _ in model.named_parameters()}
        assert {layer_id for layer_id, _ in ids.values()} == set(range(8))
        assert {num_layers for _, num_layers in ids.values()} == {8}
        assert {ids[name][0] for name in ids if name.startswith("stages.2.3.")} == {4}


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        (dict(step="bigger"), "step='bigger' is not on the road; the steps are original, enhanced_recipe"),
        (dict(step="gelu", regime="resnet101"), "regime='resnet101' must be one of resnet50, resnet200"),
        (dict(step="gelu", width_factor=0.001), "width_factor=0.001 leaves no channels of the width 96"),
        (dict(step="gelu", output_norms="some"), "output_norms='some' must be one of"),
    ],
)
def test_bad_arguments_are_named(kwargs, text):
    with pytest.raises(ValueError, match=text):
        RoadmapNet(**kwargs)
