"""Update the computed parts of docs/; see convnext_dense/cli/write_docs.py."""

from convnext_dense.cli.command_line import run_command
from convnext_dense.cli.write_docs import main

if __name__ == "__main__":
    run_command(main)
