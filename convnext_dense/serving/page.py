"""The page: drop an image or a video, see what models find in it, change how it is shown, and download it.

Gradio makes it. Uploads and what is made of them are in a folder of the server, each for ``KEPT_SECONDS``.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import gradio as gr
import numpy as np

from convnext_dense.data.opened_images import READABLE_SUFFIXES
from convnext_dense.errors import UserError
from convnext_dense.inference import LoadedModel, Tiles
from convnext_dense.inference.sources import VIDEO_SUFFIXES
from convnext_dense.serving.limits import Limits, PageGuard, TooManyError, Turnstile
from convnext_dense.serving.views import MAX_ROWS, Shown, View, look, show
from convnext_dense.visualization import LABEL_OPACITY, MASK_OPACITY, enlarge

KEPT_SECONDS = 3600
_THUMBNAIL = 192  # pixels of the longer side
_MAX_SESSIONS = 100  # whose last results are in memory
_TILE = 512  # pixels, to begin with
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
) -> None:
    """Put the page at the root of an application.

    Args:
        app: A FastAPI application.
        models: What looks at uploads, side by side, by the names that the page gives them.
        folder: An empty folder for uploads and what is made of them. Whoever gives it removes it.
        limits: Of uploads.
        turnstile: Lets requests in.
        examples: Images that are offered.
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
        show_error=False,
        ssr_mode=False,
        pwa=False,
    )


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
        self._limits, self._turnstile, self._examples = limits, turnstile, examples
        tasks = {model.task for model in models.values()}
        self._has_objects, self._has_masks = "detection" in tasks, tasks != {"classification"}
        title = " beside ".join(models)
        with gr.Blocks(title=f"{title} - convnext_dense", analytics_enabled=False, fill_width=True) as self.blocks:
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
            "[Interface for programs](/docs)"
        )

    def _lay_out(self) -> None:
        self._view = gr.State(time_to_live=KEPT_SECONDS)
        with gr.Row(elem_id="main"):
            with gr.Column(elem_id="inputs"):
                self._upload = gr.File(
                    label="Image or video",
                    file_types=[*READABLE_SUFFIXES, *VIDEO_SUFFIXES],
                    type="filepath",
                    height=140,
                    elem_id="upload",
                )
                self._gallery = gr.Gallery(
                    value=[_thumbnail(next(iter(self._models.values())), path) for path in self._examples],
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
                    0, 1, 0.3, step=0.01, label="Score from", visible=self._has_objects, elem_id="score"
                )
                self._opacity = gr.Slider(
                    *(0, 1, MASK_OPACITY if self._has_objects else LABEL_OPACITY),
                    step=0.05,
                    label="Opacity of colours",
                    visible=self._has_masks,
                    elem_id="opacity",
                )
                self._classes = gr.Dropdown(
                    [], multiselect=True, label="Only classes", visible=self._has_masks, elem_id="classes"
                )
                with gr.Row(visible=self._has_objects):
                    self._tile = gr.Number(
                        _TILE, label="Pixels of a tile", precision=0, minimum=32, min_width=120, elem_id="tile"
                    )
                    self._in_tiles = gr.Button("Look in tiles", min_width=120, elem_id="in-tiles")
            with gr.Column(elem_id="results"):
                self._status = gr.Markdown("Drop an image or a video, or choose an example.", elem_id="status")
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
                label=f"What was found, at most {MAX_ROWS} rows",
                interactive=False,
                max_height=320,
                visible=False,
                elem_id=f"rows-{number}",
            )
        file, coco, table = buttons
        return Panel(text, image, video, file, coco, table, rows)

    def _connect(self) -> None:
        how = [self._score, self._opacity]
        outputs = [self._view, self._status, self._classes, *(part for panel in self._panels for part in panel)]
        looking: dict[str, Any] = dict(outputs=outputs, concurrency_id="models", api_visibility="private")

        def upload(
            path: str | None, score: float, opacity: float, request: gr.Request, progress: gr.Progress = _PROGRESS
        ) -> list[Any]:
            return self._look(path, score, opacity, None, request, progress)

        def example(
            score: float, opacity: float, chosen: gr.SelectData, request: gr.Request, progress: gr.Progress = _PROGRESS
        ) -> list[Any]:
            return self._look(self._examples[chosen.index], score, opacity, None, request, progress)

        def in_tiles(
            view: View | None,
            size: float,
            score: float,
            opacity: float,
            request: gr.Request,
            progress: gr.Progress = _PROGRESS,
        ) -> list[Any]:
            return self._look(view.path if view else None, score, opacity, size, request, progress)

        self._upload.upload(upload, [self._upload, *how], **looking)
        self._upload.clear(lambda: self._nothing(""), **looking)
        self._gallery.select(example, how, **looking)
        self._gallery.select(lambda: None, None, self._upload, api_visibility="private")
        self._in_tiles.click(in_tiles, [self._view, self._tile, *how], **looking)
        gr.on(
            [self._score.change, self._opacity.change, self._classes.input],
            self._show,
            [self._view, *how, self._classes],
            outputs[1:2] + outputs[3:],
            trigger_mode="always_last",
            concurrency_id="drawing",
            api_visibility="private",
            show_progress="hidden",
        )

    def _look(
        self, path: Any, score: float, opacity: float, tile: float | None, request: Any, progress: Any
    ) -> list[Any]:
        """Return new values of the view, the status, the classes, and all panels."""
        if path is None:
            return self._nothing("Drop an image or a video first.")
        path = Path(path)
        try:
            tiles = None if tile is None else Tiles(max(int(tile), 32))
            with self._turnstile(request.client.host if request.client else ""):
                view = look(
                    list(self._models.values()),
                    path,
                    self._limits,
                    tiles=tiles,
                    progress=lambda done, total: progress((done, total), unit="frames"),
                )
            shown = self._show(view, score, opacity, [])
        except (UserError, TooManyError) as error:
            return self._nothing(str(error).replace(os.fspath(path), path.name))
        status, *panels = shown
        return [view, status, gr.Dropdown(choices=list(view.classes), value=[]), *panels]

    def _nothing(self, text: str) -> list[Any]:
        """Return values that show a sentence, and nothing else."""
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
        return [None, text, gr.Dropdown(choices=[], value=[]), *panel * len(self._panels)]

    def _show(self, view: View | None, score: float, opacity: float, classes: Sequence[str]) -> list[Any]:
        """Return new values of the status and all panels for a view in another way."""
        if view is None:
            return [gr.skip()] * (1 + len(Panel._fields) * len(self._panels))
        how: dict[str, Any] = dict(score_thr=score, opacity=opacity, classes=classes)
        try:
            shown = [
                show(view, number, model, self._folder, **how) for number, model in enumerate(self._models.values())
            ]
        except UserError as error:
            _, text, _, *panels = self._nothing(str(error))
            return [text, *panels]
        values = map(self._values, [view] * len(shown), shown, self._models)
        return ["", *(value for panel in values for value in panel)]

    def _values(self, view: View, shown: Shown, name: str) -> Panel:
        """Return new values of a panel."""
        picture = os.fspath(shown.picture)
        headers = [name for name in shown.rows[0] if name != "label"] if shown.rows else []
        cells = [[_short(row[name]) for name in headers] for row in shown.rows]
        return Panel(
            text=f"**{name}**  \n{shown.text}" if len(self._models) > 1 else shown.text,
            image=gr.Image(value=None if view.is_video else picture, visible=not view.is_video),
            video=gr.Video(value=picture if view.is_video else None, visible=view.is_video),
            file=gr.DownloadButton("Save video" if view.is_video else "Save picture", value=picture, interactive=True),
            coco=gr.DownloadButton(value=shown.coco and os.fspath(shown.coco), interactive=shown.coco is not None),
            table=gr.DownloadButton(value=os.fspath(shown.table), interactive=True),
            rows=gr.Dataframe(value=dict(headers=headers, data=cells), visible=bool(cells)),
        )


def _short(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def _thumbnail(model: LoadedModel, path: Path) -> np.ndarray:
    """Return a small picture of an image, in RGB order."""
    return cv2.cvtColor(enlarge(model.picture(path), _THUMBNAIL)[0], cv2.COLOR_BGR2RGB)
