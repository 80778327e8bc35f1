"""The backbone. Expected features come from the official implementation (tests/fixtures/official_v1.npz, of depths
2, 1, 3, 1 and widths 8, 16, 32, 64); parameter counts from arXiv 2201.03545 and torchvision's num_params."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from convnext_dense.checkpoints import load_weights
from convnext_dense.description.published import read_published
from convnext_dense.layers import GlobalResponseNorm
from convnext_dense.models import ConvNeXt

DATA = Path(__file__).parents[1] / "fixtures"
SMALL = dict(depths=(2, 1, 3, 1), channels=(8, 16, 32, 64))

# torchvision's num_params (convnext_tiny: 28,589,128 ...) without the head: the final LayerNorm (2C) and the
# classifier (1000C + 1000). XL from arXiv 2201.03545, table 1 (350 M), computed in the same way. The small ones are
# timm's convnext_atto ... convnext_nano: 3.70, 5.22, 9.05, 15.59 M.
NUM_PARAMS = {
    "tiny": 28_589_128,
    "small": 50_223_688,
    "base": 88_591_464,
    "large": 197_767_336,
    "xlarge": 350_196_968,
}
TIMM_MILLIONS = {"atto": 3.70, "femto": 5.22, "pico": 9.05, "nano": 15.59}

V2 = read_published()["architectures_v2"]
COPIES = (torch.ops.aten.clone, torch.ops.aten.copy_, torch.ops.aten._to_copy, torch.ops.aten.contiguous)


def head_size(channels: int) -> int:
    return 2 * channels + 1000 * channels + 1000


def build_on_meta(arch: str) -> ConvNeXt:
    with torch.device("meta"):
        return ConvNeXt(arch, output_norms="none")


@pytest.mark.parametrize("arch", NUM_PARAMS)
def test_number_of_parameters_is_torchvisions(arch):
    model = build_on_meta(arch)
    total = sum(param.numel() for param in model.parameters())
    assert total + head_size(model.channels[-1]) == NUM_PARAMS[arch]


@pytest.mark.parametrize("arch", TIMM_MILLIONS)
def test_number_of_parameters_is_timms(arch):
    model = build_on_meta(arch)
    total = sum(param.numel() for param in model.parameters()) + head_size(model.channels[-1])
    assert total / 1e6 == pytest.approx(TIMM_MILLIONS[arch], abs=0.005)


@pytest.mark.parametrize("arch", V2)
def test_v2_has_the_published_number_of_parameters(arch):
    """arXiv 2301.00808, tables 14 and 15; the tolerance is half of the last printed digit."""
    with torch.device("meta"):
        model = ConvNeXt(arch, use_grn=True, layer_scale_init_value=0.0, output_norms="none")
    assert (list(model.depths), list(model.channels)) == (V2[arch]["depths"], V2[arch]["channels"])
    millions = (sum(param.numel() for param in model.parameters()) + head_size(model.channels[-1])) / 1e6
    printed = V2[arch]["params_M"]
    assert millions == pytest.approx(printed, abs=0.5 if printed == round(printed) else 0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("brightness", [1, 100])
def test_v2_under_autocast_is_finite_and_close_to_float32(dtype, brightness):
    torch.manual_seed(0)
    model = ConvNeXt(SMALL, use_grn=True, layer_scale_init_value=0.0).eval()
    for name, param in model.named_parameters():  # initially GRN is an identity, and the branches are weak
        if ".grn." in name:
            torch.nn.init.normal_(param, std=0.5)
        elif param.dim() > 1:
            torch.nn.init.normal_(param, std=param[0].numel() ** -0.5)
    image = brightness * torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        expected = model(image)
        with torch.autocast("cpu", dtype):
            features = model(image)
    for feature, full in zip(features, expected, strict=True):
        assert torch.isfinite(feature).all()
        assert (feature.float() - full).norm() / full.norm() < 2e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_global_response_norm_reads_half_precision_in_float32(dtype):
    """Over 64 x 64 positions of 300 the sum of squares is 3.7e8, far above the 65504 of float16."""
    torch.manual_seed(0)
    norm = GlobalResponseNorm(8)
    torch.nn.init.normal_(norm.gamma)
    x_nhwc = (300 * torch.rand(1, 64, 64, 8)).to(dtype)
    with torch.autocast("cpu", dtype):
        result = norm(x_nhwc)
    x = x_nhwc.double().numpy()
    response = np.sqrt((x**2).sum(axis=(1, 2), keepdims=True))
    gamma = norm.gamma.detach().double().numpy()
    expected = gamma * x * response / (response.mean(axis=-1, keepdims=True) + 1e-6) + x
    assert result.dtype == dtype
    np.testing.assert_allclose(result.detach().double().numpy(), expected, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_dinov3_policy_normalises_the_last_output_only():
    """facebookresearch/dinov3, models/convnext.py: norms 0 to 2 are identities, norm 3 is the final norm."""
    torch.manual_seed(0)
    model, raw = ConvNeXt(SMALL, output_norms="last").eval(), ConvNeXt(SMALL, output_norms="none").eval()
    raw.load_state_dict(model.state_dict(), strict=False)
    torch.nn.init.normal_(model.norm3.weight)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        *shallow, deep = model(image)
        *raw_shallow, raw_deep = raw(image)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(shallow, raw_shallow, strict=True))
    expected = torch.nn.functional.layer_norm(raw_deep.permute(0, 2, 3, 1), (64,), model.norm3.weight, eps=1e-6)
    torch.testing.assert_close(deep, expected.permute(0, 3, 1, 2), rtol=1e-5, atol=1e-5)


def test_official_weights_give_official_features():
    golden = np.load(DATA / "official_v1.npz")
    model = ConvNeXt(SMALL, output_norms="none").eval()
    load_weights(model, DATA / "official_v1.pth")
    with torch.no_grad():
        features = model(torch.from_numpy(golden["image"]))
    for stage, feature in enumerate(features):
        np.testing.assert_allclose(feature.numpy(), golden[f"raw{stage}"], rtol=1e-5, atol=1e-5)


def test_official_weights_give_official_logits():
    """The classifier's own norm and head, applied by hand to the last feature map."""
    golden = np.load(DATA / "official_v1.npz")
    weights = torch.load(DATA / "official_v1.pth", weights_only=True)["model"]
    model = ConvNeXt(SMALL, output_norms="none").eval()
    load_weights(model, DATA / "official_v1.pth")
    with torch.no_grad():
        pooled = model(torch.from_numpy(golden["image"]))[-1].mean(dim=(2, 3))
        pooled = torch.nn.functional.layer_norm(pooled, (64,), weights["norm.weight"], weights["norm.bias"], 1e-6)
        logits = pooled @ weights["head.weight"].T + weights["head.bias"]
    np.testing.assert_allclose(logits.numpy(), golden["logits"], rtol=1e-5, atol=1e-5)


