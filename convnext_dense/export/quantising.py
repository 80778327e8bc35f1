"""Eight-bit weights and activations after training, by onnxruntime's quantiser, as QuantizeLinear / DequantizeLinear.

OpenVINO reads the same graph, so both runtimes have one quantiser.
"""

import ast
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.logging import print_log

from convnext_dense.data.checks.inspection import evenly_spread
from convnext_dense.errors import UserError
from convnext_dense.export.facts import FLOAT, write_facts
from convnext_dense.export.parity import losses
from convnext_dense.export.runtime import ExportedModel, read_rgb
from convnext_dense.export.tracing import FILES, quiet, to_openvino
from convnext_dense.inference.validation import Evaluation

KINDS = ("Conv", "MatMul", "Gemm")  # operators whose weights are quantised
# Signal over noise, in decibels, that a layer must keep. 8 bits of a uniform distribution give 48; below 15, the noise
# is a sixth of the values.
LEAST_DB = 15.0
MAX_LOSS = 0.01  # of AP, mIoU or accuracy
NUM_CALIBRATION = 32  # images from which the ranges of activations are taken
SHARES_KEPT = (0.0, 0.25, 0.5)  # of the layers that stay in float32, one try after the other

Inputs = Mapping[str, np.ndarray]


class Layer(NamedTuple):
    """A layer of the graph with weights.

    Attributes:
        node: Name of its node.
        name: Where it is in the model, such as ``backbone.stages.0.1.pwconv1``.
    """

    node: str
    name: str


def layers_of(file: Path) -> list[Layer]:
    """Return the layers of a graph that can be quantised: their weights are constants."""
    import onnx

    graph = onnx.load(file, load_external_data=False).graph
    constants = {constant.name for constant in graph.initializer}
    return [
        Layer(node.name, _name(node))
        for node in graph.node
        if node.op_type in KINDS and any(name in constants for name in node.input[1:2])
    ]


def _name(node: Any) -> str:
    """Return the path of the module that a node comes from, which torch's exporter writes beside it."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "[]")
    paths = [scope for scope in ast.literal_eval(scopes)[:-1] if scope]
    return paths[-1].removeprefix("model.") if paths else node.name


def quantise(file: Path, out: Path, inputs: Iterable[Inputs], kept: Sequence[str]) -> None:
    """Write a graph with 8 bits.

    Args:
        file: Of the graph in float32.
        out: File to write.
        inputs: Of the graph, from which the ranges of activations are taken.
        kept: Nodes that stay in float32.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    layers = [layer.node for layer in layers_of(file)]
    with quiet():  # it asks for its own pre-processing, which torch's exporter has done
        quantize_static(
            file,
            out,
            _Reader(inputs),
            quant_format=QuantFormat.QDQ,
            nodes_to_quantize=[node for node in layers if node not in kept],
            per_channel=True,
            # Weights of 7 bits: without VNNI, processors add pairs of products of 8 bits in 16, which would overflow.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


class _Reader:
    """What onnxruntime takes inputs from: an iterator whose end is None."""

    def __init__(self, inputs: Iterable[Inputs]) -> None:
        self._iterator = iter(inputs)

    def get_next(self) -> Inputs | None:
        return next(self._iterator, None)


def layer_errors(file: Path, quantised: Path, inputs: Iterable[Inputs]) -> dict[str, float]:
    """Measure what the 8 bits of each layer's input and weights cost, each layer on its own.

    Args:
        file: Of the graph in float32.
        quantised: Of the same graph with 8 bits.
        inputs: Of the graph.

    Returns:
        Signal over noise in decibels of each quantised layer, by node.
    """
    import onnx
    import onnxruntime
    from onnx import helper

    floats = {node.name: node for node in onnx.load(file).graph.node}
    model = onnx.load(quantised)
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    layers = {}
    for node in list(graph.node):
        if node.name not in floats or node.op_type not in KINDS or not all(name in makers for name in node.input[:2]):
            continue  # its weights are in float32
        restored = makers[node.input[0]]
        if restored.op_type != "DequantizeLinear" or restored.input[0] not in makers:
            continue
        before = makers[restored.input[0]].input[0]
        layers[node.name] = (f"{node.name}.signal", f"{node.name}.noise")
        difference = f"{node.name}.difference"
        graph.node.extend(
            [
                helper.make_node("ReduceSumSquare", [before], [layers[node.name][0]], keepdims=0),
                helper.make_node("Sub", [before, restored.output[0]], [difference]),
                helper.make_node("ReduceSumSquare", [difference], [layers[node.name][1]], keepdims=0),
            ]
        )
    wanted = [name for pair in layers.values() for name in pair]
    graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, []) for name in wanted)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    totals = np.zeros(len(wanted))
    for one in inputs:
        totals += np.array(session.run(wanted, dict(one)), np.float64)
    powers = totals.reshape(-1, 2)
    weights = _weight_noise(onnx.load(file), model, layers)
    return {
        name: float(-10 * np.log10(max(noise / max(signal, 1e-30) + weights[name], 1e-12)))
        for name, (signal, noise) in zip(layers, powers, strict=True)
    }


