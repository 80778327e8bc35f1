"""Train a model; see convnext_dense/cli/train.py."""

import signal
import sys

if __name__ == "__main__":  # the imports below take seconds, in which signals can arrive too
    for number, code in ((signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)):
        signal.signal(number, lambda *_, code=code: sys.exit(code))

from convnext_dense.cli.command_line import run_command
from convnext_dense.cli.train import main

if __name__ == "__main__":
    run_command(main)
