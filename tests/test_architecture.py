"""Who may import whom, sizes of files and functions, and names: read from the source, imports in functions included."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "convnext_dense"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Room -> what it may import from, of our own rooms and of the libraries that the rule is about.
LIBRARIES = {"torchvision", "timm", "mmengine", "mmcv", "mmdet", "mmseg"}
EVERYWHERE = {"registry", "files", "errors", "shipped", "signals", "terminal"}
ALLOWED = {
    "__init__": {"openmmlab", "commands", "inference"},
    "registry": {"mmengine"},
    "files": set(),
    "errors": set(),
    "shipped": set(),
    "signals": set(),
    "terminal": set(),
    "openmmlab": {"torchvision", "mmengine", "mmcv"},
    "layers": {"timm", "kernels"},
    "kernels": set(),
    "checkpoints": set(),
    "config": {"mmengine"},
    "visualization": {"export"},  # runtime.py alone, which imports nothing of ours and may be copied
    "models": {"layers", "checkpoints", "mmengine"},
    "optim": {"mmengine", "timm"},
    "evaluation": {"mmengine", "mmdet", "mmseg"},
    "data": {"config", "visualization", "mmengine", "timm"},
    "engine": {"config", "data", "checkpoints", "visualization", "mmengine", "timm"},
    "plug": {"config", "models", "checkpoints", "mmengine", "mmdet", "mmseg"},
    "inference": {
        *("config", "data", "checkpoints", "engine", "visualization", "mmengine", "mmdet", "mmseg"),
        "export",  # runtime.py alone, which imports nothing of ours
    },
    "export": {
        *("inference", "config", "data", "checkpoints", "visualization", "evaluation"),
        *("mmengine", "mmcv", "mmdet", "mmseg", "torchvision"),
    },
    "serving": {"inference", "data", "visualization", "mmengine"},
    "reports": {"inference", "config", "checkpoints", "data", "visualization", "evaluation", "description", "mmengine"},
    "description": {"models", "config", "optim", "checkpoints", "mmengine", "mmdet", "mmseg"},
    "__main__": {"cli"},
    "commands": {"config", "data", "engine", "plug", "reports"},
    "cli": LIBRARIES
    | {"commands"}
    | {"engine", "config", "data", "plug", "checkpoints", "models", "description", "inference"}
    | {"export", "serving", "reports"},
}
# One file, because it is copied into other projects.
LONG_FILES = {"runtime.py"}
# Parts that are mmseg's or mmdet's own with a difference; configs import them by custom_imports, nothing of ours does.
ALLOWED_FILES = {
    "models/segmentor.py": {"mmseg"},
    "models/detector_input.py": {"mmdet"},
    "models/distillation.py": {"timm"},  # where the teachers come from
    "models/linear_head.py": {"mmcv", "mmseg"},
    "models/roi_heads.py": {"mmdet"},
    "data/fit_resize.py": {"mmcv"},
}
FORBIDDEN_NAMES = {"utils", "misc", "common", "core", "helpers"}


def room_of(path):
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports_of(path):
    """Yields what a module imports: the room for our own modules, else the top-level package."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module]
            if node.module == "convnext_dense":
                names = [f"convnext_dense.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            yield parts[1] if parts[0] == "convnext_dense" and len(parts) > 1 else parts[0]


def test_every_room_has_a_rule():
    assert {room_of(path) for path in MODULES} <= set(ALLOWED)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_import_only_what_they_may(path):
    room = room_of(path)
    rooms = {room_of(other) for other in MODULES} | LIBRARIES
    used = {name for name in imports_of(path) if name in rooms and name != room}
    allowed = EVERYWHERE | ALLOWED[room] | ALLOWED_FILES.get(path.relative_to(PACKAGE).as_posix(), set())
    assert used <= allowed, f"{room} may not import {sorted(used - allowed)}"


@pytest.mark.parametrize("path", MODULES + sorted((ROOT / "tools").glob("*.py")), ids=lambda path: path.name)
def test_files_and_functions_stay_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400 or path.name in LONG_FILES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            docstring = node.body[0] if ast.get_docstring(node) else None
            written = docstring.end_lineno - docstring.lineno + 1 if docstring else 0
            assert node.end_lineno - node.lineno + 1 - written <= 60, f"{path}: {node.name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_modules_classes_and_functions_have_docstrings(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path}: {node.name} has no docstring"


def test_no_room_is_a_drawer_for_leftovers():
    names = {part.removesuffix(".py") for path in MODULES for part in path.relative_to(ROOT).parts}
    assert not names & FORBIDDEN_NAMES
