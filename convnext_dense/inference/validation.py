"""The labelled images of a config or of a folder, and the metrics of what a model finds in them."""

import copy
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.logging import print_log
from mmengine.registry import DATASETS, init_default_scope
from mmengine.structures import InstanceData, PixelData

from convnext_dense.config.datasets import evaluators
from convnext_dense.config.option_pairs import fit_loaders
from convnext_dense.data.data_folder import DataFolder
from convnext_dense.data.own.tasks import check_data, use_folder
from convnext_dense.engine.preparing import check_classes, prepare
from convnext_dense.errors import UserError, first_line
from convnext_dense.inference.predictor import Predictor

Result = Mapping[str, Any]


def evaluation_of(
    predictor: Predictor, data: str | os.PathLike | DataFolder | None = None, *, work_dir: str | os.PathLike
) -> "Evaluation":
    """Return the evaluation of a folder's validation images, or of those of the model's config.

    Args:
        predictor: The model.
        data: The folder, as ``tools/test.py --data`` takes it; None for the config's data.
        work_dir: Folder that keeps converted data.

    Raises:
        UserError: The folder does not have the layout of the model's task, or the data of the config is not there, or
            of other classes.
    """
    cfg = copy.deepcopy(predictor.cfg)
    init_default_scope(cfg.get("default_scope", "mmengine"))  # another model may have been loaded since
    if data is not None:
        use_folder(cfg, data, predictor.class_names, splits={"test": "val"}, work_dir=work_dir)
    elif cfg.get("val_dataloader") is not None:
        cfg.test_dataloader, cfg.test_evaluator = (
            copy.deepcopy(cfg[f"val_{part}"]) for part in ("dataloader", "evaluator")
        )
    names = predictor.class_names
    checks = [
        partial(check_classes, checkpoint="The model", trained=names),
        partial(fit_loaders, loaders=("test",)),
        partial(check_data, loaders=("test",)),
    ]
    try:
        for note in prepare(cfg, checks):
            print_log(note)
        return Evaluation(cfg, names, loader="test")
    except (UserError, FileNotFoundError) as error:
        if data is not None or not re.search("No such file|does not exist|has no image", str(error)):
            raise
        raise UserError(
            f"The validation data of the config is not there ({first_line(error)}): name yours with --data DIR."
        ) from error


class Evaluation:
    """The metric of a config's validation data, for plain results.

    Args:
        cfg: The config.
        class_names: Of the results.
        loader: ``'val'`` or ``'test'``; by default ``'val'`` if the config has it.

    Attributes:
        dataset: The data set of the config.
        metrics: Its metrics, as configs.
        paths: Of the images.

    Raises:
        UserError: There is no such data.
    """

    def __init__(self, cfg: Config, class_names: Sequence[str], *, loader: str | None = None) -> None:
        init_default_scope(cfg.get("default_scope", "mmengine"))  # another model may have been loaded since
        loader = loader or ("val" if cfg.get("val_dataloader") is not None else "test")
        self.metrics = [copy.deepcopy(metric) for metric in evaluators(cfg, loader)]
        self.dataset = DATASETS.build(copy.deepcopy(cfg[f"{loader}_dataloader"].dataset))
        self._num_classes = len(class_names)
        samples = getattr(self.dataset, "samples", None)  # of a classifier's image folder
        if samples is None:
            self.paths = [Path(self.dataset.get_data_info(number)["img_path"]) for number in range(len(self.dataset))]
        else:
            self.paths = [Path(path) for path, _ in samples]
        absent = next((path for path in self.paths if not path.is_file()), None)
        if absent is not None or not self.paths:
            raise UserError(f"The validation data has no image {absent}.")

    def measure(self, results: Iterable[Result]) -> dict[str, float]:
        """Return the metrics of one result per image, in the order of ``paths``."""
        evaluator = Evaluator(self.metrics)
        evaluator.dataset_meta = self.dataset.metainfo
        for number, result in enumerate(results):
            sample = self.dataset[number]
            if "boxes" not in result and "label_map" not in result:
                scores = torch.full((self._num_classes,), -1.0)
                scores[torch.as_tensor(result["labels"])] = torch.as_tensor(result["scores"])
                evaluator.process([dict(scores=scores)], dict(labels=[sample["labels"]]))
                continue
            truth = sample["data_samples"]
            _set_result(truth, result)
            evaluator.process([truth], None)
        return {name: float(value) for name, value in evaluator.evaluate(len(self.paths)).items()}


def _set_result(sample: Any, result: Result) -> None:
    if "label_map" in result:
        sample.pred_sem_seg = PixelData(data=torch.as_tensor(result["label_map"])[None])
        return
    fields = dict(bboxes=torch.as_tensor(result["boxes"]), scores=torch.as_tensor(result["scores"]))
    fields["labels"] = torch.as_tensor(result["labels"])
    if "masks" in result:
        fields["masks"] = torch.as_tensor(result["masks"])
    sample.pred_instances = InstanceData(**fields)
