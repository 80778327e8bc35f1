"""Objects of a data set without an annotation file, and what a report says about them, by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from convnext_dense.inference import Detections
from convnext_dense.reports.detection import measure_objects, to_coco_results
from convnext_dense.reports.gathering import gather, read_objects

POLYGON = [[10, 20, 30, 20, 30, 60, 10, 60]]


def data_of(*instances):
    """One image of 60 x 80 pixels with the id 7."""
    info = dict(img_id=7, height=80, width=60, instances=list(instances))
    dataset = type("Dataset", (), {"__len__": lambda self: 1, "get_data_info": lambda self, number: info})()
    return read_objects(SimpleNamespace(dataset=dataset, metrics=[], paths=["a.jpg"]), ("cat", "dog"))


def test_objects_without_a_file_are_written_as_coco_has_them():
    data = data_of(
        dict(bbox=[10, 20, 30, 60], bbox_label=1, mask=POLYGON), dict(bbox=[0, 0, 5, 5], bbox_label=0, ignore_flag=1)
    )
    assert not data.has_masks  # one has none
    assert data.annotations["images"] == [dict(id=7, height=80, width=60)]
    first, second = data.annotations["annotations"]
    assert first.pop("segmentation")["size"] == [80, 60]
    assert first.pop("area") == pytest.approx(800, rel=0.1)  # of the mask
    assert first == dict(id=1, image_id=7, category_id=2, iscrowd=0, bbox=[10, 20, 20, 40])
    assert second == dict(id=2, image_id=7, category_id=1, iscrowd=1, bbox=[0, 0, 5, 5], area=25)


def test_areas_are_those_of_masks():
    triangle = [[10, 20, 30, 20, 10, 60]]
    data = data_of(dict(bbox=[10, 20, 30, 60], bbox_label=1, mask=triangle))
    assert data.has_masks
    assert data.areas[0] == pytest.approx(400, rel=0.1)
    assert data.labelled.rles[0]["size"] == [80, 60]


def found(*objects, rles=None):
    """Objects of the image: ``(box, label, score)``."""
    boxes, labels, scores = (np.array(column) for column in zip(*objects, strict=True))
    return Detections(boxes.astype(np.float32), scores.astype(np.float32), labels, ("cat", "dog"), (80, 60), rles)


def test_masks_are_kept_where_all_results_have_them():
    one = ([10, 20, 30, 60], 1, 0.9)
    with_mask = found(one, rles=(dict(size=[80, 60], counts="x"),))
    assert gather([with_mask, with_mask]).rles is not None
    assert gather([with_mask, found(one)]).rles is None
    assert gather([found(one), with_mask]).rles is None


def test_a_report_by_hand():
    """A dog of 800 pixels, found with 0.9; above and below it something that is no dog, and a dog in a crowd."""
    dog, crowd = [10, 20, 30, 60], [40, 0, 60, 20]
    data = data_of(dict(bbox=dog, bbox_label=1), dict(bbox=crowd, bbox_label=1, ignore_flag=1))
    results = [found(([0, 60, 8, 68], 1, 0.95), (dog, 1, 0.9), (crowd, 1, 0.8), ([0, 70, 8, 78], 1, 0.6))]
    predictions = to_coco_results(results, data)
    assert [sorted(item) for item in predictions] == [["bbox", "category_id", "image_id", "score"]] * 4
    assert [(item["image_id"], item["category_id"]) for item in predictions] == [(7, 2)] * 4
    numbers, _ = measure_objects(data, gather(results), predictions)
    assert (numbers["objects"], numbers["crowds"], numbers["found"]) == (1, 1, 4)
    assert numbers["ap"]["bbox"]["AP50"] == pytest.approx(0.5)
    assert (numbers["ap"]["bbox"]["APs"], numbers["ap"]["bbox"]["APm"]) == (pytest.approx(0.5), None)
    cat, dogs = numbers["curves"]
    assert cat == dict(score=[], precision=[], recall=[])
    assert dogs == dict(score=[0.95, 0.9, 0.6], precision=[0, 0.5, 0.33333], recall=[0, 1, 1])
    assert numbers["best_score"]["score"] == pytest.approx(0.9)
    assert numbers["confusion"]["score"] == numbers["best_score"]["score"]
    assert numbers["confusion"]["counts"] == [[0, 0, 0], [0, 1, 0], [0, 1, 0]]
    (worst,) = numbers["worst_images"]
    assert worst == dict(image="a.jpg", cost=pytest.approx(0.5), errors=dict(background=2))


def test_images_without_any_object_have_a_report():
    data = data_of()
    results = [found(([0, 60, 8, 68], 1, 0.95))]
    numbers, _ = measure_objects(data, gather(results), to_coco_results(results, data))
    assert (numbers["objects"], numbers["found"], numbers["worst_images"]) == (0, 1, [])
