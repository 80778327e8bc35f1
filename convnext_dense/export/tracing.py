"""A graph of tensors, captured by ``torch.export`` and written in the formats of runtimes."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from convnext_dense.errors import UserError, require_torch
from convnext_dense.export.graphs import ExportedGraph
from convnext_dense.export.runtime import first_line

OPSET = 18  # of ONNX: the newest that torch's exporter writes without converting, and that TensorRT 10 reads
_LARGEST_WEIGHT = 2**28  # numbers
# torch.export and its ONNX exporter of 2.6 fail on detectors and on segmenters of any size; nothing between was tried.
_LOWEST_TORCH = "2.14"
FORMATS = ("onnx", "openvino", "torch")
FILES = {"onnx": "model.onnx", "openvino": "model.xml", "torch": "model.pt2"}


class Traced(NamedTuple):
    """A captured graph.

    Attributes:
        program: What torch captured.
        takes_batches: Whether it takes any number of images.
        fixed_size: (H, W) if it takes one size alone.
    """

    program: ExportedProgram
    takes_batches: bool
    fixed_size: tuple[int, int] | None


def trace(graph: ExportedGraph, inputs: Sequence[Tensor], *, any_size: bool) -> Traced:
    """Capture a graph, for any number of images if the model allows it.

    Args:
        graph: The graph, in eval mode.
        inputs: Of one image.
        any_size: Whether to capture it for images of any size, too.

    Raises:
        UserError: torch is too old, or an operator of the model depends on values in a way that cannot be captured.
    """
    require_torch_that_exports()
    pair = tuple(torch.cat([value, value]) for value in inputs)
    traced = _trace(graph, pair, any_batch=True, any_size=any_size)
    if not traced.takes_batches:  # the pair is in the graph as a constant
        traced = _trace(graph, tuple(inputs), any_batch=False, any_size=any_size)
    return traced


def require_torch_that_exports() -> None:
    """Raise a ``UserError`` if torch is older than exporting needs."""
    require_torch(_LOWEST_TORCH, "Exporting")


def _trace(graph: ExportedGraph, inputs: tuple[Tensor, ...], *, any_batch: bool, any_size: bool) -> Traced:
    free = {number: Dim.AUTO for number, is_free in enumerate((any_batch, False, any_size, any_size)) if is_free}
    shapes = [free, *({0: Dim.AUTO} if any_batch else {} for _ in inputs[1:])]
    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(graph, inputs, dynamic_shapes=tuple(shapes), strict=False)
    except Exception as error:  # torch has many kinds of its own
        raise UserError(
            f"{type(graph.model).__name__} cannot be captured by torch.export: {first_line(error)}"
        ) from error
    batch, _, height, width = _image_shape(program)
    fixed = None if any_size and not (isinstance(height, int) or isinstance(width, int)) else inputs[0].shape[2:]
    return Traced(program, not isinstance(batch, int), None if fixed is None else (int(fixed[0]), int(fixed[1])))


def _image_shape(program: ExportedProgram) -> Sequence[int | torch.SymInt]:
    name = program.graph_signature.user_inputs[0]
    return next(node for node in program.graph.nodes if node.name == name).meta["val"].shape


def write_program(traced: Traced, graph: ExportedGraph, form: str, folder: Path) -> Path:
    """Write a captured graph into a folder as ``'onnx'`` or ``'torch'``, and return the file.

    Raises:
        UserError: An operator has no counterpart in ONNX.
    """
    file = folder / FILES[form]
    if form == "torch":
        _drop_assertions(traced.program)
        for node in traced.program.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths of this machine
        content = io.BytesIO()  # torch aborts the process if the disk is full
        torch.export.save(traced.program, content)
        file.write_bytes(content.getbuffer())
        return file
    try:
        with torch.no_grad(), quiet():
            written = torch.onnx.export(
                traced.program,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(graph.input_names),
                output_names=list(graph.output_names),
                verbose=False,
                external_data=False,
            )
            assert written is not None
            _fold_weights(written.model)
            _drop_stack_traces(written.model)
            written.save(file)
    except OSError:
        raise
    except Exception as error:
        raise UserError(f"{type(graph.model).__name__} cannot be written as ONNX: {first_line(error)}") from error
    return file


def _drop_assertions(program: ExportedProgram) -> None:
    """Let a program run on any number of objects: torch.export assumes that there are two or more, and asserts it."""
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default:
            program.graph.erase_node(node)
    program.graph_module.recompile()


def _drop_stack_traces(model: Any) -> None:
    """Leave out which lines of which files on this machine each node comes from."""
    for part in (model.graph, *model.functions.values()):
        for node in part.all_nodes():
            node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)


def _fold_weights(model: Any) -> None:
    """Compute what depends on weights alone, such as a scaled weight: quantisers look for constants."""
    from onnxscript.optimizer import fold_constants

    # Its own limits are for graphs in which large constants are made of small ones.
    fold_constants(model, input_size_limit=_LARGEST_WEIGHT, output_size_limit=_LARGEST_WEIGHT)


def to_openvino(onnx_file: Path) -> Path:
    """Replace an ONNX file by OpenVINO's, and return that."""
    import openvino

    file = onnx_file.with_name(FILES["openvino"])
    # Not convert_model, which takes a comma in a path for the end of a file name.
    openvino.save_model(openvino.Core().read_model(onnx_file), file, compress_to_fp16=False)
    onnx_file.unlink()
    return file


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' own remarks, which name lines of their code, from the screen."""
    loggers = [logging.getLogger(name) for name in ("root", "torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
