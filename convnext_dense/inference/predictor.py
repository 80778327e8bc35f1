"""Images in, plain results and pictures out.

Letters: n objects in an image, H and W its height and width in pixels.
"""

import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import PIL.Image
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import default_collate, pseudo_collate
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import MODELS, init_default_scope

from convnext_dense.checkpoints import Checkpoint, load_weights
from convnext_dense.checkpoints.detector_layouts import find_detector_layout
from convnext_dense.config.bands import check_shown, use_trained_bands
from convnext_dense.config.channels import fit_to_channels
from convnext_dense.config.class_counts import num_classes, set_num_classes, task_of
from convnext_dense.config.coco_objects import drop_stuff
from convnext_dense.config.datasets import class_names, config_dicts, leaf_datasets
from convnext_dense.config.device import fit_to_device
from convnext_dense.config.finetuning import use_trained_image_size
from convnext_dense.config.mask_heads import can_drop_masks, drop_masks
from convnext_dense.config.options import apply_options
from convnext_dense.config.pipelines import image_step, loads_annotations, step_name
from convnext_dense.config.reading import read_config
from convnext_dense.data.band_files import NUMPY_SUFFIX, read_bands
from convnext_dense.data.checks.segmentation import reduces_zero_label
from convnext_dense.data.given_images import to_array, to_band_array
from convnext_dense.data.image_reader import reader_of
from convnext_dense.data.named_pipeline import NamedPipeline
from convnext_dense.data.opened_images import open_image
from convnext_dense.data.own.segmentation import make_palette
from convnext_dense.data.run_lengths import compress
from convnext_dense.data.stored_layout import stored_layout
from convnext_dense.data.transforms import build_transform
from convnext_dense.data.upright_images import read_bgr
from convnext_dense.engine.faults import name_config_faults
from convnext_dense.errors import UserError
from convnext_dense.inference.model import Image, LoadedModel
from convnext_dense.inference.panoptic import Panoptic
from convnext_dense.inference.plain import to_result
from convnext_dense.inference.results import ClassScores, Detections, LabelMap, Result
from convnext_dense.visualization import to_picture, write_picture


def predict(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike,
    images: Iterable[Image],
    *,
    options: Mapping[str, Any] | None = None,
    device: str | None = None,
    batch_size: int = 1,
) -> list[dict[str, Any]]:
    """Run a detector, a segmenter or a classifier on images.

    Args:
        config: Config that the checkpoint was trained with; its heads are sized to the classes in the checkpoint, and
            its mask head is left out where the checkpoint has none.
        checkpoint: Source of the weights, see ``checkpoints.fetch``; they must fill the whole model.
        images: Paths, which are read by the loading step of the config's test pipeline; Pillow images; or arrays, uint8
            of shape (H, W, 3) in BGR order, (H, W, 4) with alpha, or (H, W). Where the loading step gives other kinds
            of images, arrays are as it gives them: for a model that was trained with ``channels``, (H, W, C) in the
            order of the files' channels.
        options: Values of the config by dotted key, see ``read_config``.
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
        UserError: The config, the checkpoint or an image cannot be read, or the checkpoint does not fit the model.
    """
    predictor = Predictor(config, checkpoint, options=options, device=device)
    return [result.to_dict() for result in predictor.iterate(images, batch_size=batch_size)]


INSTANCE_OFFSET = 1000  # between the instances of a class in mmdet's panoptic maps


