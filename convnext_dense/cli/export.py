"""Export a model out of PyTorch: convnext-dense export CONFIG CHECKPOINT OUT_DIR."""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from convnext_dense.cli.command_line import add_folder_arguments, add_model_arguments, add_options_argument, data_folder

FORMATS = ("onnx", "openvino", "torch")
MAX_LOSS = 0.01


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``run``."""
    add_model_arguments(parser)
    parser.add_argument("out_dir", help="folder to write")
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="(default: %(default)s)")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        "--size", nargs=2, type=int, metavar=("H", "W"), help="fit all images into one size (default: any size)"
    )
    sizes.add_argument(
        "--dynamic", action="store_true", help="a graph for any size, even if the config gives all images one"
    )
    parser.add_argument(
        "--images",
        nargs="+",
        metavar="I",
        help="images, or folders of them, to compare with PyTorch on (default: of the validation data)",
    )
    parser.add_argument("--check-data", action="store_true", help="evaluate both on the validation data")
    parser.add_argument(
        "--int8",
        nargs="+",
        metavar="I",
        help="8 bits: images, or folders of them, that show the model what is usual, such as training images",
    )
    parser.add_argument(
        "--max-loss",
        type=float,
        default=MAX_LOSS,
        metavar="L",
        help="most that 8 bits may cost of AP, mIoU or accuracy on the validation data (default: %(default)s)",
    )
    add_folder_arguments(parser)
    add_options_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Export, and print what was compared."""
    from convnext_dense.data.prediction_files import find_images
    from convnext_dense.export.exporting import export_model

    exported = export_model(
        args.config,
        args.checkpoint,
        args.out_dir,
        form=args.format,
        size=args.size,
        any_size=args.dynamic,
        images=find_images(args.images) if args.images else None,
        check_data=args.check_data,
        data=data_folder(args),
        int8=find_images(args.int8) if args.int8 else None,
        max_loss=args.max_loss,
        options=args.cfg_options,
    )
    for line in describe(exported.facts):
        print(line)
    print(f"The exported model is in {exported.folder}")


def describe(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was compared, a line each."""
    parity = dict(facts["parity"])
    metrics = parity.pop("metrics", {})
    number = parity.pop("images")
    precision = "In float32, beside" if "int8" in facts else "Beside"
    found = ", ".join(f"{name} {value:.3g}" for name, value in parity.items())
    yield f"{precision} PyTorch on {number} images: {found}"
    for name, (before, after) in metrics.items():
        yield f"{name}: PyTorch {before:.4f}, exported {after:.4f}"
    if "int8" not in facts:
        return
    int8 = facts["int8"]
    yield f"The ranges of the activations are those of {int8['images']} images"
    for name, (before, after) in int8["metrics"].items():
        yield f"{name}: 32 bits {before:.4f}, 8 bits {after:.4f}"
    kept = [layer["name"] for layer in int8["layers"] if layer["precision"] == "float32"]
    worst = int8["layers"][0]
    yield f"Layers left in 32 bits: {', '.join(kept) or 'none'}"
    yield f"Of all layers, 8 bits change {worst['name']} most: its signal is {worst['decibels']} dB above the noise"
