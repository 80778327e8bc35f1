"""Write a model that runs without PyTorch; see convnext_dense/cli/export.py."""

from convnext_dense.cli.main import run

if __name__ == "__main__":
    run("export")
