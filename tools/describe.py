"""Describe the cost of a config's model and its training; see convnext_dense/cli/describe.py."""

from convnext_dense.cli.command_line import run_command
from convnext_dense.cli.describe import main

if __name__ == "__main__":
    run_command(main)
