"""Small data sets shared by tests, and what every run leaves behind."""

import gc
import json
import logging
import multiprocessing
import os
import runpy
import shutil
import signal
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import base_dataset
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer
from PIL import Image

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # must be set before Triton is imported, which many packages do

from small_runs import FORMATTER

from convnext_dense.data.shapes.ade import write_ade
from convnext_dense.data.shapes.coco import write_coco
from convnext_dense.errors import UserError
from convnext_dense.export import tracing
from convnext_dense.reports.curves_hook import CurvesHook
from convnext_dense.signals import EXIT_CODES

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory):
    """The demo data set in COCO's layout: 8 train and 4 val images of at most 96 pixels. Tests must not change it."""
    root = tmp_path_factory.mktemp("shapes")
    write_coco(root, 8, num_val=4, image_size=(96, 96), seed=1)
    return root


@pytest.fixture(scope="session")
def ade_folder(tmp_path_factory):
    """The same images with label images in ADE20K's layout, seven classes. Tests must not change it."""
    root = tmp_path_factory.mktemp("ade")
    write_ade(root, 8, num_val=4, image_size=(96, 96), seed=1)
    return root


@pytest.fixture
def own_folder(shapes_folder, tmp_path):
    """The same images as a user's own folder, with two classes of ids 0 and 5. Tests may damage it."""
    root = tmp_path / "own"
    for split in ("train", "val"):
        shutil.copytree(shapes_folder / f"{split}2017", root / split)
        content = json.loads((shapes_folder / "annotations" / f"instances_{split}2017.json").read_text())
        for annotation in content["annotations"]:
            annotation["category_id"] = 5 if annotation["category_id"] % 2 else 0
        content["categories"] = [dict(id=0, name="even"), dict(id=5, name="odd")]
        (root / f"instances_{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def two_class_folder(ade_folder, tmp_path):
    """The same images with labels 0 (background) and 1 (any shape), in the simplest layout; tests may damage them."""
    root = tmp_path / "two_classes"
    for ours, theirs in (("train", "training"), ("val", "validation")):
        shutil.copytree(ade_folder / "images" / theirs, root / ours)
        (root / "semantic" / ours).mkdir(parents=True)
        for path in (ade_folder / "annotations" / theirs).iterdir():
            labels = np.asarray(Image.open(path))
            Image.fromarray((labels > 1).astype(np.uint8)).save(root / "semantic" / ours / path.name)
    (root / "classes.txt").write_text("background\nshape\n")
    return root


@pytest.fixture
def run_tool(monkeypatch, capsys):
    """A function that runs ``tools/NAME`` with arguments in this process: exit code, standard output and error."""

    def run(name, *arguments):
        tool = TOOLS / name
        monkeypatch.setattr(sys, "argv", [str(tool), *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(str(tool), run_name="__main__")
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


# What the forks of `make test-onedl` do differently -> tests that cannot pass there; docs/versions.md says it to users.
FORKS_DIFFER = {
    "onedl-mmdetection's DINO has a wider reference head than the published one": (
        "checkpoints/test_detector_layouts.py",
        "engine/test_detrex_runs.py",
        "test_zoo.py::test_names_of_the_file_fill_the_model[dino",
        "test_dino_configs.py::test_parameters_are_those_of_detrex_definition",
        "test_config_report.py::test_detector_with_queries",
        "test_tables.py::test_documentation_has_the_computed_tables",
    ),
    "onedl-mmsegmentation normalises one or three channels": (
        "test_load_bands.py::test_every_channel_goes_through_as_one_of_three[upernet",
        "engine/test_band_runs.py",
        "test_infer_command.py::test_four_channels_of_files_and_arrays_are_one",
    ),
    "onedl-mmsegmentation has no table of its models": (
        "test_zoo.py::test_openmmlabs_rows_are_those_of_its_own_tables",
    ),
}


def pytest_collection_modifyitems(items):
    """Skip what the forks differ in, where they are installed."""
    if not any(part.metadata["Name"].startswith("onedl-") for part in metadata.distributions()):
        return
    for item in items:
        for reason, parts in FORKS_DIFFER.items():
            if any(part in item.nodeid for part in parts):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run a test marked ``own_process`` in a fork: checks of operators and compiled models start threads of autograd.

    They stay, and a process with these cannot be forked for another training, which other tests do.
    """
    if pyfuncitem.get_closest_marker("own_process") is None or torch.cuda.is_available():  # CUDA cannot be forked
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    process = multiprocessing.get_context("fork").Process(target=pyfuncitem.obj, kwargs=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0, "see the traceback on stderr"
    return True


@pytest.fixture(autouse=True, scope="module")
def _garbage_is_collected_once_per_module():
    """What modules leave behind for good, such as imported packages, is not looked through again."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _torch_that_exports():
    """Tests that export a model are skipped on a torch that cannot, with the sentence that refuses it."""

    def skip(*_, **__):
        try:
            refusing()
        except UserError as refusal:
            pytest.skip(str(refusal))

    refusing = tracing.require_torch_that_exports
    tracing.require_torch_that_exports = skip
    yield
    tracing.require_torch_that_exports = refusing


@pytest.fixture(autouse=True, scope="session")
def _quick_runs():
    """Leave out what takes longer than a small training and changes no result.

    Configs are written as mmengine writes them, but not formatted by yapf. Data sets of mmengine do not collect
    garbage, which takes up to half a second with all packages imported.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FORMATTER, "FormatCode", lambda text, **_: (text, True))
        patch.setattr(base_dataset, "gc", SimpleNamespace(collect=lambda: 0))
        yield


_draw_curves = CurvesHook._draw


@pytest.fixture(autouse=True, scope="session")
def _undrawn_curves():
    """Drawing the curves of a run takes longer than a small training."""
    CurvesHook._draw = lambda *_, **__: None
    yield
    CurvesHook._draw = _draw_curves


@pytest.fixture
def drawn_curves(monkeypatch):
    """Runs of this test draw their curves."""
    monkeypatch.setattr(CurvesHook, "_draw", _draw_curves)


@pytest.fixture(autouse=True)
def _nothing_cached_by_mmengine():
    """mmengine caches loggers, values, visualizers and default scopes by name; it names a run by the current second."""
    yield
    for logger in [*MMLogger._instance_dict.values(), logging.getLogger("mmengine")]:
        for handler in list(logger.handlers):
            handler.close()
            logger.removeHandler(handler)
    for kind in (MMLogger, MessageHub, DefaultScope, Visualizer, *Visualizer.__subclasses__()):
        kind._instance_dict.clear()


@pytest.fixture(autouse=True)
def _own_signal_handlers():
    """``tools/train.py`` leaves its handlers to the process; they would keep worker processes of later tests alive."""
    before = {number: signal.getsignal(number) for number in EXIT_CODES}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
