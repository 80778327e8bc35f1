"""Images in, plain results and pictures out.

Letters: n objects in an image, H and W its height and width in pixels.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.registry import MODELS, init_default_scope

from convnext_dense.checkpoints import load_weights, read_checkpoint
from convnext_dense.data.coco_folder import detection_heads, leaf_datasets, resize_heads
from convnext_dense.engine.config import read_config
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
    """Runs a detector on images.

    Args:
        config: Config that the checkpoint was trained with; its heads are sized to the classes in the checkpoint.
        checkpoint: Source of the weights, see ``checkpoints.fetch``; they must fill the whole model.
        images: Paths, or arrays of shape (H, W, 3) in BGR order, uint8.
        device: ``'cpu'``, ``'cuda:0'``, ...; by default the accelerator if there is one.
        batch_size: Images that run at once.

    Returns:
        One dict per image, the most certain object first: ``boxes`` (n, 4) as x1, y1, x2, y2 in pixels of the image,
        ``scores`` (n,) in [0, 1], ``labels`` (n,), ``names`` (n strings) and, if the model has a mask head, ``masks``
        (n, H, W) of booleans.

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
    cfg = config if isinstance(config, Config) else read_config(config)
    init_default_scope(cfg.get("default_scope", "mmengine"))
    device = device or get_device()
    meta = read_checkpoint(checkpoint).get("meta") or {}
    names = (meta.get("dataset_meta") or {}).get("classes") or meta.get("CLASSES")  # the latter by mmdet 2.x
    if names is None:
        raise ValueError(f"Checkpoint {checkpoint} does not say which classes it was trained on (meta.dataset_meta).")
    if any(head.num_classes != len(names) for head in detection_heads(cfg.model)):
        resize_heads(cfg.model, len(names))
    fit_to_device(cfg)

    model = MODELS.build(cfg.model)
    load_weights(model, checkpoint)
    model.to(device).eval()
    pipeline = _pipeline(cfg)
    for start in range(0, len(images), batch_size):
        batch = [
            pipeline(dict(img=_read_image(image), img_id=start + offset, img_path=str(image)))
            for offset, image in enumerate(images[start : start + batch_size])
        ]
        with torch.inference_mode():
            samples = model.test_step(pseudo_collate(batch))
        for sample in samples:
            yield _plain_result(sample.pred_instances.cpu(), names)


def draw_result(image: Image, result: dict[str, Any], path: str | os.PathLike, *, score_thr: float = 0.3) -> None:
    """Writes a picture of an image with boxes, masks, names and scores.

    Args:
        image: As for ``predict``.
        result: One dict of ``predict``.
        path: Where to write; the ending gives the format.
        score_thr: Objects below this score are left out.
    """
    from mmdet.structures import DetDataSample
    from mmdet.visualization import DetLocalVisualizer
    from mmengine.structures import InstanceData

    pixels = _read_image(image)
    scale = max(1, round(MIN_PICTURE_SIDE / max(pixels.shape[:2])))
    size = (pixels.shape[1] * scale, pixels.shape[0] * scale)
    pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST if scale == 1 else cv2.INTER_CUBIC)
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


def _pipeline(cfg: Config) -> Compose:
    """The config's test pipeline without reading images and annotations from files."""
    dataset = next(leaf_datasets(cfg.test_dataloader.dataset))
    steps = [dict(type="mmdet.LoadImageFromNDArray")]
    steps += [step for step in dataset.pipeline if not step.type.rpartition(".")[2].startswith("Load")]
    return Compose(steps)


def _read_image(image: Image) -> np.ndarray:
    if isinstance(image, np.ndarray):
        return image
    if not Path(image).is_file():
        raise ValueError(f"Image {image} does not exist.")
    pixels = cv2.imread(os.fspath(image), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError(f"Image {image} cannot be decoded: it is truncated or not an image.")
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
