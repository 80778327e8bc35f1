"""Convert a checkpoint to another layout, or probe one; see convnext_dense/cli/convert_checkpoint.py."""

from convnext_dense.cli.command_line import run_command
from convnext_dense.cli.convert_checkpoint import main

if __name__ == "__main__":
    run_command(main)
