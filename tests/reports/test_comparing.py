"""Metrics of samples are those of COCO's evaluation of as many copies of the images; differences are found or not."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from made_up import made_up
from pycocotools import mask as masks

from convnext_dense.errors import UserError
from convnext_dense.evaluation.coco_evaluation import Truth
from convnext_dense.reports import comparing, comparison_page
from convnext_dense.reports.comparing import compare, read_run
from convnext_dense.reports.comparison_page import _curves, _metrics, findings
from convnext_dense.reports.detection import THRESHOLDS, TWELVE
from convnext_dense.reports.gathering import ObjectData
from convnext_dense.reports.matching import Found, Labelled, match_at
from convnext_dense.reports.resampling import keep_classes, keep_objects, keep_pixels, metrics_of

NAMES = ["a", "b", "c", "d"]


def as_data(labelled, number):
    areas = (labelled.boxes[:, 2:] - labelled.boxes[:, :2]).prod(axis=1)
    return ObjectData(NAMES, [f"{image}.jpg" for image in range(number)], list(range(number)), labelled, areas, {})


def coco_ap(labelled, found, copies, kind="bbox"):
    """COCO's AP and AP50, and the AP of every class, with each image as often as ``copies`` says."""
    images, objects, results = [], [], []
    for image, times in enumerate(copies):
        for _ in range(times):
            number = len(images)
            images.append(dict(id=number, height=500, width=500))
            for place in np.flatnonzero(labelled.images == image):
                x1, y1, x2, y2 = labelled.boxes[place].tolist()
                box = [x1, y1, x2 - x1, y2 - y1]
                item = dict(id=len(objects) + 1, image_id=number, category_id=int(labelled.labels[place]), bbox=box)
                item |= dict(segmentation=labelled.rles[place]) if labelled.rles else {}
                objects.append(item | dict(area=box[2] * box[3], iscrowd=int(labelled.is_crowd[place])))
            for place in np.flatnonzero(found.images == image):
                x1, y1, x2, y2 = found.boxes[place].tolist()
                item = dict(image_id=number, category_id=int(found.labels[place]), score=float(found.scores[place]))
                item |= dict(segmentation=found.rles[place]) if found.rles else {}
                results.append(item | dict(bbox=[x1, y1, x2 - x1, y2 - y1]))
    categories = [dict(id=label, name=name) for label, name in enumerate(NAMES)]
    truth = Truth(dict(images=images, annotations=objects, categories=categories), range(4))
    table = truth.evaluate(results, kind, iou_thrs=THRESHOLDS, limits=(1, 10, 100))
    return [table[TWELVE["AP"]], table[TWELVE["AP50"]]], [table.of_item(TWELVE["AP"], label) for label in range(4)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ap_of_a_sample_is_that_of_coco_with_copied_images(seed):
    labelled, found = made_up(25, seed=seed)
    kept = keep_objects(as_data(labelled, 25), found)
    rng = np.random.default_rng(seed)
    weights = np.stack([np.ones(25, int), rng.multinomial(25, np.full(25, 1 / 25)), rng.integers(0, 3, 25)])
    of_set, of_class = metrics_of(kept, weights)
    for sample, copies in enumerate(weights):
        expected, by_class = coco_ap(labelled, found, copies.tolist())
        ours = [of_set["box AP"][sample], of_set["box AP50"][sample]]
        np.testing.assert_allclose(ours, expected, atol=1e-9)
        classes = np.nan_to_num(of_class["box AP"][sample], nan=-1)
        np.testing.assert_allclose(classes, by_class, atol=1e-9)
    assert 0.1 < of_set["box AP"][0] < 0.9


def triangles(boxes):
    """Masks of half of each box."""
    shapes = [[[x1, y1, x2, y1, x1, y2]] for x1, y1, x2, y2 in boxes.tolist()]
    return [masks.merge(masks.frPyObjects(shape, 500, 500)) for shape in shapes]


def test_mask_ap_is_that_of_coco():
    labelled, found = (one._replace(rles=triangles(one.boxes)) for one in made_up(25, seed=5))
    of_set, of_class = metrics_of(keep_objects(as_data(labelled, 25), found), np.ones((1, 25), int))
    expected, by_class = coco_ap(labelled, found, [1] * 25, "segm")
    np.testing.assert_allclose([of_set["mask AP"][0], of_set["mask AP50"][0]], expected, atol=1e-9)
    np.testing.assert_allclose(of_class["mask AP"][0], by_class, atol=1e-9)
    assert abs(of_set["mask AP"][0] - of_set["box AP"][0]) > 0.01


def test_what_a_crowd_covers_by_just_the_overlap_does_not_count():
    """COCO's rule: half of the found object lies in the crowd."""
    labelled = Labelled(np.array([0]), np.array([0]), np.array([[0.0, 0, 20, 10]]), np.array([True]))
    found = Found(np.array([0]), np.array([0]), np.array([[10.0, 0, 30, 10]]), np.array([0.9]))
    assert match_at(labelled, found, [0.45, 0.5, 0.55], by_mask=False).counts.tolist() == [[False, False, True]]


def test_no_more_objects_of_a_class_count_than_coco_counts():
    labelled, found = made_up(6, seed=4)
    matched = match_at(labelled, found, [0.5], by_mask=False, max_per_class=1)
    pairs = list(zip(matched.found.images.tolist(), matched.found.labels.tolist(), strict=True))
    assert len(pairs) == len(set(pairs))
    for image, label in pairs:
        scores = found.scores[(found.images == image) & (found.labels == label)]
        kept = matched.found.scores[(matched.found.images == image) & (matched.found.labels == label)]
        assert kept.tolist() == [scores.max()]


def test_means_of_pixels_and_classes_by_hand():
    pixels = np.array([[[8, 2], [11, 2], [8, 4]], [[1, 0], [1, 3], [4, 0]]])  # right, found, labelled
    of_set, of_class = metrics_of(keep_pixels(pixels), np.array([[1, 1], [2, 0], [0, 1]]))
    ious = [[9 / (12 + 12 - 9), 2 / (5 + 4 - 2)], [8 / 11, 2 / 4], [1 / 4, 0 / 3]]
    np.testing.assert_allclose(of_class["IoU"], ious)
    np.testing.assert_allclose(of_set["mIoU"], np.mean(ious, axis=1))
    np.testing.assert_allclose(of_set["aAcc"], [11 / 16, 10 / 12, 1 / 4])
    np.testing.assert_allclose(of_set["mAcc"], [(9 / 12 + 2 / 4) / 2, (8 / 8 + 2 / 4) / 2, 1 / 4])
    fields = type("Scored", (), dict(labels=np.array([0, 0, 1]), ranks=np.array([0, 1, 6])))
    of_set, of_class = metrics_of(keep_classes(fields, 3), np.array([[1, 1, 1], [3, 0, 0], [0, 1, 2]]))
    assert of_set["top-1"].tolist() == [1 / 3, 1, 0]
    np.testing.assert_allclose(of_set["top-5"], [2 / 3, 1, 1 / 3])
    np.testing.assert_allclose(of_class["recall"], [[0.5, 0, np.nan], [1, np.nan, np.nan], [0, 0, np.nan]])
    np.testing.assert_allclose(of_set["mean of the classes"], [0.25, 1, 0])


def write_run(folder, kept, names, *, task="classification", classes=("a", "b"), **more):
    folder.mkdir(parents=True)
    model = dict(config="c.py", checkpoint="w.pth", parameters=1000, processor_ms_per_image=more.pop("speed", 10.0))
    (folder / "report.json").write_text(json.dumps(dict(task=task, classes=classes, model=model, **more)))
    np.savez_compressed(folder / "by_image.npz", names=np.array(names), **kept)
    return read_run(folder)


def classifier(folder, ranks, *, order=None, labels=None, **more):
    number = len(ranks)
    order = np.arange(number) if order is None else order
    labels = np.arange(number) % 2 if labels is None else labels
    names = np.array([f"{place}.jpg" for place in range(number)])[order]
    kept = dict(labels=labels[order], ranks=np.asarray(ranks)[order], num_classes=np.array(max(labels) + 1))
    return write_run(folder, kept, names, **more)


def test_a_difference_is_told_from_chance(tmp_path):
    rng = np.random.default_rng(0)
    worse = (rng.random(300) < 0.4).astype(int)
    better = np.where(rng.random(300) < 0.5, 0, worse)
    like = np.where(rng.random(300) < 0.02, 1 - worse, worse)
    runs = [
        classifier(tmp_path / name / "report", ranks, speed=speed)
        for name, ranks, speed in (("first", worse, 10.0), ("second", better, 30.0), ("third", like, 10.0))
    ]
    comparison = compare(runs)
    row = next(row for row in comparison["metrics"] if row["metric"] == "top-1")
    for value, ranks in zip(row["values"], (worse, better, like), strict=True):
        assert value["value"] == pytest.approx((ranks == 0).mean())
        # the middle 95 % of a mean of 300 numbers, by its standard error
        half = 1.96 * (ranks == 0).std() / np.sqrt(300)
        assert value["high"] - value["low"] == pytest.approx(2 * half, rel=0.1)
    assert [change and change["more_than_chance"] for change in row["differences"]] == [None, True, False]
    assert row["differences"][1]["value"] == pytest.approx((better == 0).mean() - (worse == 0).mean())
    said = list(findings(comparison))
    assert said[0].startswith("second is better than first: top-1 +0.")
    assert said[1].startswith("third and first do not differ for certain")
    assert len(said) == 2
    backwards = compare(runs[1::-1])
    assert next(iter(findings(backwards))).startswith("first is worse than second: top-1 -0.")


def test_images_and_classes_in_another_order_are_the_same(tmp_path):
    rng = np.random.default_rng(0)
    ranks, labels = rng.integers(0, 3, 40), rng.integers(0, 3, 40)
    order = rng.permutation(40)
    first = classifier(tmp_path / "first", ranks, labels=labels, classes="abc")
    other = classifier(tmp_path / "other", ranks, labels=(labels + 2) % 3, order=order, classes="bca")
    comparison = compare([first, other])
    rows = comparison["metrics"] + comparison["by_class"]["recall"]
    assert len(rows) == 6
    for row in rows:
        assert row["values"][0] == row["values"][1]
        assert row["differences"][1] == dict(value=0.0, low=0.0, high=0.0, more_than_chance=False)


def test_objects_in_another_order_are_the_same(tmp_path):
    labelled, found = made_up(20, seed=3)
    kept = keep_objects(as_data(labelled, 20), found)
    names = [f"{place}.jpg" for place in range(20)]
    first = write_run(tmp_path / "first", kept, names, task="detection", classes=NAMES)
    images, classes = np.random.default_rng(1).permutation(20), np.array([2, 0, 3, 1])
    moved = dict(kept, totals=kept["totals"][images][:, classes])
    moved["box_images"], moved["box_labels"] = (
        np.argsort(order)[kept[key]] for order, key in ((images, "box_images"), (classes, "box_labels"))
    )
    other = write_run(
        tmp_path / "other",
        moved,
        [names[image] for image in images],
        task="detection",
        classes=[NAMES[label] for label in classes],
    )
    comparison = compare([first, other])
    for row in comparison["metrics"] + comparison["by_class"]["box AP"]:
        assert row["values"][0] == pytest.approx(row["values"][1])
        assert row["differences"][1]["value"] == pytest.approx(0)
    assert comparison["metrics"][0]["values"][0]["value"] > 0.1


def test_few_images_prove_nothing(tmp_path):
    worse, better = np.ones(9, int), np.zeros(9, int)
    runs = [classifier(tmp_path / name, ranks) for name, ranks in (("worse", worse), ("better", better))]
    comparison = compare(runs)
    assert comparison["metrics"][0]["differences"][1] == dict(value=1.0, low=1.0, high=1.0, more_than_chance=False)
    assert list(findings(comparison)) == ["Too few images to tell better from worse: 9, fewer than 10."]
    # of 30 images, 5 have the second class
    labels = np.array([0] * 25 + [1] * 5)
    runs = [
        classifier(tmp_path / f"{name}_30", np.full(30, rank), labels=labels) for name, rank in (("a", 1), ("b", 0))
    ]
    rows = compare(runs)["by_class"]["recall"]
    assert [row["images"] for row in rows] == [25, 5]
    assert [row["differences"][1]["more_than_chance"] for row in rows] == [True, False]


def test_pixels_in_another_order_are_the_same_and_other_labels_are_said(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 100, (10, 3, 3))
    pixels[:, 1:] += pixels[:, :1]  # no less is found, and labelled, than is right
    names = np.array([f"{place}.jpg" for place in range(10)])
    order = np.random.default_rng(1).permutation(10)
    facts = dict(task="segmentation")
    first = write_run(tmp_path / "first", keep_pixels(pixels), names, classes="abc", **facts)
    moved = pixels[order][:, :, [1, 2, 0]]
    other = write_run(tmp_path / "other", keep_pixels(moved), names[order], classes="bca", **facts)
    comparison = compare([first, other])
    rows = comparison["metrics"] + comparison["by_class"]["IoU"]
    assert len(rows) == 6
    for row in rows:
        assert row["differences"][1] == dict(value=0.0, low=0.0, high=0.0, more_than_chance=False)
    moved[0, 2] += 1
    third = write_run(tmp_path / "third", keep_pixels(moved), names[order], classes="bca", **facts)
    with pytest.raises(UserError, match="the same images with other labels"):
        compare([first, third])


def test_objects_with_other_labels_are_said(tmp_path):
    labelled, found = made_up(20, seed=3)
    kept = keep_objects(as_data(labelled, 20), found)
    names = [f"{place}.jpg" for place in range(20)]
    runs = []
    for name, totals in (("first", kept["totals"]), ("other", kept["totals"] + 1)):
        runs.append(write_run(tmp_path / name, kept | dict(totals=totals), names, task="detection", classes=NAMES))
    with pytest.raises(UserError, match="the same images with other labels"):
        compare(runs)


@pytest.mark.parametrize(("work", "samples"), [(300, 300), (1, 200), (10**6, 1000)])
def test_of_many_objects_there_are_fewer_samples(work, samples, tmp_path, monkeypatch):
    labelled, found = made_up(5, seed=3)
    kept = keep_objects(as_data(labelled, 5), found)
    monkeypatch.setattr(comparing, "_WORK", work * len(kept["box_scores"]))
    run = write_run(tmp_path / "run", kept, list("01234"), task="detection", classes=NAMES)
    assert compare([run, run])["samples"] == samples


def test_an_image_that_is_there_twice_is_said(tmp_path):
    first = classifier(tmp_path / "first", np.zeros(10, int))
    other = classifier(tmp_path / "other", np.zeros(10, int), order=np.array([*range(10), 9]))
    with pytest.raises(UserError, match="different images"):
        compare([first, other])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(task="segmentation"), "cannot be compared: classification and segmentation"),
        (dict(classes=("a", "c")), "not the same classes, such as b, c"),
        (dict(labels=np.ones(10, int)), "the same images with other labels"),
        (dict(ranks=np.zeros(9, int)), "different images, of 10 and 9 with 9 in both"),
    ],
)
def test_what_cannot_be_compared_is_said(tmp_path, change, message):
    first = classifier(tmp_path / "first", np.zeros(10, int))
    other = classifier(tmp_path / "other", **(dict(ranks=np.zeros(10, int)) | change))
    with pytest.raises(UserError, match=message):
        compare([first, other])


