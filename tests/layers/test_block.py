"""Compares the block with the paper's formula in float64, and tests what it keeps for the backward pass."""

import copy

import pytest
import torch
from torch.nn.functional import conv2d, gelu, layer_norm, linear

from convnext_dense.kernels import precision
from convnext_dense.layers import ConvNeXtBlock
from convnext_dense.layers.linear import ScaledLinear


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_block(channels, **kwargs):
    torch.manual_seed(0)
    block = ConvNeXtBlock(channels, layer_scale_init_value=1.0, **kwargs)
    for seed, param in enumerate(block.parameters()):
        param.data.add_(draw(*param.shape, seed=seed), alpha=0.1)
    return block


def formula(block, x):
    """arXiv 2201.03545, figure 4, with layer scale and residual, on (N, C, H, W)."""
    y = conv2d(x, block.dwconv.weight, block.dwconv.bias, padding=3, groups=x.shape[1]).permute(0, 2, 3, 1)
    y = layer_norm(y, y.shape[-1:], block.norm.weight, block.norm.bias, 1e-6)
    y = gelu(linear(y, block.pwconv1.weight, block.pwconv1.bias))
    y = linear(y, block.pwconv2.weight, block.pwconv2.bias)
    return x + (block.gamma * y).permute(0, 3, 1, 2)


def results(function, block, x):
    x = x.clone().requires_grad_()
    block.zero_grad()
    output = function(x)
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    return [output.detach(), x.grad, *(param.grad.clone() for param in block.parameters())]


# Fewer positions than 4C (the output is scaled), more (the weights are scaled), and so many that they run in pieces.
@pytest.mark.parametrize("size", [(1, 16, 7, 9), (2, 16, 12, 10), (3, 16, 53, 41)])
@pytest.mark.parametrize("rebuild", [False, True])
def test_block_is_the_papers_formula_with_its_gradients(size, rebuild):
    block, x = make_block(16, rebuild_hidden=rebuild), draw(*size)
    exact_block = copy.deepcopy(block).double()
    exact = results(lambda x: formula(exact_block, x), exact_block, x.double())
    for ours, true in zip(results(block, block, x), exact, strict=True):
        assert (ours.double() - true).norm() <= 2e-6 * true.norm()


def test_hidden_layer_that_is_rebuilt_gives_the_same_gradients_for_a_fifth_of_the_memory():
    x = draw(2, 32, 24, 24)
    kept, outcomes = [], []
    for rebuild in (False, True):
        block = make_block(32, rebuild_hidden=rebuild)
        own = {param.data_ptr() for param in block.parameters()}
        storages = {}

        def note(tensor, own=own, storages=storages):
            if tensor.data_ptr() not in own:
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            block(x.clone().requires_grad_())
        kept.append(sum(storage.nbytes() for storage in storages.values()) / x.nbytes)
        outcomes.append(results(block, block, x))
    # Input, input of the norm, input of each linear layer (1 and 4), hidden layer before GELU (4); then the first two.
    assert kept[0] == pytest.approx(11, rel=0.05)
    assert kept[1] == pytest.approx(2, rel=0.1)
    for plain, rebuilt in zip(*outcomes, strict=True):
        assert plain.equal(rebuilt)


def test_large_maps_run_in_pieces_and_come_out_channels_last():
    block, x = make_block(16).eval(), draw(2, 16, 48, 64)
    with torch.no_grad():
        torch.testing.assert_close(block(x), formula(block, x), rtol=1e-4, atol=1e-4)
        assert block(x).is_contiguous(memory_format=torch.channels_last)


def test_dropped_paths_are_the_same_when_the_hidden_layer_is_rebuilt():
    x = draw(8, 16, 12, 12)
    outcomes = []
    for rebuild in (False, True):
        block = make_block(16, drop_path_rate=0.5, rebuild_hidden=rebuild).train()
        torch.manual_seed(3)
        outcomes.append(results(block, block, x))
    assert any(outcomes[0][0][image].equal(x[image]) for image in range(8))
    for plain, rebuilt in zip(*outcomes, strict=True):
        assert plain.equal(rebuilt)


def test_small_layer_scale_is_not_lost_under_autocast():
    """In bfloat16, 1 + 1e-3 is 1: the sum must stay float32."""
    block = make_block(16)
    block.gamma.data.fill_(1e-3)
    x = 1 + draw(1, 16, 12, 12) / 10
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        output = block(x.bfloat16())
    branch = formula(block, x.bfloat16().float()).detach() - x.bfloat16().float()
    assert output.dtype == torch.float32
    assert (output - x.bfloat16().float() - branch).norm() <= 0.05 * branch.norm()


def test_output_is_channels_last_whatever_the_input_is():
    assert make_block(16)(draw(2, 16, 9, 9)).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("emulated", [False, True])
def test_linear_layer_in_bfloat16_is_as_exact_as_torchs(scaled, emulated, monkeypatch):
    monkeypatch.setattr(precision, "_multiplies_bfloat16", lambda: not emulated)
    torch.manual_seed(0)  # rounding is a matter of chance
    layer, x = ScaledLinear(24, 40), draw(2, 31, 24)
    layer.bias.data.normal_()
    scale = torch.linspace(0.5, 2, 40) if scaled else torch.ones(40)

    def differentiate(function, dtype):
        leaves = [leaf.detach().to(dtype).requires_grad_() for leaf in (x, layer.weight, layer.bias)]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float64):
            output = function(*leaves)
        return output.detach(), *torch.autograd.grad(output.float().square().sum(), leaves)

    def ours(x, weight, bias):
        params = {"weight": weight, "bias": bias}
        return torch.func.functional_call(layer, params, (x, scale if scaled else None))

    def stock(x, weight, bias):
        return linear(x, weight, bias) * scale.to(x.dtype)

    for mine, theirs, true in zip(
        differentiate(ours, torch.float32),
        differentiate(stock, torch.float32),
        differentiate(stock, torch.float64),
        strict=True,
    ):
        true = true.double()
        assert (mine.double() - true).norm() <= 1.25 * (theirs.double() - true).norm()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_norm_under_autocast_on_a_gpu_is_16_bit_and_as_exact_as_a_rounded_float32_one():
    norm = make_block(64).norm.cuda()
    x = draw(4, 8, 8, 64).cuda().bfloat16()
    with torch.autocast("cuda", torch.bfloat16):
        output = norm(x)
        stock = layer_norm(x, (64,), norm.weight, norm.bias, 1e-6).bfloat16()
    true = layer_norm(x.double(), (64,), norm.weight.double(), norm.bias.double(), 1e-6)
    assert output.dtype == torch.bfloat16
    assert (output.double() - true).norm() <= 2 * (stock.double() - true).norm()
