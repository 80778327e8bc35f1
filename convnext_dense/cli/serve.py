"""Serve a model over HTTP: convnext-dense serve CONFIG CHECKPOINT."""

import argparse

from convnext_dense.cli.command_line import add_device_argument, add_options_argument

MAX_MB, MAX_PIXELS, RATE = 32, 50_000_000, 50.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``run``."""
    parser.usage = "%(prog)s CONFIG CHECKPOINT [options]"
    parser.add_argument("config", help="config of the model; or an exported folder, or zoo:NAME, without CHECKPOINT")
    parser.add_argument("checkpoint", nargs="?", help="path, address or zoo:NAME of the weights")
    parser.add_argument(
        "--beside",
        nargs="+",
        action="append",
        default=[],
        metavar="MODEL",
        help="another model that the page shows beside: CONFIG CHECKPOINT, a CHECKPOINT of the same config, an "
        "exported folder, or zoo:NAME",
    )
    parser.add_argument(
        "--examples",
        nargs="+",
        metavar="I",
        help="images, or folders of them, that the page offers (default: some of the config's validation data)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine)")
    parser.add_argument("--port", type=int, default=7860, help="(default: %(default)s)")
    add_device_argument(parser)
    parser.add_argument("--max-mb", type=int, default=MAX_MB, help="megabytes of a request (default: %(default)s)")
    parser.add_argument("--max-pixels", type=int, default=MAX_PIXELS, help="pixels of an image (default: %(default)s)")
    parser.add_argument(
        "--rate",
        type=float,
        default=RATE,
        help="requests of one client in a second (default: %(default)g)",
    )
    add_options_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Serve the model."""
    from convnext_dense.cli.server import serve

    serve(args)
