"""Write the generated data of the demos; see convnext_dense/cli/make_shapes.py."""

from convnext_dense.cli.command_line import run_command
from convnext_dense.cli.make_shapes import main

if __name__ == "__main__":
    run_command(main)
