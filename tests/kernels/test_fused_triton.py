"""LayerNorm, GELU and residual sum for GPUs against torch in float64; without a GPU in Triton's interpreter."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import gelu, linear

pytest.importorskip("triton")
from convnext_dense.kernels import add_branch_triton, choice, gelu_triton, layer_norm_triton
from convnext_dense.layers import ConvNeXtBlock

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPS = 1e-6


def draw(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype).to(DEVICE)


def results(function, tensors, dtypes):
    leaves = [tensor.detach().to(dtype).requires_grad_() for tensor, dtype in zip(tensors, dtypes, strict=True)]
    output = function(*leaves)
    grad = draw(*output.shape, seed=9).bfloat16().to(output.dtype)
    return output, *torch.autograd.grad(output, leaves, grad)


def check_as_exact(ours, stock, tensors, dtypes):
    """Errors against float64 are those of torch's operators of the same precision, and the last bit of the result."""
    exact = results(stock, tensors, [torch.float64] * len(tensors))
    for mine, theirs, true in zip(results(ours, tensors, dtypes), results(stock, tensors, dtypes), exact, strict=True):
        assert mine.shape == true.shape
        # the interpreter rounds down where torch and GPUs round to nearest
        allowed = 1.25 * (theirs.double() - true).norm() + torch.finfo(mine.dtype).eps * true.norm()
        assert (mine.double() - true).norm() <= allowed


# More rows than a tile, channels that 8 does not divide and no power of two, one row of one channel.
@pytest.mark.parametrize("size", [(2, 3, 30, 96), (1, 5, 7, 33), (1, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_and_its_gradients_are_as_exact_as_torchs(size, dtype, monkeypatch):
    monkeypatch.setattr(layer_norm_triton, "_TILES_PER_PROGRAM", 1)
    channels = size[-1]
    tensors = [2 + draw(*size).to(dtype), draw(channels, seed=1), draw(channels, seed=2)]

    def ours(x, weight, bias):
        return layer_norm_triton.LayerNormTriton.apply(x, weight, bias, EPS)[0]

    def stock(x, weight, bias):
        return torch.nn.functional.layer_norm(x.to(weight.dtype), (channels,), weight, bias, EPS).to(x.dtype)

    check_as_exact(ours, stock, tensors, [dtype, torch.float32, torch.float32])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gelu_with_linear_layer_and_its_gradients_are_as_exact_as_torchs(dtype):
    tensors = [2 * draw(2, 3, 5, 28, dtype=dtype), draw(7, 28, seed=1, dtype=dtype), draw(7, seed=2, dtype=dtype)]
    check_as_exact(
        gelu_triton.GeluLinearTriton.apply,
        lambda hidden, weight, bias: linear(gelu(hidden), weight, bias),
        tensors,
        [dtype] * 3,
    )


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.float32, torch.float32)], ids=str)
@pytest.mark.parametrize("scaled", [False, True])
def test_residual_sum_and_its_gradients_are_as_exact_as_torchs(dtypes, scaled):
    tensors = [draw(3, 2, 5, 33), draw(3, 2, 5, 33, seed=1, dtype=dtypes[1])]
    scale = torch.tensor([0.0, 1.25, 1.25], device=DEVICE) if scaled else None

    def ours(shortcut, branch):
        return add_branch_triton.AddBranchTriton.apply(shortcut, branch, scale)

    def stock(shortcut, branch):
        return shortcut + (branch * scale.to(branch.dtype)[:, None, None, None] if scaled else branch)

    check_as_exact(ours, stock, tensors, dtypes)


