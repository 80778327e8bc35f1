"""Trains, resumes, tests and runs inference with one config of every mmdet and mmsegmentation family, using the tools.

python benchmarks/plug_matrix.py [--only FAMILY ...] [--redo] [--processes 2] [--seconds 150] [--gigabytes 8]

For each family, with one process per command and a folder DIR of small generated images:

    tools/train.py CONFIG --backbone convnext-atto --data DIR            two iterations
    tools/train.py CONFIG --backbone convnext-atto --data DIR --resume   as many again
    tools/test.py WORK_DIR/CONFIG.py CHECKPOINT                          its metric is printed
    tools/infer.py WORK_DIR/CONFIG.py CHECKPOINT IMAGE                   a picture is written

--cfg-options set only length, image size and random weights. If a config cannot be plugged, the next one of the family
is tried. If training fails, the config is tried once more with its original backbone. Results are kept in
benchmarks/results/plug_matrix.json, so an interrupted run continues where it stopped, and are written to
docs/plug_matrix.md. The processes are forked from one that has imported torch, mmdet and mmseg.

Some families import packages that are not among our requirements. The committed results were made with these additional
packages: scikit-image 0.26.0, lap 0.5.13, motmetrics 1.4.0, albumentations, mmpretrain 1.2.0 and transformers 4.39.3
(mmpretrain does not work with later versions).
"""

import argparse
import datetime
import importlib
import importlib.util
import json
import multiprocessing
import os
import re
import resource
import runpy
import shutil
import signal
import sys
import tempfile
import textwrap
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

import convnext_dense
from convnext_dense.config.reading import read_config
from convnext_dense.data.own.tasks import use_folder
from convnext_dense.data.shapes.ade import write_ade
from convnext_dense.data.shapes.coco import write_coco
from convnext_dense.plug import plug_backbone

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/plug_matrix.json"
TABLE = ROOT / "docs/plug_matrix.md"
ARCH = "atto"
IMAGE_SIZE = 128  # pixels
NUM_TRAIN, NUM_VAL = 4, 2
# No more queries than small maps have positions; a few are enough to test the wiring.
FEWER = {"num_queries": 100, "nms_pre": 200}
STEPS = ("plug", "train", "resume", "test", "infer", "done")

# Folders without a model of their own.
NO_FAMILY = {"_base_"}
# For families whose first config is unsuitable: it lacks what mmdet's own code requires, needs proposals or stuff maps
# that a folder of annotated objects does not have, or is not what the family is known for.
CHOSEN = {
    "mmdet/cascade_rpn": "cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py",
    "mmdet/dcn": "faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py",
    "mmdet/dcnv2": "faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py",
    "mmdet/centernet": "centernet_r18_8xb16-crop512-140e_coco.py",
    "mmdet/glip": "glip_atss_swin-t_a_fpn_dyhead_16xb2_ms-2x_funtune_coco.py",
    "mmdet/libra_rcnn": "libra-faster-rcnn_r50_fpn_1x_coco.py",
    "mmdet/deepsort": "deepsort_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py",
    "mmdet/mm_grounding_dino": "coco/grounding_dino_swin-t_finetune_16xb4_1x_coco.py",
}
# Preferred parts of names: plain backbones, neither the largest nor data variants.
PREFERRED = ("r50", "r18", "resnet50", "_s_", "-t_", "_tiny", "-t-", "-s")


