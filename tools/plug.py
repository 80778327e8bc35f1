"""Write a config with ConvNeXt as its backbone; see convnext_dense/cli/plug.py."""

from convnext_dense.cli.command_line import run_command
from convnext_dense.cli.plug import main

if __name__ == "__main__":
    run_command(main)
