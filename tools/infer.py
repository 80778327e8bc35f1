"""Predict and draw the results; see convnext_dense/cli/infer.py."""

from convnext_dense.cli.main import run

if __name__ == "__main__":
    run("infer")
