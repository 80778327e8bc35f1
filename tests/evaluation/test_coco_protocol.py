"""AP and AR of boxes, masks and proposals equal pycocotools' on 500 random images."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from convnext_dense.evaluation.coco_metric import CocoMetric

HEIGHT, WIDTH = 160, 200
NUM_IMAGES = 500
NAMES = ("cat", "dog", "bird")
IDS = {"cat": 7, "bird": 3, "dog": 0, "unused": 5}  # gaps, a zero, an order other than the names', an extra class
STATS = {
    "mAP": 0,
    "mAP_50": 1,
    "mAP_75": 2,
    "mAP_s": 3,
    "mAP_m": 4,
    "mAP_l": 5,
    "AR@{0}": 6,
    "AR@{1}": 7,
    "AR@{2}": 8,
    "AR_s@{2}": 9,
    "AR_m@{2}": 10,
    "AR_l@{2}": 11,
}


def random_shape(rng, label):
    """Centre, radii, label: radii from 3 to 100 pixels give all sizes of objects."""
    return [*rng.uniform((10, 10), (WIDTH - 10, HEIGHT - 10)), *np.exp(rng.uniform(np.log(3), np.log(100), 2)), label]


def outline(shape):
    """An octagon and its box."""
    x, y, across, down, _ = shape
    angles = np.arange(8) * np.pi / 4
    points = np.stack([x + across * np.cos(angles), y + down * np.sin(angles)], 1).round(2)
    low, high = points.min(0), points.max(0)
    return points.ravel().tolist(), [*low.tolist(), *(high - low).tolist()]


def area_of(polygon):
    return float(mask_api.area(mask_api.frPyObjects([polygon], HEIGHT, WIDTH))[0])


def detections_of(shapes, rng, crowded):
    """Shifted copies, some of another class or twice, and false positives; equal scores occur."""
    found = []
    for shape in shapes:
        for _ in range(rng.choice([0, 1, 1, 1, 2])):
            centre = shape[:2] + np.multiply(shape[2:4], rng.normal(0, 0.08, 2))
            radii = shape[2:4] * rng.normal(1, 0.08, 2)
            found.append([*centre, *radii, shape[4] if rng.random() < 0.85 else rng.integers(3)])
    found += [random_shape(rng, rng.integers(3)) for _ in range(rng.integers(0, 4))]
    if crowded:  # more than 100 of one class, with the right ones anywhere among them
        found += [random_shape(rng, 0) for _ in range(rng.integers(110, 160))]
    scores = (rng.random(len(found)) * np.linspace(1, 0.7, len(found))).round(2)
    return [(*outline(shape), int(shape[4]), float(score)) for shape, score in zip(found, scores, strict=True)]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """An annotation file, and per image polygons, boxes, labels and scores of detections."""
    rng = np.random.default_rng(0)
    images, annotations, predictions = [], [], {}
    for image_id in rng.permutation(NUM_IMAGES).tolist():
        images.append(dict(id=image_id, file_name=f"{image_id}.jpg", height=HEIGHT, width=WIDTH))
        crowded = image_id % 40 == 3
        shapes = [random_shape(rng, rng.integers(4)) for _ in range(rng.integers(0, 5) + 3 * crowded)]
        for shape in shapes:
            polygon, box = outline(shape)
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=IDS[(*NAMES, "unused")[int(shape[4])]],
                    bbox=box,
                    area=area_of(polygon),
                    iscrowd=int(rng.random() < 0.1),
                    segmentation=[polygon],
                )
            )
        if image_id % 25:  # the data set lacks some images of the file, whose objects count as missed
            predictions[image_id] = detections_of([shape for shape in shapes if shape[4] < 3], rng, crowded)
    annotations.append(dict(annotations[0], id=len(annotations) + 1, image_id=NUM_IMAGES + 1))  # of no image
    path = tmp_path_factory.mktemp("coco") / "instances.json"
    categories = [dict(id=number, name=name) for name, number in IDS.items()]
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return path, predictions


def run_metric(path, predictions, **kwargs):
    metric = CocoMetric(str(path), **kwargs)
    metric.dataset_meta = dict(classes=NAMES)
    samples = []
    for image_id, found in predictions.items():
        boxes = np.array([box for _, box, _, _ in found]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = dict(
            bboxes=torch.from_numpy(boxes),
            labels=torch.tensor([label for _, _, label, _ in found], dtype=torch.long),
            scores=torch.tensor([score for _, _, _, score in found], dtype=torch.float64),
            masks=[mask_api.frPyObjects([polygon], HEIGHT, WIDTH)[0] for polygon, _, _, _ in found],
        )
        samples.append(dict(img_id=image_id, ori_shape=(HEIGHT, WIDTH), pred_instances=instances))
    metric.process({}, samples)
    return metric.evaluate(len(samples))


def pycocotools_evaluation(path, predictions, kind, *, max_dets=(100, 300, 1000), iou_thrs=None, use_cats=1):
    truth = COCO(str(path))
    results = []
    for image_id, found in predictions.items():
        for polygon, (x, y, width, height), label, score in found:
            item = dict(image_id=image_id, category_id=IDS[NAMES[label]], score=score)
            # The width as it is after corners have been made of it and back.
            box = [x, y, (x + width) - x, (y + height) - y]
            segmentation = mask_api.frPyObjects([polygon], HEIGHT, WIDTH)[0]
            results.append(item | (dict(bbox=box) if kind == "bbox" else dict(segmentation=segmentation)))
    evaluation = COCOeval(truth, truth.loadRes(results), kind)
    evaluation.params.catIds = [IDS[name] for name in NAMES]
    evaluation.params.maxDets = list(max_dets)
    evaluation.params.useCats = use_cats
    if iou_thrs is not None:
        evaluation.params.iouThrs = iou_thrs
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


@pytest.fixture(scope="module", params=["bbox", "segm"])
def expected(request, scenes):
    return request.param, pycocotools_evaluation(*scenes, request.param)


def test_all_twelve_numbers_are_those_of_pycocotools(scenes, expected):
    kind, evaluation = expected
    names = [name.format(100, 300, 1000) for name in STATS]
    metrics = run_metric(*scenes, metric=kind, metric_items=names)
    assert metrics == pytest.approx(
        {f"coco/{kind}_{name}": value for name, value in zip(names, evaluation.stats, strict=True)}, abs=1e-12
    )
    assert all(0.05 < value < 0.95 for value in metrics.values()), "something can differ"
    all_counted = evaluation.eval["precision"][..., 0, 2]
    assert metrics[f"coco/{kind}_mAP"] != pytest.approx(all_counted[all_counted > -1].mean(), abs=1e-4)


def test_ap_of_classes_counts_100_detections_and_mmdets_precision_the_most(scenes, expected):
    kind, evaluation = expected
    metrics = run_metric(*scenes, metric=kind, classwise=True)
    assert metrics[f"coco/{kind}_mAP"] == pytest.approx(
        np.mean([metrics[f"coco/{kind}_{name}_mAP"] for name in NAMES]), abs=1e-12
    )
    precision = evaluation.eval["precision"]  # classes by increasing id: dog 0, bird 3, cat 7
    for position, name in enumerate(("dog", "bird", "cat")):
        for key, limit in ((f"{kind}_{name}_mAP", 0), (f"{name}_precision", 2)):
            assert metrics[f"coco/{key}"] == pytest.approx(precision[:, :, position, 0, limit].mean(), abs=1e-12)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_own_thresholds_and_numbers_of_detections_are_followed(scenes, kind):
    path, predictions = scenes
    predictions = {image_id: found for image_id, found in predictions.items() if image_id % 5 == 3}
    limits, thresholds = (2, 100, 130), [0.4, 0.5, 0.75]
    names = [name.format(*limits) for name in STATS]
    metrics = run_metric(path, predictions, metric=kind, metric_items=names, proposal_nums=limits, iou_thrs=thresholds)
    evaluation = pycocotools_evaluation(path, predictions, kind, max_dets=limits, iou_thrs=np.array(thresholds))
    assert metrics == pytest.approx(
        {f"coco/{kind}_{name}": value for name, value in zip(names, evaluation.stats, strict=True)}, abs=1e-12
    )
    assert metrics[f"coco/{kind}_AR@2"] < metrics[f"coco/{kind}_AR@100"] < metrics[f"coco/{kind}_AR@130"]


def test_proposals_are_boxes_whatever_their_class(scenes):
    path, predictions = scenes
    predictions = {image_id: predictions[image_id] for image_id in list(predictions)[:120]}
    metrics = run_metric(path, predictions, metric="proposal")
    stats = pycocotools_evaluation(path, predictions, "bbox", use_cats=0).stats
    names = [name.format(100, 300, 1000) for name in STATS][6:]
    assert metrics == pytest.approx(
        {f"coco/{name}": value for name, value in zip(names, stats[6:], strict=True)}, abs=1e-12
    )
