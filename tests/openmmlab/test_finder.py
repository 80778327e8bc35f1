"""The module ``mmcv._ext``: when it is provided, and what it contains."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import mmcv.ops
import pytest
import torch
from mmcv import _ext
from mmengine.utils.dl_utils import mmcv_full_available

from convnext_dense.openmmlab import serve_mmcv_ops
from convnext_dense.openmmlab.mmcv_ops.finder import MmcvOpsFinder

REPOSITORY = Path(__file__).parents[2]


def run_python(code: str, *first_on_path: Path) -> None:
    """Run ``code`` in a fresh process and fail with its messages if it fails."""
    path = os.pathsep.join(str(folder) for folder in (*first_on_path, REPOSITORY))
    process = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr


def names_that_mmcv_asks_for() -> set[str]:
    """Return the names in the ``load_ext('_ext', [...])`` calls of the installed mmcv."""
    names: set[str] = set()
    for file in Path(mmcv.ops.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load_ext":
                names |= set(ast.literal_eval(node.args[1]))
    return names


def test_every_name_that_mmcv_asks_for_is_callable():
    names = names_that_mmcv_asks_for()
    assert len(names) > 100  # mmcv 2.1.0 asks for 112
    assert [name for name in sorted(names) if not callable(getattr(_ext, name, None))] == []


def test_unserved_operator_says_its_name_and_what_to_do():
    message = r"'correlation_forward'.*MMCV_WITH_OPS=1 pip install .* (onedl-)?mmcv`"
    with pytest.raises(NotImplementedError, match=message):
        _ext.correlation_forward(1, kH=5)


def test_unserved_operator_is_reported_through_mmcv_too():
    with pytest.raises(NotImplementedError, match="'three_nn_forward'"):
        mmcv.ops.three_nn(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))


@pytest.mark.parametrize("name", ["no_such_operator", "__wrapped__", "__path__"])
def test_name_that_mmcv_does_not_know_is_an_attribute_error(name):
    with pytest.raises(AttributeError):
        getattr(_ext, name)


def test_mmcv_environment_report_gets_its_versions():
    assert mmcv.ops.get_compiler_version() == "not compiled"
    assert mmcv.ops.get_compiling_cuda_version() == "not available"


def test_served_module_has_a_spec_with_a_loader():
    spec = importlib.util.find_spec("mmcv._ext")
    assert spec is not None
    assert spec.loader is not None
    assert spec is _ext.__spec__


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="mmengine asks through pkgutil.find_loader, gone in 3.14")
@pytest.mark.filterwarnings("ignore:'pkgutil.find_loader':DeprecationWarning")
def test_mmengine_takes_the_operators_for_installed():
    assert mmcv_full_available()


def test_serving_twice_changes_nothing():
    before = list(sys.meta_path)
    serve_mmcv_ops()
    assert sys.meta_path == before
    assert sum(isinstance(finder, MmcvOpsFinder) for finder in before) == 1


def test_finder_answers_for_no_other_module():
    finder = MmcvOpsFinder()
    assert finder.find_spec("mmcv.ops", None) is None
    assert finder.find_spec("other._ext", None) is None


def test_compiled_module_wins(tmp_path):
    (tmp_path / "mmcv").mkdir()
    (tmp_path / "mmcv" / "__init__.py").touch()
    (tmp_path / "mmcv" / "_ext.py").write_text("nms = 'compiled'")
    code = """
import sys
import convnext_dense, mmcv._ext
assert mmcv._ext.nms == 'compiled'
# Nothing of mmcv is patched: what is, is by a family of served operators.
assert not [name for name in sys.modules if name.startswith('convnext_dense.openmmlab.mmcv_ops.carafe')]
"""
    run_python(code, tmp_path)


def test_package_imports_without_mmcv_and_without_importing_openmmlab():
    code = """
import sys
class NoMmcv:
    def find_spec(self, name, path, target=None):
        if name.partition('.')[0] == 'mmcv':
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoMmcv())
import convnext_dense
assert not {'mmcv', 'mmdet', 'mmseg', 'timm', 'torchvision'} & set(sys.modules)
"""
    run_python(code)