def test_gradient_of_gelu_is_its_difference_quotient_at_the_ends_too():
    x = torch.tensor([-40.0, -5.0, -0.75, 0.0, 0.75, 5.0, 40.0], device=DEVICE)
    out, grad = gelu_triton.gelu_backward(torch.ones_like(x)[None], x[None])
    wide, step = x.double(), 1e-6
    torch.testing.assert_close(out[0].double(), gelu(wide), rtol=1e-6, atol=1e-6)
    quotient = (gelu(wide + step) - gelu(wide - step)) / (2 * step)
    torch.testing.assert_close(grad[0].double(), quotient, rtol=1e-6, atol=1e-6)


def test_operators_are_right_for_compilers():
    """Schemas, fake implementations also of symbolic sizes, and gradients through ahead-of-time tracing."""
    x, weight, bias = draw(1, 2, 3, 8).requires_grad_(), draw(8, seed=1).requires_grad_(), draw(8, seed=2)
    torch.library.opcheck(layer_norm_triton.layer_norm, (x, weight, bias.requires_grad_(), EPS))
    torch.library.opcheck(add_branch_triton.add_branch, (x, draw(1, 2, 3, 8, seed=3).requires_grad_(), draw(1)))
    torch.library.opcheck(gelu_triton.gelu_backward, (x.detach(), x.detach()))


def test_no_rows_give_no_output_and_zero_gradients():
    x, weight = draw(0, 2, 3, 8).requires_grad_(), draw(8).requires_grad_()
    out = layer_norm_triton.LayerNormTriton.apply(x, weight, weight, EPS)[0]
    out = add_branch_triton.AddBranchTriton.apply(out, out, draw(0))
    out = gelu_triton.GeluLinearTriton.apply(out, draw(5, 8), draw(5))
    out.sum().backward()
    assert out.shape == (0, 2, 3, 5)
    assert not weight.grad.any()


def test_same_input_gives_the_same_bits(monkeypatch):
    monkeypatch.setattr(layer_norm_triton, "_TILES_PER_PROGRAM", 1)
    x, grad, weight = draw(70, 96), draw(70, 96, seed=1), draw(96, seed=2)
    _, mean, rstd = layer_norm_triton.layer_norm(x, weight, weight, EPS)
    first, second = (layer_norm_triton.layer_norm_backward(grad, x, weight, mean, rstd) for _ in range(2))
    assert all(mine.equal(other) for mine, other in zip(first, second, strict=True))


@pytest.fixture
def on_triton(monkeypatch):
    """Everything that can run on Triton does, in the interpreter where there is no GPU."""
    monkeypatch.setattr(choice, "_DEVICES", (DEVICE,))
    choice._look_up.cache_clear()
    with choice.forced("triton"):
        yield
    choice._look_up.cache_clear()


def block_results(block, x, dtype):
    x = x.detach().clone().requires_grad_()
    block.zero_grad()
    torch.manual_seed(3)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = block(x)
    output.backward(draw(*output.shape, seed=4))
    return [output.detach(), x.grad, *(param.grad.clone() for param in block.parameters())]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_block_on_triton_has_torchs_output_gradients_and_dropped_paths(dtype, on_triton, capsys):
    torch.manual_seed(0)
    block = ConvNeXtBlock(8, drop_path_rate=0.5, layer_scale_init_value=1.0).to(DEVICE).train()
    x = draw(4, 8, 3, 4)
    ours = block_results(block, x, dtype)
    assert "Triton kernels on" in capsys.readouterr().out
    with choice.forced("torch"):
        exact = block_results(copy.deepcopy(block).double(), x.double(), torch.float64)
        stock = block_results(block, x, dtype)
    assert ours[0].is_contiguous(memory_format=torch.channels_last)
    for mine, theirs, true in zip(ours, stock, exact, strict=True):
        assert mine.dtype == theirs.dtype
        unit = torch.finfo(dtype).eps * (1 if dtype == torch.float32 else 4)  # the interpreter rounds down
        assert (mine.double() - true).norm() <= 1.5 * (theirs.double() - true).norm() + unit * true.norm()