class Predictor(LoadedModel):
    """A model in PyTorch that is loaded once, with the preparation of its images; its arguments are ``predict``'s.

    Attributes:
        cfg: The config, sized to the checkpoint.
        model: The model, in eval mode.
        num_best: How many of the most probable classes a classifier's result has; 5 unless it is set.

    Raises:
        UserError: The config or the checkpoint cannot be read, or they do not fit each other or the device.
    """

    def __init__(
        self,
        config: str | os.PathLike | Config,
        checkpoint: str | os.PathLike,
        *,
        options: Mapping[str, Any] | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        self.num_best = 5
        cfg, opened = _read_both(config, checkpoint, options)
        if task_of(cfg) == "pretraining":
            raise UserError(
                f"{cfg.model.type} is a pre-training and predicts nothing: give its checkpoint to a detector, a "
                "segmenter or a classifier by --backbone NAME --backbone-weights."
            )
        meta, known = opened.content.get("meta") or {}, opened.dataset_meta
        names = opened.class_names
        if names is None and find_detector_layout(opened.tensors):  # no other code base stores the names of classes
            names = tuple(class_names(_test_dataset(cfg)) or ()) or None
        if names is None:
            raise UserError(
                f"Checkpoint {checkpoint} does not say which classes it was trained on (meta.dataset_meta)."
            )
        self.class_names = names
        self.cfg = cfg
        self.task = task_of(cfg) or ""
        if num_classes(cfg.model) != len(names):
            set_num_classes(cfg.model, len(names))
            drop_stuff(cfg)
        _drop_untrained_parts(cfg, opened.tensors)
        del opened
        fit_to_device(cfg)
        fit_to_channels(cfg)
        palette = known.get("palette") or meta.get("PALETTE") or ()
        self.palette = palette if len(palette) == len(names) else make_palette(len(names))
        dataset = _test_dataset(cfg)
        # Detectors that read the names of classes are given them beside the image, as in a test.
        self._words = dict(text=self.class_names, custom_entities=True) if dataset.get("return_classes") else {}
        self.first_label = int(bool(known.get("reduce_zero_label", reduces_zero_label(dataset))))
        self._prepare_inputs(cfg, dataset)
        with name_config_faults(cfg):
            self.model = MODELS.build(cfg.model)
        load_weights(self.model, checkpoint)
        device = device or get_device()
        try:
            self.model.to(device).eval()
        except (RuntimeError, AssertionError) as error:  # torch's own words for a device that is not there differ
            raise UserError(f"device='{device}' cannot be used here: {str(error).splitlines()[0]}") from error

    def _prepare_inputs(self, cfg: Config, dataset: ConfigDict) -> None:
        self._channels, self._mean = 3, ()
        self._dtypes: Sequence[type] | None = (np.uint8,)
        self._reader = reader_of(dataset.get("pipeline"))
        if self._reader is None:  # a classifier, whose images are arrays in BGR order before its transform
            self._from_array = self._from_file = _classifier_input(cfg)
            self._collate: Callable = default_collate
            return
        self._use_steps([step for step in dataset.pipeline if not loads_annotations(step)])
        self._collate = pseudo_collate
        self._channels = self._reader.channels or (cfg.model.get("backbone") or {}).get("in_channels", 3)
        if self._reader.channels is None or self._reader.reads_bands:  # files decide on the type, and so do arrays
            self._dtypes, self._mean = None, (cfg.model.get("data_preprocessor") or {}).get("mean") or ()

    def _use_steps(self, steps: list[dict[str, Any]]) -> None:
        self._steps = steps
        self._from_file = NamedPipeline(steps)
        loading = image_step(steps)
        from_array = dict(type="LoadImageFromNDArray", to_float32=steps[loading].get("to_float32", False))
        self._from_array = NamedPipeline([*steps[:loading], from_array, *steps[loading + 1 :]])

    def fit_images(self, size: Sequence[int]) -> None:
        """Resize images into one size, (height, width), from now on; they are not padded to it."""
        fitting = dict(type="convnext_dense.FitResize", size=tuple(size))
        self._use_steps([fitting if step_name(step) == "Resize" else step for step in self._steps])

    def picture(self, image: Image) -> np.ndarray:
        """Return the pixels that the model sees of an image as an (H, W, 3) picture in BGR order."""
        if isinstance(image, str | os.PathLike) and self._reader is not None:
            return self._reader.picture(image)
        if self._reader is not None and self._reader.reads_bands:
            return self._reader.as_picture(to_band_array(image, self._channels))
        return _view(image)

    def _prepare(self, image: Image, number: int) -> dict[str, Any]:
        prepared = self._through_pipeline(image, number)
        sample = prepared.get("data_samples")
        if sample is not None and "scale_factor" in sample:
            self._note_scale(sample.ori_shape, min(sample.scale_factor))
        return prepared

    def _through_pipeline(self, image: Image, number: int) -> dict[str, Any]:
        if not isinstance(image, str | os.PathLike):
            source = f"number {number} (an array)"
            return self._from_array(dict(img=self._as_array(image), img_id=number, img_path=source, **self._words))
        if self._reader is None:
            return self._from_file(dict(img=_read_image(image)))
        if "://" not in os.fspath(image):
            self._reader.open(image)  # OpenCV alone gives half an image for half a file, and trusts any size
        return self._from_file(dict(img_path=os.fspath(image), img_id=number, **self._words))

    def _read(self, image: Image) -> np.ndarray:
        if isinstance(image, str | os.PathLike):
            if self._reader is None:
                return _read_image(image)
            self._reader.open(image)
            return self._reader(image)
        return self._as_array(image)

    def _as_array(self, image: Any) -> np.ndarray:
        if self._reader is not None and self._reader.reads_bands:
            return to_band_array(image, self._channels, mean=self._mean)
        return to_array(image, self._channels, dtypes=self._dtypes, mean=self._mean)

    def _run(self, prepared: Sequence[dict[str, Any]]) -> Sequence[Result]:
        if not prepared:
            return []
        inputs = self._collate(prepared)
        with self._lock, torch.inference_mode():
            samples = self.model.test_step(inputs)
        return [self._result(sample) for sample in samples]

    def _result(self, sample: Any) -> Result:
        if self.task == "segmentation":
            return LabelMap(sample.pred_sem_seg.data[0].cpu().numpy(), self.class_names, self.palette)
        if self.task == "classification":
            top = sample["scores"].cpu().topk(min(self.num_best, len(self.class_names)))
            return ClassScores(top.values.numpy(), top.indices.numpy(), self.class_names)
        objects = _found_objects(sample, self.class_names) if "pred_instances" in sample else None
        if "pred_panoptic_seg" not in sample:
            assert objects is not None
            return objects
        head = self.cfg.model.get("panoptic_head") or self.cfg.model.panoptic_fusion_head
        return _segments(sample.pred_panoptic_seg, self, int(head.num_things_classes), objects)


def draw_result(image: Image, result: Mapping[str, Any], path: str | os.PathLike, *, score_thr: float = 0.3) -> None:
    """Write a picture of an image with what was found in it.

    That is boxes, masks, names and scores, or coloured classes and a legend, or the names of the most probable classes.

    Args:
        image: As for ``predict``; arrays of any type are drawn on, stretched to what can be seen.
        result: What ``predict`` or ``Predictor.predict`` gives for it.
        path: Where to write; the ending gives the format.
        score_thr: Objects below this score are left out.

    Raises:
        UserError: The image cannot be read, or the picture cannot be written.
    """
    picture = _view(image)
    write_picture(path, to_result(result, picture.shape[:2]).draw(picture, score_thr=score_thr))


def _read_both(
    config: str | os.PathLike | Config, checkpoint: str | os.PathLike, options: Mapping[str, Any] | None
) -> tuple[Config, Checkpoint]:
    """Return the config, which reads images as the checkpoint was trained to, and the checkpoint."""
    found: list[Checkpoint] = []

    def fit_images(cfg: Config) -> None:
        init_default_scope(cfg.get("default_scope", "mmengine"))
        found.append(Checkpoint(checkpoint))
        use_trained_image_size(cfg, found[0].dataset_meta)
        for line in use_trained_bands(cfg, found[0].dataset_meta, str(checkpoint)):
            print_log(line)

    if isinstance(config, Config):
        cfg = copy.deepcopy(config)
        fit_images(cfg)
        apply_options(cfg, options, str(config.filename))
    else:
        cfg = read_config(config, options, use_data=fit_images)
    return cfg, found[0]


def _test_dataset(cfg: Config) -> ConfigDict:
    """Return the data set whose pipeline images go through."""
    for loader in ("test_dataloader", "val_dataloader"):
        if cfg.get(loader) is not None:
            return next(leaf_datasets(cfg[loader].dataset))
    raise UserError(f"Config {cfg.filename} has no test_dataloader, whose pipeline images go through.")


def _drop_untrained_parts(cfg: Config, weights: Mapping[str, Any]) -> None:
    """Take heads for masks and stuff out where a checkpoint lacks them: training had none to learn from either."""
    parts = ("bbox_head", "mask_head", "semantic_head")
    has_boxes, has_masks, has_stuff = (any(f"{part}." in name for name in weights) for part in parts)
    if has_boxes and not has_stuff and any("semantic_head" in node for node in config_dicts(cfg.model)):
        drop_stuff(cfg)
    if has_boxes and not has_masks and can_drop_masks(cfg.model):
        drop_masks(cfg)
        print_log("The checkpoint has no mask head: boxes alone are predicted.")


def _classifier_input(cfg: Config) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return the config's test transform, for BGR arrays."""
    transform = build_transform(_test_dataset(cfg).transform)
    return lambda sample: dict(inputs=transform(PIL.Image.fromarray(np.ascontiguousarray(sample["img"][..., ::-1]))))


def _read_image(image: Image) -> np.ndarray:
    """Return an image as a classifier gets it, but as an array in BGR order."""
    if not isinstance(image, str | os.PathLike):
        return to_array(image)
    open_image(image)  # says what is wrong with a file, and trusts no size
    return read_bgr(image)


def _view(image: Image) -> np.ndarray:
    """Return an image as a picture, whatever its kind of pixels."""
    if isinstance(image, np.ndarray):
        return to_picture(image)
    if isinstance(image, PIL.Image.Image):
        return to_array(image)
    layout = stored_layout(image)
    if layout is not None and (layout.is_beyond_pillow or os.fspath(image).lower().endswith(NUMPY_SUFFIX)):
        bands = read_bands(image)
        return to_picture(bands, check_shown(bands.shape[2], None))
    opened = open_image(image)
    if opened.mode and not opened.has_32_bits:
        return read_bgr(image)
    pixels = cv2.imread(os.fspath(image), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise UserError(f"Image {image} (mode {opened.mode}) cannot be drawn on: hand over its pixels as an array.")
    return to_picture(pixels)


def _found_objects(sample: Any, names: Sequence[str]) -> Detections:
    instances = sample.pred_instances.cpu()
    order = instances.scores.argsort(descending=True)
    return Detections(
        boxes=instances.bboxes[order].numpy(),
        scores=instances.scores[order].numpy(),
        labels=instances.labels[order].numpy(),
        class_names=tuple(names),
        shape=tuple(sample.ori_shape[:2]),
        rles=tuple(map(compress, instances.masks[order].numpy())) if "masks" in instances else None,
    )


def _segments(found: Any, model: LoadedModel, num_things: int, objects: Detections | None) -> Panoptic:
    """Return what mmdet numbers as class + 1000 x instance; the number of classes means none."""
    numbers = found.sem_seg.squeeze(0).cpu().numpy()
    names = model.class_names
    segments: list[dict[str, Any]] = []
    segment_map = np.zeros(numbers.shape, np.int64)
    values, counts = np.unique(numbers, return_counts=True)
    for value, count in sorted(zip(values.tolist(), counts.tolist(), strict=True), key=lambda pair: -pair[1]):
        label = value % INSTANCE_OFFSET
        if label < len(names):
            number = len(segments) + 1
            segment_map[numbers == value] = number
            segments.append(dict(id=number, label=label, name=names[label], is_thing=label < num_things, area=count))
    return Panoptic(segment_map, segments, names, model.palette, objects)
