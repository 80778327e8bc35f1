"""The hook that compiles the backbone; the compiled model is compared with the eager one."""

import copy
from types import SimpleNamespace

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd

from convnext_dense.engine import CompileBackboneHook, compile_hook
from convnext_dense.errors import UserError
from convnext_dense.models import ConvNeXt


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = ConvNeXt(
            dict(depths=(1, 1, 1, 1), channels=(16, 16, 16, 16)), layer_scale_init_value=1.0, out_indices=(0, 1)
        )


def features_and_gradients(model, image):
    model.zero_grad()
    features = model.backbone(image)
    sum(feature.square().mean() for feature in features).backward()
    return features, [param.grad for param in model.parameters()]


@pytest.mark.slow
@pytest.mark.own_process
def test_training_on_many_sizes_compiles_once_and_keeps_names_and_numbers():
    """Nor is a gradient of a convolution's input left to the compiler.

    Inductor guards on its size (torch 2.14.1) and would compile again for every size of an image.
    """
    torch.manual_seed(0)
    torch._dynamo.reset()
    masks = []

    def collect(graph, inputs):
        masks.extend(node.args[-1] for node in graph.graph.nodes if "convolution_backward" in str(node.target))
        return make_boxed_func(graph.forward)

    backend = aot_autograd(fw_compiler=lambda graph, inputs: make_boxed_func(graph.forward), bw_compiler=collect)
    eager = Detector().train()
    model = copy.deepcopy(eager)
    CompileBackboneHook(backend=backend).before_run(SimpleNamespace(model=model))
    assert list(model.state_dict()) == list(eager.state_dict())
    features_and_gradients(model, torch.rand(2, 3, 96, 128))  # warm-up
    assert [wants_input for wants_input, *_ in masks] == [False]  # the stem's
    generator = torch.Generator().manual_seed(0)
    with torch.compiler.set_stance("fail_on_recompile"):
        for _ in range(3):
            height, width = (int(size) for size in torch.randint(40, 200, (2,), generator=generator))
            image = torch.rand(2, 3, height, width)
            ours, grads = features_and_gradients(model, image)
            expected, expected_grads = features_and_gradients(eager, image)
            for mine, theirs in zip([*ours, *grads], [*expected, *expected_grads], strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_model_without_a_backbone_is_named():
    with pytest.raises(ValueError, match="needs a model with a backbone, and Linear has none"):
        CompileBackboneHook().before_run(SimpleNamespace(model=nn.Linear(2, 2)))


def test_cuda_graphs_cannot_accumulate_gradients():
    runner = SimpleNamespace(model=Detector(), optim_wrapper=SimpleNamespace(_accumulative_counts=4))
    with pytest.raises(ValueError, match="cannot accumulate the gradients of 4 batches"):
        CompileBackboneHook(cuda_graphs=True).before_run(runner)
    CompileBackboneHook(backend="aot_eager").before_run(runner)


def test_an_older_torch_is_refused_with_the_version_that_all_sizes_need(monkeypatch):
    monkeypatch.setattr(compile_hook, "_LOWEST_TORCH", "99.1")
    with pytest.raises(UserError, match=r"without cuda_graphs needs torch 99\.1 or later; this is torch \d"):
        CompileBackboneHook().before_run(SimpleNamespace(model=Detector()))


@pytest.mark.own_process
def test_backbone_for_cuda_graphs_is_compiled_for_each_size_with_the_same_numbers(monkeypatch):
    torch._dynamo.reset()
    eager = Detector().train()
    model, given = copy.deepcopy(eager), []
    compile_in_place = model.backbone.compile
    monkeypatch.setattr(model.backbone, "compile", lambda **how: given.append(how) or compile_in_place(**how))
    CompileBackboneHook(backend="aot_eager", cuda_graphs=True).before_run(SimpleNamespace(model=model))
    assert given[0]["dynamic"] is False
    for size in ((2, 3, 64, 96), (2, 3, 96, 64)):
        image = torch.rand(*size)
        ours, expected = (features_and_gradients(which, image) for which in (model, eager))
        for mine, theirs in zip([*ours[0], *ours[1]], [*expected[0], *expected[1]], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
