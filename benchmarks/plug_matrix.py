"""Plugs ConvNeXt-atto into one config of every family that mmdet and mmsegmentation ship, and runs each.

python benchmarks/plug_matrix.py [--only FAMILY ...] [--redo] [--seconds 120] [--gigabytes 6]

Per family, in a process of its own: plug, build, one training step and one inference on images of random noise. Results
are kept in benchmarks/results/plug_matrix.json, so that a run that was stopped goes on where it was, and written as
docs/plug_matrix.md.
"""

import argparse
import copy
import importlib
import importlib.util
import json
import multiprocessing
import resource
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData

from convnext_dense.data.dataset_configs import config_dicts
from convnext_dense.engine.device import fit_to_device
from convnext_dense.plug import plug_backbone

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/plug_matrix.json"
TABLE = ROOT / "docs/plug_matrix.md"
IMAGE_SIZE = 128  # pixels
STEPS = ("plug", "build", "train", "infer", "done")

# Folders that hold no model of their own.
NO_FAMILY = {"_base_"}
# Where the first name is no good: it lacks what mmdet's own code asks for, or is not what the family is known for.
CHOSEN = {
    "mmdet/cascade_rpn": "cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py",
    "mmdet/dcn": "faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py",
    "mmdet/dcnv2": "faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py",
    "mmdet/centernet": "centernet_r18_8xb16-crop512-140e_coco.py",
}
# Preferred beginnings of names: with a backbone of the plain kind, and neither the largest nor a variant of data.
PREFERRED = ("r50", "r18", "resnet50", "_s_", "-t_", "_tiny", "-t-", "-s")


def config_folder(package: str) -> Path:
    """The folder of configs inside an installed package."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / ".mim/configs"


def families(package: str) -> Iterator[tuple[str, Path]]:
    """Yields the name of every family and one config of it: of a model with a plain backbone, the shortest name."""
    for folder in sorted(config_folder(package).iterdir()):
        names = sorted(folder.glob("*.py"), key=lambda path: (len(path.name), path.name))
        if folder.name in NO_FAMILY or not names:
            continue
        for mark in (*PREFERRED, ""):
            chosen = CHOSEN.get(f"{package}/{folder.name}", mark)
            found = next((path for path in names if chosen in path.name), None)
            if found is not None:
                yield f"{package}/{folder.name}", found
                break


def shrink(cfg: Config) -> None:
    """Makes a config run on small images on one process; the network keeps its widths."""
    cfg.launcher = "none"
    fit_to_device(cfg)
    for node in list(config_dicts(cfg.model)):
        if "batch_augments" in node:
            node["batch_augments"] = None  # pads to the published size
        if isinstance(node.get("data_preprocessor"), Mapping):
            _shrink_preprocessor(node["data_preprocessor"])
        if isinstance(node.get("num_queries"), int):
            node["num_queries"] = min(node["num_queries"], 100)  # not more than small maps have positions
        if isinstance(node.get("test_cfg"), Mapping) and node["test_cfg"].get("mode") == "slide":
            node["test_cfg"] = dict(mode="whole")
        node.pop("pretrained", None)
        if isinstance(node.get("init_cfg"), Mapping) and node["init_cfg"].get("type") == "Pretrained":
            node.pop("init_cfg")
    if cfg.model.get("data_preprocessor") is None and cfg.get("data_preprocessor") is not None:
        cfg.model.data_preprocessor = cfg.data_preprocessor


def _shrink_preprocessor(node: Any) -> None:
    if node.get("size") is not None:
        node["size"] = (IMAGE_SIZE, IMAGE_SIZE)


def detection_batch(cfg: Config) -> dict[str, Any]:
    """Two images with boxes, masks, a map of classes and proposals of random noise."""
    from mmdet.testing import demo_mm_inputs

    shapes = [(3, IMAGE_SIZE, IMAGE_SIZE)] * 2
    batch = demo_mm_inputs(
        2, shapes, num_items=[2, 2], num_classes=2, with_mask=True, with_semantic=True, use_box_type=True
    )
    with_mask = any(node.get("with_mask") for node in config_dicts(cfg.get("train_dataloader") or {}))
    for sample in batch["data_samples"]:
        if not with_mask:
            del sample.gt_instances.masks  # RTMDet takes their presence for a request
        boxes = torch.tensor([[8.0, 8.0, 72.0, 80.0], [30.0, 40.0, 110.0, 120.0]])
        sample.gt_instances.bboxes = type(sample.gt_instances.bboxes)(boxes)
        if cfg.model.type == "FastRCNN":  # others make their own
            sample.proposals = InstanceData(bboxes=boxes.clone(), scores=torch.ones(2))
        size = (1, IMAGE_SIZE, IMAGE_SIZE)
        sample.gt_sem_seg = PixelData(sem_seg=torch.randint(0, 2, size))
        sample.set_metainfo(
            dict(batch_input_shape=size[1:], pad_shape=size[1:], text=("cat", "dog"), custom_entities=True)
        )
    return batch


def segmentation_batch(cfg: Config) -> dict[str, Any]:
    """Two images and maps of classes of random noise."""
    from mmseg.structures import SegDataSample

    size = (IMAGE_SIZE, IMAGE_SIZE)
    samples = []
    for _ in range(2):
        meta = dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size)
        sample = SegDataSample(metainfo=meta)
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 2, (1, *size)).repeat_interleave(1, 0))
        sample.gt_edge_map = PixelData(data=torch.randint(0, 2, (1, *size)))
        samples.append(sample)
    return dict(inputs=[torch.randint(0, 255, (3, *size), dtype=torch.uint8) for _ in range(2)], data_samples=samples)


def training_step(model: Any, batch: Mapping[str, Any]) -> float:
    """One step of SGD; returns the loss, which must be finite."""
    model.train()
    optimizer = torch.optim.SGD([param for param in model.parameters() if param.requires_grad], lr=1e-4)
    data = model.data_preprocessor(copy.deepcopy(dict(batch)), training=True)
    if hasattr(model, "set_epoch"):  # by a hook of mmdet in its own runs
        model.set_epoch(0)
    losses = model(**data, mode="loss")
    loss, _ = model.parse_losses(losses)
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss), f"the loss is {loss.item()}"
    backbone = [param for name, param in model.named_parameters() if "stages.0.0.dwconv.weight" in name]
    assert backbone, "there is no ConvNeXt in the model"
    assert any(param.grad is not None for param in backbone), "no gradient reaches the first block of the backbone"
    return loss.item()


def inference(model: Any, batch: Mapping[str, Any]) -> int:
    """Predicts and returns the number of results."""
    model.eval()
    with torch.no_grad():
        data = model.data_preprocessor(copy.deepcopy(dict(batch)), training=False)
        return len(model(**data, mode="predict"))


def semi_supervised(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch as the branches of a semi-supervised detector."""
    names = ("sup", "unsup_teacher", "unsup_student")
    samples = copy.deepcopy(batch["data_samples"])
    for sample in samples:
        sample.set_metainfo(dict(homography_matrix=torch.eye(3).numpy()))
    return dict(
        inputs={name: [image.clone() for image in batch["inputs"]] for name in names},
        data_samples={name: copy.deepcopy(samples) for name in names},
    )


