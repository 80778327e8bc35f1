"""Images in, plain results and pictures out.

Letters: n objects in an image, H and W its height and width in pixels.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import PIL.Image
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate, pseudo_collate
from mmengine.device import get_device
from mmengine.registry import MODELS, init_default_scope

from convnext_dense.checkpoints import load_weights, read_checkpoint
from convnext_dense.data.class_counts import num_classes, set_num_classes, task_of
from convnext_dense.data.coco_config import drop_stuff
from convnext_dense.data.dataset_configs import leaf_datasets
from convnext_dense.data.opened_images import open_image
from convnext_dense.data.segmentation_folder import make_palette
from convnext_dense.data.transforms import build_transform
from convnext_dense.engine.config import read_config
from convnext_dense.engine.config_faults import name_config_faults
from convnext_dense.engine.device import fit_to_device

# Smaller pictures are enlarged before drawing, or the names would cover the objects.
MIN_PICTURE_SIDE = 640

Image = str | os.PathLike | np.ndarray


def predict(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike,
    images: Sequence[Image],
    *,
    device: str | None = None,
    batch_size: int = 1,
) -> list[dict[str, Any]]:
    """Runs a detector, a segmenter or a classifier on images.

    Args:
        config: Config that the checkpoint was trained with; its heads are sized to the classes in the checkpoint.
        checkpoint: Source of the weights, see ``checkpoints.fetch``; they must fill the whole model.
        images: Paths, or arrays of shape (H, W, 3) in BGR order, uint8.
        device: ``'cpu'``, ``'cuda:0'``, ...; by default the accelerator if there is one.
        batch_size: Images that run at once.

    Returns:
        One dict per image, with ``class_names`` and

        - detection, the most certain object first: ``boxes`` (n, 4) as x1, y1, x2, y2 in pixels of the image,
          ``scores`` (n,) in [0, 1], ``labels`` (n,), ``names`` (n strings) and, if the model has a mask head, ``masks``
          (n, H, W) of booleans;
        - segmentation: ``label_map`` (H, W), the position in ``class_names`` of each pixel's class, and ``palette``, an
          RGB colour per class;
        - classification, the five most probable classes: ``scores`` (5,) in [0, 1], ``labels`` (5,), ``names``.

    Raises:
        ValueError: The config, the checkpoint or an image cannot be read, or the checkpoint does not fit the model.
    """
    return list(iterate_predictions(config, checkpoint, images, device=device, batch_size=batch_size))


def iterate_predictions(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike,
    images: Sequence[Image],
    *,
    device: str | None = None,
    batch_size: int = 1,
) -> Iterator[dict[str, Any]]:
    """Does what ``predict`` does, one batch after the other, so that many images need not fit into memory."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be 1 or more.")
    cfg = config if isinstance(config, Config) else read_config(config)
    init_default_scope(cfg.get("default_scope", "mmengine"))
    device = device or get_device()
    meta = read_checkpoint(checkpoint).get("meta") or {}
    dataset_meta = meta.get("dataset_meta") or {}
    names = dataset_meta.get("classes") or meta.get("CLASSES")  # the latter by mmdet 2.x and mmseg 0.x
    if names is None:
        raise ValueError(f"Checkpoint {checkpoint} does not say which classes it was trained on (meta.dataset_meta).")
    task = task_of(cfg)
    if num_classes(cfg.model) != len(names):
        set_num_classes(cfg.model, len(names))
        drop_stuff(cfg)
    fit_to_device(cfg)
    palette = dataset_meta.get("palette") or meta.get("PALETTE") or make_palette(len(names))

    with name_config_faults(cfg):
        model = MODELS.build(cfg.model)
    load_weights(model, checkpoint)
    try:
        model.to(device).eval()
    except (RuntimeError, AssertionError) as error:  # torch's own words for a device that is not there differ
        raise ValueError(f"device='{device}' cannot be used here: {str(error).splitlines()[0]}") from error
    pipeline = _classifier_input(cfg) if task == "classification" else _pipeline(cfg)
    collate = default_collate if task == "classification" else pseudo_collate
    for start in range(0, len(images), batch_size):
        batch = [
            pipeline(dict(img=_read_image(image), img_id=start + offset, img_path=str(image)))
            for offset, image in enumerate(images[start : start + batch_size])
        ]
        with torch.inference_mode():
            samples = model.test_step(collate(batch))
        for sample in samples:
            if task == "segmentation":
                label_map = sample.pred_sem_seg.data[0].cpu().numpy()
                yield dict(label_map=label_map, class_names=tuple(names), palette=palette)
            elif task == "classification":
                yield _top_classes(sample["scores"].cpu(), names)
            else:
                yield _plain_result(sample.pred_instances.cpu(), names)


