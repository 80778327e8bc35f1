"""Evaluate a checkpoint; see convnext_dense/cli/test.py."""

from convnext_dense.cli.command_line import run_command
from convnext_dense.cli.test import main

if __name__ == "__main__":
    run_command(main)