def test_reports_that_cannot_be_read_are_said(tmp_path):
    with pytest.raises(UserError, match=r"has no report: report\.json is missing"):
        read_run(tmp_path)
    classifier(tmp_path / "run", np.zeros(10, int))
    (tmp_path / "run" / "by_image.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="cannot be read"):
        read_run(tmp_path / "run")
    for content in ("[]", "{}", '{"task": "classification", "classes": []}', "{"):
        (tmp_path / "run" / "report.json").write_text(content)
        with pytest.raises(UserError, match="cannot be read"):
            read_run(tmp_path / "run")
    (tmp_path / "run" / "report.json").write_text("{}")
    (tmp_path / "run" / "by_image.npz").unlink()
    with pytest.raises(UserError, match=r"by_image\.npz is missing"):
        read_run(tmp_path / "run")


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    runs = [classifier(tmp_path / name / "report", np.zeros(10, int)) for name in ("a/run", "b/run", "c/other")]
    names = [run["name"] for run in compare([*runs, runs[0]])["runs"]]
    assert names == [
        f"{tmp_path}/a/run/report (1)",
        f"{tmp_path}/b/run/report",
        "other",
        f"{tmp_path}/a/run/report (4)",
    ]


def test_a_model_without_masks_is_compared_by_its_boxes(tmp_path):
    labelled, found = made_up(20, seed=3)
    kept = keep_objects(as_data(labelled, 20), found)
    names = [f"{place}.jpg" for place in range(20)]
    masks = {f"mask{name[3:]}": values for name, values in kept.items() if name.startswith("box")}
    first = write_run(tmp_path / "first", kept | masks, names, task="detection", classes=NAMES)
    other = write_run(tmp_path / "other", kept, names, task="detection", classes=NAMES)
    comparison = compare([first, other])
    assert [row["metric"] for row in comparison["metrics"]] == ["box AP", "box AP50"]
    assert list(comparison["by_class"]) == ["box AP"]
    assert [row["metric"] for row in compare([first, first])["metrics"]][2:] == ["mask AP", "mask AP50"]


def comparison_of(*changes, metric="top-1", speeds=(10.0, 10.9)):
    """Numbers of two runs; ``changes`` are value, low, high and whether that is more than chance, or None."""
    keys = ("value", "low", "high", "more_than_chance")
    runs = [dict(name=name, processor_ms_per_image=speed) for name, speed in zip(("old", "new"), speeds, strict=True)]
    rows = [
        dict(metric=metric, values=[None, None], differences=[None, change and dict(zip(keys, change, strict=True))])
        for change in changes
    ]
    return dict(runs=runs, metrics=rows, images=1000, samples=1000)


def test_processor_times_and_metrics_without_a_value_are_not_said():
    """Times depend on what else a machine does; they are in the table of models."""
    assert list(findings(comparison_of(None))) == []
    assert list(findings(comparison_of(None, speeds=(10.0, 30.0)))) == []


def test_differences_beyond_chance_have_a_star():
    section = _metrics(comparison_of((0.1, 0.05, 0.15, True), (0.1, -0.05, 0.25, False), None))
    shown = [row[-1] for row in section.rows]
    assert shown == ["+0.100 (+0.050 to +0.150) *", "+0.100 (-0.050 to +0.250)", "-"]


def test_masks_are_spoken_of_before_boxes():
    comparison = comparison_of((0.1, 0.05, 0.15, True), metric="box AP")
    comparison["metrics"] += comparison_of((-0.1, -0.15, -0.05, True), metric="mask AP")["metrics"]
    assert list(findings(comparison)) == ["new is worse than old: mask AP -0.100 (-0.150 to -0.050), more than chance."]


def test_curves_are_those_of_the_classes_that_differ_most(tmp_path, monkeypatch):
    """The second run has its classes in another order."""
    monkeypatch.setattr(comparison_page, "_NUM_CURVES", 1)
    rows = [dict({"class": name}, differences=[None, dict(value=value)]) for name, value in (("a", 0.1), ("b", -0.3))]
    comparison = dict(runs=[dict(name="old"), dict(name="new")], by_class={"box AP": rows})
    runs = [
        SimpleNamespace(numbers=dict(classes=classes, curves=[dict(recall=[ord(c)], precision=[1]) for c in classes]))
        for classes in ("ab", "ba")
    ]
    (plot,) = _curves(comparison, runs).figures
    assert plot.title.text == "b"
    assert [line.data_source.data["x"] for line in plot.renderers] == [[0, ord("b")]] * 2