def test_output_norm_normalises_channels():
    golden = np.load(DATA / "official_v1.npz")
    model = ConvNeXt(SMALL).eval()
    load_weights(model, DATA / "official_v1.pth")
    with torch.no_grad():
        features = model(torch.from_numpy(golden["image"]))
    for stage, feature in enumerate(features):
        raw = golden[f"raw{stage}"].astype(np.float64)
        expected = (raw - raw.mean(1, keepdims=True)) / np.sqrt(raw.var(1, keepdims=True) + 1e-6)
        np.testing.assert_allclose(feature.numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (1, 3), (2,)])
def test_features_have_the_shapes_of_their_strides(out_indices):
    model = ConvNeXt(SMALL, out_indices=out_indices)
    features = model(torch.rand(2, 3, 75, 98))
    # 75 x 98 is floored by each stride: 4 -> 18 x 24, 8 -> 9 x 12, 16 -> 4 x 6, 32 -> 2 x 3
    sizes = {0: (18, 24), 1: (9, 12), 2: (4, 6), 3: (2, 3)}
    assert [tuple(feature.shape) for feature in features] == [
        (2, SMALL["channels"][stage], *sizes[stage]) for stage in out_indices
    ]
    assert model.strides == (4, 8, 16, 32)


def test_stochastic_depth_grows_linearly_over_blocks():
    model = ConvNeXt("tiny", drop_path_rate=0.34)  # 18 blocks, 17 steps of 0.02
    rates = [block.drop_path.drop_prob for blocks in model.stages for block in blocks]
    assert rates == pytest.approx([0.02 * block for block in range(18)])


