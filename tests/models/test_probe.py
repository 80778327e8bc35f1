"""The probe distinguishes trained weights (from the official code) from random ones (drawn by torch)."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from convnext_dense.models import ConvNeXt
from convnext_dense.models.probe import fixed_image, probe_checkpoint

DATA = Path(__file__).parents[1] / "fixtures"


def rows_of(text):
    return [[float(number) for number in line.split()] for line in text.splitlines() if line[:1] in "0123"]


def test_table_has_the_activations_that_torchvisions_network_gives_for_the_fixed_image():
    text = probe_checkpoint(DATA / "torchvision.pth")
    assert "torchvision.pth: layout torchvision, ConvNeXt with depths 2, 1, 3, 1; channels 8, 16, 32, 64\n" in text
    assert text.endswith("this looks like a trained network.")
    settings = [
        torchvision.models.convnext.CNBlockConfig(*numbers)
        for numbers in ((8, 16, 2), (16, 32, 1), (32, 64, 3), (64, None, 1))
    ]
    network = torchvision.models.ConvNeXt(settings, num_classes=11).eval()
    network.load_state_dict(torch.load(DATA / "torchvision.pth", weights_only=True))
    x_nchw, expected = fixed_image(3), []
    with torch.no_grad():
        for number, layer in enumerate(network.features):
            x_nchw = layer(x_nchw)
            if number % 2:
                expected.append([number // 2, x_nchw.mean().item(), x_nchw.std().item()])
    np.testing.assert_allclose([row[:3] for row in rows_of(text)], expected, atol=1e-4)


def test_random_weights_beside_it_are_those_of_the_paper():
    """With layer scale 1e-6, the output of the first stage is that of the stem's LayerNorm."""
    first = rows_of(probe_checkpoint(DATA / "official_v1.pth"))[0]
    np.testing.assert_allclose(first[3:5], [0.0, 1.0], atol=0.01)


@pytest.mark.parametrize("version", [{}, dict(use_grn=True, layer_scale_init_value=0.0)])
def test_other_random_weights_look_untrained(tmp_path, version):
    torch.manual_seed(7)
    torch.save(ConvNeXt("atto", **version).state_dict(), tmp_path / "random.pth")
    text = probe_checkpoint(tmp_path / "random.pth")
    assert text.endswith("this looks like an untrained network.")
    assert ("ConvNeXt V2 atto" in text) == ("use_grn" in version)


def test_broken_weights_are_called_broken(tmp_path):
    weights = ConvNeXt("atto").state_dict()
    weights["stages.1.0.pwconv1.weight"].fill_(float("nan"))
    torch.save(weights, tmp_path / "broken.pth")
    assert probe_checkpoint(tmp_path / "broken.pth").endswith("this network does not work.")


def test_isotropic_file_is_refused(tmp_path):
    torch.save(
        {"stem.weight": torch.rand(4, 3, 16, 16), "blocks.0.dwconv.weight": torch.rand(4, 1, 7, 7)}, tmp_path / "a.pth"
    )
    with pytest.raises(ValueError, match=r"a\.pth is an isotropic ConvNeXt with depths 1; channels 4"):
        probe_checkpoint(tmp_path / "a.pth")


def test_probe_leaves_the_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    probe_checkpoint(DATA / "official_v1.pth")
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("in_channels", [1, 3, 5])
def test_image_is_fixed_and_normalised(in_channels):
    image = fixed_image(in_channels)
    assert image.shape == (1, in_channels, 224, 224)
    assert torch.equal(image, fixed_image(in_channels))
    torch.testing.assert_close(image.mean((0, 2, 3)), torch.zeros(in_channels), atol=1e-5, rtol=0)
    torch.testing.assert_close(image.std((0, 2, 3)), torch.ones(in_channels), atol=1e-4, rtol=0)
