"""Says what a config's model costs and how it is trained: see convnext_dense/cli/describe.py."""

from convnext_dense.cli.command_line import run_command
from convnext_dense.cli.describe import main

if __name__ == "__main__":
    run_command(main)
