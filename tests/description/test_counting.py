"""Counters compared with hand calculation."""

import pytest
import torch
from torch import nn

from convnext_dense.description import count_macs, count_parameters, count_saved_bytes, image_on_meta
from convnext_dense.models import ConvNeXt

SMALL = dict(depths=(2, 1, 3, 1), channels=(8, 16, 32, 64))


@pytest.mark.parametrize(
    ("conv", "macs"),
    [
        (dict(in_channels=3, out_channels=8, kernel_size=3, padding=1), 10 * 12 * 8 * 3 * 9),
        (dict(in_channels=3, out_channels=8, kernel_size=2, stride=2), 5 * 6 * 8 * 3 * 4),
        (dict(in_channels=3, out_channels=3, kernel_size=7, padding=3, groups=3), 10 * 12 * 3 * 49),
    ],
)
def test_macs_of_convolutions_match_hand_calculation(conv, macs):
    with torch.device("meta"):
        module = nn.Conv2d(**conv)
    assert count_macs(lambda: module(image_on_meta((10, 12)))) == macs


def test_norms_and_activations_cost_nothing():
    with torch.device("meta"):
        module = nn.Sequential(nn.BatchNorm2d(3), nn.GELU()).eval()
    assert count_macs(lambda: module(image_on_meta((10, 12)))) == 0


def test_shared_parameters_count_once():
    layer = nn.Linear(3, 4)
    assert count_parameters(nn.Sequential(layer, nn.ReLU(), layer)) == 3 * 4 + 4


def test_saved_bytes_are_those_of_inputs_that_gradients_need():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        x = torch.empty(5, 4)
    # Floats of 4 bytes: the input of the first layer; the output of ReLU, which is the input of the second layer too.
    assert count_saved_bytes(model, lambda: model(x)) == 4 * (5 * 4 + 5 * 8)


def test_recomputed_blocks_save_only_their_inputs():
    kept = {}
    for with_cp in (False, True):
        with torch.device("meta"):
            model = ConvNeXt(SMALL, with_cp=with_cp, output_norms="none", out_indices=(0,)).train()
        kept[with_cp] = count_saved_bytes(model, lambda model=model: model(image_on_meta((32, 64))))
    # Floats of 4 bytes: the image; at each of 8 x 16 positions the 8 channels that the stem's LayerNorm reads, its mean
    # and its deviation; the inputs of both blocks, 8 channels each.
    positions = 8 * 16
    assert kept[True] == 4 * (3 * 32 * 64 + positions * (8 + 2 + 2 * 8))
    # Each block: its input 8, what LayerNorm reads 8 and its statistics 2, what it gives out 8, GELU's input 32 and
    # output 32; and, once for all positions, the 8 x 32 weights of the last linear with layer scale in them.
    per_block = positions * (8 + 8 + 2 + 8 + 32 + 32) + 8 * 32
    assert kept[False] == 4 * (3 * 32 * 64 + positions * (8 + 2) + 2 * per_block)
