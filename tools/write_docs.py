"""Update the computed parts of docs/; see convnext_dense/cli/write_docs.py."""

from convnext_dense.cli.main import run

if __name__ == "__main__":
    run("write-docs")
