"""tools/report.py: the numbers are those of tools/test.py, and the page opens by itself in a browser."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from browsing import asked_addresses, browser, in_browser
from random_models import ANY_SCORE, SEGMENTER, SHAPES, write_config, write_shapes_config, write_weights

from convnext_dense.data.shapes.crops import write_crops
from convnext_dense.inference import Predictor
from convnext_dense.inference.validation import evaluation_of
from convnext_dense.reports import detection_page, figures
from convnext_dense.reports.gathering import gather, read_objects
from convnext_dense.reports.page import Section, write_page

CLASSIFIER = "configs/demo/convnext_atto_small_images.py"
CROPS = tuple(sorted(SHAPES))


@pytest.fixture(scope="module")
def made(shapes_folder, tmp_path_factory, pytestconfig):
    """A config, random weights, and the report on them by the command's function."""
    from convnext_dense.reports.reporting import report_on

    os.chdir(pytestconfig.rootpath)
    folder = tmp_path_factory.mktemp("report")
    config = write_shapes_config(folder / "config.py", shapes_folder, f"model = dict({ANY_SCORE})")
    weights = write_weights(config, folder / "weights.pth", SHAPES)
    report = report_on(config, weights, folder / "out", device="cpu")
    return config, weights, report


def test_numbers_are_those_of_the_metric(made):
    config, weights, report = made
    numbers = json.loads(report.numbers.read_text())
    predictor = Predictor(config, weights, device="cpu")
    evaluation = evaluation_of(predictor, work_dir="x")
    results = list(predictor.iterate(evaluation.paths))
    metrics = evaluation.measure(results)
    for kind in ("bbox", "segm"):
        for ours, theirs in dict(AP="mAP", AP50="mAP_50", AP75="mAP_75", APs="mAP_s", APm="mAP_m").items():
            expected = metrics[f"coco/{kind}_{theirs}"]
            assert (numbers["ap"][kind][ours] or 0) == pytest.approx(max(expected, 0), abs=1e-9)
    assert numbers["images"] == len(evaluation.paths) == 4
    assert numbers["found"] == sum(len(result.scores) for result in results) > 0
    annotations = json.loads(Path(evaluation.metrics[0]["ann_file"]).read_text())["annotations"]
    assert numbers["objects"] == sum(not one["iscrowd"] for one in annotations)
    assert numbers["crowds"] == sum(one["iscrowd"] for one in annotations)
    assert sum(row["objects"] for row in numbers["by_class"]) == numbers["objects"]
    counts = np.array(numbers["confusion"]["counts"])
    assert counts[:-1].sum() == numbers["objects"]
    written = json.loads(report.predictions.read_text())
    assert {item["image_id"] for item in written} <= {one["image_id"] for one in annotations} | {1, 2, 3, 4}
    assert numbers["model"]["parameters"] == sum(weight.numel() for weight in predictor.model.parameters())


def test_labelled_objects_are_those_of_the_file(made):
    config, weights, _ = made
    predictor = Predictor(config, weights, device="cpu")
    evaluation = evaluation_of(predictor, work_dir="x")
    data = read_objects(evaluation, predictor.class_names)
    annotations = json.loads(Path(evaluation.metrics[0]["ann_file"]).read_text())
    boxes = {tuple(np.round(box, 3)) for box in data.labelled.boxes}
    expected = {
        (x, y, x + width, y + height) for x, y, width, height in (one["bbox"] for one in annotations["annotations"])
    }
    assert boxes == {tuple(np.round(box, 3)) for box in np.array(sorted(expected), float)}
    areas = sorted(one["area"] for one in annotations["annotations"] if not one["iscrowd"])
    ours = np.sort(data.areas[~data.labelled.is_crowd])
    np.testing.assert_allclose(ours, areas, rtol=0.15, atol=8)  # polygons are drawn with their edges
    assert gather([]).boxes.shape == (0, 4)


def test_the_page_has_everything_in_it(made):
    *_, report = made
    text = report.page.read_text()
    assert len(text) < 5e6
    markup = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)  # Bokeh's own code names addresses
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", markup)
    for title in ("What stands out", "Average precision", "Confusion", "Worst images", "The data", "The model"):
        assert f">{title}<" in text
    assert text.count("data:image/jpeg;base64,") >= 4