def test_block_on_triton_keeps_the_hidden_layer_once(on_triton):
    block, x = ConvNeXtBlock(8).to(DEVICE), draw(1, 8, 6, 6)
    own = {param.data_ptr() for param in block.parameters()}
    storages = {}

    def note(tensor):
        if tensor.numel() >= x.numel() and tensor.data_ptr() not in own:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        block(x.clone().requires_grad_())
    # Input, input of the norm, inputs of the first linear layer (1) and of GELU (4).
    assert sum(storage.nbytes() for storage in storages.values()) / x.nbytes == pytest.approx(7, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_block_on_triton_is_one_graph_for_all_sizes(dtype, on_triton):
    torch._dynamo.reset()
    torch.manual_seed(0)
    block = ConvNeXtBlock(8, layer_scale_init_value=1.0).to(DEVICE)
    operators = []

    def backend(graph, inputs):
        operators.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph

    compiled = torch.compile(block, backend=backend, dynamic=True, fullgraph=True)
    for size in ((2, 8, 3, 4), (2, 8, 4, 3), (3, 8, 2, 5)):
        x = draw(*size)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == torch.bfloat16), torch.no_grad():
            with torch.compiler.set_stance("default" if size == (2, 8, 3, 4) else "fail_on_recompile"):
                ours = compiled(x)
            torch.testing.assert_close(ours, block(x), rtol=2e-2, atol=2e-2)
    assert operators.count("convnext_dense.depthwise_triton.default") == 1
    assert not any("triton" in operator for operator in operators if "depthwise" not in operator)  # left to Inductor


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
def test_other_precisions_are_left_to_torch(dtype, on_triton):
    assert not choice.runs_on_triton("layer_norm", draw(4, 8).to(dtype))
    assert choice.runs_on_triton("layer_norm", draw(4, 8))


def test_without_triton_torch_runs_and_it_is_said_once(on_triton, monkeypatch, capsys):
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: None)
    assert not any(choice.runs_on_triton("depthwise", draw(4, 8)) for _ in range(2))
    assert capsys.readouterr().out.count("none (Triton is not installed)") == 1


def test_measured_sizes_decide_by_gpu_precision_operator_and_elements(on_triton, monkeypatch, capsys):
    monkeypatch.setattr(choice.torch.cuda, "get_device_name", lambda device: "abacus")
    name = "abacus" if DEVICE == "cuda" else "cpu"
    monkeypatch.setattr(choice, "FASTER_FROM", {(name, torch.bfloat16): {"depthwise": 64}})
    with choice.forced("auto"):
        assert not choice.runs_on_triton("depthwise", draw(4, 8, dtype=torch.bfloat16))
        assert choice.runs_on_triton("depthwise", draw(8, 8, dtype=torch.bfloat16))
        assert not choice.runs_on_triton("layer_norm", draw(8, 8, dtype=torch.bfloat16))
        assert not choice.runs_on_triton("depthwise", draw(8, 8))
    assert "depthwise (as measured)" in (out := capsys.readouterr().out)
    assert "none (not measured on it" in out


def test_unknown_choice_is_named():
    with pytest.raises(ValueError, match="CONVNEXT_DENSE_KERNELS='cuda' must be one of auto, torch, triton"):
        choice.read_choice({"CONVNEXT_DENSE_KERNELS": "cuda"})
    assert choice.read_choice({}) == "auto"


@pytest.mark.slow
def test_kernels_compile_for_a_gpu_spill_nothing_and_are_specialised_on_no_size_of_an_image():
    """3 x 3 stands for 7 x 7, which takes a compiler ten seconds more."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    script = str(Path(__file__).with_name("compile_for_gpu.py"))
    run = subprocess.run([sys.executable, script, "3"], env=environment, capture_output=True, text=True, check=True)
    kernels = json.loads(run.stdout)
    assert len(kernels) == 7
    for kernel in kernels:
        assert kernel["spilled"] == 0, kernel
        assert set(kernel["specialised"]) <= {"channels", "eps"}, kernel
