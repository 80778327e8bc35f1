"""Plugs ConvNeXt-atto into one config of every family that mmdet and mmsegmentation ship, and runs each.

python benchmarks/plug_matrix.py [--only FAMILY ...] [--redo] [--seconds 120] [--gigabytes 6]

Per family, in a process of its own: plug, build, one training step and one inference on images of random noise. Where
a config cannot be plugged, the next one of the family is tried. What fails later is tried once more with the backbone
that it came with. Results are kept in benchmarks/results/plug_matrix.json, so that a run that was stopped goes on where
it was, and written as docs/plug_matrix.md.

Some families import packages that are not among our requirements. The committed results were made with these beside
them: scikit-image 0.26.0, lap 0.5.13, motmetrics 1.4.0, fairscale 0.4.13, mmpretrain 1.2.0 and transformers 4.39.3
(mmpretrain does not work with later ones).
"""

import argparse
import copy
import importlib
import importlib.util
import json
import multiprocessing
import re
import resource
import signal
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData

from convnext_dense.data.dataset_configs import config_dicts
from convnext_dense.engine.device import fit_to_device
from convnext_dense.plug import plug_backbone

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/plug_matrix.json"
TABLE = ROOT / "docs/plug_matrix.md"
IMAGE_SIZE = 128  # pixels
# Not more queries than small maps have positions, and few regions and results: the wiring shows in a few.
FEWER = {"num_queries": 100, "num_proposals": 20, "nms_pre": 100, "max_per_img": 20}
STEPS = ("plug", "build", "train", "infer", "done")

# Folders that hold no model of their own.
NO_FAMILY = {"_base_"}
# Where the first name is no good: it lacks what mmdet's own code asks for, or is not what the family is known for.
CHOSEN = {
    "mmdet/cascade_rpn": "cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py",
    "mmdet/dcn": "faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py",
    "mmdet/dcnv2": "faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py",
    "mmdet/centernet": "centernet_r18_8xb16-crop512-140e_coco.py",
    "mmdet/glip": "glip_atss_swin-t_a_fpn_dyhead_16xb2_ms-2x_funtune_coco.py",
}
# Preferred beginnings of names: with a backbone of the plain kind, and neither the largest nor a variant of data.
PREFERRED = ("r50", "r18", "resnet50", "_s_", "-t_", "_tiny", "-t-", "-s")


def config_folder(package: str) -> Path:
    """The folder of configs inside an installed package."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / ".mim/configs"


def families(package: str) -> Iterator[tuple[str, list[Path]]]:
    """Yields the name of every family and its configs, best first.

    That is a model with a plain backbone and a short name; HTC, which runs three stages of masks, is left to its own.
    """
    for folder in sorted(config_folder(package).iterdir()):
        name = f"{package}/{folder.name}"

        def rank(path: Path, name: str = name) -> tuple:
            plain = next((i for i, mark in enumerate(PREFERRED) if mark in path.name), len(PREFERRED))
            return path.name != CHOSEN.get(name), "htc" in path.name, plain, len(path.name), path.name

        paths = sorted(folder.glob("*.py"), key=rank)
        if folder.name not in NO_FAMILY and paths:
            yield name, paths


def shrink(cfg: Config) -> None:
    """Makes a config run on small images on one process; the network keeps its widths."""
    cfg.launcher = "none"
    fit_to_device(cfg)
    for node in list(config_dicts(cfg.model)):
        if "batch_augments" in node:
            node["batch_augments"] = None  # pads to the published size
        if isinstance(node.get("data_preprocessor"), Mapping):
            _shrink_preprocessor(node["data_preprocessor"])
        if isinstance(node.get("test_cfg"), Mapping) and node["test_cfg"].get("mode") == "slide":
            node["test_cfg"] = dict(mode="whole")
        for key, most in FEWER.items():
            if isinstance(node.get(key), int):
                node[key] = min(node[key], most)
        if isinstance(node.get("sampler"), Mapping) and isinstance(node["sampler"].get("num"), int):
            node["sampler"]["num"] = min(node["sampler"]["num"], 32)
        node.pop("pretrained", None)
        if isinstance(node.get("init_cfg"), Mapping) and node["init_cfg"].get("type") == "Pretrained":
            node.pop("init_cfg")
    if cfg.model.get("data_preprocessor") is None and cfg.get("data_preprocessor") is not None:
        cfg.model.data_preprocessor = cfg.data_preprocessor


def forget_downloads(cfg: Config, folder: str) -> None:
    """Teachers start from random weights, and so does the language model, of one layer, which is put into a folder."""
    if isinstance(cfg.model.get("teacher_config"), str):  # relative to mmdet's own repository
        cfg.model.teacher_config = str(config_folder("mmdet").parent / cfg.model.teacher_config)
    if "teacher_ckpt" in cfg.model:
        cfg.model.teacher_ckpt = None
    if "language_model" in cfg.model:
        write_language_model(Path(folder))
        cfg.model.language_model.name = folder
        for node in config_dicts(cfg.model):
            if "lang_model_name" in node:
                node["lang_model_name"] = folder


def write_language_model(folder: Path) -> None:
    """Writes a BERT of random weights that knows two words, as wide as the published one."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "cat", "dog"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    BertModel(BertConfig(vocab_size=len(words), num_hidden_layers=1, intermediate_size=64)).save_pretrained(folder)


