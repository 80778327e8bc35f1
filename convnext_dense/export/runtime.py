"""Run an exported model: images in, plain results and pictures out.

This file needs numpy, Pillow, and onnxruntime or openvino, and nothing else of this package: it may be copied.

python runtime.py MODEL_DIR IMAGE_OR_FOLDER ... --out-dir DIR

Letters: n objects in an image, H and W its height and width in pixels, C classes.
"""

import argparse
import colorsys
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFont, ImageOps

FORMAT = 1  # of model.json
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
LEAST_SIDE = 32  # in pixels: the stride of a backbone's deepest map
_FACTS = ("task", "file", "runtime", "class_names", "preparation", "input_size", "batch", "outputs")
_BITS = 11  # of the weights with which OpenCV resizes images of 8 bits
_PART = 2**20  # bytes of a file that are hashed at once
_MOST_COVERED = 0.4  # of a box or a label, by a label of another one
_ROWS = 64  # of a label map that are resized at once
_GOLDEN_RATIO = (5**0.5 - 1) / 2  # hues that are multiples of it stay apart, however many there are

Image = str | os.PathLike | np.ndarray | PIL.Image.Image


class ExportedModelError(ValueError):
    """What is wrong with a model, its folder or an image, in one sentence."""


def load_exported(
    folder: str | os.PathLike, *, runtime: str | None = None, threads: int | None = None
) -> "ExportedModel":
    """Load an exported model.

    Args:
        folder: What ``tools/export.py`` wrote: ``model.json`` and the model.
        runtime: ``'onnxruntime'`` or ``'openvino'``; by default that of the model's format.
        threads: Number of threads; by default that of the runtime.

    Raises:
        ExportedModelError: The folder is not whole, or its runtime is not installed.
    """
    return ExportedModel(folder, runtime=runtime, threads=threads)


