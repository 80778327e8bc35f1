"""Serve a model over HTTP: python tools/serve.py CONFIG CHECKPOINT."""

import argparse

from convnext_dense.cli.command_line import add_options_argument
from convnext_dense.errors import UserError
from convnext_dense.inference import load_model
from convnext_dense.inference.loading import is_whole
from convnext_dense.serving.api import make_app
from convnext_dense.serving.limits import Limits

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def main() -> None:
    """Read the arguments, load the model, and serve it until it is interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, usage="%(prog)s CONFIG CHECKPOINT [options]")
    parser.add_argument("config", help="config of the model; or an exported folder, or zoo:NAME, without CHECKPOINT")
    parser.add_argument("checkpoint", nargs="?", help="path, address or zoo:NAME of the weights")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine)")
    parser.add_argument("--port", type=int, default=7860, help="(default: %(default)s)")
    parser.add_argument("--device", help="cpu, cuda:0, ... (default: the accelerator if there is one)")
    parser.add_argument(
        "--max-mb", type=int, default=Limits.max_bytes // 2**20, help="megabytes of a request (default: %(default)s)"
    )
    parser.add_argument(
        "--max-pixels", type=int, default=Limits.max_pixels, help="pixels of an image (default: %(default)s)"
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=Limits.per_second,
        help="requests of one client in a second (default: %(default)g)",
    )
    add_options_argument(parser)
    args = parser.parse_args()
    if min(args.max_mb, args.max_pixels, args.rate) <= 0:
        raise UserError("--max-mb, --max-pixels and --rate must be above 0.")
    if args.checkpoint is None and not is_whole(args.config):
        parser.error("CHECKPOINT is missing.")
    try:
        import uvicorn
    except ImportError as error:
        raise UserError("A server needs uvicorn: pip install 'convnext-dense[serve]'.") from error
    model = load_model(args.config, args.checkpoint, options=args.cfg_options, device=args.device)
    limits = Limits(max_bytes=args.max_mb * 2**20, max_pixels=args.max_pixels, per_second=args.rate)
    app = make_app(model, limits=limits)
    if args.host not in _LOOPBACK:
        print(f"Everybody who reaches {args.host} can use this server: there is no password.")
    print(
        f"Serving on http://{args.host}:{args.port}; the interface is described at /docs and /openapi.json", flush=True
    )
    uvicorn.run(app, host=args.host, port=args.port, log_level="warning")
