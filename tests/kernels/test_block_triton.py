"""Compares the block operator for GPUs with torch in float64; without a GPU it runs in Triton's interpreter."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
from convnext_dense.kernels import block_triton, choice
from convnext_dense.layers import ConvNeXtBlock
from convnext_dense.models import ConvNeXt

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = ["output", "input", *(name for name, _ in ConvNeXtBlock(8).named_parameters())]
# In units of the last bit, to allow for chance; Triton's interpreter also rounds every 16-bit map down.
CHANCE = 4.0


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def make_block(channels=8, **kwargs):
    torch.manual_seed(0)
    block = ConvNeXtBlock(channels, **{"layer_scale_init_value": 1.0, **kwargs}).to(DEVICE).train()
    for param in block.parameters():
        param.data.add_(torch.randn_like(param), alpha=0.2)
    return block


def results(block, x, autocast=False):
    """Return the output, and the gradients of the input and of all parameters."""
    x = x.detach().clone().requires_grad_()
    block.zero_grad()
    torch.manual_seed(3)
    with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
        output = block(x)
    output.backward(draw(*output.shape, seed=4).to(output.dtype))
    return [output.detach(), x.grad, *(param.grad.clone() for param in block.parameters())]


# Channels that are not a multiple of a block, several blocks, odd and even numbers of rows, a single position.
@pytest.mark.parametrize(
    ("size", "rebuilds", "scale", "precision"),
    [
        ((1, 40, 5, 7), False, 1.0, "float32"),
        ((1, 8, 1, 1), False, 1.0, "float32"),
        ((2, 8, 4, 3), True, 1.0, "float32"),
        ((2, 8, 4, 3), False, 0.0, "float32"),
        ((1, 40, 5, 7), True, 0.0, "float32"),
        ((1, 40, 5, 7), False, 1.0, "autocast"),
        ((2, 8, 4, 3), True, 0.0, "autocast"),
        ((1, 40, 5, 7), True, 1.0, "bfloat16"),
        ((2, 8, 4, 3), False, 0.0, "bfloat16"),
    ],
    ids=str,
)
def test_output_and_gradients_are_as_exact_as_torchs(size, precision, rebuilds, scale, on_triton):
    block = make_block(size[1], rebuild_hidden=rebuilds, layer_scale_init_value=scale)
    x = draw(*size)
    with choice.forced("torch"):
        exact = results(copy.deepcopy(block).double(), x.double())
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    if precision == "bfloat16":
        block, x = block.bfloat16(), x.bfloat16()
    ours = results(block, x, precision == "autocast")
    with choice.forced("torch"):
        stock = results(block, x, precision == "autocast")
    assert ours[0].is_contiguous(memory_format=torch.channels_last)
    for name, mine, theirs, true in zip(NAMES, ours, stock, exact, strict=False):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        allowed = 1.25 * (theirs.double() - true).norm() + CHANCE * torch.finfo(dtype).eps * true.norm()
        assert (mine.double() - true).norm() <= allowed, name


@pytest.mark.slow
def test_large_map_in_many_programs_is_as_exact_as_torchs(on_triton, monkeypatch):
    """More rows than a program's tile, several strips, and sums over more than one part."""
    monkeypatch.setattr(block_triton.depthwise_triton, "_PROGRAMS", 16)
    block, x = make_block(33), draw(1, 33, 13, 9)
    with choice.forced("torch"):
        exact, stock = results(copy.deepcopy(block).double(), x.double()), results(block, x)
    for name, mine, theirs, true in zip(NAMES, results(block, x), stock, exact, strict=True):
        allowed = 1.25 * (theirs.double() - true).norm() + torch.finfo(torch.float32).eps * true.norm()
        assert (mine.double() - true).norm() <= allowed, name


@pytest.mark.parametrize("autocast", [False, True])
def test_dropped_paths_are_those_that_torch_drops(autocast, on_triton):
    block, x = make_block(drop_path_rate=0.5), draw(8, 8, 2, 2)
    ours = results(block, x, autocast)
    with choice.forced("torch"):
        stock = results(block, x, autocast)
    dropped = (stock[0] == x).flatten(1).all(1)
    assert 0 < dropped.sum() < 8
    assert (ours[0] == x).flatten(1).all(1).equal(dropped)
    for mine, theirs in zip(ours, stock, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.1 if autocast else 1e-5, atol=0.3 if autocast else 1e-5)


