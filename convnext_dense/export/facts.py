"""``model.json``: what an exported model is, takes and gives, and where it is from."""

import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from convnext_dense import __version__
from convnext_dense.checkpoints import fetch
from convnext_dense.checkpoints.licences import find_licence
from convnext_dense.checkpoints.zoo import PREFIX
from convnext_dense.export.graphs import ExportedGraph
from convnext_dense.export.preparation import Preparation, window_of
from convnext_dense.export.runtime import FORMAT, checksum
from convnext_dense.export.tracing import OPSET, Traced
from convnext_dense.inference import Predictor

FACTS = "model.json"
FLOAT = "float.onnx"  # beside a model that is being quantised
_RUNTIMES = {".onnx": "onnxruntime", ".xml": "openvino", ".pt2": "torch"}
_PACKAGES = {".onnx": ("onnx", "onnxscript"), ".xml": ("openvino",), ".pt2": ("torchvision",)}

# What a graph is given and gives. N images, K objects at most, C classes, H and W height and width in pixels.
INPUTS = {
    "image": "float32, N x 3 x H x W: prepared images, red first, values from 0 to 255; the graph normalises them",
    "image_sizes": "float32, N x 2: height and width of each image after it was resized and before it was padded",
}
OUTPUTS = {
    "boxes": "float32, N x K x 4: x1, y1, x2, y2 in pixels of the resized image; divide by its scale",
    "scores": "float32, N x K: from 0 to 1, falling; objects below score_threshold are left out",
    "labels": "int64, N x K: positions in class_names",
    "count": "int64, N: number of objects; what comes after them fills the arrays up",
    "masks": "float32, N x K x S x S: probability of each cell of the box; the mask is where it reaches mask_threshold",
    "logits": "float32, N x C x H x W: of each pixel of the prepared image; the label is where they are largest",
    "probs": "float32, N x C: probability of each class",
}


def collect_facts(
    predictor: Predictor,
    preparation: Preparation,
    graph: ExportedGraph,
    traced: Traced,
    file: Path,
    *,
    config: str | os.PathLike,
    checkpoint: str | os.PathLike,
) -> dict[str, Any]:
    """Return the content of ``model.json``, without what is known later."""
    model = predictor.model
    facts: dict[str, Any] = dict(
        format=FORMAT,
        task=predictor.task,
        model=type(model).__name__,
        file=file.name,
        runtime=_RUNTIMES[file.suffix],
        precision="float32",
        class_names=list(predictor.class_names),
        preparation=preparation.steps,
        inputs=[dict(name=name, meaning=INPUTS[name]) for name in graph.input_names],
        input_size=None if traced.fixed_size is None else list(traced.fixed_size),
        batch=traced.takes_batches,
        outputs=[dict(name=name, meaning=OUTPUTS[name]) for name in graph.output_names],
        sha256={},
        versions={
            "convnext_dense": __version__,
            **{name: version(name) for name in ("torch", *_PACKAGES[file.suffix])},
        },
        source=dict(config=_public(config), checkpoint=_public(checkpoint), sha256=_digest(checkpoint)),
        licence=find_licence(os.fspath(checkpoint), ""),
    )
    if file.suffix == ".onnx":
        facts["opset"] = OPSET
    if predictor.task == "segmentation":
        heads = model.decode_head if isinstance(model.decode_head, nn.ModuleList) else [model.decode_head]
        facts |= dict(
            palette=[[int(value) for value in colour] for colour in predictor.palette],
            window=window_of(predictor.cfg),
            align_corners=bool(model.align_corners),
            threshold=getattr(heads[-1], "threshold", None),
        )
    if predictor.task == "detection":
        cfg = model.roi_head.test_cfg if getattr(model, "roi_head", None) is not None else model.test_cfg
        facts |= dict(
            score_threshold=cfg.get("score_thr", 0.0),
            max_objects=cfg.get("max_per_img"),
            mask_threshold=cfg.get("mask_thr_binary", 0.5),
        )
    return facts


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Write ``model.json``, with the hashes of the files of the model and of its own content."""
    files = sorted(file for file in folder.iterdir() if file.name not in (FACTS, FLOAT, "runtime.py"))
    facts["sha256"] = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    facts["checksum"] = checksum(facts)
    (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _public(place: str | os.PathLike) -> str:
    """Return an address, or the name of a file without its folders, which are those of this machine."""
    place = os.fspath(place)
    return place if "://" in place or place.startswith(PREFIX) else Path(place).name


def _digest(checkpoint: str | os.PathLike) -> str:
    return hashlib.sha256(Path(fetch(checkpoint)).read_bytes()).hexdigest()
