"""The set of packages in constraints.txt, for every version of Python that setup.cfg names."""

import configparser
import importlib.metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from convnext_dense.cli.command_line import TRACKER_NAMES

ROOT = Path(__file__).parents[1]
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
SYSTEMS = [("linux", "x86_64"), ("darwin", "arm64"), ("win32", "AMD64")]


# What the extra named "all" has.
ALL = (
    "openmmlab",
    "classification",
    "data",
    "export",
    "openvino",
    "video",
    "serve",
    "report",
    "tensorboard",
    "completion",
)


@pytest.fixture(scope="module")
def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def wanted():
    return requirements_of("openmmlab", "test", "dev", "docs", *ALL)


def requirements_of(*extras):
    cfg = configparser.ConfigParser()
    cfg.read(ROOT / "setup.cfg")
    texts = [cfg["options"]["install_requires"], *(cfg["options.extras_require"][extra] for extra in extras)]
    lines = [line for text in texts for line in text.splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "convnext-dense["))]


def applying(pins, python, system, machine):
    place = dict(python_version=python, python_full_version=f"{python}.0", sys_platform=system)
    place |= dict(platform_machine=machine, platform_python_implementation="CPython")
    found = {}
    for pin in pins:
        if pin.marker is None or pin.marker.evaluate(place):
            found.setdefault(canonicalize_name(pin.name), []).append(pin)
    return found


def test_all_is_every_extra_but_those_of_other_people_and_of_developers():
    cfg = configparser.ConfigParser()
    cfg.read(ROOT / "setup.cfg")
    extras = cfg["options.extras_require"]
    assert extras["all"].strip() == f"convnext-dense[{','.join(ALL)}]"
    left = set(extras) - set(ALL) - {"all"}
    trackers = set(TRACKER_NAMES) - {"tensorboard"}
    assert left == {"onedl", *trackers, "docs", "peers", "test", "dev", "benchmark-yolo"}


def test_setup_names_the_lowest_python():
    cfg = configparser.ConfigParser()
    cfg.read(ROOT / "setup.cfg")
    assert cfg["options"]["python_requires"] == f">={PYTHONS[0]}"


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(("system", "machine"), SYSTEMS, ids=[system for system, _ in SYSTEMS])
def test_every_package_has_one_version_that_setup_takes(pins, wanted, python, system, machine):
    found = applying(pins, python, system, machine)
    assert [name for name, versions in found.items() if len(versions) > 1] == []
    for name, requirements in applying(wanted, python, system, machine).items():
        (pin,) = found[name]
        (version,) = [specifier.version for specifier in pin.specifier]
        for requirement in requirements:
            assert version in requirement.specifier, f"{requirement} is pinned to {version} for Python {python}"


@pytest.mark.parametrize("python", PYTHONS)
def test_versions_take_the_pythons_that_they_are_pinned_for(pins, python):
    """Check the pinned versions that are installed here, whose metadata can be read."""
    asked = []
    for versions in applying(pins, python, *SYSTEMS[0]).values():
        for pin in versions:
            try:
                installed = importlib.metadata.distribution(pin.name)
            except importlib.metadata.PackageNotFoundError:
                continue
            if installed.version in pin.specifier:
                takes = SpecifierSet(installed.metadata.get("Requires-Python") or "")
                assert f"{python}.0" in takes, f"{pin} is pinned for Python {python}, but takes {takes}"
                asked.append(pin.name)
    assert "addict" in asked  # mmengine asks for it, and every set of versions has the same


def test_lowest_pins_are_the_bounds_of_setup():
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    pins = {canonicalize_name(pin.name): pin for pin in map(Requirement, (line for line in lines if line[0] != "#"))}
    bounds = {
        canonicalize_name(requirement.name): [s.version for s in requirement.specifier if s.operator == ">="]
        for requirement in requirements_of("openmmlab")
    }
    unbounded = [name for name, versions in bounds.items() if not versions]
    assert unbounded == ["regex"]
    assert {name: [s.version for s in pin.specifier] for name, pin in pins.items()} == {
        name: versions for name, versions in bounds.items() if versions
    }