@in_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_opens_in_a_browser(made, width):
    from selenium.webdriver.support.ui import WebDriverWait

    with browser(width=width) as driver:
        driver.get(made[2].page.as_uri())
        number = "return document.querySelectorAll('.bk-Figure').length"
        WebDriverWait(driver, 60).until(lambda driver: driver.execute_script(number) >= 10)
        assert not [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
        assert not asked_addresses(driver)
        broken = "return [...document.images].filter(image => !image.naturalWidth).length"
        assert driver.execute_script(broken) == 0


def test_own_data_and_the_command(made, own_folder, tmp_path, run_tool):
    config = tmp_path / "config.py"
    config.write_text(f"_base_ = {str(made[0])!r}\n")
    weights = write_weights(config, tmp_path / "weights.pth", ("even", "odd"))
    labels = json.loads((own_folder / "instances_val.json").read_text())
    labels["annotations"][0]["iscrowd"] = 1
    (own_folder / "instances_val.json").write_text(json.dumps(labels))
    code, out, err = run_tool(
        *("report.py", config, weights, "--data", own_folder, "--out-dir", tmp_path / "out", "--device", "cpu")
    )
    assert code == 0, err
    assert out.splitlines()[-1] == str(tmp_path / "out/report.html")
    numbers = json.loads((tmp_path / "out/report.json").read_text())
    assert numbers["classes"] == ["even", "odd"]
    assert numbers["images"] == len(labels["images"])
    assert (numbers["crowds"], numbers["objects"]) == (1, len(labels["annotations"]) - 1)
    files = {item["id"]: own_folder / "val" / item["file_name"] for item in labels["images"]}
    found = Predictor(config, weights, device="cpu").predict(list(files.values()))
    expected = {
        image_id: [dict(even=0, odd=5)[name] for name in one.names] for image_id, one in zip(files, found, strict=True)
    }
    written: dict[int, list[int]] = {image_id: [] for image_id in files}
    for item in json.loads((tmp_path / "out/predictions.json").read_text()):
        written[item["image_id"]].append(item["category_id"])
    assert written == expected
    assert 5 in {number for numbers in written.values() for number in numbers}  # not the first class alone


def metrics_of(config, weights, data, work_dir):
    """The metrics of tools/test.py for the same model and data."""
    model = Predictor(config, weights, device="cpu")
    evaluation = evaluation_of(model, data, work_dir=work_dir)
    return evaluation.measure(model.iterate(evaluation.paths))


def test_a_segmenter(two_class_folder, tmp_path, run_tool):
    names = ("background", "shape")
    weights = write_weights(SEGMENTER, tmp_path / "weights.pth", names, reduce_zero_label=False)
    out = tmp_path / "out"
    code, printed, err = run_tool(
        *("report.py", SEGMENTER, weights, "--data", two_class_folder, "--out-dir", out, "--device", "cpu")
    )
    assert code == 0, err
    assert printed.splitlines()[-1] == str(out / "report.html")
    assert "predictions" not in printed
    numbers = json.loads((out / "report.json").read_text())
    expected = metrics_of(SEGMENTER, weights, two_class_folder, tmp_path)
    for name in ("mIoU", "mAcc", "aAcc"):
        assert 100 * numbers["means"][name] == pytest.approx(expected[name], abs=1e-9)
    assert numbers["classes"] == list(names)
    text = (out / "report.html").read_text()
    for title in ("What stands out", "Means", "Classes", "Confusion", "Worst images", "The data", "The model"):
        assert f">{title}<" in text
    assert text.count("data:image/jpeg;base64,") == len(numbers["worst_images"]) == 4


def test_a_classifier_and_the_comparison_of_two_runs(tmp_path, run_tool):
    config = write_config(tmp_path / "classes.py", CLASSIFIER)
    write_crops(tmp_path / "data", 12, num_val=10, image_size=(64, 64), seed=0)
    runs = []
    for seed in range(2):
        runs.append(tmp_path / f"run{seed}")
        runs[-1].mkdir()
        write_config(runs[-1] / "classes.py", CLASSIFIER)
        weights = write_weights(config, runs[-1] / "best_accuracy_top1_epoch_1.pth", CROPS)
        content = torch.load(weights)
        for tensor in content["state_dict"].values():
            tensor += 0.05 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed))
        torch.save(content, weights)
    command = ("report.py", "--compare", *runs, "--data", tmp_path / "data", "--device", "cpu")
    code, printed, err = run_tool(*command, "--out-dir", tmp_path / "comparison")
    assert code == 0, err
    assert printed.splitlines()[-1] == str(tmp_path / "comparison/comparison.html")
    comparison = json.loads((tmp_path / "comparison/comparison.json").read_text())
    assert [run["name"] for run in comparison["runs"]] == ["run0", "run1"]
    assert comparison["images"] == 10
    rows = {row["metric"]: row for row in comparison["metrics"]}
    for place, run in enumerate(runs):
        numbers = json.loads((run / "report" / "report.json").read_text())
        expected = metrics_of(config, run / "best_accuracy_top1_epoch_1.pth", tmp_path / "data", tmp_path)
        assert numbers["means"]["top1"] == expected["accuracy/top1"] == rows["top-1"]["values"][place]["value"]
        assert numbers["means"]["top5"] == expected["accuracy/top5"] == rows["top-5"]["values"][place]["value"]
        assert (run / "report" / "report.html").read_text().count("data:image/jpeg;base64,") == 10
    reports = [run / "report/report.json" for run in runs]
    times = [report.stat().st_mtime_ns for report in reports]
    later = max(times) / 1e9 + 10
    os.utime(runs[1] / "best_accuracy_top1_epoch_1.pth", (later, later))  # trained on
    code, printed, err = run_tool(*command, "--out-dir", tmp_path / "comparison")
    assert code == 0, err
    assert [report.stat().st_mtime_ns == before for report, before in zip(reports, times, strict=True)] == [True, False]
    assert printed.count("Making the report") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give CONFIG and CHECKPOINT, a WORK_DIR, or --compare"),
        (["config.py"], "config.py is no work dir of a training; to report on a model, give its CHECKPOINT too"),
        (["config.py", "weights.pth", "--compare", "a", "b"], "give CONFIG and CHECKPOINT, a WORK_DIR, or --compare"),
        (["--compare", "a"], "needs two runs or more"),
        (["--compare", "nowhere", "nothing"], "nowhere has no report and no run"),
    ],
)
def test_wrong_arguments_are_said(arguments, message, run_tool):
    code, _, err = run_tool("report.py", *arguments)
    assert code != 0
    assert message in err


