"""Evaluate a checkpoint; see convnext_dense/cli/test.py."""

from convnext_dense.cli.main import run

if __name__ == "__main__":
    run("test")
