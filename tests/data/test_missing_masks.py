"""Objects without a mask beside others that have one: learnt from and evaluated where that can be done right."""

import json
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from convnext_dense.config.augmentation import use_augmentation
from convnext_dense.data.checks.inspection import Inspection
from convnext_dense.data.data_report import report_data
from convnext_dense.data.own.detection import forget_annotations, use_coco_folder
from convnext_dense.data.own.tasks import check_data, inspect_data, use_whole_folder
from convnext_dense.engine import evaluate_model, train_model
from convnext_dense.errors import UserError

DETECTOR = "configs/demo/mask_rcnn_convnext_atto_shapes.py"
CASCADE = "configs/detection/cascade_convnext_t_3x.py"


@pytest.fixture
def config(request, tmp_path):
    init_default_scope("mmdet")

    def read(name=DETECTOR):
        cfg = Config.fromfile(request.config.rootpath / name)
        cfg.work_dir = str(tmp_path / "work")
        return cfg

    yield read
    forget_annotations()


def drop(folder, split="train", step=2):
    """Remove the mask of every second object, and return how many."""
    path = folder / f"instances_{split}.json"
    content = json.loads(path.read_text())
    dropped = content["annotations"][::step]
    for number, annotation in enumerate(dropped):
        if number % 2:
            annotation.pop("segmentation")
        else:
            annotation["segmentation"] = []
    path.write_text(json.dumps(content))
    return len(dropped)


@pytest.mark.parametrize(("name", "head"), [(DETECTOR, "StandardRoIHead"), (CASCADE, "CascadeRoIHead")])
def test_roi_head_becomes_one_that_leaves_out_missing_masks(config, own_folder, name, head):
    cfg = config(name)
    number = drop(own_folder)
    use_coco_folder(cfg, own_folder)
    inspection = Inspection()
    inspect_data(cfg, ("train", "val"), inspection)
    assert not inspection.of("error")
    found = {finding.check: finding for finding in inspection.of("warning")}["boxes without masks"]
    assert found.times == number
    assert f"masks from other objects (convnext_dense.{head})" in found.example
    assert cfg.model.roi_head.type == f"convnext_dense.{head}"
    assert "convnext_dense.models.roi_heads" in cfg.custom_imports.imports
    assert cfg.val_dataloader.dataset.ann_file == "instances_val.json"
    # The check of a config that a run has written changes nothing more.
    imports = list(cfg.custom_imports.imports)
    use_coco_folder(cfg, own_folder)
    check_data(cfg, ("train", "val"))
    assert cfg.model.roi_head.type == f"convnext_dense.{head}"
    assert list(cfg.custom_imports.imports) == imports


def test_pipeline_gives_every_object_a_mask_empty_where_there_is_none(config, own_folder):
    from mmdet.registry import DATASETS

    cfg = config()
    drop(own_folder)
    content = json.loads((own_folder / "instances_train.json").read_text())
    use_coco_folder(cfg, own_folder)
    check_data(cfg, ("train", "val"))
    data = DATASETS.build(cfg.train_dataloader.dataset)
    empty, whole = 0, 0
    for index in range(len(data)):
        sample = data[index]["data_samples"]
        for truth in (sample.gt_instances, sample.ignored_instances):
            areas = truth.masks.masks.sum(axis=(1, 2))
            empty += (areas == 0).sum()
            whole += (areas > 0).sum()
    assert empty == sum(not item.get("segmentation") for item in content["annotations"]) > 0
    assert empty + whole == len(content["annotations"])


def test_heads_stay_those_of_mmdet_where_all_objects_have_masks(config, own_folder):
    cfg = config()
    use_coco_folder(cfg, own_folder)
    check_data(cfg, ("train", "val"))
    assert cfg.model.roi_head.type == "StandardRoIHead"
    assert "custom_imports" not in cfg


def test_evaluation_reaches_an_ap_of_one_with_masks_missing(config, own_folder):
    cfg = config()
    number = drop(own_folder, "val", 3)
    is_right, report = report_data(cfg, use_whole_folder(cfg, own_folder))
    assert is_right, report
    assert "has box AP 1.0000, mask AP 1.0000" in report
    assert f"warning   boxes without masks  {number}  " in report
    assert "box AP counts it, and for mask AP its box is a region that is ignored" in report
    assert cfg.model.roi_head.type == "StandardRoIHead"


