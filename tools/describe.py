"""Describe the cost of a config's model and its training; see convnext_dense/cli/describe.py."""

from convnext_dense.cli.main import run

if __name__ == "__main__":
    run("describe")