def config_folder(package: str) -> Path:
    """Return the folder of configs inside an installed package."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / ".mim/configs"


def families(package: str) -> Iterator[tuple[str, list[Path]]]:
    """Yield the name of every family and its configs, best first.

    The best has a plain backbone and a short name; configs with HTC, which runs three stages of masks, come last.
    """
    for folder in sorted(config_folder(package).iterdir()):
        name = f"{package}/{folder.name}"
        if folder.name in NO_FAMILY or not folder.is_dir():
            continue

        def rank(path: Path) -> tuple:
            plain = next((i for i, mark in enumerate(PREFERRED) if mark in path.name), len(PREFERRED))
            return "htc" in path.name, plain, len(path.name), path.name

        paths = sorted(folder.glob("*.py"), key=rank)
        chosen = [folder / CHOSEN[name]] if name in CHOSEN else []
        if paths:
            yield name, [*chosen, *(path for path in paths if path not in chosen)]


def options(cfg: Config, language: Path | None = None) -> dict[str, str]:
    """Return the options with which a plugged config runs for two iterations on small images.

    Args:
        cfg: The config to run, already pointed at the folder.
        language: Folder of a language model that replaces the published one.
    """
    square = f"({IMAGE_SIZE},{IMAGE_SIZE})"
    sources = (cfg.train_dataloader.get("sampler") or {}).get("source_ratio")  # of a semi-supervised batch
    found = {"train_dataloader.batch_size": str(sum(sources or [2]))}
    for loader in ("train", "val", "test"):
        found |= {f"{loader}_dataloader.num_workers": "0", f"{loader}_dataloader.persistent_workers": "False"}
    by_epoch = cfg.train_cfg.get("by_epoch", "Iter" not in str(cfg.train_cfg.get("type")))
    found["train_cfg.max_epochs" if by_epoch else "train_cfg.max_iters"] = "1" if by_epoch else "2"
    found |= {"train_cfg.val_interval": "1" if by_epoch else "2"}
    found["default_hooks.checkpoint.interval"] = "1" if by_epoch else "2"
    # The resumed run is longer, and a schedule that ends with the run would change.
    steps = cfg.get("param_scheduler") or []
    found |= {f"+param_scheduler.{i}.end": "1000" for i, step in enumerate(steps) if "end" not in step}
    for key in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for place, node in _dicts(cfg[key], key):
            for name, value in node.items():
                if name in ("scale", "img_scale", "crop_size", "size") and _is_size(value):
                    found[f"{place}.{name}"] = square
                elif name in ("scale", "scales", "img_scale") and _is_size(next(iter(_listed(value)), None)):
                    found[f"{place}.{name}"] = f"[{','.join([square] * len(value))}]"
                elif name == "times":
                    found[f"{place}.{name}"] = "1"
    for place, node in _dicts(cfg.model, "model"):
        preprocesses = "data_preprocessor" in place
        for name, value in node.items():
            if preprocesses and name == "size" and value is not None:
                found[f"{place}.{name}"] = square
            elif name == "random_size_range":
                found[f"{place}.{name}"] = f"({IMAGE_SIZE},{IMAGE_SIZE + 32})"
            elif name in FEWER and isinstance(value, int) and value > FEWER[name]:
                found[f"{place}.{name}"] = str(FEWER[name])
            elif _is_download(name, value):
                found[f"{place}.{name}"] = "None"
            elif name == "teacher_config" and isinstance(value, str):  # relative to mmdet's own repository
                found[f"{place}.{name}"] = str(config_folder("mmdet").parent / value)
    words = cfg.model.get("language_model", {}).get("name")
    for place, node in _dicts(cfg.to_dict() if words else {}, ""):
        if place.split(".")[0] in ("model", "train_dataloader", "val_dataloader", "test_dataloader"):
            found |= {f"{place}.{name}": str(language) for name, value in node.items() if value == words}
    return found


def _dicts(node: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every dict of a config with its dotted key."""
    if isinstance(node, Mapping):
        yield place, node
        children: Any = list(node.items())
    else:
        children = enumerate(node) if isinstance(node, list | tuple) else []
    for key, child in children:
        yield from _dicts(child, f"{place}.{key}" if place else key)


def _is_download(name: str, value: Any) -> bool:
    if name == "init_cfg":
        return isinstance(value, Mapping) and value.get("type") == "Pretrained"
    return name in ("pretrained", "teacher_ckpt") and isinstance(value, str)


