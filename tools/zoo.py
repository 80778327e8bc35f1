"""List, show, fetch and verify public weights; see convnext_dense/cli/zoo.py."""

from convnext_dense.cli.command_line import run_command
from convnext_dense.cli.zoo import main

if __name__ == "__main__":
    run_command(main)
