"""The page: drop an image or a video, see what models find in it, change how it is shown, and download it.

Gradio makes it. Uploads and what is made of them are in a folder of the server, each for ``KEPT_SECONDS``.
"""

import logging
import os
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import gradio as gr
import numpy as np
from mmengine.logging import print_log

from convnext_dense.data.opened_images import ARRAY_SUFFIX, IMAGE_SUFFIXES
from convnext_dense.errors import UserError
from convnext_dense.inference import LoadedModel, Tiles
from convnext_dense.inference.sources import VIDEO_SUFFIXES
from convnext_dense.serving.limits import Limits, PageGuard, TooManyError, Turnstile, check_room, client_of
from convnext_dense.serving.views import MAX_ROWS, Shown, View, look, show
from convnext_dense.visualization import LABEL_OPACITY, MASK_OPACITY, enlarge

KEPT_SECONDS = 3600
_THUMBNAIL = 192  # pixels of the longer side
_MAX_SESSIONS = 100  # whose last results are in memory
_TILE, _MIN_TILE = 512, 32  # pixels: to begin with, and at least
_HELLO = "Drop an image or a video, or choose an example."
_PROGRESS = gr.Progress()  # Gradio gives each call its own
# Narrow screens show the results before what changes them.
_CSS = """
.gradio-container {max-width: 1600px !important}
#main {display: grid; gap: 16px; align-items: start;
       grid-template: "inputs results" auto "controls results" 1fr / 300px minmax(0, 1fr)}
#inputs {grid-area: inputs} #controls {grid-area: controls} #results {grid-area: results}
#examples .grid-wrap {min-height: 0; max-height: none; overflow: visible; padding-top: 32px}
#examples .thumbnail-item {height: auto; aspect-ratio: 1}
#examples .grid-container {grid-template-columns: repeat(4, minmax(0, 1fr)) !important;
                           grid-template-rows: none !important; grid-auto-rows: auto !important}
[id^=picture-] .image-container {padding-top: 36px}
@media (max-width: 800px) {
  #main {grid-template: "inputs" "results" "controls" / minmax(0, 1fr)}
}
"""


class Panel(NamedTuple):
    """What the page shows of one model, and the events that it comes from.

    Attributes:
        text: What was found, in short.
        image: The picture.
        video: The video, in the place of the picture.
        file: A button to download either.
        coco: A button for the objects in COCO's format.
        table: A button for the table.
        rows: The table.
    """

    text: Any
    image: Any
    video: Any
    file: Any
    coco: Any
    table: Any
    rows: Any


