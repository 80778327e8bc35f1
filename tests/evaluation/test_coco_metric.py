"""AP equals pycocotools' own COCOeval, for boxes and masks, on random detections with crowds and empty images."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from convnext_dense.evaluation.coco_metric import CocoMetric

HEIGHT, WIDTH = 192, 256
NAMES = ("cat", "dog", "bird")
IDS = {"cat": 7, "dog": 0, "bird": 3}  # gaps, a zero, and not in the order of the names


def ellipse(rng):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    cy, cx = rng.uniform(10, HEIGHT - 10), rng.uniform(10, WIDTH - 10)
    ry, rx = rng.uniform(4, 80), rng.uniform(4, 80)
    return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1


def box_of(mask):
    ys, xs = np.nonzero(mask)
    return [int(xs.min()), int(ys.min()), int(xs.max() - xs.min() + 1), int(ys.max() - ys.min() + 1)]


def rle(mask):
    encoded = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """An annotation file, and per image the masks, labels and scores that a detector predicted."""
    rng = np.random.default_rng(0)
    images, annotations, predictions = [], [], []
    for image_id in range(1, 13):
        images.append(dict(id=image_id, file_name=f"{image_id}.jpg", height=HEIGHT, width=WIDTH))
        masks, labels, scores = [], [], []
        for _ in range(0 if image_id == 4 else rng.integers(1, 6)):
            mask, label = ellipse(rng), int(rng.integers(3))
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=IDS[NAMES[label]],
                    bbox=box_of(mask),
                    area=int(mask.sum()),
                    iscrowd=int(rng.random() < 0.15),
                    segmentation=rle(mask),
                )
            )
            for _ in range(rng.integers(0, 3)):  # shifted copies, some with the wrong class
                masks.append(np.roll(mask, rng.integers(-4, 5, 2), (0, 1)))
                labels.append(label if rng.random() < 0.8 else int(rng.integers(3)))
                scores.append(rng.random())
        for _ in range(rng.integers(0, 3)):  # false positives
            masks.append(ellipse(rng))
            labels.append(int(rng.integers(3)))
            scores.append(rng.random() * 0.6)
        predictions.append((masks, labels, scores))
    path = tmp_path_factory.mktemp("coco") / "instances.json"
    categories = [dict(id=IDS[name], name=name) for name in ("bird", "cat", "dog")]
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return path, predictions


def run_metric(path, predictions, **kwargs):
    metric = CocoMetric(ann_file=str(path), metric=["bbox", "segm"], **kwargs)
    metric.dataset_meta = dict(classes=NAMES)
    samples = []
    for image_id, (masks, labels, scores) in enumerate(predictions, start=1):
        boxes = np.array([box_of(mask) for mask in masks], dtype=np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        samples.append(
            dict(
                img_id=image_id,
                ori_shape=(HEIGHT, WIDTH),
                pred_instances=dict(
                    bboxes=torch.from_numpy(boxes),
                    labels=torch.tensor(labels, dtype=torch.long),
                    scores=torch.tensor(scores, dtype=torch.float64),
                    masks=torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, HEIGHT, WIDTH)),
                ),
            )
        )
    metric.process({}, samples)
    return metric.evaluate(size=len(samples))


def pycocotools_stats(path, predictions, kind):
    truth = COCO(str(path))
    results = []
    for image_id, (masks, labels, scores) in enumerate(predictions, start=1):
        for mask, label, score in zip(masks, labels, scores, strict=True):
            item = dict(image_id=image_id, category_id=IDS[NAMES[label]], score=score)
            item |= dict(bbox=box_of(mask)) if kind == "bbox" else dict(segmentation=rle(mask))
            results.append(item)
    evaluation = COCOeval(truth, truth.loadRes(results), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_six_numbers_equal_pycocotools(scenes, kind):
    metrics = run_metric(*scenes)
    expected = pycocotools_stats(*scenes, kind).stats
    for index, name in enumerate(("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")):
        assert metrics[f"coco/{kind}_{name}"] == pytest.approx(expected[index], abs=1e-6), name
    assert 0.1 < expected[0] < 0.9  # a case in which results can differ


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_ap_per_class_equals_pycocotools(scenes, kind):
    metrics = run_metric(*scenes, classwise=True)
    precision = pycocotools_stats(*scenes, kind).eval["precision"]  # classes by increasing id: dog 0, bird 3, cat 7
    for position, name in enumerate(("dog", "bird", "cat")):
        values = precision[:, :, position, 0, -1]  # of 100 detections
        assert metrics[f"coco/{kind}_{name}_mAP"] == pytest.approx(values[values > -1].mean(), abs=1e-6)


def test_annotation_with_the_id_zero_is_matched_like_any_other(scenes, tmp_path):
    """The numbers are those of the same file counted from 1; COCOeval itself takes id 0 for "not found"."""
    path, predictions = scenes
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["id"] -= 1
    (tmp_path / "from_zero.json").write_text(json.dumps(content))
    metrics = run_metric(tmp_path / "from_zero.json", predictions)
    assert metrics == run_metric(path, predictions)
    assert metrics["coco/bbox_mAP"] > pycocotools_stats(tmp_path / "from_zero.json", predictions, "bbox").stats[0]


def test_no_detection_at_all_is_an_ap_of_zero(scenes):
    path, predictions = scenes
    metrics = run_metric(path, [([], [], [])] * len(predictions))
    assert metrics["coco/bbox_mAP"] == metrics["coco/segm_mAP_75"] == 0.0


def test_results_are_written_in_coco_format(scenes, tmp_path):
    path, predictions = scenes
    run_metric(path, predictions, outfile_prefix=str(tmp_path / "out"))
    boxes = json.loads((tmp_path / "out.bbox.json").read_text())
    masks = json.loads((tmp_path / "out.segm.json").read_text())
    assert len(boxes) == len(masks) == sum(len(item[0]) for item in predictions)
    assert {item["category_id"] for item in boxes} == {0, 3, 7}


def test_class_that_the_file_lacks_is_reported(scenes):
    path, _ = scenes
    metric = CocoMetric(ann_file=str(path))
    metric.dataset_meta = dict(classes=("cat", "horse"))
    with pytest.raises(ValueError, match="has no class 'horse'; it has 'bird', 'cat', 'dog'"):
        metric.compute_metrics([({}, dict(img_id=1, labels=[]))])
