"""Dockerfile, .dockerignore and devcontainer.json: what they name exists, and they agree with each other."""

import argparse
import configparser
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from doc_checks import check

from convnext_dense.cli import serve

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
# Which files docker build sees: nothing but the lines that begin with an exclamation mark.
IGNORED = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
SEEN = {line[1:] for line in IGNORED if line.startswith("!")}


@pytest.fixture(scope="module")
def setup():
    cfg = configparser.ConfigParser()
    cfg.read(ROOT / "setup.cfg")
    return cfg


@pytest.fixture(scope="module")
def devcontainer():
    return json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())


def values_of(instruction):
    """What follows an instruction, in the order of the file."""
    return re.findall(rf"^{instruction} +(.+?)$", TEXT, re.MULTILINE)


def arguments():
    return dict(text.split("=", 1) for text in values_of("ARG") if "=" in text)


def test_docker_sees_only_what_is_installed(setup):
    assert IGNORED[0] == "*"
    assert not SEEN & {".git", "data", "work_dirs", ".venv", "tests", "docs"}
    assert all((ROOT / path).exists() for path in SEEN)
    metadata = setup["metadata"]
    assert {metadata["license_files"], metadata["long_description"].removeprefix("file: ")} <= SEEN
    links = [path for path in (ROOT / "convnext_dense/.mim").iterdir() if path.is_symlink()]
    assert {path.resolve().relative_to(ROOT).as_posix() for path in links} == {"configs", "tools"} <= SEEN


def test_copied_paths_exist_and_are_seen():
    paths = [path for text in values_of("COPY") for path in text.split()[:-1]]
    assert {"setup.cfg", "pyproject.toml", "constraints.txt", "convnext_dense/__init__.py"} <= set(paths)
    for path in paths:
        assert (ROOT / path).exists(), path
        assert path == "." or path.split("/")[0] in SEEN, path


def test_what_is_installed_is_in_setup(setup):
    assert arguments()["EXTRAS"] == "all"  # tests/test_requirements.py says which those are
    assert "all" in setup["options.extras_require"]
    (entrypoint,) = map(json.loads, values_of("ENTRYPOINT"))
    assert f"{entrypoint[0]} =" in setup["options.entry_points"]["console_scripts"]
    (command,) = map(json.loads, values_of("CMD"))
    assert command == ["--help"]


def test_the_python_is_a_tested_one():
    workflow = yaml.safe_load((ROOT / ".github/workflows/check.yml").read_text())
    assert arguments()["PYTHON"] in workflow["jobs"]["check"]["strategy"]["matrix"]["python"]


def test_the_port_is_that_of_serve(devcontainer):
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    port = parser.get_default("port")
    assert values_of("EXPOSE") == [str(port)]
    assert devcontainer["forwardPorts"] == [port]
    assert list(devcontainer["portsAttributes"]) == [str(port)]


def test_nobody_is_root(devcontainer):
    (options,) = re.findall(r"useradd (.*)", TEXT)
    assert options.split()[-3:-1] == ["--uid", values_of("USER")[0]]
    assert len(set(values_of("USER"))) == 1
    stages = re.split(r"^FROM .*$", TEXT, flags=re.MULTILINE)[2:]
    assert all("\nUSER " in stage for stage in stages)
    assert devcontainer["remoteUser"] == options.split()[-1]


def test_weights_are_in_the_volume_and_the_home_is_not():
    (volume,) = values_of("VOLUME")
    (texts,) = values_of("ENV")
    places = dict(text.split("=") for text in texts.split())
    assert places["TORCH_HOME"].startswith(volume)
    assert places["HF_HOME"].startswith(volume)
    assert not places["HOME"].startswith(volume)
    assert f"-v weights:{volume} " in (ROOT / "docs/containers.md").read_text()


def test_the_devcontainer_builds_a_stage_of_the_same_file(devcontainer):
    build = devcontainer["build"]
    folder = ROOT / ".devcontainer"
    assert (folder / build["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert (folder / build["context"]).resolve() == ROOT
    assert build["target"] in re.findall(r"^FROM \S+ AS (\w+)$", TEXT, re.MULTILINE)
    check(shlex.split(devcontainer["postCreateCommand"]))
    interpreter = devcontainer["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert interpreter == "${containerWorkspaceFolder}/.venv/bin/python"  # where the Makefile puts it
    assert "make" in TEXT.split(f"AS {build['target']}")[1].split("FROM")[0]
