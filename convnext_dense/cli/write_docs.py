"""Update the computed tables in docs/, docs/roadmap.png, docs/bad_inputs.md and docs/commands.md.

python tools/write_docs.py
"""

import argparse
import os
from pathlib import Path
from unittest import mock

COMMANDS_PAGE = "docs/commands.md"
WIDTH = 80  # columns of a block that does not scroll sideways on the site


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(args: argparse.Namespace) -> None:
    """Write the documents and print their paths."""
    from convnext_dense.description.documents import write_documents

    root = Path(__file__).parents[2]
    for path in write_documents(root):
        print(path)
    (root / COMMANDS_PAGE).write_text(commands_page(), encoding="utf-8")
    print(root / COMMANDS_PAGE)


def commands_page() -> str:
    """Return what the commands' own help says, as Markdown."""
    from convnext_dense.cli.completion import whole_parser
    from convnext_dense.cli.main import COMMANDS

    _, parsers = whole_parser()
    parts = ["# Commands", "What `convnext-dense COMMAND --help` prints. `tools/COMMAND.py` takes the same arguments."]
    with mock.patch.dict(os.environ, COLUMNS=str(WIDTH + 2)):
        for name, text in COMMANDS.items():
            parts.append(f"## {name}\n\n{text[0].upper()}{text[1:]}.\n\n```text\n{parsers[name].format_help()}```")
    return "\n\n".join(parts) + "\n"
