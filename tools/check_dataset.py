"""Check the data that a config reads; see convnext_dense/cli/check_dataset.py."""

from convnext_dense.cli.main import run

if __name__ == "__main__":
    run("check-dataset")
