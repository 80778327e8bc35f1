"""The notebooks of docs/notebooks run from the first cell to the last without a network, and leave what they say."""

import ast
import json
import os
import sys
from pathlib import Path

import pytest
import yaml

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


@pytest.fixture
def run_notebook(tmp_path, monkeypatch):
    """A function that runs a notebook in an empty folder, and returns the values of expressions at its end."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")  # nothing listens there

    def run(name, *expressions):
        notebook = nbformat.read(FOLDER / f"{name}.ipynb", 4)
        asked = f"print(repr([{', '.join(expressions)}]))"
        notebook.cells.append(nbformat.v4.new_code_cell(asked))
        resources = dict(metadata=dict(path=str(tmp_path)))
        nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
        written = notebook.cells[-1].outputs
        return ast.literal_eval("".join(output.text for output in written if output.name == "stdout"))

    return run


@pytest.mark.slow
def test_own_data(run_notebook, tmp_path):
    steps, box_ap, names, found = run_notebook(
        "own_data", "run.checkpoint.name", "float(metrics['coco/bbox_mAP'])", "model.class_names", "len(found.scores)"
    )
    assert steps.endswith(".pth")
    assert 0 <= box_ap <= 1
    assert names == ("circle", "square", "triangle", "star", "cross", "crescent")
    assert found > 0
    numbers = json.loads((tmp_path / "report" / "report.json").read_text())
    assert "</html>" in (tmp_path / "report" / "report.html").read_text()
    assert numbers
    assert (tmp_path / "found.png").stat().st_size > 10_000
    assert (tmp_path / "work_dirs" / "mask_rcnn_atto" / "curves.png").is_file()


@pytest.mark.slow
def test_plug_into_mmdet(run_notebook, tmp_path):
    shapes, levels, before, written = run_notebook(
        "plug_into_mmdet",
        "shapes",
        "levels",
        "stock.model.backbone.type",
        "Config.fromfile('retinanet_convnext_a.py').model.neck.in_channels",
    )
    assert shapes == [(1, 40, 64, 64), (1, 80, 32, 32), (1, 160, 16, 16), (1, 320, 8, 8)]
    assert levels == [(1, 9 * 80, side, side) for side in (32, 16, 8, 4, 2)]
    assert before == "ResNet"
    assert written == [40, 80, 160, 320]


@pytest.mark.slow
def test_export(run_notebook, tmp_path):
    agreement, task, classes, is_torch = run_notebook(
        "export", "float(agreement)", "model.task", "len(model.class_names)", "type(model).__name__"
    )
    assert agreement > 0.999
    assert (task, classes, is_torch) == ("segmentation", 7, "ExportedPredictor")
    assert json.loads((tmp_path / "exported" / "model.json").read_text())["runtime"] == "onnxruntime"
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 4


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_stored_without_outputs_and_every_cell_is_introduced(name):
    cells = nbformat.read(FOLDER / f"{name}.ipynb", 4).cells
    kinds = [cell.cell_type for cell in cells]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    assert all(before == "markdown" for before, kind in zip(["", *kinds], kinds, strict=False) if kind == "code")
    assert all(len(cell.source.splitlines()) <= 8 for cell in cells)


def test_all_notebooks_are_tested_and_linked():
    assert {f"test_{name}" for name in NAMES} <= set(globals())
    nav = str(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    index = (ROOT / "docs" / "index.md").read_text()
    assert all(f"notebooks/{name}.ipynb" in nav + index for name in NAMES)
