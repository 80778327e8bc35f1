"""Write a model that runs without PyTorch; see convnext_dense/cli/export.py."""

from convnext_dense.cli.command_line import run_command
from convnext_dense.cli.export import main

if __name__ == "__main__":
    run_command(main)