def _is_size(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(side, int) for side in value)


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def write_data(folder: Path) -> None:
    """Write the training data: objects in COCO format, label images, and a language model of few words."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    write_coco(folder / "mmdet", NUM_TRAIN, num_val=NUM_VAL, image_size=size, seed=0)
    write_ade(folder / "mmseg", NUM_TRAIN, num_val=NUM_VAL, image_size=size, seed=0)
    if importlib.util.find_spec("transformers") is not None:
        _write_language_model(folder / "language")


def _write_language_model(folder: Path) -> None:
    """Write a BERT with random weights and few words that is as wide as the published one."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "circle", "square", "triangle", "star", "ring"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    BertModel(BertConfig(vocab_size=len(words), num_hidden_layers=1, intermediate_size=64)).save_pretrained(folder)


class StepError(Exception):
    """A command failed; the message says why."""


def run_tool(tool: str, arguments: Sequence[str], log: Path, *, seconds: float, gigabytes: float) -> str:
    """Run one of the tools in its own process, with limits, and return its output.

    Raises:
        StepError: Its exit code was not 0.
    """
    process = multiprocessing.get_context("fork").Process(
        target=_tool_process, args=(tool, list(arguments), log, seconds, gigabytes)
    )
    process.start()
    process.join(10 * seconds)  # allows for other programs on the processor, but not for ever
    hung = process.is_alive()
    process.kill()
    process.join()
    text = log.read_text(errors="replace")
    if hung or process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise StepError(f"took more than {seconds:g} s")
    if process.exitcode != 0:
        lines = [line for line in text.splitlines() if line.strip()]
        raise StepError((re.findall(r"^Error: .*", text, re.M) or lines or ["it printed nothing"])[-1][:300])
    return text


def _tool_process(tool: str, arguments: list[str], log: Path, seconds: float, gigabytes: float) -> None:
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [str(ROOT / "tools" / tool), *arguments]
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    # Show warnings that a new interpreter would show.
    warnings.resetwarnings()
    runpy.run_path(sys.argv[0], run_name="__main__")


def run_config(config: str, data: Path, folder: Path, report: Any, *, arch: str | None = ARCH, **limits: float) -> None:
    """Run the commands on a config, calling ``report(step)`` before each. Without ``arch`` nothing is plugged."""
    package = config.split("::")[0]
    report("plug")
    cfg = read_config(config, change=(lambda cfg: plug_backbone(cfg, arch)) if arch else None)
    init_default_scope(cfg.get("default_scope", package))
    use_folder(cfg, data / package)
    given = options(cfg, data / "language")
    work_dir, name = folder / "run", Path(config).name
    train = [config, *(["--backbone", f"convnext-{arch}"] if arch else []), "--data", str(data / package)]
    train += ["--work-dir", str(work_dir)]

    def written(values: Mapping[str, str]) -> list[str]:
        return ["--cfg-options", *(f"{key}={value}" for key, value in values.items())]

    report("train")
    run_tool("train.py", [*train, *written(given)], folder / "train.txt", **limits)
    first = _last_checkpoint(work_dir)
    report("resume")
    length = "train_cfg.max_epochs" if "train_cfg.max_epochs" in given else "train_cfg.max_iters"
    longer = given | {length: str(2 * int(given[length]))}
    run_tool("train.py", [*train, "--resume", *written(longer)], folder / "resume.txt", **limits)
    checkpoint = _last_checkpoint(work_dir)
    if checkpoint == first:
        raise StepError("the resumed run wrote no checkpoint of its own")
    report("test")
    tested = ["--work-dir", str(folder / "test")]
    text = run_tool("test.py", [str(work_dir / name), checkpoint, *tested], folder / "test.txt", **limits)
    if not re.search(r"(Epoch|Iter)\(test\).*(coco/|mIoU|mDice)", text):
        raise StepError("no metric was printed")
    report("infer")
    image = next(path for path in sorted((data / package).rglob("*.jpg")) if "val" in str(path.parent))
    out = ["--out-dir", str(folder / "pictures")]
    run_tool("infer.py", [str(work_dir / name), checkpoint, str(image), *out], folder / "infer.txt", **limits)
    if not any((folder / "pictures").glob("*.png")):
        raise StepError("no picture was written")
    report("done")


