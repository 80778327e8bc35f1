"""Write what a trained model gets right and wrong; see convnext_dense/cli/report.py."""

from convnext_dense.cli.command_line import run_command
from convnext_dense.cli.report import main

if __name__ == "__main__":
    run_command(main)