def edit_pipeline(cfg, **values):
    cfg.train_dataloader.dataset.pipeline.insert(2, dict(**values))


def use_mmdets_metric(cfg):
    cfg.val_evaluator.type = "CocoMetric"


CANNOT = {
    "another RoI head": (
        lambda cfg: cfg.model.roi_head.update(type="PointRendRoIHead"),
        r"only mmdet's StandardRoIHead and CascadeRoIHead with a mask head can leave out",
    ),
    "CopyPaste": (lambda cfg: edit_pipeline(cfg, type="CopyPaste"), "CopyPaste needs the masks of all objects"),
    "boxes of masks": (
        lambda cfg: edit_pipeline(cfg, type="RandomCrop", crop_size=(9, 9), recompute_bbox=True),
        "RandomCrop with recompute_bbox=True needs the masks",
    ),
    "filter": (
        lambda cfg: edit_pipeline(cfg, type="FilterAnnotations", by_mask=True),
        "FilterAnnotations with by_mask=True needs the masks",
    ),
}


@pytest.mark.parametrize("case", CANNOT)
def test_what_needs_all_masks_is_named(config, own_folder, case):
    cfg = config()
    drop(own_folder)
    use_coco_folder(cfg, own_folder)
    change, message = CANNOT[case]
    change(cfg)
    with pytest.raises(
        UserError, match=rf"Annotation 1 of .*train\.json has a box but no mask, and .*{message}.*: add"
    ):
        check_data(cfg, ("train", "val"))
    assert not Path(cfg.work_dir).exists()


def test_other_metrics_need_all_masks_and_ours_needs_one(config, own_folder):
    cfg = config()
    drop(own_folder, "val")
    use_coco_folder(cfg, own_folder)
    use_mmdets_metric(cfg)
    with pytest.raises(UserError, match=r"val\.json has a box but no mask, and only convnext_dense\.CocoMetric can"):
        check_data(cfg, ("train", "val"))
    cfg.val_evaluator.metric = ["bbox"]
    check_data(cfg, ("train", "val"))
    drop(own_folder, "val", 1)
    cfg = config()
    use_coco_folder(cfg, own_folder)
    with pytest.raises(UserError, match=r"val\.json has a box but no mask, and mask AP needs the mask of at least one"):
        check_data(cfg, ("train", "val"))


def test_training_with_masks_missing_gives_a_checkpoint_of_mmdets_own_model(request, own_folder, tmp_path):
    drop(own_folder)
    drop(own_folder, "val", 3)
    options = {"train_cfg.max_epochs": 1, "train_dataloader.batch_size": 4}
    for loader in ("train", "val", "test"):
        options |= {f"{loader}_dataloader.num_workers": 0, f"{loader}_dataloader.persistent_workers": False}
    config, work_dir = request.config.rootpath / DETECTOR, tmp_path / "run"
    train_model(config, options, data=str(own_folder), work_dir=str(work_dir))
    log = next(work_dir.rglob("*.log")).read_text()
    assert "masks from other objects (convnext_dense.StandardRoIHead)" in log
    assert "loss_mask" in log
    assert "Mask AP ignores what is found in their boxes" in log
    checkpoint = (work_dir / "last_checkpoint").read_text()
    options |= {"model.roi_head.type": "mmdet.StandardRoIHead"}
    metrics = evaluate_model(config, checkpoint, options, data=str(own_folder), work_dir=str(tmp_path / "test"))
    assert {"coco/bbox_mAP", "coco/segm_mAP"} <= set(metrics)


def test_augmentation_by_masks_goes_where_there_are_none(config, own_folder):
    cfg = config("configs/finetune/mask_rcnn.py")
    use_augmentation(cfg, "strong")
    for split in ("train", "val"):
        drop(own_folder, split, step=1)
    use_coco_folder(cfg, own_folder)
    check_data(cfg, ("train", "val"))
    dataset = cfg.train_dataloader.dataset
    steps = [*dataset.dataset.pipeline, *dataset.pipeline]
    assert "CopyPaste" not in [step["type"] for step in steps]
    assert not any(step.get("recompute_bbox") or step.get("with_mask") for step in steps)
    assert cfg.default_hooks.checkpoint.save_best == "coco/bbox_mAP"
    assert DATASETS.build(dataset)[0]["inputs"].shape[0] == 3
