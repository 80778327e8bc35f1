"""CocoMetric's arguments: they work as in mmdet's CocoMetric, or are refused by name."""

import json

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from mmdet.evaluation.functional import eval_recalls
from mmengine.logging import MMLogger

from convnext_dense.evaluation.coco_metric import CocoMetric

SQUARE = [[0, 0, 50, 0, 50, 50, 0, 50]]
OBJECT = dict(id=1, image_id=1, category_id=1, bbox=[0, 0, 50, 50], area=2500, iscrowd=0, segmentation=SQUARE)
FOUND = (1, [[0, 0, 50, 50]], [0.9], [0])  # image id, boxes, scores, labels


def content_of(*annotations, images=(1,), classes=("a",)):
    return dict(
        images=[dict(id=image_id, width=640, height=640, file_name=f"{image_id}.jpg") for image_id in images],
        categories=[dict(id=number, name=name) for number, name in enumerate(classes, start=1)],
        annotations=list(annotations),
    )


def evaluate(folder, content, *predictions, kind=CocoMetric, masks=None, **kwargs):
    path = folder / "truth.json"
    path.write_text(json.dumps(content))
    metric = kind(ann_file=str(path), **kwargs)
    metric.dataset_meta = dict(classes=tuple(category["name"] for category in content["categories"]))
    for image_id, boxes, scores, labels in predictions:
        instances = dict(
            bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            scores=torch.tensor(scores, dtype=torch.float32),
            labels=torch.tensor(labels, dtype=torch.long),
        )
        if masks is not None:
            instances["masks"] = masks[: len(labels)]
        metric.process({}, [dict(img_id=image_id, ori_shape=(640, 640), pred_instances=instances)])
    return metric.evaluate(len(predictions))


def square_masks(number):
    masks = torch.zeros(number, 640, 640, dtype=torch.bool)
    masks[:, :50, :50] = True
    return masks


def test_ap_counts_100_detections_of_an_image_and_class(tmp_path):
    """Two objects, found at rank 1 and 150: 51 of 101 recall points have precision 1, the others none, or 2/150."""
    far = dict(OBJECT, id=2, bbox=[500, 500, 50, 50])
    boxes = [[0, 0, 50, 50]] + [[200, 200, 210 + i % 7, 220] for i in range(148)] + [[500, 500, 550, 550]]
    found = (1, boxes, np.linspace(1, 0.1, 150), [0] * 150)
    metrics = evaluate(tmp_path, content_of(OBJECT, far), found, metric_items=["mAP", "mAP_50", "mAP@1000", "AR@100"])
    assert metrics == pytest.approx(
        {
            "coco/bbox_mAP": 51 / 101,
            "coco/bbox_mAP_50": (51 + 50 * 2 / 150) / 101,
            "coco/bbox_mAP@1000": (51 + 50 * 2 / 150) / 101,
            "coco/bbox_AR@100": 0.5,
        }
    )


def test_ap_counts_100_detections_whatever_proposal_nums_says(tmp_path):
    metrics = evaluate(tmp_path, content_of(OBJECT), FOUND, proposal_nums=(1, 10, 50))
    assert metrics["coco/bbox_mAP"] == 1


@pytest.fixture
def some_scenes():
    """Twelve images of two classes, each with objects, boxes near them and boxes anywhere."""
    rng = np.random.default_rng(1)
    annotations, predictions = [], []
    for image_id in range(1, 13):
        boxes, labels = [], []
        for _ in range(rng.integers(1, 6)):
            x, y, width, height = *rng.uniform(0, 300, 2), *rng.uniform(10, 200, 2)
            label = int(rng.integers(2))
            box = [x, y, width, height]
            annotations.append(dict(OBJECT, bbox=box, area=width * height, image_id=image_id, category_id=label + 1))
            boxes.append(np.array([x, y, x + width, y + height]) + rng.normal(0, width / 15, 4))
            labels.append(label)
        boxes += [np.array([50, 50, 90 + 9 * i, 80]) for i in range(2)]
        labels += [0, 1]
        predictions.append((image_id, boxes, np.sort(rng.random(len(boxes)))[::-1].copy(), labels))
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    return content_of(*annotations, images=range(1, 13), classes=("a", "b")), predictions


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        dict(classwise=True),
        dict(metric=["bbox"], metric_items=["mAP_m", "AR@300", "AR_l@1000"]),
        dict(metric="proposal"),
        dict(metric=["bbox", "proposal"], metric_items=["mAP", "AR@100"]),
        dict(iou_thrs=np.array([0.5, 0.7]), prefix="own"),
        dict(proposal_nums=[300, 2, 100]),
        dict(sort_categories=True, use_mp_eval=True),
        dict(collect_device="cpu", backend_args=None),
    ],
    ids=str,
)
def test_arguments_give_what_mmdet_gives(tmp_path, some_scenes, arguments):
    content, predictions = some_scenes
    theirs = evaluate(tmp_path, content, *predictions, kind=MMDetCocoMetric, **arguments)
    ours = evaluate(tmp_path, content, *predictions, **arguments)
    ours = {key: value for key, value in ours.items() if not key.endswith(("bbox_a_mAP", "bbox_b_mAP"))}
    assert ours == pytest.approx(theirs, abs=5e-4 + 1e-9)  # mmdet rounds to three digits
    assert any(0.1 < value < 0.9 for value in ours.values())