def _shrink_preprocessor(node: Any) -> None:
    if node.get("size") is not None:
        node["size"] = (IMAGE_SIZE, IMAGE_SIZE)


BOXES = [[8.0, 8.0, 72.0, 80.0], [30.0, 40.0, 110.0, 120.0]]


def detection_batch(cfg: Config) -> dict[str, Any]:
    """Two images with boxes, masks, a map of classes and proposals of random noise."""
    from mmdet.testing import demo_mm_inputs

    shapes = [(3, IMAGE_SIZE, IMAGE_SIZE)] * 2
    batch = demo_mm_inputs(
        2, shapes, num_items=[2, 2], num_classes=2, with_mask=True, with_semantic=True, use_box_type=True
    )
    loading = list(config_dicts(cfg.get("train_dataloader") or {}))
    with_mask = any(node.get("with_mask") or node.get("type") == "LoadPanopticAnnotations" for node in loading)
    for sample in batch["data_samples"]:
        if not with_mask:
            del sample.gt_instances.masks  # RTMDet takes their presence for a request
        boxes = torch.tensor(BOXES)
        sample.gt_instances.labels = torch.tensor([0, num_classes(cfg) - 1])
        sample.gt_instances.bboxes = type(sample.gt_instances.bboxes)(boxes)
        if cfg.model.type == "FastRCNN":  # others make their own
            sample.proposals = InstanceData(bboxes=boxes.clone(), scores=torch.ones(2))
        size = (1, IMAGE_SIZE, IMAGE_SIZE)
        sample.gt_sem_seg = PixelData(sem_seg=torch.randint(0, 2, size))
        sample.set_metainfo(
            dict(batch_input_shape=size[1:], pad_shape=size[1:], text=("cat", "dog"), custom_entities=True)
        )
    return batch


def num_classes(cfg: Config) -> int:
    """Two, or what the model has if that is less."""
    numbers = [node["num_classes"] for node in config_dicts(cfg.model) if isinstance(node.get("num_classes"), int)]
    return min([2, *numbers])


def video_batch(cfg: Config) -> dict[str, Any]:
    """A video of two frames, key frame and reference, with two objects that keep their identity."""
    from mmdet.testing import demo_track_inputs

    shape = (3, IMAGE_SIZE, IMAGE_SIZE)
    batch = demo_track_inputs(
        1, 2, key_frames_inds=[0], image_shapes=shape, num_items=[2], num_classes=num_classes(cfg), with_mask=True
    )
    for frame in batch["data_samples"][0]:
        frame.gt_instances.bboxes = torch.tensor(BOXES)
        frame.gt_instances.instances_ids = torch.tensor([100, 101])
        frame.set_metainfo(dict(ori_video_length=2, video_length=2))
    return batch


def identity_batch(cfg: Config) -> dict[str, Any]:
    """Four pictures of two persons, twice each."""
    from mmdet.structures import ReIDDataSample

    size = (256, 128)  # what the window of the family's pooling asks for
    samples = []
    for person in (0, 0, 1, 1):
        sample = ReIDDataSample(metainfo=dict(img_shape=size, ori_shape=size))
        samples.append(sample.set_gt_label(person))
    return dict(inputs=[torch.randint(0, 255, (3, *size), dtype=torch.uint8) for _ in samples], data_samples=samples)


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


