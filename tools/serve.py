"""Serve a model over HTTP; see convnext_dense/cli/serve.py."""

from convnext_dense.cli.command_line import run_command
from convnext_dense.cli.serve import main

if __name__ == "__main__":
    run_command(main)
