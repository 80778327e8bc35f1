"""Serve a model over HTTP; see convnext_dense/cli/serve.py."""

from convnext_dense.cli.main import run

if __name__ == "__main__":
    run("serve")
