"""Writes a trained model as a folder that runs without PyTorch, if it gives what PyTorch gives.

Letters: H and W height and width in pixels.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log
from torch import nn
from torch.nn import functional

from convnext_dense.data.data_folder import DataFolder
from convnext_dense.errors import UserError
from convnext_dense.export import tracing
from convnext_dense.export.facts import FACTS, FLOAT, collect_facts, write_facts
from convnext_dense.export.graphs import GRAPHS, ExportedGraph
from convnext_dense.export.parity import METRIC, compare, losses
from convnext_dense.export.preparation import Preparation, read_preparation, window_of
from convnext_dense.export.quantising import MAX_LOSS, choose_examples, use_8_bits
from convnext_dense.export.runtime import ExportedModel, ExportedModelError, Prepared
from convnext_dense.export.tracing import FORMATS, Traced, to_openvino, trace, write_program
from convnext_dense.files import names_unwritable
from convnext_dense.inference import Predictor
from convnext_dense.inference.validation import Evaluation, evaluation_of

NUM_IMAGES = 8  # that the exported model is held against PyTorch on
_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino"), "torch": ()}


class Exported(NamedTuple):
    """What was written.

    Attributes:
        folder: With ``model.json``, the model, and ``runtime.py``.
        facts: The content of ``model.json``.
    """

    folder: Path
    facts: Mapping[str, Any]


def export_model(
    config: str | os.PathLike,
    checkpoint: str | os.PathLike,
    out_dir: str | os.PathLike,
    *,
    form: str = "onnx",
    size: Sequence[int] | None = None,
    images: Sequence[str | os.PathLike] | None = None,
    any_size: bool = False,
    check_data: bool = False,
    int8: Sequence[str | os.PathLike] | None = None,
    max_loss: float = MAX_LOSS,
    data: str | os.PathLike | DataFolder | None = None,
    options: Mapping[str, Any] | None = None,
) -> Exported:
    """Export a detector, a segmenter or a classifier.

    Args:
        config: Config that the checkpoint was trained with.
        checkpoint: Source of the weights, see ``checkpoints.fetch``.
        out_dir: Folder to write; an exported model that is there is replaced.
        form: ``'onnx'``, ``'openvino'`` or ``'torch'``.
        size: (H, W) that all images are fitted into; None for images of the size that the config gives them.
        any_size: Whether the graph is to take images of any size even if the config gives them one.
        images: On which the exported model is held against PyTorch; by default the first of the validation data.
        check_data: Whether to evaluate both on the validation data, too.
        int8: Images from which the ranges of activations are taken; weights and activations then have 8 bits.
        max_loss: By how much 8 bits may lower AP, mIoU or accuracy on the validation data, as a share of 1.
        data: Folder of your own data, whose validation split replaces that of the config, and how it is read.
        options: Values of the config by dotted key.

    Raises:
        UserError: The model cannot be exported, or the exported model gives other results; nothing is written then.
    """
    out_dir = Path(os.path.realpath(out_dir))
    check_arguments(form, out_dir, int8=int8, max_loss=max_loss)
    try:
        return _export(
            config,
            checkpoint,
            out_dir,
            form=form,
            size=size,
            images=images,
            any_size=any_size,
            check_data=check_data,
            examples=choose_examples(int8) if int8 else None,
            max_loss=max_loss,
            data=data,
            options=options,
        )
    except ExportedModelError as error:
        raise UserError(f"{str(error).rstrip('.')}. Nothing was written.") from error


def _export(
    config: str | os.PathLike,
    checkpoint: str | os.PathLike,
    out_dir: Path,
    *,
    form: str,
    size: Sequence[int] | None,
    images: Sequence[str | os.PathLike] | None,
    any_size: bool,
    check_data: bool,
    examples: Sequence[Path] | None,
    max_loss: float,
    data: str | os.PathLike | DataFolder | None,
    options: Mapping[str, Any] | None,
) -> Exported:
    predictor = Predictor(config, checkpoint, options=options, device="cpu")
    preparation = read_preparation(predictor.cfg, predictor.task, size)
    if size is not None and predictor.task != "classification":
        fix_size(predictor, size)
    evaluation = None
    if check_data or examples or not images:
        try:
            evaluation = evaluation_of(predictor, data, work_dir=Path("work_dirs", Path(config).stem))
        except UserError as error:
            if data is not None:
                raise
            raise UserError(
                f"The exported model is held against PyTorch on images. {error} Or, without --check-data and --int8, "
                "give some with --images."
            ) from error
    paths = [Path(image) for image in images or evaluation.paths][:NUM_IMAGES]  # type: ignore[union-attr]
    with published(out_dir) as partial:
        traced, graph = _capture(predictor, preparation, paths[0], any_size=any_size or preparation.fixed_size is None)
        print_log(f"Writing {form}, which may take minutes", logger="current")
        file = write_program(traced, graph, "torch" if form == "torch" else "onnx", partial)
        if examples:
            shutil.copy(file, partial / FLOAT)
        if form == "openvino":
            file = to_openvino(file)
        facts = collect_facts(predictor, preparation, graph, traced, file, config=config, checkpoint=checkpoint)
        write_facts(partial, facts)
        facts["parity"] = check(predictor, partial, paths, evaluation if check_data else None)
        if examples:
            assert evaluation is not None
            facts = use_8_bits(partial, facts, examples, evaluation, max_loss)
        write_facts(partial, facts)
        shutil.copy(Path(__file__).with_name("runtime.py"), partial)
    return Exported(out_dir, facts)


def check_arguments(form: str, out_dir: Path, *, int8: Any, max_loss: float) -> None:
    """Check what can be known before the model is loaded.

    Raises:
        UserError: There is no such format, its packages are not installed, the folder holds something else, or torch is
            too old.
    """
    if form not in FORMATS:
        raise UserError(f"--format {form} must be one of {', '.join(FORMATS)}.")
    if int8 and form == "torch":
        raise UserError("--int8 is for --format onnx and openvino, not for torch.")
    if not 0 <= max_loss <= 1:
        raise UserError(f"--max-loss {max_loss} must be a share of 1, such as {MAX_LOSS}.")
    for name in (*_PACKAGES[form], *(_PACKAGES["onnx"] if int8 else ())):
        try:
            __import__(name)
        except ImportError as error:
            raise UserError(f"--format {form} needs {name}: pip install 'convnext-dense[export]'.") from error
    if out_dir.exists() and not out_dir.is_dir():
        raise UserError(f"{out_dir} is a file: give a folder for the exported model.")
    if out_dir.is_dir() and any(out_dir.iterdir()) and not _files_of(out_dir):
        raise UserError(f"{out_dir} has files and is not an exported model: choose an empty folder.")
    tracing.require_torch_that_exports()


@contextlib.contextmanager
def published(out_dir: Path) -> Iterator[Path]:
    """Give a folder to write a model into, whose files are moved to ``out_dir`` if no error ends this.

    They replace those of an exported model that is there; other files stay.

    Raises:
        UserError: The files cannot be written.
    """
    is_new = not out_dir.exists()
    partial = out_dir / f".{os.getpid()}.partial"  # on the same disk, also where out_dir is a mounted one
    try:
        with names_unwritable(out_dir):
            partial.mkdir(parents=True)
            yield partial
            old = _files_of(out_dir)
            for file in sorted(partial.iterdir(), key=lambda file: file.name == FACTS):  # it is the last to change
                os.replace(file, out_dir / file.name)
                old.discard(file.name)
            for name in old:
                (out_dir / name).unlink(missing_ok=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if is_new and out_dir.is_dir() and not any(out_dir.iterdir()):
            out_dir.rmdir()


def _files_of(folder: Path) -> set[str]:
    """Return the names of the files of an exported model in a folder; none if there is no model."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        return {FACTS, "runtime.py", *facts["sha256"]} if "checksum" in facts else set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def fix_size(predictor: Predictor, size: Sequence[int]) -> None:
    """Let a predictor fit images into one size, (H, W), as the exported model does."""
    predictor.fit_images(size)
    predictor.model.data_preprocessor = _FixedSize(predictor.model.data_preprocessor, size)