def test_other_classes_than_the_datas_are_refused(made, tmp_path, run_tool):
    weights = write_weights(made[0], tmp_path / "weights.pth", [*SHAPES[1:], SHAPES[0]])
    code, _, err = run_tool("report.py", made[0], weights, "--out-dir", tmp_path / "out", "--device", "cpu")
    assert code == 1
    assert "was trained on the classes 'square'" in err
    assert "--data DIR" in err


def test_text_of_a_page_is_no_markup(tmp_path):
    plot = figures.bars("<b>", ["<i>", "&"], [1, 2], y="<s>")
    section = Section(
        "<script>alert(1)</script>", note="a < b", header=["<u>"], rows=[["</td><script>"]], figures=[plot]
    )
    write_page(tmp_path / "page.html", "<h1>", "&", [section])
    text = (tmp_path / "page.html").read_text()
    assert "<script>alert(1)" not in text
    assert "</td><script>" not in text
    assert "&lt;script&gt;alert(1)" in text


def report_of(**changes):
    errors = [dict(error=name, number=1, cost=0.0) for name in detection_page._WORDS]
    report = dict(
        errors=errors,
        missed_by_size=dict(small=0.0, medium=0.0, large=0.0),
        confusion=dict(
            names=["cat", "dog", "background"], counts=[[9, 0, 1], [0, 8, 2], [0, 0, 0]], score=0.5, iou=0.5
        ),
        best_score=None,
        by_class=[{"class": "cat", "objects": 10}, {"class": "dog", "objects": 10}],
        suspects=[],
        found=9,
    )
    return report | changes


def test_what_stands_out_is_said_in_words():
    assert list(detection_page.findings(report_of())) == []
    errors = report_of()["errors"]
    for row in errors:
        row["cost"] = dict(missed=0.3, background=0.1).get(row["error"], 0.0)
    said = list(
        detection_page.findings(
            report_of(
                errors=errors,
                missed_by_size=dict(small=0.25, medium=0.01, large=0.0),
                confusion=dict(names=["cat", "dog", "background"], counts=[[5, 4, 1], [0, 8, 2], [0, 0, 0]]),
                best_score=dict(score=0.4188, f1=0.8, precision=0.9, recall=0.7),
                by_class=[{"class": "cat", "objects": 9}, {"class": "dog", "objects": 0}],
                suspects=[dict(kind="class")] * 2 + [dict(kind="box")],
            )
        )
    )
    assert said[0].startswith("75% of what errors cost comes from objects that were not found (0.300 of AP50)")
    assert said[1].startswith("25% of what errors cost comes from things that are not there")
    assert "small ones cost most (0.250 of AP50): try a larger image size" in said[2]
    assert said[3] == "cat is taken for dog 4 times, 40% of all cat objects."
    assert "threshold of 0.418: there, 90% of what is found is right, and 70%" in said[4]
    assert said[5:] == [
        "Too few objects to judge, fewer than 10: cat.",
        "Not in these images at all: dog.",
        "Where model and labels contradict each other most, both are worth a look: 2 of 'Another class?', 1 of "
        "'Another box?'.",
    ]


def test_a_model_that_finds_nothing_is_told(made, tmp_path):
    from convnext_dense.reports.reporting import report_on

    config, weights, _ = made
    report = report_on(config, weights, tmp_path / "out", device="cpu", options={"model.test_cfg.rcnn.score_thr": 1.5})
    numbers = json.loads(report.numbers.read_text())
    assert numbers["found"] == 0
    costs = {row["error"]: row["cost"] for row in numbers["errors"]}
    assert costs == dict.fromkeys(costs, 0.0) | dict(missed=1.0)
    assert (numbers["ap"]["bbox"]["AP"], numbers["ap"]["bbox"]["APl"]) == (0.0, None)  # no object is large
    assert next(detection_page.findings(numbers)).startswith("The model finds nothing")


def test_curves_begin_at_a_recall_of_zero():
    curves = [dict(recall=[0.5, 1.0], precision=[0.9, 0.7]), dict(recall=[], precision=[])]
    assert figures.from_zero(curves) == ([[0.0, 0.5, 1.0], []], [[0.9, 0.9, 0.7], []])
