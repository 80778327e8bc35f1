"""Converted files load strictly into the models of timm, torchvision and transformers, which give our features."""

import importlib.util

import pytest
import timm
import torch
import torchvision
from documented_names import CHANNELS, DATA, DEPTHS

from convnext_dense.checkpoints import convert_checkpoint, convert_state_dict, load_weights
from convnext_dense.models import ConvNeXt

# transformers imports its modules on first use, and some need tokenizers.
needs_transformers = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("transformers", "tokenizers"))),
    reason="transformers is not installed: pip install -e '.[peers]'",
)
SMALL = dict(depths=DEPTHS, channels=CHANNELS)
V2 = dict(use_grn=True, layer_scale_init_value=0.0)


@pytest.fixture(params=["V1", "V2"])
def version(request):
    return request.param


@pytest.fixture
def weights(version, official_v1, official_v2):
    return official_v1 if version == "V1" else official_v2


@pytest.fixture
def ours(version, weights, tmp_path):
    """Our features of an image, and the image."""
    torch.save(weights, tmp_path / "ours.pth")
    model = ConvNeXt(SMALL, output_norms="none", **(V2 if version == "V2" else {})).eval()
    load_weights(model, tmp_path / "ours.pth")
    image = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(image), image


def assert_same_features(theirs, ours):
    assert len(theirs) == len(ours) == 4
    for their, our in zip(theirs, ours, strict=True):
        torch.testing.assert_close(their, our, rtol=1e-5, atol=1e-5)


def test_timm_loads_it_strictly_and_gives_our_features(version, weights, ours):
    features, image = ours
    model = timm.models.convnext.ConvNeXt(
        num_classes=11,
        depths=DEPTHS,
        dims=CHANNELS,
        use_grn=version == "V2",
        ls_init_value=1e-6 if version == "V1" else None,
    ).eval()
    model.load_state_dict(convert_state_dict(weights, "timm"), strict=True)
    with torch.no_grad():
        assert_same_features(model.forward_intermediates(image, intermediates_only=True), features)


@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto", "convnext_tiny", "convnext_tiny_hnf"])
def test_timms_own_sizes_load_with_the_kind_of_mlp_that_timm_builds(name):
    theirs = timm.create_model(name)
    official = convert_state_dict(theirs.state_dict())
    assert official["stages.0.0.pwconv1.weight"].dim() == 2
    written = convert_state_dict(official, "timm")
    assert {key: value.shape for key, value in written.items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }
    theirs.load_state_dict(written, strict=True)


@pytest.mark.parametrize("version", ["V1"], indirect=True)  # torchvision has no V2
def test_torchvision_loads_it_strictly_and_gives_our_features(weights, ours):
    features, image = ours
    settings = [
        torchvision.models.convnext.CNBlockConfig(width, wider, depth)
        for width, wider, depth in zip(CHANNELS, [*CHANNELS[1:], None], DEPTHS, strict=True)
    ]
    model = torchvision.models.ConvNeXt(settings, num_classes=11).eval()
    model.load_state_dict(convert_state_dict(weights, "torchvision"), strict=True)
    maps = []
    with torch.no_grad():
        for number, layer in enumerate(model.features):
            image = layer(image)
            maps += [image] if number % 2 else []
    assert_same_features(maps, features)


@needs_transformers
def test_transformers_loads_it_strictly_and_gives_our_features(version, weights, ours):
    from transformers import (
        ConvNextConfig,
        ConvNextForImageClassification,
        ConvNextV2Config,
        ConvNextV2ForImageClassification,
    )

    config, build = (
        (ConvNextConfig, ConvNextForImageClassification)
        if version == "V1"
        else (ConvNextV2Config, ConvNextV2ForImageClassification)
    )
    features, image = ours
    model = build(config(depths=list(DEPTHS), hidden_sizes=list(CHANNELS), num_labels=11)).eval()
    model.load_state_dict(convert_state_dict(weights, "huggingface"), strict=True)
    with torch.no_grad():
        theirs = model(image, output_hidden_states=True).hidden_states
    assert_same_features(theirs[-4:], features)


@needs_transformers
def test_transformers_backbone_takes_our_output_norms(official_v1):
    from transformers import ConvNextBackbone, ConvNextConfig

    config = ConvNextConfig(depths=list(DEPTHS), hidden_sizes=list(CHANNELS), out_indices=[1, 2, 3, 4])
    theirs = ConvNextBackbone(config).eval()
    ours = ConvNeXt(SMALL).eval()
    theirs.load_state_dict(convert_state_dict(ours.state_dict(), "huggingface"), strict=True)
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for their, our in zip(theirs(image).feature_maps, ours(image), strict=True):
            torch.testing.assert_close(their, our, rtol=1e-5, atol=1e-5)


@needs_transformers
def test_transformers_dinov3_model_is_read_completely(tmp_path):
    from transformers import DINOv3ConvNextConfig, DINOv3ConvNextModel

    theirs = DINOv3ConvNextModel(DINOv3ConvNextConfig(depths=list(DEPTHS), hidden_sizes=list(CHANNELS))).eval()
    with torch.no_grad():
        for param in theirs.parameters():
            param.normal_(std=0.3)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = ConvNeXt(SMALL, output_norms="none").eval()
    report = load_weights(ours, tmp_path / "weights.pth")
    assert (report.layout, report.missing) == ("huggingface_dinov3", ())
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = theirs(image, output_hidden_states=True).hidden_states
        assert_same_features(maps[-4:], ours(image))


@needs_transformers
def test_transformers_reads_a_folder_with_our_file(tmp_path):
    from transformers import ConvNextConfig, ConvNextForImageClassification

    ConvNextConfig(depths=list(DEPTHS), hidden_sizes=list(CHANNELS), num_labels=11).save_pretrained(tmp_path)
    convert_checkpoint(DATA / "timm_v1.pth", tmp_path / "model.safetensors", to="huggingface")
    model, report = ConvNextForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    expected = torch.load(DATA / "timm_v1.pth", weights_only=True)["head.fc.weight"]
    assert torch.equal(model.classifier.weight, expected)
