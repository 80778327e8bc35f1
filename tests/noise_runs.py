"""Runs plugged models in process: a training step and inference on images of random noise, with few regions."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData

from convnext_dense.config.datasets import config_dicts
from convnext_dense.config.device import fit_to_device
from convnext_dense.plug import plug_backbone

IMAGE_SIZE = 128  # pixels
# No more queries than small maps have positions, and few regions and results, which are enough to test the wiring.
FEWER = {"num_queries": 100, "num_proposals": 20, "nms_pre": 100, "max_per_img": 20}
BOXES = [[8.0, 8.0, 72.0, 80.0], [30.0, 40.0, 110.0, 120.0]]


def shrink(cfg: Config) -> None:
    """Make a config run on small images in one process; the network keeps its widths."""
    cfg.launcher = "none"
    fit_to_device(cfg)
    for node in list(config_dicts(cfg.model)):
        if "batch_augments" in node:
            node["batch_augments"] = None  # pads to the published size
        if isinstance(node.get("data_preprocessor"), Mapping):
            _shrink_preprocessor(node["data_preprocessor"])
        if isinstance(node.get("test_cfg"), Mapping) and node["test_cfg"].get("mode") == "slide":
            node["test_cfg"] = dict(mode="whole")
        for key, most in FEWER.items():
            if isinstance(node.get(key), int):
                node[key] = min(node[key], most)
        if isinstance(node.get("sampler"), Mapping) and isinstance(node["sampler"].get("num"), int):
            node["sampler"]["num"] = min(node["sampler"]["num"], 32)
        node.pop("pretrained", None)
        if isinstance(node.get("init_cfg"), Mapping) and node["init_cfg"].get("type") == "Pretrained":
            node.pop("init_cfg")
    if cfg.model.get("data_preprocessor") is None and cfg.get("data_preprocessor") is not None:
        cfg.model.data_preprocessor = cfg.data_preprocessor


def _shrink_preprocessor(node: Any) -> None:
    if node.get("size") is not None:
        node["size"] = (IMAGE_SIZE, IMAGE_SIZE)


def detection_batch(cfg: Config) -> dict[str, Any]:
    """Two images with boxes, masks, a map of classes and proposals of random noise."""
    from mmdet.testing import demo_mm_inputs

    shapes = [(3, IMAGE_SIZE, IMAGE_SIZE)] * 2
    batch = demo_mm_inputs(
        2, shapes, num_items=[2, 2], num_classes=2, with_mask=True, with_semantic=True, use_box_type=True
    )
    loading = list(config_dicts(cfg.get("train_dataloader") or {}))
    with_mask = any(node.get("with_mask") or node.get("type") == "LoadPanopticAnnotations" for node in loading)
    for sample in batch["data_samples"]:
        if not with_mask:
            del sample.gt_instances.masks  # RTMDet would use them if they were there
        boxes = torch.tensor(BOXES)
        sample.gt_instances.labels = torch.tensor([0, num_classes(cfg) - 1])
        sample.gt_instances.bboxes = type(sample.gt_instances.bboxes)(boxes)
        size = (1, IMAGE_SIZE, IMAGE_SIZE)
        sample.gt_sem_seg = PixelData(sem_seg=torch.randint(0, 2, size))
        sample.set_metainfo(
            dict(batch_input_shape=size[1:], pad_shape=size[1:], text=("cat", "dog"), custom_entities=True)
        )
    return batch


def num_classes(cfg: Config) -> int:
    """Return two, or the number that the model has if that is less."""
    numbers = [node["num_classes"] for node in config_dicts(cfg.model) if isinstance(node.get("num_classes"), int)]
    return min([2, *numbers])


def segmentation_batch(cfg: Config) -> dict[str, Any]:
    """Two images and maps of classes of random noise."""
    from mmseg.structures import SegDataSample

    size = (IMAGE_SIZE, IMAGE_SIZE)
    samples = []
    for _ in range(2):
        meta = dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size)
        sample = SegDataSample(metainfo=meta)
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 2, (1, *size)).repeat_interleave(1, 0))
        sample.gt_edge_map = PixelData(data=torch.randint(0, 2, (1, *size)))
        samples.append(sample)
    return dict(inputs=[torch.randint(0, 255, (3, *size), dtype=torch.uint8) for _ in range(2)], data_samples=samples)


def training_step(model: Any, batch: Mapping[str, Any]) -> float:
    """Run one step of SGD; return the loss, which must be finite."""
    model.train()
    optimizer = torch.optim.SGD([param for param in model.parameters() if param.requires_grad], lr=1e-4)
    data = model.data_preprocessor(copy.deepcopy(dict(batch)), training=True)
    for name in ("epoch", "iter"):  # set by mmengine's Runner and used by some heads
        MessageHub.get_current_instance().update_info(name, 0)
    if hasattr(model, "set_epoch"):  # called by a hook of mmdet in its own runs
        model.set_epoch(0)
    loss, _ = model.parse_losses(model(**data, mode="loss"))
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss), f"the loss is {loss.item()}"
    return loss.item()


def check_gradient(model: Any) -> None:
    """Raise an error if the first block of ConvNeXt is missing or did not contribute to the loss."""
    backbone = [param for name, param in model.named_parameters() if "stages.0.0.dwconv.weight" in name]
    assert backbone, "there is no ConvNeXt in the model"
    assert any(param.grad is not None for param in backbone), "no gradient reaches the first block of the backbone"


def inference(model: Any, batch: Mapping[str, Any]) -> int:
    """Predict, and return the number of results."""
    model.eval()
    with torch.no_grad():
        data = model.data_preprocessor(copy.deepcopy(dict(batch)), training=False)
        return len(model(**data, mode="predict"))


def semi_supervised(batch: dict[str, Any]) -> dict[str, Any]:
    """Return the batch as the branches of a semi-supervised detector."""
    names = ("sup", "unsup_teacher", "unsup_student")
    samples = copy.deepcopy(batch["data_samples"])
    for sample in samples:
        sample.set_metainfo(dict(homography_matrix=torch.eye(3).numpy()))
    return dict(
        inputs={name: [image.clone() for image in batch["inputs"]] for name in names},
        data_samples={name: copy.deepcopy(samples) for name in names},
    )


def run_config(path: Any) -> None:
    """Plug in ConvNeXt-atto, build the model, train one step and run inference."""
    torch.manual_seed(0)
    cfg = plug_backbone(Config.fromfile(path, import_custom_modules=False), "atto")
    shrink(cfg)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.init_weights()  # as mmengine's Runner does
    batch = segmentation_batch(cfg) if cfg.default_scope == "mmseg" else detection_batch(cfg)
    training_step(model, semi_supervised(batch) if "semi_train_cfg" in cfg.model else batch)
    check_gradient(model)
    assert inference(model, batch) == len(batch["data_samples"])