@pytest.mark.parametrize(
    "thresholds", [[0.5, 0.75], (0.5, 0.75), torch.tensor([0.5, 0.75])], ids=lambda v: type(v).__name__
)
def test_thresholds_may_be_a_list_or_an_array(tmp_path, some_scenes, thresholds):
    content, predictions = some_scenes
    ours = evaluate(tmp_path, content, *predictions, iou_thrs=thresholds)
    theirs = evaluate(tmp_path, content, *predictions, iou_thrs=np.array([0.5, 0.75]), kind=MMDetCocoMetric)
    assert ours == pytest.approx(theirs, abs=5e-4 + 1e-9)
    assert ours["coco/bbox_mAP"] == pytest.approx((ours["coco/bbox_mAP_50"] + ours["coco/bbox_mAP_75"]) / 2)


def test_one_threshold_is_a_number(tmp_path, some_scenes):
    content, predictions = some_scenes
    metrics = evaluate(tmp_path, content, *predictions, iou_thrs=0.75)
    assert metrics["coco/bbox_mAP"] == metrics["coco/bbox_mAP_75"]
    assert metrics["coco/bbox_mAP_75"] == evaluate(tmp_path, content, *predictions)["coco/bbox_mAP_75"]
    assert metrics["coco/bbox_mAP_50"] == -1  # there is no such threshold


def test_threshold_is_found_in_spite_of_rounding(tmp_path, some_scenes):
    content, predictions = some_scenes
    steps = np.arange(0.5, 1, 0.05)
    assert steps[5] != 0.75
    metrics = evaluate(tmp_path, content, *predictions, iou_thrs=steps)
    assert metrics == pytest.approx(evaluate(tmp_path, content, *predictions))


def test_number_in_the_name_of_a_recall_is_the_number_that_counts(tmp_path, some_scenes):
    content, predictions = some_scenes
    names = [f"AR@{limit}" for limit in (1, 2, 100)]
    metrics = evaluate(tmp_path, content, *predictions, proposal_nums=(1, 2, 100), metric_items=names)
    by_default = evaluate(tmp_path, content, *predictions, metric_items="AR@100")
    assert metrics["coco/bbox_AR@1"] < metrics["coco/bbox_AR@2"] < metrics["coco/bbox_AR@100"]
    assert metrics["coco/bbox_AR@100"] == by_default["coco/bbox_AR@100"]


def test_fast_proposals_have_the_recall_of_mmdets_function(tmp_path, some_scenes):
    """Compared per image, as mmdet's function fails with current NumPy on images with different numbers of objects."""
    content, predictions = some_scenes
    weights, expected = [], []
    for image_id, boxes, _, _ in predictions:
        truth = np.array([item["bbox"] for item in content["annotations"] if item["image_id"] == image_id], np.float32)
        truth[:, 2:] += truth[:, :2]
        boxes = [np.array(boxes, np.float32)]
        expected.append(eval_recalls([truth], boxes, [1, 3], np.linspace(0.5, 0.95, 10)).mean(1))
        weights.append(len(truth))
    expected = np.average(expected, axis=0, weights=weights)
    shuffled = predictions[::-1]  # an image is identified by its id, not its position
    metrics = evaluate(tmp_path, content, *shuffled, metric="proposal_fast", proposal_nums=(1, 3))
    assert metrics == pytest.approx({"coco/AR@1": expected[0], "coco/AR@3": expected[1]})
    assert 0.05 < expected[0] < expected[1] < 0.95


