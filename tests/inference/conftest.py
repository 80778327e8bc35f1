"""A detector and a segmenter with random weights, which find something in noise."""

import os

import pytest
from random_models import ANY_SCORE, DETECTOR, SEGMENTER, write_config, write_weights


@pytest.fixture(scope="session")
def detector(tmp_path_factory, pytestconfig):
    os.chdir(pytestconfig.rootpath)
    folder = tmp_path_factory.mktemp("detector")
    config = write_config(folder / "config.py", DETECTOR, f"model = dict({ANY_SCORE})")
    return config, write_weights(config, folder / "weights.pth", ("red", "blue"))


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory, pytestconfig):
    os.chdir(pytestconfig.rootpath)
    path = tmp_path_factory.mktemp("segmenter") / "weights.pth"
    return SEGMENTER, write_weights(SEGMENTER, path, ("sky", "sea"), reduce_zero_label=False)


@pytest.fixture
def infer(run_tool):
    """A function that runs tools/infer.py, and returns its exit code and its output."""

    def run(*arguments):
        code, out, err = run_tool("infer.py", *arguments, "--device", "cpu")
        return code, out + err

    return run
