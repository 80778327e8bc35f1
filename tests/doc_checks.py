"""What a command in the docs has to be: its parser reads it, and the names in it exist."""

import argparse
import configparser
import re
import runpy
import sys
from functools import partial

import pytest
from doc_blocks import ROOT, is_placeholder, with_numbers

from convnext_dense.checkpoints import find_entry
from convnext_dense.cli.command_line import parser_of
from convnext_dense.cli.main import COMMANDS, OTHER_NAMES, module_of
from convnext_dense.plug import parse_backbone
from convnext_dense.shipped import find_config

# What other programs do; a block with one of them is not run.
OTHERS = {"git", "cd", "source", "curl", "tensorboard", "sed", "pytest", "scontrol", "[", "mlflow"}
# Commands whose first argument is a config.
CONFIG_ARGUMENTS = {
    "train",
    "test",
    "infer",
    "report",
    "export",
    "serve",
    "check-dataset",
    "describe",
    "plug",
    "benchmark",
}


class Parser(argparse.ArgumentParser):
    """A parser whose errors can be caught."""

    def error(self, message):
        raise AssertionError(f"{self.prog}: {message}")


def check(words):
    """Assert that a command means something: its program, its options, and the names in it."""
    words = with_numbers(words)
    program, *rest = words
    if program == "convnext-dense":
        check_ours(OTHER_NAMES.get(rest[0], rest[0]), rest[1:])
    elif program == "python" and rest[0] == "-m" and rest[1] == "convnext_dense":
        check_ours(OTHER_NAMES.get(rest[2], rest[2]), rest[3:])
    elif program == "python" and rest[:2] == ["-m", "benchmarks"]:
        parse_by_file("benchmarks/__main__.py", "run_task", rest[2:])
    elif program == "python" and rest[0] == "-m":
        assert (ROOT / f"{rest[1].replace('.', '/')}.py").is_file(), rest[1]
    elif program == "python" and rest[0].startswith("tools/"):
        assert (ROOT / rest[0]).is_file(), rest[0]
        check_ours(rest[0][len("tools/") : -len(".py")].replace("_", "-"), rest[1:])
    elif program == "python":
        assert rest[0].endswith("/runtime.py"), rest
        parse_by_file("convnext_dense/export/runtime.py", "load_exported", rest[1:])
    elif program == "tools/dist_train.sh":
        assert rest[1].isdigit(), rest
        check_ours("train", [rest[0], *rest[2:]])
    elif program == "tools/slurm_train.sh":
        check_ours("train", rest[2:])
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= set(targets), rest
    elif program == "pip":
        check_requirements(rest)
    elif program == "docker":
        assert rest[0] in ("build", "run"), rest
        if rest[0] == "run":  # the image begins with our command
            check(rest[rest.index("convnext-dense") :])
    else:
        assert program in OTHERS, program


def check_ours(name, words):
    assert name in {*COMMANDS, "write-docs"}, name
    parser = parser_of(module_of(name), partial(Parser, prog=name))
    for action in parser._actions:
        if action.option_strings and action.choices:
            action.choices = [*action.choices, "NAME"]  # stands for one of them
    args = parser.parse_args(words)
    if name in CONFIG_ARGUMENTS and (config := getattr(args, "config", None)):
        check_config(config, name)
    if name == "zoo" and args.command != "list":
        for entry in [*getattr(args, "names", []), *filter(None, [getattr(args, "name", None)])]:
            assert is_placeholder(entry) or find_entry(entry)
    if getattr(args, "backbone", None):
        parse_backbone(args.backbone)
    for word in words:
        if word.startswith("zoo:") and not is_placeholder(word):
            find_entry(word.removeprefix("zoo:"))
        if folder := re.match(r"work_dirs/([^/]+)/", word):
            check_config(folder[1], name)


def check_config(config, command):
    """A config has to be one of those that are shipped, unless it stands for the reader's."""
    may_be_whole = command in ("infer", "serve") and (config.startswith(("exported/", "zoo:")))
    if not may_be_whole and not is_placeholder(config):
        find_config(config)


def parse_by_file(path, doer, words):
    """Read arguments by the ``main`` of a file, of which a function that does something is replaced."""

    class IsReadError(Exception):
        pass

    def stop(*_, **__):
        raise IsReadError

    main_of_file = runpy.run_path(str(ROOT / path))["main"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(main_of_file.__globals__, doer, stop)
        patch.setattr(sys, "argv", [path, *words])
        try:
            main_of_file()
        except IsReadError:
            return
        except SystemExit as end:
            raise AssertionError(f"{path}: {words}") from end
    raise AssertionError(f"{path} did nothing")


def check_requirements(words):
    """``pip install`` names extras that there are."""
    assert words[0] == "install", words
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for extras in re.findall(r"\[([\w,-]+)\]", " ".join(words)):
        assert set(extras.split(",")) <= set(setup["options.extras_require"]), extras
