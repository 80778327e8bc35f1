"""Starts the server of tools/serve.py."""

import argparse
import logging
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convnext_dense.checkpoints.zoo import PREFIX
from convnext_dense.data.checks.inspection import evenly_spread
from convnext_dense.data.prediction_files import find_images
from convnext_dense.errors import UserError, first_line
from convnext_dense.inference import LoadedModel, Predictor, load_model
from convnext_dense.inference.loading import is_whole
from convnext_dense.inference.validation import Evaluation
from convnext_dense.serving.api import make_app
from convnext_dense.serving.limits import Limits, Turnstile

_EXAMPLES = 8
_GRACE_SECONDS = 3
_LAST_PORT = 65535
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(args: argparse.Namespace) -> None:
    """Load the model, and serve it until it is interrupted; the arguments are those of ``cli/serve.py``."""
    if min(args.max_mb, args.max_pixels, args.rate) <= 0:
        raise UserError("--max-mb, --max-pixels and --rate must be above 0.")
    if args.checkpoint is None and not is_whole(args.config):
        args.fail("CHECKPOINT is missing.")
    try:
        import uvicorn

        from convnext_dense.serving.page import add_page
    except ImportError as error:
        raise UserError("A server needs Gradio and uvicorn: pip install 'convnext-dense[serve]'.") from error
    listening = _bind(args.host, args.port)
    models = _load(args)
    model = next(iter(models.values()))
    examples = evenly_spread(find_images(args.examples) if args.examples else validation_images(model), _EXAMPLES)
    limits = Limits(max_bytes=args.max_mb * 2**20, max_pixels=args.max_pixels, per_second=args.rate)
    turnstile = Turnstile(limits)
    app = make_app(model, limits=limits, turnstile=turnstile)
    with tempfile.TemporaryDirectory(prefix="convnext_dense_", ignore_cleanup_errors=True) as folder:
        is_ending = add_page(app, models, Path(folder), limits=limits, turnstile=turnstile, examples=examples)

        class Server(uvicorn.Server):
            def handle_exit(self, *arguments: Any) -> None:
                is_ending.set()
                logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # open pages are no errors
                super().handle_exit(*arguments)

        if args.host not in _LOOPBACK:
            print(f"Everybody who reaches {args.host} can use this server: there is no password.")
        address = f"http://{f'[{args.host}]' if ':' in args.host else args.host}:{args.port}"
        print(f"The page is on {address}; its interface for programs is described at {address}/docs", flush=True)
        # Open pages are connections that do not end by themselves.
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_GRACE_SECONDS)
        Server(config).run(sockets=[listening])


def _bind(host: str, port: int) -> socket.socket:
    """Return a socket of an address.

    Raises:
        UserError: It cannot be had.
    """
    if not 0 <= port <= _LAST_PORT:
        raise UserError(f"--port {port} must be from 0 to {_LAST_PORT}.")
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise UserError(f"{host}:{port} cannot be listened on ({first_line(error)}): choose another --port.") from error
    return bound


def _load(args: argparse.Namespace) -> dict[str, LoadedModel]:
    """Return the models by the names that the page gives them."""
    named = [[args.config] if args.checkpoint is None else [args.config, args.checkpoint]]
    for names in args.beside:
        if len(names) > 2:
            raise UserError(f"--beside {' '.join(names)} names {len(names)} things: CONFIG CHECKPOINT, or one of them.")
        is_checkpoint = len(names) == 1 and not is_whole(names[0])
        named.append([args.config, *names] if is_checkpoint else names)
    models = []
    for names in named:
        options = args.cfg_options if len(names) > 1 else None
        device = args.device if len(names) > 1 or names[0].startswith(PREFIX) else None
        models.append(load_model(*names, options=options, device=device))
    return dict(zip(_short(named), models, strict=True))


def _short(named: Sequence[Sequence[str]]) -> list[str]:
    """Return short names that tell models apart."""
    stems = [[Path(name).stem for name in names] for names in named]
    shortest = ([one[0] for one in stems], [one[-1] for one in stems], [", ".join(names) for names in named])
    different = next((names for names in shortest if len(set(names)) == len(names)), None)
    return different or [f"{name} ({number})" for number, name in enumerate(shortest[-1], start=1)]


def validation_images(model: LoadedModel) -> list[Path]:
    """Return the images of a config's validation data that are on this machine."""
    if not isinstance(model, Predictor):
        return []
    try:
        return Evaluation(model.cfg, model.class_names).paths
    except Exception as error:  # a data set's loading may raise anything
        print(f"The page has no examples: the validation data of the config cannot be read ({first_line(error)}).")
        return []
