"""Update the computed tables in docs/, docs/roadmap.png and docs/bad_inputs.md.

python tools/write_docs.py
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(args: argparse.Namespace) -> None:
    """Write the documents and print their paths."""
    from convnext_dense.description.documents import write_documents

    for path in write_documents(Path(__file__).parents[2]):
        print(path)