def _last_checkpoint(work_dir: Path) -> str:
    pointer = work_dir / "last_checkpoint"
    if not pointer.is_file():
        raise StepError("no checkpoint was written")
    return pointer.read_text().strip()


def try_config(package: str, path: Path, data: Path, *, arch: str | None = ARCH, **limits: float) -> dict[str, Any]:
    """Run a config in a temporary folder; the result names the last step that started and any error."""
    steps, error, begin = ["plug"], "", time.monotonic()
    config = f"{package}::{path.relative_to(config_folder(package))}"
    folder = Path(tempfile.mkdtemp())
    try:
        run_config(config, data, folder, steps.append, arch=arch, **limits)
    except Exception as failure:  # the table records whatever goes wrong in a config
        kind = "" if isinstance(failure, StepError | ValueError) else f"{type(failure).__name__}: "
        error = " ".join(f"{kind}{failure}".split())[:300]
    finally:
        shutil.rmtree(folder)
    return dict(config=path.name, reached=steps[-1], error=error, seconds=round(time.monotonic() - begin, 1))


def run_family(package: str, configs: Sequence[Path], data: Path, **limits: float) -> dict[str, Any]:
    """Run the first config that can be plugged; if none can, return the result of the first."""
    first: dict[str, Any] = {}
    for config in configs[:3]:
        result = try_config(package, config, data, **limits)
        if result["reached"] != "plug" or not_swappable(result) == _NOT_IMAGES:  # others are not what it is about
            if result["reached"] != "done":
                stock = try_config(package, config, data, arch=None, **limits)
                result["fails_without_plug"] = stock["reached"] == result["reached"]
            return result
        first = first or result
    return first


_NOT_IMAGES = "learns from video, or from persons cut out of it, which `--data` does not read"
# Pattern in the error message -> reason why a family is not counted.
NOT_SWAPPABLE = {
    r"has no backbone|has no 'model'": "no backbone to swap",
    r"reads maps of the strides|heads made for it|'ConvNeXt' object has no": "the backbone is part of the method",
    r"(?<!OPS=1 )pip install|mim install|please install|No module|::model registry": "needs a package not there",
    r"URLError|couldn't connect|Connection": "needs a download",
    r"--data needs|has no folder train": _NOT_IMAGES,
    r"learns from proposals": "learns from another detector's proposals, which a folder does not have",
}


def not_swappable(result: Mapping[str, Any]) -> str:
    """Return the reason why a family is not counted, or an empty string if it is."""
    kinds = (kind for pattern, kind in NOT_SWAPPABLE.items() if re.search(pattern, result["error"]))
    return "" if result["reached"] == "done" else next(kinds, "")


