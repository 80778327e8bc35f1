"""Train a model; see convnext_dense/cli/train.py."""

from convnext_dense.cli.main import run

if __name__ == "__main__":
    run("train")
