"""Predict and draw the results; see convnext_dense/cli/infer.py."""

from convnext_dense.cli.command_line import run_command
from convnext_dense.cli.infer import main

if __name__ == "__main__":
    run_command(main)