def batches(cfg: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a model is trained on, and what it infers from: one image, or one video."""
    if cfg.default_scope == "mmseg":
        batch = segmentation_batch(cfg)
        return batch, batch
    preprocessor = cfg.model.get("data_preprocessor", {})
    if preprocessor.get("type") == "ReIDDataPreprocessor":
        batch = identity_batch(cfg)
        return batch, batch
    if preprocessor.get("type") == "TrackDataPreprocessor":
        video = video_batch(cfg)
        return detection_batch(cfg) if preprocessor.get("use_det_processor") else video, video
    batch = detection_batch(cfg)
    # Some infer one image at a time: https://github.com/open-mmlab/mmcv/blob/v2.1.0/mmcv/ops/masked_conv.py
    single = {key: values[:1] for key, values in batch.items()}
    return semi_supervised(batch) if "semi_train_cfg" in cfg.model else batch, single


def training_step(model: Any, batch: Mapping[str, Any]) -> float:
    """One step of SGD; returns the loss, which must be finite."""
    model.train()
    optimizer = torch.optim.SGD([param for param in model.parameters() if param.requires_grad], lr=1e-4)
    data = model.data_preprocessor(copy.deepcopy(dict(batch)), training=True)
    for name in ("epoch", "iter"):  # mmengine's Runner says where it is, and some heads ask
        MessageHub.get_current_instance().update_info(name, 0)
    if hasattr(model, "set_epoch"):  # by a hook of mmdet in its own runs
        model.set_epoch(0)
    try:
        losses = model(**data, mode="loss")
    except NotImplementedError:  # a tracker whose detector is trained by itself
        samples = [video[0] for video in data["data_samples"]]
        losses = model.detector(data["inputs"][:, 0], samples, mode="loss")
    loss, _ = model.parse_losses(losses)
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss), f"the loss is {loss.item()}"
    return loss.item()


def check_gradient(model: Any) -> None:
    """Raises if the first block of ConvNeXt is not there or had no part in the loss."""
    backbone = [param for name, param in model.named_parameters() if "stages.0.0.dwconv.weight" in name]
    assert backbone, "there is no ConvNeXt in the model"
    assert any(param.grad is not None for param in backbone), "no gradient reaches the first block of the backbone"


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


def run_family(config: Path, report: Any, *, arch: str | None = "atto") -> None:
    """Plugs, builds, trains and infers; ``report(step)`` is called before each. Without ``arch`` nothing is plugged."""
    torch.manual_seed(0)
    report("plug")
    cfg = Config.fromfile(config, import_custom_modules=arch is None)
    if arch is not None:
        cfg = plug_backbone(cfg, arch)
    shrink(cfg)
    report("build")
    init_default_scope(cfg.default_scope)
    with tempfile.TemporaryDirectory() as folder:
        forget_downloads(cfg, folder)
        model = MODELS.build(cfg.model)
        model.init_weights()  # as mmengine's Runner does
    report("train")
    to_train, to_infer = batches(cfg)
    training_step(model, to_train)
    if arch is not None:
        check_gradient(model)
    report("infer")
    assert inference(model, to_infer) == len(to_infer["data_samples"])
    report("done")


def _child(config: Path, connection: Any, seconds: float, gigabytes: float, arch: str | None) -> None:
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
    try:
        run_family(config, lambda step: connection.send((step, "")), arch=arch)
    except BaseException as error:
        text = " ".join(str(error).split())
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.name}"
        connection.send(("error", f"{type(error).__name__}: {text[:300]} ({place})"))


def run_limited(config: Path, *, seconds: float, gigabytes: float, arch: str | None = "atto") -> dict[str, Any]:
    """Runs a family in a process with limits; the result names the last step begun and, if any, the error."""
    fork = multiprocessing.get_context("fork")  # what is imported here need not be imported again
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_child, args=(config, sender, seconds, gigabytes, arch))
    begin = time.monotonic()
    process.start()
    sender.close()
    step, error = "plug", ""
    try:
        while step != "done" and not error:
            # Other programs may want the processor too, but not so that this waits for ever.
            if not receiver.poll(max(begin + 10 * seconds - time.monotonic(), 0)):
                error = f"hung for {10 * seconds:g} s"
                break
            name, text = receiver.recv()
            step, error = (step, text) if name == "error" else (name, "")
    except EOFError:
        process.join()
        slow = process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL)
        error = f"took more than {seconds:g} s" if slow else "the process ended, most likely for lack of memory"
    process.kill()
    process.join()
    return dict(config=config.name, reached=step, error=error, seconds=round(time.monotonic() - begin, 1))


def run_first_that_plugs(configs: list[Path], **limits: float) -> dict[str, Any]:
    """Runs the first config that can be plugged; if none can, the result is that of the first."""
    first: dict[str, Any] = {}
    for config in configs:
        result = run_limited(config, **limits)
        if result["reached"] != "plug":
            if result["reached"] != "done" and "took more than" not in result["error"]:
                stock = run_limited(config, arch=None, **limits)
                result["fails_without_plug"] = stock["reached"] == result["reached"]
            return result
        first = first or result
    return first


# Why a family has no backbone that can be swapped here, by the text of what went wrong.
NOT_SWAPPABLE = {
    r"has no backbone|no attribute 'model'": "no backbone to swap",
    r"reads maps of the strides|heads made for it|'ConvNeXt' object has no": "the backbone is part of the method",
    r"(?<!OPS=1 )pip install|mim install|please install|No module|::model registry": "needs a package not there",
    r"URLError|couldn't connect|Connection": "needs a download",
}


def not_swappable(result: Mapping[str, Any]) -> str:
    """The kind of the reason, or nothing for what counts."""
    kinds = (kind for pattern, kind in NOT_SWAPPABLE.items() if re.search(pattern, result["error"]))
    return "" if result["reached"] == "done" else next(kinds, "")


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
        rows = {
            name: results.get(name, dict(config=configs[0].name, reached="not run", error=""))
            for name, configs in families(package)
        }
        kinds = {name: not_swappable(row) for name, row in rows.items()}
        done = sum(row["reached"] == "done" for row in rows.values())
        swappable = sum(not kind for kind in kinds.values())
        lines += [f"## {package}: {done} of {swappable} families done ({100 * done / swappable:.0f} %)", ""]
        lines += [f"Not counted, of {len(rows)} folders:", ""] if any(kinds.values()) else []
        for kind in sorted({kind for kind in kinds.values() if kind}):
            lines.append(f"- {kind}: {', '.join(name.split('/')[1] for name in rows if kinds[name] == kind)}")
        lines += ["", "| family | config | reached | reason |", "|---|---|---|---|"]
        for name, row in rows.items():
            lines.append(f"| {name.split('/')[1]} | {row['config']} | {row['reached']} | {_reason(row)} |")
        lines.append("")
    return "\n".join(lines)


def _reason(result: Mapping[str, Any]) -> str:
    text = " ".join(result["error"].replace("|", "/").split()).split(": replace mmcv-lite")[0][:200]
    return f"with the backbone that it came with, too: {text}" if result.get("fails_without_plug") else text


def main() -> None:
    """Reads the arguments, runs what has no result yet, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="FAMILY", help="families such as mmdet/retinanet")
    parser.add_argument("--redo", action="store_true", help="run again what did not end well")
    parser.add_argument("--seconds", type=float, default=120, help="limit of processor time per family")
    parser.add_argument("--gigabytes", type=float, default=6, help="limit of memory per family")
    args = parser.parse_args()

    for module in ("mmdet.models", "mmdet.testing", "mmseg.models"):  # once, for every process that is forked
        importlib.import_module(module)

    torch.set_num_threads(1)
    MMLogger.get_instance("matrix", log_level="WARNING")  # else every parameter's start values are logged
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for package in ("mmdet", "mmseg"):
        for family, configs in families(package):
            known = results.get(family)
            if args.only and family not in args.only:
                continue
            if known is not None and not (args.redo and known["reached"] != "done"):
                continue
            results[family] = run_first_that_plugs(configs, seconds=args.seconds, gigabytes=args.gigabytes)
            print(family, *results[family].values(), sep="  ", flush=True)
            RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    TABLE.write_text(write_table(results))


if __name__ == "__main__":
    main()
