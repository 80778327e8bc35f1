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
from convnext_dense.export.graphs import ExportedGraph
from convnext_dense.export.preparation import Preparation, window_of
from convnext_dense.export.runtime import FORMAT, checksum
from convnext_dense.export.tracing import OPSET, Traced
from convnext_dense.inference import Predictor

FACTS = "model.json"
FLOAT = "float.onnx"  # beside a model that is being quantised
_RUNTIMES = {".onnx": "onnxruntime", ".xml": "openvino", ".pt2": "torch"}
_PACKAGES = {".onnx": ("onnx", "onnxscript"), ".xml": ("openvino",), ".pt2": ("torchvision",)}


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
        input="float32, N x 3 x H x W, values from 0 to 255, red first; the graph normalises them",
        input_size=None if traced.fixed_size is None else list(traced.fixed_size),
        batch=traced.takes_batches,
        outputs=list(graph.output_names),
        sha256={},
        versions={
            "convnext_dense": __version__,
            **{name: version(name) for name in ("torch", *_PACKAGES[file.suffix])},
        },
        source=dict(config=os.fspath(config), checkpoint=os.fspath(checkpoint), sha256=_digest(checkpoint)),
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


def _digest(checkpoint: str | os.PathLike) -> str:
    return hashlib.sha256(Path(fetch(checkpoint)).read_bytes()).hexdigest()