def test_frozen_stages_stay_frozen_in_train_mode():
    model = ConvNeXt(SMALL, frozen_stages=2, drop_path_rate=0.5)
    frozen = {name for name, param in model.named_parameters() if not param.requires_grad}
    expected = ("downsample_layers.0.", "downsample_layers.1.", "stages.0.", "stages.1.")
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith(expected)}
    model.train()
    assert not model.stages[1].training
    assert not model.stages[1][0].drop_path.training
    assert model.stages[2].training
    assert not any(param.requires_grad for param in model.stages[0].parameters())


def test_parameter_paths_are_the_official_ones():
    names = set(ConvNeXt(SMALL).state_dict())
    official = torch.load(DATA / "official_v1.pth", weights_only=True)["model"]
    assert {name for name in official if not name.startswith(("norm.", "head."))} == {
        name for name in names if not name.startswith("norm")
    }
    assert {f"norm{stage}.weight" for stage in range(4)} <= names


def test_v2_has_grn_in_the_place_of_layer_scale():
    model = ConvNeXt(SMALL, use_grn=True, layer_scale_init_value=0.0)
    assert tuple(model.stages[0][0].grn.gamma.shape) == tuple(model.stages[0][0].grn.beta.shape) == (32,)
    assert not any(name.endswith(".gamma") for name in model.state_dict() if ".grn." not in name)
    assert {name.split(".")[-1] for name in model.state_dict() if ".grn." in name} == {"gamma", "beta"}


class CountCopies(TorchDispatchMode):
    """Counts the operators that copy a tensor to another layout or type."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += function.overloadpacket in COPIES
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("training", [False, True])
def test_no_block_copies_a_map(training):
    """After the stem, maps are channels-last and the permutations in a block are views, unlike in the official code."""
    model = ConvNeXt(SMALL, layer_scale_init_value=1.0).train(training)
    with torch.set_grad_enabled(training):
        feature = model.downsample_layers[0](torch.rand(2, 3, 64, 64))
        for block in model.stages[0]:
            assert feature.is_contiguous(memory_format=torch.channels_last)
            with CountCopies() as copies:
                feature = block(feature)
            assert copies.number == 0
        # A map in torch's default layout does have to be copied, which shows that copies are seen.
        with CountCopies() as copies:
            block(feature.contiguous())
        assert copies.number > 0


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        (dict(arch="tinny"), r"arch='tinny' is not a ConvNeXt variant.*Did you mean 'tiny'\?"),
        (dict(arch=dict(depths=(1, 1, 1), channels=(8, 8, 8))), "four depths and four channels"),
        (dict(arch=dict(depths=(1, 1, 1, 1))), "exactly the keys depths and channels"),
        (dict(out_indices=(0, 4)), r"out_indices=\(0, 4\) must name stages"),
        (dict(out_indices=()), r"out_indices=\(\) must name stages"),
        (dict(out_indices=(2, 1)), "must be increasing"),
        (dict(output_norms="some"), "output_norms='some' must be one of all, last, none"),
        (dict(frozen_stages=5), r"frozen_stages=5 must be in 0\.\.4"),
        (dict(drop_path_rate=1.0), r"drop_path_rate=1.0 is not in \[0, 1\)"),
        (dict(with_cp="block"), "with_cp='block' must be False, True or 'mlp'"),
    ],
)
def test_bad_arguments_are_named(kwargs, text):
    with pytest.raises(ValueError, match=text):
        ConvNeXt(**{"arch": SMALL, **kwargs})


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_gpu
def test_gpu_gives_the_official_features():
    golden = np.load(DATA / "official_v1.npz")
    model = ConvNeXt(SMALL, output_norms="none").eval()
    load_weights(model, DATA / "official_v1.pth")
    with torch.no_grad():
        features = model.cuda()(torch.from_numpy(golden["image"]).cuda())
    for stage, feature in enumerate(features):
        np.testing.assert_allclose(feature.cpu().numpy(), golden[f"raw{stage}"], rtol=1e-3, atol=1e-3)  # TF32


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_trains_with_finite_gradients(dtype):
    model = ConvNeXt("atto", layer_scale_init_value=1.0).cuda().train()
    with torch.autocast("cuda", dtype):
        features = model(torch.rand(2, 3, 96, 128, device="cuda"))
        loss = sum(feature.float().square().mean() for feature in features)
    loss.backward()
    assert all(torch.isfinite(param.grad).all() for param in model.parameters())
