"""Measure where the time of a training and a test goes; see convnext_dense/cli/benchmark.py."""

from convnext_dense.cli.main import run

if __name__ == "__main__":
    run("benchmark")