def _weight_noise(before: Any, after: Any, names: Iterable[str]) -> dict[str, float]:
    """Return the power of the rounding of each layer's weights as a share of the power of the weights."""
    from onnx import numpy_helper

    floats = {constant.name: constant for constant in before.graph.initializer}
    constants = {constant.name: constant for constant in after.graph.initializer}
    weights_of = {node.name: node.input[1] for node in before.graph.node if node.op_type in KINDS}
    makers = {name: node for node in after.graph.node for name in node.output}
    nodes = {node.name: node for node in after.graph.node}
    noise = {}
    for name in names:
        maker = makers[nodes[name].input[1]]
        whole, scale = (numpy_helper.to_array(constants[part]) for part in maker.input[:2])
        axis = next((attribute.i for attribute in maker.attribute if attribute.name == "axis"), 0)
        if scale.ndim:
            scale = scale.reshape([-1 if dim == axis % whole.ndim else 1 for dim in range(whole.ndim)])
        exact = numpy_helper.to_array(floats[weights_of[name]])
        rounded = whole.astype(np.float32) * scale  # the zero points of signed weights are 0
        noise[name] = float(np.square(exact - rounded).sum() / max(np.square(exact).sum(), 1e-30))
    return noise


def use_8_bits(
    folder: Path, facts: dict[str, Any], images: Sequence[Path], evaluation: Evaluation, max_loss: float
) -> dict[str, Any]:
    """Replace the model in a folder by one with 8 bits, and return its facts.

    The images are those of ``choose_examples``. Layers whose values 8 bits change most stay in float32, more of them
    until little enough is lost.

    Raises:
        UserError: Too much is lost all the same.
    """
    exported = ExportedModel(folder)
    before = {name: value for name, (_, value) in facts["parity"].get("metrics", {}).items()}
    if not before:
        print_log(f"Measuring the model in float32 on {len(evaluation.paths)} images", logger="current")
        before = evaluation.measure(exported.iterate(evaluation.paths))
    inputs = [one for image in images for one in exported.inputs(image)]
    names = {layer.node: layer.name for layer in layers_of(folder / FLOAT)}
    errors: dict[str, float] = {}
    lost: dict[str, float] = {}
    for share in SHARES_KEPT:
        kept = _worst(errors, share)
        print_log(f"Quantising {len(names) - len(kept)} of {len(names)} layers", logger="current")
        file = folder / FILES["onnx"]
        quantise(folder / FLOAT, file, inputs, kept)
        if not errors:
            errors = layer_errors(folder / FLOAT, file, inputs)
            if kept := _worst(errors, share):
                quantise(folder / FLOAT, file, inputs, kept)
        if facts["runtime"] == "openvino":
            to_openvino(file)
        facts = dict(facts, precision="int8")
        write_facts(folder, facts)
        after = evaluation.measure(ExportedModel(folder).iterate(evaluation.paths))
        lost = losses(before, after)
        changes = ", ".join(f"{name} {before[name]:.4f} -> {after[name]:.4f}" for name in lost)
        print_log(f"By 8 bits: {changes}", logger="current")
        if max(lost.values()) <= max_loss:
            (folder / FLOAT).unlink()
            layers = [
                dict(name=names[node], decibels=round(value, 1), precision="float32" if node in kept else "int8")
                for node, value in sorted(errors.items(), key=lambda item: item[1])
            ]
            metrics = {name: [before[name], after[name]] for name in lost}
            return dict(facts, int8=dict(images=len(images), metrics=metrics, max_loss=max_loss, layers=layers))
    raise UserError(
        f"8 bits lose {max(lost.values()):.4f} of {max(lost, key=lost.__getitem__)}, more than --max-loss {max_loss:g}"
        f", though {len(kept)} of {len(names)} layers were left in float32. Nothing was written."
    )


def _worst(errors: Mapping[str, float], share: float) -> list[str]:
    """Return the layers that 8 bits change most: all below the limit, and a share of all."""
    order = sorted(errors, key=errors.__getitem__)
    number = max(round(share * len(order)), sum(value < LEAST_DB for value in errors.values()))
    return order[:number]


def choose_examples(images: Sequence[str | os.PathLike]) -> list[Path]:
    """Return at most ``NUM_CALIBRATION`` images that can be read, spread evenly.

    Raises:
        ExportedModelError: One cannot be read.
    """
    chosen = evenly_spread([Path(image) for image in images], NUM_CALIBRATION)
    for image in chosen:
        read_rgb(image)
    return chosen