def test_fast_proposals_leave_crowds_out_and_count_images_without_a_prediction(tmp_path):
    crowd = dict(OBJECT, id=2, iscrowd=1, bbox=[300, 300, 50, 50])
    other = dict(OBJECT, id=3, image_id=2)
    metrics = evaluate(tmp_path, content_of(OBJECT, crowd, other, images=(1, 2)), FOUND, metric="proposal_fast")
    assert metrics == {"coco/AR@100": 0.5, "coco/AR@300": 0.5, "coco/AR@1000": 0.5}


@pytest.mark.parametrize("kind", ["bbox", "segm", "proposal", "proposal_fast"])
def test_no_detection_at_all_is_an_ap_and_ar_of_zero(tmp_path, kind):
    masks = torch.zeros(0, 640, 640)
    metrics = evaluate(tmp_path, content_of(OBJECT), (1, [], [], []), metric=kind, classwise=True, masks=masks)
    sizes = {key: value for key, value in metrics.items() if any(mark in key for mark in ("P_s", "P_l", "R_s", "R_l"))}
    assert set(sizes.values()) <= {-1}  # there is no small and no large object
    assert {value for key, value in metrics.items() if key not in sizes} == {0}


@pytest.mark.parametrize(
    ("images", "expected_types"), [(("im1", "im2"), str), ((1, "1"), object), ((10**17, 3), int), (("7", "07"), str)]
)
def test_ids_may_be_of_any_kind(tmp_path, images, expected_types):
    assert all(isinstance(image_id, expected_types) for image_id in images)
    content = content_of(
        dict(OBJECT, id="x", image_id=images[0], category_id="cat 1"),
        dict(OBJECT, id=0, image_id=images[1], category_id="cat 1"),
        images=images,
    )
    content["categories"][0]["id"] = "cat 1"
    predictions = [(images[0], *FOUND[1:]), (images[1], [], [], [])]
    metrics = evaluate(tmp_path, content, *predictions, outfile_prefix=str(tmp_path / "out"))
    assert metrics["coco/bbox_mAP"] == pytest.approx(51 / 101)  # one of two: recall 0.5
    (written,) = json.loads((tmp_path / "out.bbox.json").read_text())
    assert (written["image_id"], written["category_id"]) == (images[0], "cat 1")


def test_format_only_keeps_files_and_evaluates_nothing(tmp_path):
    content = content_of(OBJECT)
    del content["annotations"]  # as in a published test set
    prefix = str(tmp_path / "sub" / "out")
    assert evaluate(tmp_path, content, FOUND, format_only=True, outfile_prefix=prefix) == {}
    (written,) = json.loads((tmp_path / "sub" / "out.bbox.json").read_text())
    assert written["bbox"] == [0, 0, 50, 50]
    with pytest.raises(ValueError, match=r"truth\.json has no annotations to evaluate against"):
        evaluate(tmp_path, content, FOUND)


def test_ground_truth_may_come_with_the_batches(tmp_path):
    metric = CocoMetric(outfile_prefix=str(tmp_path / "out"))
    metric.dataset_meta = dict(classes=("a",))
    sample = dict(
        img_id="im1",
        ori_shape=(640, 640),
        instances=[dict(bbox=[0, 0, 50, 50], bbox_label=0), dict(bbox=[300, 0, 350, 50], bbox_label=0)],
        pred_instances=dict(
            bboxes=torch.tensor([[0.0, 0, 50, 50]]), scores=torch.tensor([0.9]), labels=torch.tensor([0])
        ),
    )
    for _ in range(2):  # every evaluation has its own
        metric.process({}, [sample])
        assert metric.evaluate(1)["coco/bbox_mAP"] == pytest.approx(51 / 101)
        sample["instances"].pop(0)
        sample["pred_instances"]["bboxes"] = torch.tensor([[300.0, 0, 350, 50]])
        sample["instances"].append(dict(bbox=[0, 300, 50, 350], bbox_label=0))


def test_requested_masks_that_are_not_predicted_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="metric='segm' needs masks, but the model predicts none"):
        evaluate(tmp_path, content_of(OBJECT), FOUND, metric=["bbox", "segm"])