def add_page(
    app: Any,
    models: Mapping[str, LoadedModel],
    folder: Path,
    *,
    limits: Limits,
    turnstile: Turnstile,
    examples: Sequence[Path] = (),
) -> threading.Event:
    """Put the page at the root of an application.

    Args:
        app: A FastAPI application.
        models: What looks at uploads, side by side, by the names that the page gives them.
        folder: An empty folder for uploads and what is made of them. Whoever gives it removes it.
        limits: Of uploads.
        turnstile: Lets requests in.
        examples: Images that are offered.

    Returns:
        An event to be set when the server is to end: models stop before the next frame.
    """
    # Gradio reads from the environment where its files go, and whether it reports its use.
    os.environ["GRADIO_TEMP_DIR"] = os.fspath(folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    page = _Page(models, folder, limits, turnstile, examples)
    app.add_middleware(PageGuard, folder=folder, limits=limits, turnstile=turnstile)
    gr.mount_gradio_app(
        app,
        page.blocks,
        path="/",
        css=_CSS,
        footer_links=[],
        max_file_size=limits.max_bytes,
        run_history=False,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        show_error=False,
        ssr_mode=False,
        pwa=False,
    )
    return page.is_ending


class _Page:
    def __init__(
        self,
        models: Mapping[str, LoadedModel],
        folder: Path,
        limits: Limits,
        turnstile: Turnstile,
        examples: Sequence[Path],
    ) -> None:
        self._models, self._folder = models, folder
        self._limits, self._turnstile = limits, turnstile
        self._examples, self._thumbnails = _readable(next(iter(models.values())), examples)
        tasks = {model.task for model in models.values()}
        self._has_objects, self._has_masks = "detection" in tasks, tasks != {"classification"}
        title = " beside ".join(models)
        self.is_ending = threading.Event()
        with gr.Blocks(title=f"{title} - convnext_dense", analytics_enabled=False, fill_width=True) as self.blocks:
            self.blocks.has_launched = True  # before, Gradio takes any path for an upload
            self.blocks.delete_cache = (60, KEPT_SECONDS)
            self.blocks.state_session_capacity = _MAX_SESSIONS
            self.blocks.queue(max_size=limits.max_waiting, default_concurrency_limit=1)
            gr.Markdown(f"## {title}\n{self._introduction()}")
            self._lay_out()
            self._connect()

    def _introduction(self) -> str:
        classes = list(dict.fromkeys(name for model in self._models.values() for name in model.class_names))
        named = ", ".join(classes[:10]) + (f" and {len(classes) - 10} more" if len(classes) > 10 else "")
        return (
            f"Finds {len(classes)} classes: {named}. Uploads stay on this server, at most "
            f"{self._limits.max_bytes // 2**20} MB each, and are deleted after an hour. "
            "[API](/docs)"
        )

    def _lay_out(self) -> None:
        self._view = gr.State(time_to_live=KEPT_SECONDS, delete_callback=lambda view: view and view.remove())
        with gr.Row(elem_id="main"):
            with gr.Column(elem_id="inputs"):
                self._upload = gr.File(
                    label="Image or video",
                    file_types=[*IMAGE_SUFFIXES, ".gif", *VIDEO_SUFFIXES, ARRAY_SUFFIX],
                    type="filepath",
                    height=140,
                    elem_id="upload",
                )
                keep = self._upload.async_move_resource_to_block_cache
                # Gradio would fetch an address that somebody sends in the place of a file.
                setattr(self._upload, keep.__name__, partial(_keep_file, keep))
                self._gallery = gr.Gallery(
                    value=self._thumbnails,
                    label="Examples",
                    columns=4,
                    height="auto",
                    object_fit="cover",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    visible=bool(self._examples),
                    elem_id="examples",
                )
            with gr.Column(elem_id="controls"):
                self._score = gr.Slider(
                    0, 1, 0.3, step=0.01, label="Minimum score", visible=self._has_objects, elem_id="score"
                )
                self._opacity = gr.Slider(
                    *(0, 1, MASK_OPACITY if self._has_objects else LABEL_OPACITY),
                    step=0.05,
                    label="Mask opacity",
                    visible=self._has_masks,
                    elem_id="opacity",
                )
                self._classes = gr.Dropdown(
                    [], multiselect=True, label="Show classes", visible=self._has_masks, elem_id="classes"
                )
                with gr.Row(visible=self._has_objects):
                    self._tile = gr.Number(_TILE, label="Tile size (px)", precision=0, min_width=120, elem_id="tile")
                    self._in_tiles = gr.Button("Detect in tiles", size="sm", min_width=120, elem_id="in-tiles")
            with gr.Column(elem_id="results"):
                self._status = gr.Markdown(_HELLO, elem_id="status")
                with gr.Row():
                    self._panels = [self._panel(number, name) for number, name in enumerate(self._models)]

    def _panel(self, number: int, name: str) -> Panel:
        with gr.Column(min_width=320):
            text = gr.Markdown(f"**{name}**" if len(self._models) > 1 else "", elem_id=f"text-{number}")
            image = gr.Image(
                show_label=False,
                type="filepath",
                format="png",
                interactive=False,
                buttons=["fullscreen"],
                elem_id=f"picture-{number}",
            )
            video = gr.Video(show_label=False, interactive=False, visible=False, buttons=[], elem_id=f"video-{number}")
            with gr.Row():
                buttons = [
                    gr.DownloadButton(label, size="sm", min_width=80, interactive=False, elem_id=f"{key}-{number}")
                    for key, label in (("file", "Save picture"), ("coco", "Save COCO"), ("table", "Save table"))
                ]
            rows = gr.Dataframe(
                label=f"Found (first {MAX_ROWS} rows)",
                interactive=False,
                max_height=320,
                visible=False,
                elem_id=f"rows-{number}",
            )
        file, coco, table = buttons
        return Panel(text, image, video, file, coco, table, rows)

    def _connect(self) -> None:
        now = [self._view, self._score, self._opacity, self._classes]
        panels = [part for panel in self._panels for part in panel]
        looking: dict[str, Any] = dict(
            outputs=[self._view, self._status, self._classes],
            concurrency_id="models",
            trigger_mode="multiple",
            api_visibility="private",
        )
        drawing: dict[str, Any] = dict(
            fn=self._show,
            inputs=now,
            outputs=[self._status, *panels],
            concurrency_id="drawing",
            api_visibility="private",
            show_progress="hidden",
        )

        def upload(
            view: View | None, path: str | None, request: gr.Request, progress: gr.Progress = _PROGRESS
        ) -> list[Any]:
            return self._look(view, path, None, request, progress)

        def example(
            view: View | None, chosen: gr.SelectData, request: gr.Request, progress: gr.Progress = _PROGRESS
        ) -> list[Any]:
            return self._look(view, self._examples[chosen.index], None, request, progress)

        def in_tiles(
            view: View | None, size: float, request: gr.Request, progress: gr.Progress = _PROGRESS
        ) -> list[Any]:
            return self._look(view, view.path if view else None, size, request, progress)

        events = [
            self._upload.upload(upload, [self._view, self._upload], **looking),
            self._upload.clear(lambda view: self._nothing(_HELLO, view), self._view, **looking),
            self._gallery.select(example, self._view, **looking),
            self._in_tiles.click(in_tiles, [self._view, self._tile], **looking),
        ]
        for event in events:  # what is set by then counts
            event.then(**drawing)
        self._gallery.select(lambda: None, None, self._upload, api_visibility="private")
        changes = [self._score.change, self._opacity.change, self._classes.input]
        gr.on(changes, trigger_mode="always_last", **drawing)

    def _look(
        self, before: View | None, path: Any, tile: float | None, request: gr.Request, progress: Any
    ) -> list[Any]:
        """Return new values of the view, the status and the classes."""
        if path is None:
            return self._nothing("Drop an image or a video first.", before)
        path = Path(path)

        def told(done: int, total: int | None) -> None:
            if self.is_ending.is_set():
                raise UserError("The server ends.")
            progress((done, total), unit="frames")

        try:
            tiles = None if tile is None else _tiles(tile)
            with self._turnstile(client_of(request)):
                check_room(self._folder, self._limits)
                models = list(self._models.values())
                view = look(models, path, self._folder, self._limits, tiles=tiles, progress=told)
        except _TileError as error:
            return [before, str(error), gr.skip()]
        except (UserError, TooManyError) as error:
            return self._nothing(str(error).replace(os.fspath(path), path.name), before)
        if before is not None:
            before.remove()
        return [view, "", gr.Dropdown(choices=list(view.classes), value=[])]

    def _nothing(self, text: str, before: View | None) -> list[Any]:
        """Return values of the view, the status and the classes that show a sentence, and nothing else."""
        if before is not None:
            before.remove()
        return [None, text, gr.Dropdown(choices=[], value=[])]

    def _show(
        self, view: View | None, score: float, opacity: float, classes: Sequence[str], request: gr.Request
    ) -> list[Any]:
        """Return new values of the status and all panels."""
        how: dict[str, Any] = dict(score_thr=score, opacity=opacity, classes=classes)
        try:
            if view is None:
                return [gr.skip(), *self._empty()]
            self._turnstile.count(client_of(request))
            check_room(self._folder, self._limits)
            shown = []
            for number, (name, model) in enumerate(self._models.items()):
                shown.append(show(view, number, model, title=name if len(self._models) > 1 else "", **how))
        except (UserError, TooManyError, FileNotFoundError) as error:
            if view is not None and not view.folder.is_dir():  # another one is looked at by now
                return [gr.skip()] * (1 + len(Panel._fields) * len(self._panels))
            return [str(error), *self._empty()]
        values = map(self._values, [view] * len(shown), shown, self._models)
        return [gr.skip(), *(value for panel in values for value in panel)]

    def _empty(self) -> Sequence[Any]:
        """Return values of all panels that show nothing."""
        button = gr.DownloadButton(value=None, interactive=False)
        panel = Panel(
            text="",
            image=gr.Image(value=None, visible=True),
            video=gr.Video(value=None, visible=False),
            file=button,
            coco=button,
            table=button,
            rows=gr.Dataframe(visible=False),
        )
        return panel * len(self._panels)

    def _values(self, view: View, shown: Shown, name: str) -> Panel:
        """Return new values of a panel."""
        picture = os.fspath(shown.picture)
        headers = [header for header in shown.rows[0] if header != "label"] if shown.rows else []
        cells = [[_short(header, row[header]) for header in headers] for row in shown.rows]
        return Panel(
            text=f"**{name}**  \n{shown.text}" if len(self._models) > 1 else shown.text,
            image=gr.Image(value=None if view.is_video else picture, visible=not view.is_video),
            video=gr.Video(value=picture if view.is_video else None, visible=view.is_video),
            file=gr.DownloadButton("Save video" if view.is_video else "Save picture", value=picture, interactive=True),
            coco=gr.DownloadButton(value=shown.coco and os.fspath(shown.coco), interactive=shown.coco is not None),
            table=gr.DownloadButton(value=os.fspath(shown.table), interactive=True),
            rows=gr.Dataframe(value=dict(headers=headers, data=cells), visible=bool(cells)),
        )


async def _keep_file(keep: Callable[[Any], Awaitable[str | None]], path: str | Path | None) -> str | None:
    """Keep a file that was uploaded, as Gradio does."""
    if "://" in str(path or ""):
        raise gr.Error("Drop a file.")
    return await keep(path)


def _tiles(size: float) -> Tiles:
    """Return tiles of a size that somebody typed."""
    if not size or size < _MIN_TILE:
        raise _TileError(f"A tile must have {_MIN_TILE} pixels or more.")
    return Tiles(int(size))


class _TileError(UserError):
    pass


def _short(name: str, value: Any) -> Any:
    """Return a value of a table as it is shown: pixels have one decimal, shares of 1 have three."""
    return round(value, 1 if name in ("x1", "y1", "x2", "y2") else 3) if isinstance(value, float) else value


def _readable(model: LoadedModel, paths: Sequence[Path]) -> tuple[list[Path], list[np.ndarray]]:
    """Return the images that can be read, with small pictures of them in RGB order, and name the others."""
    kept, pictures = [], []
    for path in paths:
        try:
            picture = enlarge(model.picture(path), _THUMBNAIL)[0]
        except UserError as error:
            print_log(f"Not among the examples: {error}", logger="current", level=logging.WARNING)
            continue
        kept.append(path)
        pictures.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    return kept, pictures