class _FixedSize(nn.Module):
    """A data preprocessor that pads all batches to one size, below and on the right."""

    def __init__(self, inner: Any, size: Sequence[int]) -> None:
        super().__init__()
        self.inner, self.size = inner, size

    def forward(self, data: Any, training: bool = False) -> Any:
        data = self.inner(data, training)
        inputs = data["inputs"]
        below, right = self.size[0] - inputs.shape[2], self.size[1] - inputs.shape[3]
        blank = getattr(self.inner, "pad_value", getattr(self.inner, "pad_val", 0))
        data["inputs"] = functional.pad(inputs, (0, right, 0, below), value=float(blank))
        for sample in data["data_samples"]:
            shape = dict(batch_input_shape=tuple(self.size), pad_shape=tuple(self.size))
            sample.set_metainfo(dict(shape, img_padding_size=(0, right, 0, below)))
        return data


def _capture(
    predictor: Predictor, preparation: Preparation, path: Path, *, any_size: bool
) -> tuple[Traced, ExportedGraph]:
    graph = GRAPHS[predictor.task](
        predictor.model, mean=preparation.mean, std=preparation.std, swaps_colours=preparation.swaps_colours
    ).eval()
    item = Prepared.of(path, dict(preparation=preparation.steps))
    pixels = torch.from_numpy(item.pixels)
    window = window_of(predictor.cfg)
    if window is not None:
        pixels = functional.interpolate(pixels, size=window["size"])
    inputs = [pixels]
    if predictor.task == "detection":
        inputs.append(torch.tensor([item.inner], dtype=torch.float32))
    print_log(f"Capturing the graph on {path}, {pixels.shape[2]} x {pixels.shape[3]} pixels", logger="current")
    traced = trace(graph, inputs, any_size=any_size)
    if any_size and traced.fixed_size is not None and window is None:
        raise UserError(
            f"{type(predictor.model).__name__} reads the sizes of its maps, so a graph of it takes images of one size "
            "alone: give it with --size H W."
        )
    return traced, graph


def check(predictor: Predictor, folder: Path, paths: Sequence[Path], evaluation: Evaluation | None) -> dict[str, Any]:
    """Hold an exported model against PyTorch on images, and on the validation data if there is an evaluation.

    Raises:
        UserError: They differ.
    """
    exported = ExportedModel(folder)
    print_log(f"Comparing with PyTorch on {len(paths)} images", logger="current")
    limits = {name: exported.facts[name] for name in ("score_threshold", "max_objects") if name in exported.facts}
    results = compare(list(predictor.iterate(paths)), exported.predict(paths), paths, **limits)
    parity: dict[str, Any] = dict(images=len(paths), **results)
    if evaluation is not None:
        print_log(f"Evaluating PyTorch on {len(evaluation.paths)} images", logger="current")
        before = evaluation.measure(predictor.iterate(evaluation.paths))
        print_log(f"Evaluating the exported model on {len(evaluation.paths)} images", logger="current")
        after = evaluation.measure(exported.iterate(evaluation.paths))
        for name, loss in losses(before, after).items():
            if abs(loss) > METRIC:
                raise UserError(
                    f"The exported model has {name} {after[name]:.4f}, and PyTorch {before[name]:.4f}. Nothing was "
                    "written."
                )
        parity |= dict(metrics={name: [before[name], after[name]] for name in losses(before, after)})
    return parity