def test_image_without_boxes_may_leave_masks_out_but_one_with_boxes_may_not(tmp_path):
    content = content_of(OBJECT, dict(OBJECT, id=2, image_id=2), images=(1, 2))
    samples = [
        dict(
            img_id=image_id,
            ori_shape=(640, 640),
            pred_instances=dict(
                bboxes=torch.tensor([[0.0, 0, 50, 50]] * number),
                scores=torch.ones(number),
                labels=torch.zeros(number, dtype=torch.long),
            ),
        )
        for image_id, number in ((1, 0), (2, 1))
    ]
    samples[0]["pred_instances"]["bboxes"] = torch.zeros(0, 4)
    (tmp_path / "truth.json").write_text(json.dumps(content))
    metric = CocoMetric(str(tmp_path / "truth.json"), "segm")
    metric.dataset_meta = dict(classes=("a",))
    samples[1]["pred_instances"]["masks"] = square_masks(1)
    metric.process({}, samples)
    assert metric.evaluate(2)["coco/segm_mAP"] == pytest.approx(51 / 101)
    samples[0]["pred_instances"] = samples[1]["pred_instances"]
    samples[1]["pred_instances"] = {k: v for k, v in samples[0]["pred_instances"].items() if k != "masks"}
    metric.process({}, samples)
    with pytest.raises(ValueError, match="the prediction of image id 2 has only boxes"):
        metric.evaluate(2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(metric="keypoints"), "metric='keypoints' must be one of 'bbox', 'segm', 'proposal', 'proposal_fast'"),
        (dict(metric=[]), r"metric=\[\] must be one of"),
        (dict(metric=["proposal", "proposal_fast"]), "give results of the same name"),
        (dict(metric_items=["mAP", "map"]), r"metric_items=\['map'\] is not among the results: mAP, mAP_50"),
        (dict(metric_items=["AR@1000"], proposal_nums=(1, 10, 100)), r"'AR@1000'\] is not among"),
        (dict(iou_thrs=50), "iou_thrs=50 must be above 0 and at most 1"),
        (dict(iou_thrs="0.5"), "iou_thrs='0.5' must be a number or a list"),
        (dict(iou_thrs=[]), r"iou_thrs=\[\] must be"),
        (dict(proposal_nums=(0, 100)), r"proposal_nums=\(0, 100\) must be whole numbers from 1 on"),
        (dict(proposal_nums=(1.5,)), "proposal_nums"),
        (dict(format_only=True), "format_only=True needs outfile_prefix"),
        (dict(file_client_args=dict(backend="disk")), "file_client_args=.* use backend_args"),
    ],
    ids=str,
)
def test_invalid_values_are_reported(arguments, message):
    with pytest.raises(ValueError, match=message):
        CocoMetric(**arguments)


def test_unknown_arguments_are_reported():
    with pytest.raises(TypeError, match="'iou_thresholds'"):
        CocoMetric(iou_thresholds=[0.5])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(area=None), "Annotation 1 has no area"),
        (dict(bbox=[]), "Annotation 1 has no bbox"),
        (dict(segmentation=[]), "Annotation 1 has no segmentation"),
    ],
)
def test_objects_that_cannot_be_evaluated_are_reported(tmp_path, change, message):
    content = content_of(OBJECT | change)
    with pytest.raises(ValueError, match=message):
        evaluate(tmp_path, content, FOUND, metric=["bbox", "segm"], masks=square_masks(1))


def test_predicted_image_that_the_file_lacks_is_reported(tmp_path):
    with pytest.raises(ValueError, match="Image id 5 of the predictions is not in the annotation file"):
        evaluate(tmp_path, content_of(OBJECT), (5, *FOUND[1:]))


def test_images_with_more_objects_than_count_are_reported(tmp_path):
    logger = MMLogger.get_instance("crowded", logger_name="crowded", log_file=str(tmp_path / "run.log"))
    many = [dict(OBJECT, id=number) for number in range(1, 102)]
    evaluate(tmp_path, content_of(*many), FOUND)
    assert "Images with more than 100 objects of one class: 1." in (tmp_path / "run.log").read_text()
    for handler in logger.handlers:
        handler.close()
    MMLogger._instance_dict.pop("crowded")
