"""The masked autoencoder against a reference that walks over visible positions one by one."""

import math

import pytest
import torch
from torch.nn.functional import gelu, layer_norm

from benchmarks.masked_encoding import encode_whole_maps
from convnext_dense.errors import UserError
from convnext_dense.models import MaskedAutoencoder
from convnext_dense.models.masked_autoencoder import to_images, to_patches
from convnext_dense.registry import MODELS

SMALL = dict(
    type="convnext_dense.ConvNeXt",
    arch=dict(depths=(1, 2, 1, 1), channels=(4, 8, 12, 16)),
    use_grn=True,
    layer_scale_init_value=0.0,
)
V1 = dict(SMALL, use_grn=False, layer_scale_init_value=0.5)


def build(backbone=SMALL, **kwargs):
    """A model with random numbers in all weights, GRN's and biases included, which start at zero."""
    torch.manual_seed(0)
    model = MaskedAutoencoder(backbone, decoder_channels=24, **kwargs)
    for param in model.parameters():
        torch.nn.init.normal_(param, std=0.3)
    return model.double()


def sparse_encoding(backbone, image, hidden):
    """The last map of one image (K, H, W) by the definition of a sparse network: a dict of visible positions.

    A convolution sums over the neighbours that are there; everything else knows one position, but for GRN, whose norm
    is over all positions that are there.
    """
    height, width = image.shape[1] // 4, image.shape[2] // 4
    stem, norm = backbone.downsample_layers[0]
    x = {}
    for row in range(height):
        for column in range(width):
            if not hidden[row // 8, column // 8]:
                patch = image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
                value = (stem.weight * patch).sum((1, 2, 3)) + stem.bias
                x[row, column] = layer_norm(value, value.shape, norm.weight, norm.bias, norm.eps)
    for stage, blocks in enumerate(backbone.stages):
        if stage:
            norm, conv = backbone.downsample_layers[stage]
            x = {at: layer_norm(value, value.shape, norm.weight, norm.bias, norm.eps) for at, value in x.items()}
            x = {
                (row, column): conv.bias
                + sum(conv.weight[:, :, i, j] @ x[2 * row + i, 2 * column + j] for i in (0, 1) for j in (0, 1))
                for row, column in {(row // 2, column // 2) for row, column in x}
            }
        for block in blocks:
            x = sparse_block(block, x)
    return x


def sparse_block(block, x):
    hidden = {}
    for row, column in x:
        value = block.dwconv.bias
        for i in range(7):
            for j in range(7):
                neighbour = x.get((row + i - 3, column + j - 3))
                if neighbour is not None:
                    value = value + block.dwconv.weight[:, 0, i, j] * neighbour
        value = layer_norm(value, value.shape, block.norm.weight, block.norm.bias, block.norm.eps)
        hidden[row, column] = gelu(block.pwconv1.weight @ value + block.pwconv1.bias)
    if hasattr(block.grn, "gamma") and x:
        norm = torch.stack(list(hidden.values())).square().sum(0).sqrt()
        scale = norm / (norm.mean() + 1e-6)
        hidden = {at: block.grn.gamma * (v * scale) + block.grn.beta + v for at, v in hidden.items()}
    branch = {at: block.pwconv2.weight @ value + block.pwconv2.bias for at, value in hidden.items()}
    if block.gamma is not None:
        branch = {at: block.gamma * value for at, value in branch.items()}
    return {at: x[at] + branch[at] for at in x}


def masks(*rows):
    return torch.tensor([[[cell == "x" for cell in row] for row in image.split()] for image in rows])


MASKS = {
    "as many": masks("x.x .xx", "..x xx."),
    "different": masks("xxx xx.", "... ..x"),
    "none and all": masks("xxx xxx", "... ..."),
}


@pytest.mark.parametrize("backbone", [SMALL, V1], ids=["V2", "V1"])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_outputs_and_gradients_are_those_of_a_walk_over_visible_positions(backbone, mask):
    model = build(backbone)
    images = torch.randn(2, 3, 64, 96, dtype=torch.double)
    wanted = torch.zeros(2, 16, 2, 3, dtype=torch.double)
    for number in range(2):
        for (row, column), value in sparse_encoding(model.backbone, images[number], mask[number]).items():
            wanted[number, :, row, column] = value
    weights = torch.randn_like(wanted)
    params = list(model.backbone.parameters())
    expected = torch.autograd.grad((wanted * weights).sum(), params)
    result = model.encode(images, mask)
    torch.testing.assert_close(result, wanted, rtol=1e-9, atol=1e-9)
    for (name, _), ours, theirs in zip(
        model.backbone.named_parameters(),
        torch.autograd.grad((result * weights).sum(), params),
        expected,
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8, msg=name)


def test_float32_agrees_with_the_masked_dense_way_at_a_real_width():
    """Zeros at hidden positions before and after every block: the same for V1, where no norm is over the image."""
    torch.manual_seed(0)
    model = MaskedAutoencoder(dict(type="convnext_dense.ConvNeXt", arch="atto", layer_scale_init_value=1.0))
    images = torch.randn(3, 3, 128, 160)
    mask = model.draw_mask(images)
    x = encode_whole_maps(model, images, mask)
    torch.testing.assert_close(model.encode(images, mask), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backbone", [SMALL, V1], ids=["V2", "V1"])
def test_what_is_hidden_changes_nothing(backbone):
    model = build(backbone)
    mask = MASKS["as many"]
    images = torch.randn(2, 3, 64, 96, dtype=torch.double)
    behind = mask[:, None].repeat_interleave(32, 2).repeat_interleave(32, 3)
    other = torch.where(behind, torch.full_like(images, float("nan")), images)
    torch.testing.assert_close(model.encode(images, mask), model.encode(other, mask), rtol=0, atol=0)
    assert (model.encode(images, mask).permute(0, 2, 3, 1)[mask] == 0).all()


def test_without_a_mask_it_is_the_backbone():
    for backbone in (SMALL, dict(SMALL, output_norms="all")):
        model = build(backbone)
        images = torch.randn(2, 3, 64, 96, dtype=torch.double)
        mask = torch.zeros(2, 2, 3, dtype=torch.bool)
        torch.testing.assert_close(model.encode(images, mask), model(images), rtol=1e-10, atol=1e-10)


def test_recomputing_blocks_changes_no_gradient():
    images, mask = torch.randn(2, 3, 64, 96, dtype=torch.double), MASKS["as many"]
    gradients = []
    for with_cp in (False, True, "mlp"):
        model = build(dict(SMALL, with_cp=with_cp))
        model.encode(images, mask).square().sum().backward()
        gradients.append([param.grad for param in model.backbone.parameters()])
    for others in gradients[1:]:
        torch.testing.assert_close(others, gradients[0], rtol=1e-9, atol=1e-9)


def test_60_percent_of_the_patches_are_hidden_in_every_image():
    """224 pixels are 7 x 7 patches, of which int(49 * 0.4) = 19 stay."""
    model = build()
    torch.manual_seed(3)
    mask = model.draw_mask(torch.zeros(64, 3, 224, 224))
    assert mask.shape == (64, 7, 7)
    assert (mask.flatten(1).sum(1) == 30).all()
    shares = mask.double().mean(0)  # over 64 images; standard deviation sqrt(.61 * .39 / 64) = .061
    assert (shares - 30 / 49).abs().max() < 4 * 0.061


def test_the_loss_is_the_error_of_normalised_pixels_of_hidden_patches():
    model = build()
    images = torch.randn(2, 3, 64, 96, dtype=torch.double) * 3 + 1
    torch.manual_seed(5)
    mask = model.draw_mask(images)
    pred = model.decode(model.encode(images, mask), mask)
    total, number = 0.0, 0
    for n, row, column in mask.nonzero().tolist():
        patch = images[n, :, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        target = (patch - patch.mean()) / math.sqrt(patch.var() + 1e-6)
        # pixel by pixel, row by row, with the three channels of a pixel beside each other
        total += (pred[n, row, column] - target.permute(1, 2, 0).flatten()).square().mean()
        number += 1
    torch.manual_seed(5)
    torch.testing.assert_close(model(images, mode="loss")["loss"], total / number, rtol=1e-5, atol=1e-5)


def test_the_decoder_sees_mask_tokens_where_patches_are_hidden():
    """forward_decoder of the official models/fcmae.py: x * (1 - mask) + mask_token * mask."""
    model = build()
    mask, encoded = MASKS["as many"], torch.randn(2, 16, 2, 3, dtype=torch.double)
    hidden = mask[:, None].double()
    x = model.proj(encoded) * (1 - hidden) + model.mask_token * hidden
    wanted = model.pred(model.decoder(x))
    torch.testing.assert_close(model.decode(encoded, mask), wanted.permute(0, 2, 3, 1))


@pytest.mark.parametrize("normalises_targets", [True, False])
def test_a_perfect_prediction_is_a_loss_of_zero_and_the_image_itself(normalises_targets, monkeypatch):
    model = build(normalises_targets=normalises_targets)
    images = torch.randn(2, 3, 64, 96, dtype=torch.double) * 2 + 5
    patches = to_patches(images)
    if normalises_targets:
        patches = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    monkeypatch.setattr(model, "decode", lambda encoded, mask: patches)
    assert model(images, mode="loss")["loss"].item() < 1e-10
    for image, sample in zip(images, model(images, mode="predict"), strict=True):
        torch.testing.assert_close(sample["reconstruction"], image)


def test_seeds_decide_the_masks():
    model = build()
    images = torch.zeros(3, 3, 224, 224)
    first = model.draw_mask(images, torch.tensor([7, 8, 7]))
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])
    assert torch.equal(model.draw_mask(images[:1], torch.tensor([8]))[0], first[1])


def test_every_weight_learns():
    model = build()
    model(torch.randn(2, 3, 64, 96, dtype=torch.double), mode="loss")["loss"].backward()
    for name, param in model.named_parameters():
        assert param.grad is not None, name
        assert param.grad.abs().sum() > 0, name


def test_patches_of_an_image_come_back():
    images = torch.arange(2 * 3 * 64 * 96.0).view(2, 3, 64, 96)
    patches = to_patches(images)
    assert patches.shape == (2, 2, 3, 3072)
    # the second pixel of the first patch has its three channels 1 after the first pixel's
    assert patches[0, 0, 0, 3:6].tolist() == images[0, :, 0, 1].tolist()
    assert to_images(patches, 3).equal(images)


def test_a_reconstruction_keeps_what_is_visible():
    model = build()
    images = torch.randn(2, 3, 64, 96, dtype=torch.double)
    samples = model(images, mode="predict")
    assert len(samples) == 2
    for image, sample in zip(images, samples, strict=True):
        hidden = sample["mask"][None].repeat_interleave(32, 1).repeat_interleave(32, 2).expand(3, -1, -1)
        assert sample["reconstruction"][~hidden].equal(image[~hidden])
        assert (sample["reconstruction"][hidden] != image[hidden]).all()


def test_the_decoder_is_the_official_one_in_size():
    """512 wide, one block: 4.4 M weights for atto: proj 320, block 512, pred 32 * 32 * 3."""
    model = MODELS.build(dict(type="convnext_dense.MaskedAutoencoder", backbone=dict(SMALL, arch="atto")))
    block = 512 * 49 + 512 + 2 * 512 + (512 * 2048 + 2048) + 2 * 2048 + (2048 * 512 + 512)
    wanted = (320 * 512 + 512) + 512 + block + (512 * 3072 + 3072)
    decoder = [param for name, param in model.named_parameters() if not name.startswith("backbone.")]
    assert sum(param.numel() for param in decoder) == wanted


def test_frozen_random_stages_are_refused():
    model = build(dict(SMALL, frozen_stages=1))
    with pytest.raises(UserError, match="frozen_stages=1 would keep"):
        model(torch.randn(2, 3, 64, 96, dtype=torch.double), mode="loss")


def test_autocast_changes_the_loss_by_its_rounding_alone():
    model = build(dict(SMALL, arch=dict(depths=(1, 1, 1, 1), channels=(16, 24, 32, 48)))).float()
    images, seeds = torch.randn(2, 3, 64, 96), torch.tensor([1, 2])
    whole = model(images, seeds, mode="loss")["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(images, seeds, mode="loss")["loss"]
    rounded.backward()
    assert rounded.item() == pytest.approx(whole.item(), rel=0.02)
    assert all(torch.isfinite(param.grad).all() for param in model.parameters())


def test_wrong_uses_are_named():
    model = build()
    images = torch.randn(2, 3, 64, 96, dtype=torch.double)
    for call, text in (
        (lambda: model(torch.randn(1, 3, 60, 96)), "multiples of 32"),
        (lambda: model(images, mode="train"), "must be one of tensor, loss, predict"),
        (lambda: model.encode(images, torch.zeros(2, 3, 2, dtype=torch.bool)), r"shape \(2, 2, 3\)"),
        (lambda: model.encode(images, torch.zeros(2, 2, 3)), "booleans"),
        (lambda: build(mask_ratio=1.0), r"not in \(0, 1\)"),
        (lambda: build(dict(type="convnext_dense.RoadmapNet", step="original")), "MaskedAutoencoder needs"),
    ):
        with pytest.raises(UserError, match=text):
            call()