def draw_result(image: Image, result: dict[str, Any], path: str | os.PathLike, *, score_thr: float = 0.3) -> None:
    """Writes a picture of an image with boxes, masks, names and scores, or with coloured classes and a legend, or with
    the names of the most probable classes.

    Args:
        image: As for ``predict``.
        result: One dict of ``predict``.
        path: Where to write; the ending gives the format.
        score_thr: Objects below this score are left out.
    """
    if "label_map" in result:
        cv2.imwrite(os.fspath(path), _draw_label_map(_enlarge(_read_image(image)), result))
        return
    if "boxes" not in result:
        cv2.imwrite(os.fspath(path), _draw_classes(_enlarge(_read_image(image)), result))
        return
    from mmdet.structures import DetDataSample
    from mmdet.visualization import DetLocalVisualizer
    from mmengine.structures import InstanceData

    original = _read_image(image)
    pixels = _enlarge(original)
    scale = pixels.shape[0] // original.shape[0]
    kept = result["scores"] >= score_thr
    instances = InstanceData(
        bboxes=torch.from_numpy(result["boxes"][kept] * scale),
        scores=torch.from_numpy(result["scores"][kept]),
        labels=torch.from_numpy(result["labels"][kept]),
    )
    if "masks" in result:
        masks = result["masks"][kept]
        instances.masks = masks.repeat(scale, axis=1).repeat(scale, axis=2)
    visualizer = DetLocalVisualizer(text_color=(255, 255, 255), line_width=2, alpha=0.5)
    visualizer.dataset_meta = dict(classes=result["class_names"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*out of bounds")  # objects at the border of the image
        visualizer.add_datasample(
            "prediction",
            pixels[..., ::-1],
            DetDataSample(pred_instances=instances),
            draw_gt=False,
            pred_score_thr=score_thr,
            out_file=str(path),
        )


def _enlarge(pixels: np.ndarray) -> np.ndarray:
    """Enlarges a small picture by a whole number, up to about ``MIN_PICTURE_SIDE``."""
    scale = max(1, round(MIN_PICTURE_SIDE / max(pixels.shape[:2])))
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) if scale > 1 else pixels


def _draw_label_map(pixels: np.ndarray, result: dict[str, Any]) -> np.ndarray:
    """Puts the image, the image under its classes' colours, and a legend of those that occur, side by side."""
    height, width = pixels.shape[:2]
    labels = cv2.resize(result["label_map"].astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    colours = np.array(result["palette"], np.uint8)[:, ::-1]  # BGR
    overlay = cv2.addWeighted(pixels, 0.45, colours[labels], 0.55, 0)

    shares = np.bincount(labels.ravel(), minlength=len(result["class_names"])) / labels.size
    rows = [index for index in np.argsort(-shares) if shares[index] > 0]
    font, size, line = cv2.FONT_HERSHEY_SIMPLEX, 0.5, 24  # line: pixels from one row of the legend to the next
    texts = [f"{result['class_names'][index]} {shares[index]:.1%}" for index in rows]
    text_width = max(cv2.getTextSize(text, font, size, 1)[0][0] for text in texts)
    legend = np.full((max(height, line * len(rows) + 12), text_width + 50, 3), 255, np.uint8)
    for row, (index, text) in enumerate(zip(rows, texts, strict=True)):
        top = 8 + row * line
        cv2.rectangle(legend, (8, top), (30, top + 16), colours[index].tolist(), -1)
        cv2.putText(legend, text, (38, top + 13), font, size, (0, 0, 0), 1, cv2.LINE_AA)
    pictures = [
        cv2.copyMakeBorder(picture, 0, len(legend) - height, 0, 4, cv2.BORDER_CONSTANT, value=(255, 255, 255))
        for picture in (pixels, overlay)
    ]
    return np.hstack([*pictures, legend])


def _draw_classes(pixels: np.ndarray, result: dict[str, Any]) -> np.ndarray:
    """Writes the most probable classes below the image."""
    line = 24  # pixels from one row of text to the next
    rows = [f"{name} {score:.1%}" for name, score in zip(result["names"], result["scores"], strict=True)]
    legend = np.full((line * len(rows) + 12, pixels.shape[1], 3), 255, np.uint8)
    for row, text in enumerate(rows):
        cv2.putText(legend, text, (8, 21 + row * line), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([pixels, legend])


def _classifier_input(cfg: Config) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The config's test transform, for BGR arrays."""
    transform = build_transform(next(leaf_datasets(cfg.test_dataloader.dataset)).transform)
    return lambda sample: dict(inputs=transform(PIL.Image.fromarray(np.ascontiguousarray(sample["img"][..., ::-1]))))


def _top_classes(scores: torch.Tensor, names: Sequence[str]) -> dict[str, Any]:
    top = scores.topk(min(5, len(names)))
    labels = top.indices.numpy()
    return dict(
        scores=top.values.numpy(), labels=labels, names=[names[label] for label in labels], class_names=tuple(names)
    )


def _pipeline(cfg: Config) -> Compose:
    """The config's test pipeline without reading images and annotations from files."""
    dataset = next(leaf_datasets(cfg.test_dataloader.dataset))
    steps = [dict(type="LoadImageFromNDArray")]  # of the config's default scope
    steps += [step for step in dataset.pipeline if not step.type.rpartition(".")[2].startswith("Load")]
    return Compose(steps)


def _read_image(image: Image) -> np.ndarray:
    if isinstance(image, np.ndarray):
        return image
    open_image(image)  # OpenCV alone gives half an image for half a file, and trusts any size
    pixels = cv2.imread(os.fspath(image), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError(f"Image {image} cannot be decoded by OpenCV: save it as PNG or JPEG.")
    return pixels


def _plain_result(instances: Any, names: Sequence[str]) -> dict[str, Any]:
    order = instances.scores.argsort(descending=True)
    result = dict(
        boxes=instances.bboxes[order].numpy(),
        scores=instances.scores[order].numpy(),
        labels=instances.labels[order].numpy(),
        names=[names[label] for label in instances.labels[order].tolist()],
        class_names=tuple(names),
    )
    if "masks" in instances:
        result["masks"] = instances.masks[order].numpy()
    return result