def run_family(config: Path, report: Any, *, arch: str = "atto") -> None:
    """Plugs, builds, trains and infers; ``report(step)`` is called before each."""
    torch.manual_seed(0)
    report("plug")
    cfg = Config.fromfile(config, import_custom_modules=False)
    cfg = plug_backbone(cfg, arch)
    shrink(cfg)
    report("build")
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    report("train")
    segmenter = cfg.default_scope == "mmseg"
    batch = segmentation_batch(cfg) if segmenter else detection_batch(cfg)
    training_step(model, semi_supervised(batch) if "semi_train_cfg" in cfg.model else batch)
    report("infer")
    assert inference(model, batch) == 2
    report("done")


def _child(config: Path, connection: Any, gigabytes: float) -> None:
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    steps: list[str] = []
    try:
        run_family(config, lambda step: (steps.append(step), connection.send((step, ""))))
    except BaseException as error:
        text = str(error).strip().splitlines() or [""]
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.name}"
        connection.send(("error", f"{type(error).__name__}: {text[0][:300]} ({place})"))


def run_limited(config: Path, *, seconds: float, gigabytes: float) -> dict[str, Any]:
    """Runs a family in a process with limits; the result names the last step begun and, if any, the error."""
    fork = multiprocessing.get_context("fork")  # what is imported here need not be imported again
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_child, args=(config, sender, gigabytes))
    begin = time.monotonic()
    process.start()
    sender.close()
    step, error = "plug", ""
    try:
        while step != "done" and not error:
            if not receiver.poll(max(begin + seconds - time.monotonic(), 0)):
                error = f"took more than {seconds:g} s"
                break
            name, text = receiver.recv()
            step, error = (step, text) if name == "error" else (name, "")
    except EOFError:
        error = "the process ended, most likely for lack of memory"
    process.kill()
    process.join()
    return dict(config=config.name, reached=step, error=error, seconds=round(time.monotonic() - begin, 1))


def write_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The results as a page of Markdown."""
    lines = [
        "# ConvNeXt under every family of mmdet and mmsegmentation",
        "",
        "Written by `benchmarks/plug_matrix.py`: one config per folder, ConvNeXt-atto by `plug_backbone`, random "
        f"weights, images of noise of {IMAGE_SIZE} x {IMAGE_SIZE} pixels, on a CPU with mmcv-lite. `done`: plugged, "
        "built, one training step with a finite loss and a gradient in the first block, one inference. A family that "
        "stopped shows the step and why; `not run` says that nobody has run it yet.",
        "",
    ]
    for package in ("mmdet", "mmseg"):
        names = [name for name, _ in families(package)]
        done = sum(results.get(name, {}).get("reached") == "done" for name in names)
        run = sum(name in results for name in names)
        lines += [f"## {package}: {done} of {run} run, of {len(names)} families", ""]
        lines += ["| family | config | reached | reason |", "|---|---|---|---|"]
        for name, config in families(package):
            result = results.get(name, dict(config=config.name, reached="not run", error=""))
            reason = result["error"].replace("|", "/").replace("\n", " ")
            reason = reason.split(": replace mmcv-lite")[0][:200]
            lines.append(f"| {name.split('/')[1]} | {result['config']} | {result['reached']} | {reason} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Reads the arguments, runs what has no result yet, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="FAMILY", help="families such as mmdet/retinanet")
    parser.add_argument("--redo", action="store_true", help="run again what did not end well")
    parser.add_argument("--seconds", type=float, default=120, help="limit per family")
    parser.add_argument("--gigabytes", type=float, default=6, help="limit of memory per family")
    args = parser.parse_args()

    for module in ("mmdet.models", "mmdet.testing", "mmseg.models"):  # once, for every process that is forked
        importlib.import_module(module)

    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for package in ("mmdet", "mmseg"):
        for family, config in families(package):
            known = results.get(family)
            if args.only and family not in args.only:
                continue
            if known is not None and not (args.redo and known["reached"] != "done"):
                continue
            results[family] = run_limited(config, seconds=args.seconds, gigabytes=args.gigabytes)
            print(family, *results[family].values(), sep="  ", flush=True)
            RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    TABLE.write_text(write_table(results))


if __name__ == "__main__":
    main()