class ExportedModel:
    """An exported model that is loaded once; the arguments are those of ``load_exported``.

    Attributes:
        facts: The content of ``model.json``.
        task: ``'detection'``, ``'segmentation'`` or ``'classification'``.
        class_names: Names of the classes.
    """

    def __init__(self, folder: str | os.PathLike, *, runtime: str | None = None, threads: int | None = None) -> None:
        self.folder = Path(folder)
        self.facts = read_facts(self.folder)
        self.task: str = self.facts["task"]
        self.class_names = tuple(self.facts["class_names"])
        with ThreadPoolExecutor(1) as pool:  # files are hashed while they are opened, which takes as long
            hashes = pool.submit(check_files, self.folder, self.facts["sha256"])
            try:
                self._run = _open(self.folder / self.facts["file"], self.facts, runtime, threads)
            finally:
                hashes.result()  # a damaged file is said before what it leads to

    def predict(self, images: Iterable[Image], *, batch_size: int = 1) -> list[dict[str, Any]]:
        """Return one result per image, with the keys of ``convnext_dense.inference.predict``.

        Args:
            images: Paths, Pillow images, or arrays: uint8 of shape (H, W, 3) in BGR order, (H, W, 4) with alpha or
                (H, W).
            batch_size: Images that run at once, if the model was made for several and they have one size.

        Raises:
            ExportedModelError: An image cannot be read, or its size is one that the model was not made for.
        """
        return list(self.iterate(images, batch_size=batch_size))

    def iterate(self, images: Iterable[Image], *, batch_size: int = 1) -> Iterator[dict[str, Any]]:
        """Return an iterator over the results, see ``predict``."""
        if isinstance(images, str | os.PathLike | PIL.Image.Image) or getattr(images, "ndim", 4) < 4:
            raise ExportedModelError(f"images={_short(images)} is one image: give a list of images.")
        if not isinstance(images, Iterable) or isinstance(images, bytes):
            raise ExportedModelError(f"images={_short(images)} must be a list of images.")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ExportedModelError(f"batch_size={batch_size!r} must be a whole number, 1 or more.")
        iterator = iter(images)
        while batch := [Prepared.of(image, self.facts) for image in itertools.islice(iterator, batch_size)]:
            yield from self.results(batch)

    def inputs(self, image: Image) -> Iterator[dict[str, np.ndarray]]:
        """Yield what the graph is given for an image: once, or once for each window."""
        item = Prepared.of(image, self.facts)
        if self.task == "detection":
            yield _inputs([item])
            return
        window = self.facts.get("window")
        if window is None:
            yield {"image": item.pixels}
            return
        for piece, _ in _pieces(item.pixels, window):
            yield {"image": _lengthened(piece)}

    def results(self, batch: Sequence["Prepared"]) -> Iterator[dict[str, Any]]:
        """Yield the results of prepared images."""
        if self.task == "segmentation":
            for item in batch:
                yield self._label_map(item)
            return
        for group in _of_one_size(batch, can_be_several=self.facts["batch"]):
            pixels = np.concatenate([item.pixels for item in group])
            self._check_size(pixels)
            outputs = self._run(_inputs(group) if self.task == "detection" else {"image": pixels})
            for number, item in enumerate(group):
                one = {name: value[number] for name, value in outputs.items()}
                yield self._classes(one) if self.task == "classification" else self._objects(one, item)

    def _check_size(self, pixels: np.ndarray) -> None:
        wanted = self.facts["input_size"]
        if wanted is not None and tuple(pixels.shape[2:]) != tuple(wanted):
            height, width = pixels.shape[2:]
            raise ExportedModelError(
                f"The prepared image has {height} x {width} pixels, and the model was exported for "
                f"{wanted[0]} x {wanted[1]} alone: export it again with --size {height} {width}."
            )

    def _classes(self, outputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        labels = np.argsort(-outputs["probs"], kind="stable")[:5]
        names = [self.class_names[label] for label in labels]
        return dict(scores=outputs["probs"][labels], labels=labels, names=names, class_names=self.class_names)

    def _objects(self, outputs: Mapping[str, np.ndarray], item: "Prepared") -> dict[str, Any]:
        count = int(outputs["count"])
        boxes = outputs["boxes"][:count] / np.array([*item.scale, *item.scale], np.float32)
        labels = outputs["labels"][:count].astype(np.int64)
        result = dict(
            boxes=boxes,
            scores=outputs["scores"][:count],
            labels=labels,
            names=[self.class_names[label] for label in labels],
            class_names=self.class_names,
        )
        if "masks" in outputs:
            result["masks"] = paste_masks(outputs["masks"][:count], boxes, item.shape, self.facts["mask_threshold"])
        return result

    def _label_map(self, item: "Prepared") -> dict[str, Any]:
        logits = self._whole_logits(item.pixels)[:, : item.inner[0], : item.inner[1]]
        label_map = resize_to_labels(
            logits, item.shape, align_corners=self.facts["align_corners"], threshold=self.facts["threshold"]
        )
        return dict(label_map=label_map, class_names=self.class_names, palette=self.facts["palette"])

    def _whole_logits(self, pixels: np.ndarray) -> np.ndarray:
        """Return the logits (C, h, w) of a prepared image, the mean of overlapping windows if it is run in windows."""
        window = self.facts["window"]
        if window is None:
            self._check_size(pixels)
            return self._logits(pixels)
        total, counts = None, np.zeros(pixels.shape[2:], np.float32)
        for piece, place in _pieces(pixels, window):
            self._check_size(piece)
            logits = self._logits(piece)
            if total is None:
                total = np.zeros((len(logits), *pixels.shape[2:]), np.float32)
            total[(slice(None), *place)] += logits
            counts[place] += 1
        assert total is not None
        return total / counts

    def _logits(self, pixels: np.ndarray) -> np.ndarray:
        """Return the logits (C, h, w) of pixels (1, 3, h, w)."""
        return self._run({"image": _lengthened(pixels)})["logits"][0, :, : pixels.shape[2], : pixels.shape[3]]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _lengthened(pixels: np.ndarray) -> np.ndarray:
    """Return pixels (1, 3, h, w) that are large enough for the model."""
    below, right = (max(LEAST_SIDE - side, 0) for side in pixels.shape[2:])
    return np.pad(pixels, ((0, 0), (0, 0), (0, below), (0, right)), "edge") if below or right else pixels


def _pieces(pixels: np.ndarray, window: Mapping[str, Any]) -> Iterator[tuple[np.ndarray, tuple[slice, slice]]]:
    """Yield the windows of pixels (1, 3, h, w), and where each is."""
    for top, bottom, left, right in windows(pixels.shape[2:], window["size"], window["stride"]):
        yield np.ascontiguousarray(pixels[:, :, top:bottom, left:right]), (slice(top, bottom), slice(left, right))


def _inputs(items: Sequence["Prepared"]) -> dict[str, np.ndarray]:
    """Return the inputs of a detector for images of one size."""
    sizes = np.array([item.inner for item in items], np.float32)
    return {"image": np.concatenate([item.pixels for item in items]), "image_sizes": sizes}


class Prepared:
    """An image as the model takes it.

    Attributes:
        shape: (H, W) of the image.
        scale: What its coordinates are multiplied by, x and y.
        inner: (h, w) of the resized image, without what is padded.
        pixels: (1, 3, h', w') float32.
    """

    def __init__(self, rgb: np.ndarray, facts: Mapping[str, Any]) -> None:
        self.shape = rgb.shape[:2]
        self.inner = self.shape
        self.scale = (1.0, 1.0)
        for step in facts["preparation"]:
            ((kind, how),) = step.items()
            rgb = getattr(self, f"_{kind}")(rgb, **how)
        self.pixels = np.ascontiguousarray(rgb.astype(np.float32, copy=False).transpose(2, 0, 1)[None])

    @classmethod
    def of(cls, image: Image, facts: Mapping[str, Any]) -> "Prepared":
        """Read and prepare an image."""
        return cls(read_rgb(image), facts)

    def _resize(self, pixels: np.ndarray, *, scale: Sequence[int], keep_ratio: bool) -> np.ndarray:
        """Resize to (width, height), or, keeping the ratio, into a long and a short side."""
        height, width = pixels.shape[:2]
        size = tuple(scale)
        if keep_ratio:
            factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
            size = (max(int(width * factor + 0.5), 1), max(int(height * factor + 0.5), 1))
        self.scale = (size[0] / width, size[1] / height)
        self.inner = size[::-1]
        return resize_linear(pixels, size[1], size[0])

    def _fit(self, pixels: np.ndarray, *, size: Sequence[int]) -> np.ndarray:
        """Resize an image into (height, width), keeping its ratio."""
        height, width = pixels.shape[:2]
        factor = min(size[0] / height, size[1] / width)
        sides = [max(int(length * factor + 0.5), 1) for length in (width, height)]
        return self._resize(pixels, scale=sides, keep_ratio=False)

    def _resize_short(self, pixels: np.ndarray, *, side: int | Sequence[int], interpolation: str) -> np.ndarray:
        """Resize the short side, or to (height, width), with Pillow, as torchvision does."""
        height, width = pixels.shape[:2]
        if isinstance(side, int):
            long = int(side * max(height, width) / min(height, width))
            size = (side, long) if width <= height else (long, side)
        else:
            size = (side[1], side[0])
        method = PIL.Image.Resampling[interpolation.upper()]
        return np.asarray(PIL.Image.fromarray(pixels).resize(size, method))

    def _center_crop(self, pixels: np.ndarray, *, size: Sequence[int]) -> np.ndarray:
        height, width = size
        top, left = round((pixels.shape[0] - height) / 2), round((pixels.shape[1] - width) / 2)
        return pixels[top : top + height, left : left + width]

    def _pad(self, pixels: np.ndarray, *, value: Any, size: Any = None, divisor: int | None = None) -> np.ndarray:
        """Pad below and on the right to a size (height, width), or to a multiple."""
        height, width = pixels.shape[:2]
        if size is None:
            assert divisor is not None
            size = (-(-height // divisor) * divisor, -(-width // divisor) * divisor)
        if height >= size[0] and width >= size[1]:
            return pixels
        padded = np.empty((max(size[0], height), max(size[1], width), pixels.shape[2]), np.float32)
        padded[:] = value
        padded[:height, :width] = pixels
        return padded


def read_facts(folder: Path) -> dict[str, Any]:
    """Read and check ``model.json``."""
    path = folder / "model.json"
    if not path.is_file():
        raise ExportedModelError(f"{folder} is not an exported model: it has no model.json.")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        number, given, files = facts["format"], facts["checksum"], dict(facts["sha256"])
        for name in _FACTS if number == FORMAT else ():
            facts[name]
    except (ValueError, KeyError, TypeError) as error:
        raise ExportedModelError(f"{path} is damaged ({error!r}): export the model again.") from error
    if number != FORMAT:
        raise ExportedModelError(
            f"{path} is of format {number}, and this runtime.py reads {FORMAT}: use the one beside it."
        )
    if given != checksum(facts):
        raise ExportedModelError(f"{path} was changed after the export: export the model again.")
    for name in files:
        if Path(name).name != name or not (folder / name).is_file():
            raise ExportedModelError(f"{folder} lacks {name}: copy the whole folder.")
    return facts


def check_files(folder: Path, digests: Mapping[str, str]) -> None:
    """Check the SHA-256 of the files of a model, by name."""
    for name, digest in digests.items():
        found = hashlib.sha256()
        with open(folder / name, "rb") as file:
            while part := file.read(_PART):
                found.update(part)
        if found.hexdigest() != digest:
            raise ExportedModelError(
                f"{folder / name} is not the file that was exported (another sha256): copy it again."
            )


def checksum(facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the content of ``model.json`` without its own."""
    content = {name: value for name, value in facts.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_rgb(image: Image) -> np.ndarray:
    """Return an image as (H, W, 3) uint8 in RGB order.

    Raises:
        ExportedModelError: It is of another kind, cannot be read, or has 32 bits per channel, whose scale is unknown.
    """
    if isinstance(image, np.ndarray):
        return _array_to_rgb(image)
    if not isinstance(image, str | os.PathLike | PIL.Image.Image):
        raise ExportedModelError(
            f"An image is a {type(image).__name__}: give paths, Pillow images, or arrays of uint8 in BGR order."
        )
    try:
        opened = image if isinstance(image, PIL.Image.Image) else PIL.Image.open(image)
        opened = ImageOps.exif_transpose(opened)
        if opened.mode.startswith("I;16"):
            opened = PIL.Image.fromarray((np.asarray(opened) >> 8).astype(np.uint8))
        if opened.mode in ("I", "F"):
            raise ExportedModelError(
                f"Image {image} has 32 bits per pixel, whose scale is unknown: save it with 8 or 16."
            )
        pixels = np.asarray(opened.convert("RGB"))
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        if isinstance(error, ExportedModelError):
            raise
        raise ExportedModelError(f"Image {image} cannot be read: {first_line(error)}") from error
    return _array_to_rgb(pixels[..., ::-1])


def _array_to_rgb(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        raise ExportedModelError(
            f"An image of the type {image.dtype} and the shape {image.shape} is none that this model takes: give "
            "uint8 of (H, W, 3) in BGR order, (H, W, 4) or (H, W)."
        )
    if not image.size:
        raise ExportedModelError(f"An image of the shape {image.shape} has no pixels.")
    pixels = image if image.ndim == 3 else image[..., None]
    return np.ascontiguousarray(pixels.repeat(3, 2) if pixels.shape[2] == 1 else pixels[..., 2::-1])


def resize_linear(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (H, W, C) of uint8 as OpenCV's ``INTER_LINEAR`` does, in its whole numbers."""
    if pixels.shape[:2] == (height, width):
        return pixels
    left, right, left_weight, right_weight = _whole_weights(pixels.shape[1], width, keeps_ends=True)
    top, bottom, top_weight, bottom_weight = _whole_weights(pixels.shape[0], height, keeps_ends=False)
    values = pixels.astype(np.int32)
    rows = values[:, left] * left_weight[:, None] + values[:, right] * right_weight[:, None]
    rows >>= 4
    upper = (rows[top] * top_weight[:, None, None]) >> 16
    upper += (rows[bottom] * bottom_weight[:, None, None]) >> 16
    return ((upper + 2) >> 2).astype(np.uint8)


def _whole_weights(before: int, after: int, *, keeps_ends: bool) -> tuple[np.ndarray, ...]:
    """Return two positions per new one and their weights; at the ends OpenCV mixes a row with itself, which rounds."""
    at = ((np.arange(after) + 0.5) * (1 / (after / before)) - 0.5).astype(np.float32)
    low = np.floor(at).astype(np.int64)
    share = at - low.astype(np.float32)
    if keeps_ends:
        share[(low < 0) | (low >= before - 1)] = 0
    weight = np.rint(share * 2**_BITS).astype(np.int32)
    rest = np.rint((1 - share) * 2**_BITS).astype(np.int32)
    return low.clip(0, before - 1), (low + 1).clip(0, before - 1), rest, weight


def _neighbours(before: int, after: int, *, align_corners: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the two positions that each new one lies between, and the share of the second."""
    if align_corners:
        at = np.arange(after) * ((before - 1) / max(after - 1, 1))
    else:
        at = (np.arange(after) + 0.5) * (before / after) - 0.5
    at = np.clip(at.astype(np.float32), 0, before - 1)
    low = np.floor(at).astype(np.int64)
    return low, np.minimum(low + 1, before - 1), at - low.astype(np.float32)


def resize_to_labels(
    logits: np.ndarray, shape: Sequence[int], *, align_corners: bool, threshold: float | None
) -> np.ndarray:
    """Resize logits (C, h, w) to an image (H, W), and return the label of each pixel, a part of the rows at a time."""
    (height, width), (_, old_height, old_width) = shape, logits.shape
    top, bottom, down = _neighbours(old_height, height, align_corners=align_corners)
    left, right, along = _neighbours(old_width, width, align_corners=align_corners)
    labels = np.empty((height, width), np.int64)
    for start in range(0, height, _ROWS):
        rows = slice(start, start + _ROWS)
        share = down[rows, None]
        part = logits[:, top[rows]] * (1 - share) + logits[:, bottom[rows]] * share
        part = part[:, :, left] * (1 - along) + part[:, :, right] * along
        labels[rows] = part[0] > _logit(threshold) if len(logits) == 1 else part.argmax(0)
    return labels


def _logit(threshold: float | None) -> float:
    probability = 0.5 if threshold is None else threshold
    return float(np.log(probability / (1 - probability)))


def paste_masks(masks: np.ndarray, boxes: np.ndarray, shape: Sequence[int], threshold: float) -> np.ndarray:
    """Return masks (n, S, S) of boxes (n, 4) as (n, H, W) of booleans.

    A mask is interpolated linearly between the middles of its cells, and is 0 outside.
    """
    height, width = shape
    pasted = np.zeros((len(masks), height, width), bool)
    for mask, (x1, y1, x2, y2), target in zip(masks, boxes, pasted, strict=True):
        left, right = max(int(np.floor(x1)) - 1, 0), min(int(np.ceil(x2)) + 1, width)
        top, bottom = max(int(np.floor(y1)) - 1, 0), min(int(np.ceil(y2)) + 1, height)
        if right <= left or bottom <= top or x2 <= x1 or y2 <= y1:
            continue
        across = _cells(left, right, x1, x2, len(mask))
        down = _cells(top, bottom, y1, y2, len(mask))
        target[top:bottom, left:right] = down @ mask @ across.T >= threshold
    return pasted


def _cells(start: int, end: int, low: float, high: float, cells: int) -> np.ndarray:
    """Return the weight (pixels, cells) of each cell of a mask at each pixel between ``start`` and ``end``."""
    at = (np.arange(start, end, dtype=np.float32) + 0.5 - low) / (high - low) * cells - 0.5
    return np.maximum(1 - np.abs(at[:, None] - np.arange(cells, dtype=np.float32)), 0)


def windows(shape: Sequence[int], size: Sequence[int], stride: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield top, bottom, left and right of overlapping windows that cover an image; the last ones end with it."""
    spans = []
    for length, window, step in zip(shape, size, stride, strict=True):
        number = max(length - window + step - 1, 0) // step + 1
        ends = [min(place * step + window, length) for place in range(number)]
        spans.append([(max(end - window, 0), end) for end in ends])
    for (top, bottom), (left, right) in itertools.product(*spans):
        yield top, bottom, left, right


def _of_one_size(batch: Sequence[Prepared], *, can_be_several: bool) -> Iterator[list[Prepared]]:
    for _, group in itertools.groupby(batch, key=lambda item: item.pixels.shape):
        items = list(group)
        yield from [items] if can_be_several else ([item] for item in items)


def _open(path: Path, facts: Mapping[str, Any], runtime: str | None, threads: int | None) -> Any:
    """Return a function from named arrays to named arrays."""
    runtime = runtime or facts["runtime"]
    if runtime not in _RUNTIMES:
        raise ExportedModelError(f"runtime={runtime!r} must be one of {', '.join(_RUNTIMES)}.")
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise ExportedModelError(f"threads={threads!r} must be a whole number, 1 or more.")
    opener, endings = _RUNTIMES[runtime]
    if path.suffix not in endings:
        raise ExportedModelError(f"{path.name} is not for {runtime}: leave runtime out, or export the model for it.")
    try:
        run = opener(path, [output["name"] for output in facts["outputs"]], threads)
    except ImportError as error:
        raise ExportedModelError(f"{runtime} is not installed: pip install {runtime}.") from error
    except Exception as error:  # of a library in C++
        raise ExportedModelError(f"{path} cannot be opened by {runtime}: {first_line(error)}") from error

    def run_or_say(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            return run(inputs)
        except Exception as error:
            shapes = ", ".join(f"{name} {value.shape}" for name, value in inputs.items())
            raise ExportedModelError(f"{path} does not run on {shapes}: {first_line(error)}") from error

    return run_or_say


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, or its name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _open_onnxruntime(path: Path, names: Sequence[str], threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=onnxruntime.get_available_providers())
    return lambda inputs: dict(zip(names, session.run(None, dict(inputs)), strict=True))


def _open_openvino(path: Path, names: Sequence[str], threads: int | None) -> Any:
    import openvino

    how = {"INFERENCE_PRECISION_HINT": "f32"} | ({"INFERENCE_NUM_THREADS": threads} if threads else {})
    compiled = openvino.Core().compile_model(path, "CPU", how)
    return lambda inputs: dict(zip(names, compiled(dict(inputs)).values(), strict=True))


def _open_torch(path: Path, names: Sequence[str], threads: int | None) -> Any:
    import torch
    import torchvision  # noqa: F401  its operators are in the graph

    if threads:
        torch.set_num_threads(threads)
    model = torch.export.load(path).module()

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            outputs = model(*map(torch.from_numpy, inputs.values()))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return {name: value.numpy() for name, value in zip(names, outputs, strict=True)}

    return run


_RUNTIMES = {
    "onnxruntime": (_open_onnxruntime, (".onnx",)),
    "openvino": (_open_openvino, (".xml", ".onnx")),
    "torch": (_open_torch, (".pt2",)),
}


# Pictures


def draw(image: Image, result: Mapping[str, Any], *, score_thr: float = 0.3) -> PIL.Image.Image:
    """Return a picture of an image with what was found in it; objects below ``score_thr`` are left out."""
    picture = PIL.Image.fromarray(read_rgb(image))
    scale = max(1, round(640 / max(picture.size)))
    picture = picture.resize((picture.width * scale, picture.height * scale), PIL.Image.Resampling.BICUBIC)
    if "label_map" in result:
        return _draw_label_map(picture, result)
    if "boxes" in result:
        return _draw_objects(picture, result, scale, score_thr)
    return _draw_classes(picture, result)


def _draw_objects(picture: PIL.Image.Image, result: Mapping[str, Any], scale: int, score_thr: float) -> PIL.Image.Image:
    shown = [number for number, score in enumerate(result["scores"]) if score >= score_thr][::-1]
    pixels = np.array(picture)
    for number in shown if "masks" in result else ():
        mask = result["masks"][number].repeat(scale, 0).repeat(scale, 1)
        colour = class_colour(result["labels"][number])
        pixels[mask] = (0.7 * pixels[mask] + 0.3 * np.array(colour)).astype(np.uint8)
        pixels[mask & ~_eroded(mask)] = colour
    picture = PIL.Image.fromarray(pixels)
    pen, line = ImageDraw.Draw(picture), max(1, round(max(picture.size) / 1000))
    font = ImageFont.load_default(12 * max(1, max(picture.size) / 1000))
    for number in shown:
        x1, y1, x2, y2 = (round(float(scale * value)) for value in result["boxes"][number])
        pen.rectangle(
            (x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=class_colour(result["labels"][number]), width=line
        )
    texts = [f"{result['names'][number]} {result['scores'][number]:.2f}" for number in shown]
    sizes = [
        (int(right), int(bottom) + 2) for *_, right, bottom in (pen.textbbox((0, 0), text, font=font) for text in texts)
    ]
    boxes = np.rint(scale * np.asarray(result["boxes"], float)[shown]).reshape(-1, 4)
    places = place_labels(boxes, sizes, pixels.shape[:2], below=[False] * len(shown))
    for number, text, (width, height), place in zip(shown, texts, sizes, places, strict=True):
        if place is not None:
            x, y = place
            pen.rectangle((x, y, x + width, y + height), fill=class_colour(result["labels"][number]))
            pen.text((x, y), text, fill=(0, 0, 0), font=font)
    return picture


def place_labels(
    boxes: np.ndarray, sizes: Sequence[tuple[int, int]], shape: Sequence[int], *, below: Sequence[bool]
) -> list[tuple[int, int] | None]:
    """Find a place beside each box for its label, where it covers little of other boxes and labels.

    Args:
        boxes: (n, 4) in pixels; the last is drawn on top and has the first choice.
        sizes: (width, height) of each label.
        shape: (H, W) of the picture.
        below: Which labels go below their boxes if that is as good as above.

    Returns:
        (left, top) of each label; None where it would cover most of a smaller box or of another label in any place.
    """
    places: list[tuple[int, int] | None] = [None] * len(boxes)
    areas = (boxes[:, 2:] - boxes[:, :2]).clip(1).prod(axis=1)
    labels = np.zeros((0, 4))
    for number in reversed(range(len(boxes))):
        width, height = sizes[number]
        x1, y1, x2, y2 = boxes[number]
        tops = (y2, y1 - height) if below[number] else (y1 - height, y2)
        wanted = [(left, top) for left in (x1, x2 - width) for top in tops] + [(x2, y1), (x1 - width, y1), (x1, y1)]
        corners = np.minimum(wanted, (shape[1] - width, shape[0] - height)).clip(0)
        tried = np.hstack([corners, np.add(corners, (width, height))])
        covered, written = _shared(tried, boxes), _shared(tried, labels)
        shares = covered / areas
        shares[:, number] = 0
        hidden = written.max(axis=1, initial=0) / max(width * height, 1)
        costs = covered.sum(axis=1) + 100 * written.sum(axis=1)  # a label below another cannot be read
        costs[(shares.max(axis=1) > _MOST_COVERED) | (hidden > _MOST_COVERED)] = np.inf
        best = int(costs.argmin())
        if np.isfinite(costs[best]):
            places[number] = (int(corners[best, 0]), int(corners[best, 1]))
            labels = np.vstack([labels, tried[best]])
    return places


def _shared(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the area (m, n) that m boxes have in common with n others."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return (high - low).clip(0).prod(axis=2)


def _eroded(mask: np.ndarray) -> np.ndarray:
    inner = np.zeros_like(mask)
    inner[1:-1, 1:-1] = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    return inner


def _draw_label_map(picture: PIL.Image.Image, result: Mapping[str, Any]) -> PIL.Image.Image:
    colours = np.array(result["palette"], np.uint8)
    painted = PIL.Image.fromarray(colours[result["label_map"]]).resize(picture.size, PIL.Image.Resampling.NEAREST)
    shares = np.bincount(result["label_map"].ravel(), minlength=len(colours)) / result["label_map"].size
    rows = [number for number in np.argsort(-shares) if shares[number] > 0]
    font, line = ImageFont.load_default(14), 24
    texts = [f"{result['class_names'][number]} {shares[number]:.1%}" for number in rows]
    legend_width = 50 + int(max(font.getlength(text) for text in texts))
    height = max(picture.height, line * len(rows) + 12)
    sheet = PIL.Image.new("RGB", (2 * picture.width + 8 + legend_width, height), (255, 255, 255))
    sheet.paste(picture, (0, 0))
    sheet.paste(PIL.Image.blend(picture, painted, 0.55), (picture.width + 4, 0))
    pen = ImageDraw.Draw(sheet)
    left = 2 * picture.width + 8
    for row, (number, text) in enumerate(zip(rows, texts, strict=True)):
        top = 8 + row * line
        pen.rectangle((left + 8, top, left + 30, top + 16), fill=tuple(colours[number].tolist()))
        pen.text((left + 38, top), text, fill=(0, 0, 0), font=font)
    return sheet


def _draw_classes(picture: PIL.Image.Image, result: Mapping[str, Any]) -> PIL.Image.Image:
    line = 24
    rows = [f"{name} {score:.1%}" for name, score in zip(result["names"], result["scores"], strict=True)]
    sheet = PIL.Image.new("RGB", (picture.width, picture.height + line * len(rows) + 12), (255, 255, 255))
    sheet.paste(picture, (0, 0))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for row, text in enumerate(rows):
        pen.text((8, picture.height + 8 + row * line), text, fill=(0, 0, 0), font=font)
    return sheet


def class_colour(number: int) -> tuple[int, int, int]:
    """Return the RGB colour of a class."""
    red, green, blue = colorsys.hsv_to_rgb(int(number) * _GOLDEN_RATIO % 1, 0.6, 1)
    return round(255 * red), round(255 * green), round(255 * blue)


def main() -> None:
    """Run a model on images and write pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of the exported model")
    parser.add_argument("images", nargs="+", help="images, or folders with images")
    parser.add_argument("--out-dir", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--score-thr", type=float, default=0.3, help="objects below are not drawn (%(default)s)")
    parser.add_argument("--threads", type=int, help="number of threads; by default that of the runtime")
    args = parser.parse_args()
    if not 0 <= args.score_thr <= 1:
        raise SystemExit(f"Error: --score-thr {args.score_thr:g} must be from 0 to 1.")
    failed = []
    try:
        model = load_exported(args.model, threads=args.threads)
        paths = list(_files(args.images))
        pictures = _pictures(paths, args.out_dir)
        args.out_dir.mkdir(parents=True, exist_ok=True)
        for number, (path, picture) in enumerate(zip(paths, pictures, strict=True), start=1):
            try:
                (result,) = model.predict([path])
            except ExportedModelError as error:
                failed.append(str(error))
                print(f"[{number}/{len(paths)}] {path}: not read")
                continue
            draw(path, result, score_thr=args.score_thr).save(picture)
            print(f"[{number}/{len(paths)}] {picture}: {summary(result, score_thr=args.score_thr)}")
    except (ExportedModelError, OSError) as error:
        raise SystemExit(f"Error: {first_line(error)}") from error
    if failed:
        raise SystemExit("\n  ".join([f"Error: {len(failed)} of {len(paths)} could not be read:", *failed[:20]]))


def summary(result: Mapping[str, Any], *, score_thr: float = 0.3) -> str:
    """Return what was found in a few words."""
    if "label_map" in result:
        number = len(result["class_names"])
        counts = np.bincount(result["label_map"].ravel(), minlength=number)[:number]
        order = [label for label in np.argsort(-counts, kind="stable") if counts[label]]
        shares = counts / result["label_map"].size
        return ", ".join(f"{result['class_names'][label]} {shares[label]:.1%}" for label in order)
    if "boxes" not in result:
        return ", ".join(f"{name} {score:.1%}" for name, score in zip(result["names"], result["scores"], strict=True))
    names = [name for name, score in zip(result["names"], result["scores"], strict=True) if score >= score_thr]
    objects = "object" if len(names) == 1 else "objects"
    return f"{len(names)} {objects}" + (f" ({', '.join(sorted(set(names)))})" if names else "")


def _pictures(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Return a picture for each image: no two are one file, in upper or lower case, and none is an image."""
    pictures, taken = [], set()
    for path in paths:
        names = itertools.chain([path.stem, path.name], (f"{path.name}-{number}" for number in itertools.count(2)))
        name = next(name for name in names if name.casefold() not in taken)
        taken.add(name.casefold())
        pictures.append(folder / f"{name}.png")
    originals = {os.path.realpath(path) for path in paths}
    for path, picture in zip(paths, pictures, strict=True):
        if os.path.realpath(picture) in originals:
            raise ExportedModelError(f"The picture of {path} would overwrite an image: choose another --out-dir.")
    return pictures


def _files(names: Iterable[str]) -> Iterator[Path]:
    for name in map(Path, names):
        if name.is_dir():
            found = _images_in(name, "*") or _images_in(name, "**/*")
            if not found:
                raise ExportedModelError(f"Folder {name} has no images.")
            yield from found
        elif name.is_file():
            yield name
        else:
            raise ExportedModelError(f"Image {name} does not exist.")


def _images_in(folder: Path, pattern: str) -> list[Path]:
    """List the images of a folder; hidden files and folders are left out."""
    return sorted(
        path
        for path in folder.glob(pattern)
        if path.suffix.lower() in ENDINGS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


if __name__ == "__main__":
    main()
