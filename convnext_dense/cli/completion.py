"""Print what makes a shell complete commands and their options.

bash:  convnext-dense completion bash > DIR/convnext-dense
zsh:   convnext-dense completion zsh > DIR/_convnext-dense

DIR is ~/.local/share/bash-completion/completions, or for zsh one of $fpath.
"""

import argparse
from functools import partial

from convnext_dense.cli.command_line import parser_of
from convnext_dense.errors import UserError

SHELLS = ("bash", "zsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``run``."""
    parser.add_argument("shell", choices=SHELLS)


def run(args: argparse.Namespace) -> None:
    """Print the script.

    Raises:
        UserError: shtab is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise UserError("Completion needs shtab: pip install 'convnext-dense[completion]'.") from error
    print(shtab.complete(whole_parser()[0], shell=args.shell))


def whole_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return one parser of all commands, and that of each command."""
    from convnext_dense.cli.main import COMMANDS, module_of

    parser = argparse.ArgumentParser(prog="convnext-dense")
    commands = parser.add_subparsers()
    parsers = {
        name: parser_of(module_of(name), partial(commands.add_parser, name, help=text))
        for name, text in COMMANDS.items()
    }
    return parser, parsers