@pytest.mark.parametrize(("rebuilds", "kept"), [(False, 6), (True, 2)])
def test_block_keeps_the_hidden_layer_once_or_not_at_all(rebuilds, kept, on_triton):
    """Counted in 16-bit maps of C channels: input, convolution and, unless it is rebuilt, the hidden layer."""
    block, x = make_block(rebuild_hidden=rebuilds), draw(1, 8, 12, 12)
    storages = {}

    def note(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), torch.autocast(DEVICE, torch.bfloat16):
        block(x.clone().requires_grad_())
    large = [storage.nbytes() for storage in storages.values() if storage.nbytes() >= x.nbytes // 2]
    assert sum(large) / (x.nbytes / 2) == kept


def test_without_gradients_nothing_is_kept_and_the_output_is_the_same(on_triton):
    block, x = make_block(), draw(2, 8, 5, 4)
    with torch.no_grad():
        output = block(x)
    assert not output.requires_grad
    assert output.equal(block(x))


def test_same_input_gives_the_same_bits(on_triton):
    block, x = make_block(), draw(1, 8, 5, 4)
    assert all(mine.equal(other) for mine, other in zip(results(block, x), results(block, x), strict=True))


@pytest.mark.slow
@pytest.mark.own_process
def test_operator_is_right_for_compilers():
    """Schemas, fake implementations including symbolic sizes, and gradients through ahead-of-time tracing."""
    block, x = make_block(), draw(1, 3, 2, 8).requires_grad_()
    parameters = block_triton.Parameters.of(block)
    torch.library.opcheck(block_triton.block, (x, draw(1), 1e-6, torch.float32, True, *parameters))
    torch.library.opcheck(block_triton.block, (x, None, 1e-6, torch.bfloat16, False, *parameters[:-1], None))


@pytest.mark.slow
def test_compiled_block_is_one_graph_for_all_sizes_with_the_same_results(on_triton):
    torch._dynamo.reset()
    block = make_block(rebuild_hidden=True)
    compiled = torch.compile(block, backend="aot_eager", dynamic=True, fullgraph=True)
    for size in ((2, 8, 3, 4), (2, 8, 3, 2), (3, 8, 2, 2)):
        x = draw(*size)
        expected = results(block, x, autocast=True)
        with torch.compiler.set_stance("default" if size == (2, 8, 3, 4) else "fail_on_recompile"):
            ours = results(compiled, x, autocast=True)
        assert all(mine.equal(other) for mine, other in zip(ours, expected, strict=True))


@pytest.mark.parametrize("with_cp", [*(pytest.param(value, marks=pytest.mark.slow) for value in (False, True)), "mlp"])
def test_backbone_with_checkpoints_has_torchs_features_and_gradients(with_cp, on_triton):
    torch.manual_seed(0)
    arch = dict(depths=(1, 1, 1, 1), channels=(8, 8, 16, 16))
    model = ConvNeXt(arch, with_cp=with_cp, layer_scale_init_value=1.0, drop_path_rate=0.2).to(DEVICE).train()
    image = draw(2, 3, 32, 32)
    both = []
    for library in ("triton", "torch"):
        model.zero_grad()
        torch.manual_seed(1)
        with choice.forced(library):
            features = model(image)
            sum(feature.square().mean() for feature in features).backward()
        both.append([*features, *(param.grad for param in model.parameters())])
    torch.testing.assert_close(*both, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="this torch exports strictly as it compiles")
def test_exported_block_has_torchs_operators_alone(on_triton):
    block, x = make_block().eval(), draw(2, 8, 4, 3)
    program = torch.export.export(block, (x,))
    assert not any("convnext_dense" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), block(x), rtol=1e-4, atol=1e-5)


class Packed(torch.Tensor):
    """A tensor whose memory differs from its values, like that of quantized weights."""


def test_other_modules_and_hooks_are_respected(on_triton):
    """A block with a replaced part or with hooks runs part by part."""
    block, x = make_block(), draw(1, 8, 3, 3)
    seen = []
    handle = block.norm.register_forward_hook(lambda *arguments: seen.append(arguments))
    block(x)
    assert len(seen) == 1
    handle.remove()
    assert block._is_stock()
    plain = block.pwconv1.weight
    block.pwconv1.weight = torch.nn.Parameter(plain.detach().as_subclass(Packed))
    assert not block._is_stock()
    block.pwconv1.weight = plain
    assert block._is_stock()
    block.act = torch.nn.GELU(approximate="tanh")
    assert not block._is_stock()
    block.act = torch.nn.ReLU()
    assert not block._is_stock()
    assert not ConvNeXtBlock(8, use_grn=True)._is_stock()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_empty_batch_and_double_precision_are_left_to_torch(dtype, on_triton):
    size = (0, 8, 4, 4) if dtype == torch.float32 else (1, 8, 4, 4)
    block, x = make_block().to(dtype), draw(*size).to(dtype)
    ours = results(block, x)
    with choice.forced("torch"):
        assert all(mine.equal(theirs) for mine, theirs in zip(ours, results(block, x), strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("size", [(4, 96, 56, 57), (2, 768, 25, 42)], ids=str)
@pytest.mark.parametrize("precision", ["float32", "autocast", "bfloat16"])
def test_maps_of_a_network_are_as_exact_as_torchs(size, precision, on_triton, monkeypatch):
    monkeypatch.setitem(globals(), "CHANCE", 0.25)
    test_output_and_gradients_are_as_exact_as_torchs(size, precision, False, 1.0, None)


@pytest.mark.slow
@pytest.mark.skipif(torch.__version__ < "2.14", reason="compile_for_gpu.py calls the Triton of torch 2.14")
def test_kernels_compile_for_a_gpu_spill_nothing_and_are_specialised_on_no_size_of_an_image():
    """3 x 3 replaces 7 x 7, which would take ten seconds more to compile."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    script = str(Path(__file__).with_name("compile_for_gpu.py"))
    run = subprocess.run([sys.executable, script, "3"], env=environment, capture_output=True, text=True, check=True)
    kernels = json.loads(run.stdout)
    assert len(kernels) == 10
    for kernel in kernels:
        assert kernel["spilled"] == 0, kernel
        assert not kernel["specialised"], kernel
