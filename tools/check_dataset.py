"""Check the data that a config reads; see convnext_dense/cli/check_dataset.py."""

from convnext_dense.cli.check_dataset import main
from convnext_dense.cli.command_line import run_command

if __name__ == "__main__":
    run_command(main)
