"""The REST interface: an image in, what was found as JSON or as a picture out.

Nothing of a request is kept: an upload is written to a temporary folder, under a name of our own, and removed.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import cv2

from convnext_dense.data.opened_images import ARRAY_SUFFIX, READABLE_SUFFIXES
from convnext_dense.errors import UserError
from convnext_dense.inference import LoadedModel, Result, Tiles
from convnext_dense.inference.sources import VIDEO_SUFFIXES
from convnext_dense.serving.limits import BodyLimit, Limits, TooLargeError, TooManyError, Turnstile, client_of
from convnext_dense.serving.views import look_at

_NUMPY = b"\x93NUMPY"  # what .npy files begin with
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The file is no image, or not one that the model takes"},
    413: {"description": "The request or the image is too large"},
    429: {"description": "Too many requests: try again"},
}


def make_app(model: LoadedModel, *, limits: Limits | None = None, turnstile: Turnstile | None = None) -> Any:
    """Return a FastAPI application.

    Args:
        model: The model.
        limits: Of requests.
        turnstile: Lets requests in; by default one of the limits.

    Raises:
        UserError: FastAPI is not installed.
    """
    try:
        from fastapi_offline import FastAPIOffline
    except ImportError as error:
        raise UserError("A server needs fastapi-offline: pip install 'convnext-dense[serve]'.") from error

    from convnext_dense import __version__

    limits = limits or Limits()
    app = FastAPIOffline(title="convnext_dense", version=__version__, redoc_url=None)
    app.add_middleware(BodyLimit, max_bytes=limits.max_bytes)

    @app.get("/health")
    def health() -> dict[str, str]:
        """Say that the server is there."""
        return {"status": "ok"}

    @app.get("/model")
    def describe() -> dict[str, Any]:
        """Return what the model is for, and its classes."""
        return dict(task=model.task, class_names=list(model.class_names))

    _add_predictions(app, model, limits, turnstile or Turnstile(limits))
    _refuse_other_methods(app)
    return app


def _refuse_other_methods(app: Any) -> None:
    """Answer with 405 where a page at the root, which takes all other addresses, would say that there is nothing."""
    from fastapi.responses import JSONResponse
    from fastapi.routing import APIRoute
    from starlette.routing import Route

    class OtherMethods:
        def __init__(self, methods: set[str] | None) -> None:
            self._allowed = ", ".join(sorted(methods or ()))

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            text = dict(detail=f"{scope['method']} is not for this address: use {self._allowed}.")
            await JSONResponse(text, 405, headers={"Allow": self._allowed})(scope, receive, send)

    for route in [route for route in app.routes if isinstance(route, APIRoute)]:
        app.router.routes.append(Route(route.path, OtherMethods(route.methods)))


def _add_predictions(app: Any, model: LoadedModel, limits: Limits, turnstile: Turnstile) -> None:
    from fastapi import File, Query, Request, Response, UploadFile

    find = _finder(model, limits, turnstile)
    image = Annotated[UploadFile, File(description="The image: JPEG, PNG, TIFF, ...")]
    threshold = Annotated[float, Query(ge=0, le=1, description="Objects below are left out")]
    tiling = Annotated[int | None, Query(ge=32, le=16384, description="Find objects in tiles of that many pixels")]
    overlapping = Annotated[float, Query(ge=0, le=0.9, description="Of neighbouring tiles, as a share")]

    @app.post("/predict", responses=_REFUSALS)
    def predict(
        request: Request, file: image, score_thr: threshold = 0.0, tile: tiling = None, overlap: overlapping = 0.25
    ) -> dict[str, Any]:
        """Return what is found in an image.

        Objects, areas and segments are in COCO's result format, with masks as run lengths, and classes with scores.
        """
        found, pixels = find(request, file, tile, overlap)
        return dict(task=model.task, height=pixels.shape[0], width=pixels.shape[1], results=_plain(found, score_thr))

    @app.post("/picture", responses={**_REFUSALS, 200: {"content": {"image/png": {}}}}, response_class=Response)
    def picture(
        request: Request, file: image, score_thr: threshold = 0.3, tile: tiling = None, overlap: overlapping = 0.25
    ) -> Any:
        """Return the image as a PNG with what is found drawn on it."""
        found, pixels = find(request, file, tile, overlap)
        _, content = cv2.imencode(".png", found.draw(pixels, score_thr=score_thr))
        return Response(content.tobytes(), media_type="image/png")


def _finder(
    model: LoadedModel, limits: Limits, turnstile: Turnstile
) -> Callable[[Any, Any, int | None, float], tuple[Result, Any]]:
    """Return a function that finds what is in an upload, and refuses it in HTTP's way."""
    from fastapi import HTTPException

    def find(request: Any, file: Any, tile: int | None, overlap: float) -> tuple[Result, Any]:
        try:
            with turnstile(client_of(request)), tempfile.TemporaryDirectory() as folder:
                return _find(model, limits, file, Path(folder), tile=tile, overlap=overlap)
        except TooManyError as error:
            raise HTTPException(429, str(error), headers={"Retry-After": "1"}) from error
        except TooLargeError as error:
            raise HTTPException(413, str(error)) from error
        except UserError as error:
            raise HTTPException(400, str(error)) from error

    return find


def _find(
    model: LoadedModel, limits: Limits, file: Any, folder: Path, *, tile: int | None, overlap: float
) -> tuple[Result, Any]:
    """Return what is found in an upload, and its picture."""
    if Path(file.filename or "").suffix.lower() in VIDEO_SUFFIXES:
        raise UserError("This is for images: drop a video on the page, or give it to tools/infer.py.")
    content = file.file.read()
    suffix = Path(file.filename or "").suffix.lower()
    is_array = content.startswith(_NUMPY)
    path = folder / f"upload{suffix if is_array == (suffix == ARRAY_SUFFIX) and suffix in READABLE_SUFFIXES else ''}"
    path.write_bytes(content)
    try:
        found = look_at(model, path, limits, tiles=None if tile is None else Tiles(tile, overlap))
        return found, model.picture(path)
    except TooLargeError:
        raise
    except UserError as error:
        raise UserError(str(error).replace(str(path), "upload")) from error


def _plain(found: Result, score_thr: float) -> list[dict[str, Any]]:
    """Return a result as values of JSON."""
    try:
        items = found.to_coco()
    except UserError:  # of a classifier
        items = found.to_rows()
    return [
        {key: value for key, value in item.items() if key != "image_id"}
        for item in items
        if item.get("score", 1.0) >= score_thr
    ]
