"""List, show, fetch and verify public weights; see convnext_dense/cli/zoo.py."""

from convnext_dense.cli.main import run

if __name__ == "__main__":
    run("zoo")
