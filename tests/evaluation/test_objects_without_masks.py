"""Objects without a mask count for box AP; for mask AP what is found in their boxes is ignored, as in a crowd."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from convnext_dense.evaluation.coco_metric import CocoMetric

SIDE = 60
NO_MASK = [[0, 0, 0, 0, 0, 0]]
# One image with two squares; the second has no mask.
BOXES = [[5, 5, 20, 20], [30, 30, 24, 24]]


def polygon(x, y, w, h):
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def write(path, objects):
    images = [dict(id=number, file_name=f"{number}.jpg", height=SIDE, width=SIDE) for number in (1, 2)]
    annotations = [
        dict(id=number, category_id=1, area=box[2] * box[3], iscrowd=0, bbox=box, **rest)
        for number, (box, rest) in enumerate(objects, start=1)
    ]
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=[dict(id=1, name="square")])))
    return path


def evaluate(path, detections):
    """Evaluate detections (image, box, score), whose masks fill their boxes."""
    metric = CocoMetric(ann_file=str(path), metric=["bbox", "segm"])
    metric.dataset_meta = dict(classes=["square"])
    samples = []
    for image in (1, 2):
        found = [(box, score) for number, box, score in detections if number == image]
        masks = np.zeros((len(found), SIDE, SIDE), bool)
        for mask, ((x, y, w, h), _) in zip(masks, found, strict=True):
            mask[y : y + h, x : x + w] = True
        corners = torch.tensor([[x, y, x + w, y + h] for (x, y, w, h), _ in found], dtype=torch.float32).reshape(-1, 4)
        predicted = dict(
            bboxes=corners,
            labels=torch.zeros(len(found), dtype=torch.long),
            scores=torch.tensor([score for _, score in found], dtype=torch.float64),
            masks=torch.from_numpy(masks),
        )
        samples.append(dict(img_id=image, ori_shape=(SIDE, SIDE), pred_instances=predicted))
    metric.process({}, samples)
    return metric.evaluate(size=2)


def pycocotools_ap(path, detections, kind):
    truth = COCO(str(path))
    results = []
    for image, box, score in detections:
        mask = mask_api.frPyObjects([polygon(*box)], SIDE, SIDE)[0]
        item = dict(image_id=image, category_id=1, score=score)
        results.append(item | (dict(bbox=box) if kind == "bbox" else dict(segmentation=mask)))
    evaluation = COCOeval(truth, truth.loadRes(results), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0]


@pytest.mark.parametrize("none", [{}, dict(segmentation=[]), dict(segmentation=None), dict(segmentation=NO_MASK)])
def test_detection_in_the_box_of_an_object_without_mask_is_neither_right_nor_wrong(tmp_path, none):
    first = (BOXES[0], dict(image_id=1, segmentation=[polygon(*BOXES[0])]))
    path = write(tmp_path / "a.json", [first, (BOXES[1], dict(image_id=1, **none))])
    # Both are found: by boxes two of two, by masks one of one, although the wrong score comes first.
    metrics = evaluate(path, [(1, BOXES[1], 0.9), (1, BOXES[0], 0.8)])
    assert metrics["coco/bbox_mAP"] == metrics["coco/segm_mAP"] == pytest.approx(1)
    # The second is missed: recall 1/2, whose precision of 1 counts at 51 of 101 recalls; masks miss nothing.
    metrics = evaluate(path, [(1, BOXES[0], 0.8)])
    assert metrics["coco/bbox_mAP"] == pytest.approx(51 / 101)
    assert metrics["coco/segm_mAP"] == pytest.approx(1)
    # What is found elsewhere, before the object, is wrong: precision 1/2.
    metrics = evaluate(path, [(2, BOXES[1], 0.9), (1, BOXES[0], 0.8)])
    assert metrics["coco/segm_mAP"] == pytest.approx(0.5)


def test_mask_ap_is_that_of_pycocotools_with_crowds_in_their_place(tmp_path):
    rng = np.random.default_rng(0)
    objects, crowds, detections = [], [], []
    for number in range(30):
        image, box = int(rng.integers(1, 3)), [*rng.integers(0, 40, 2).tolist(), *rng.integers(5, 20, 2).tolist()]
        mask = dict(segmentation=[polygon(*box)])
        has_mask = number % 3 > 0
        objects.append((box, dict(image_id=image, **(mask if has_mask else {}))))
        crowds.append((box, dict(image_id=image, **mask)))
        moved = [box[0] + int(rng.integers(0, 3)), *box[1:]]
        detections.append((image, moved, float(rng.random())))
    path = write(tmp_path / "objects.json", objects)
    metrics = evaluate(path, detections)
    in_place = write(tmp_path / "crowds.json", crowds)
    assert metrics["coco/bbox_mAP"] == pytest.approx(pycocotools_ap(in_place, detections, "bbox"), abs=1e-6)
    content = json.loads(in_place.read_text())
    for number, annotation in enumerate(content["annotations"]):
        annotation["iscrowd"] = int(number % 3 == 0)
    in_place.write_text(json.dumps(content))
    expected = pycocotools_ap(in_place, detections, "segm")
    assert metrics["coco/segm_mAP"] == pytest.approx(expected, abs=1e-6)
    assert 0.1 < expected < 0.9


def test_masks_of_objects_of_which_none_has_one_cannot_be_evaluated(tmp_path):
    path = write(tmp_path / "a.json", [(BOXES[0], dict(image_id=1)), (BOXES[1], dict(image_id=1, segmentation=[]))])
    with pytest.raises(ValueError, match="Annotation 1 has no segmentation"):
        evaluate(path, [(1, BOXES[0], 0.8)])