def write_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the results as a page of Markdown."""
    dates = sorted({row["date"] for row in results.values()})
    hours = sum(row["seconds"] for row in results.values()) / 3600
    lines = [
        "---\nhide: [toc]\n---\n",
        "# ConvNeXt under every family of mmdet and mmsegmentation",
        "",
        "Written by `benchmarks/plug_matrix.py`: one config per folder, by the commands that people run, in processes "
        "of their own, on a CPU with mmcv-lite:",
        "",
        "<!-- not run: takes hours; benchmarks/plug_matrix.py runs it -->",
        "```sh",
        "convnext-dense train CONFIG --backbone convnext-atto --data DIR [--resume]",
        "convnext-dense test WORK_DIR/CONFIG.py CHECKPOINT",
        "convnext-dense infer WORK_DIR/CONFIG.py CHECKPOINT IMAGE",
        "```",
        "",
        f"`DIR` holds {NUM_TRAIN} drawn images of {IMAGE_SIZE} x {IMAGE_SIZE} pixels to train on and {NUM_VAL} to test "
        "on, objects with masks for detectors and label images for segmenters. `done`: it trained for two iterations "
        "and wrote a checkpoint, went on from there, printed its metric, and drew a picture. A family that stopped "
        "shows at which command and why; `not run` says that nobody has run it yet. "
        f"Run on {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}, torch "
        f"{torch.__version__.split('+')[0]}, {hours:.1f} hours of one process.",
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
        waiting = sum(row["reached"] == "not run" for row in rows.values())
        share = f", {waiting} not run yet" if waiting else f" ({100 * done / swappable:.0f} %)"
        lines += [f"## {package}: {done} of {swappable} families done{share}", ""]
        lines += [f"Not counted, of {len(rows)} folders:", ""] if any(kinds.values()) else []
        for kind in sorted({kind for kind in kinds.values() if kind}):
            lines.append(f"- {kind}: {', '.join(name.split('/')[1] for name in rows if kinds[name] == kind)}")
        lines += ["", "| family | config | reached | seconds | reason |", "|---|---|---|---|---|"]
        for name, row in rows.items():
            lines.append(
                f"| {name.split('/')[1]} | {row['config']} | {row['reached']} | {row.get('seconds', '')} | "
                f"{_reason(row)} |"
            )
        lines.append("")
    return "\n".join(lines)


def _reason(result: Mapping[str, Any]) -> str:
    text = re.sub(r"/tmp/tmp\w+/(mmdet|mmseg)", "DIR", result["error"].replace("|", "/"))
    text = textwrap.shorten(text.split(": replace mmcv-lite")[0], 200, placeholder=" ...")
    return f"with the backbone that it came with, too: {text}" if result.get("fails_without_plug") else text


def main() -> None:
    """Parse the arguments, run families without a result, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="FAMILY", help="families such as mmdet/retinanet")
    parser.add_argument("--redo", action="store_true", help="run families again that did not finish")
    parser.add_argument("--processes", type=int, default=2, help="number of families to run at once")
    parser.add_argument("--seconds", type=float, default=150, help="limit of processor time per command")
    parser.add_argument("--gigabytes", type=float, default=8, help="limit of memory per command")
    args = parser.parse_args()

    for module in ("mmdet.models", "mmdet.evaluation", "mmdet.datasets", "mmseg.models", "mmseg.datasets"):
        importlib.import_module(module)  # once, for all forked processes
    assert convnext_dense.__file__.startswith(str(ROOT)), "another copy of the package is imported"

    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        write_data(data)
        waiting = [
            (package, family, configs)
            for package in ("mmdet", "mmseg")
            for family, configs in families(package)
            if (not args.only or family in args.only)
            and (family not in results or (args.redo and results[family]["reached"] != "done"))
        ]
        _run_all(waiting, results, data, args)
    TABLE.write_text(write_table(results))


def _run_all(waiting: list, results: dict[str, Any], data: Path, args: argparse.Namespace) -> None:
    fork = multiprocessing.get_context("fork")
    limits = dict(seconds=args.seconds, gigabytes=args.gigabytes)

    def work(package: str, configs: list[Path], connection: Any) -> None:
        connection.send(run_family(package, configs, data, **limits))

    running: dict[Any, tuple[str, Any]] = {}
    while waiting or running:
        while waiting and len(running) < args.processes:
            package, family, configs = waiting.pop(0)
            receiver, sender = fork.Pipe(duplex=False)
            process = fork.Process(target=work, args=(package, configs, sender))
            process.start()
            sender.close()
            running[receiver] = (family, process)
        for receiver in multiprocessing.connection.wait(list(running)):
            family, process = running.pop(receiver)  # type: ignore[call-overload]
            row = receiver.recv()  # type: ignore[union-attr]
            process.join()
            results[family] = row | dict(date=datetime.date.today().isoformat())
            print(family, *row.values(), sep="  ", flush=True)
            RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
