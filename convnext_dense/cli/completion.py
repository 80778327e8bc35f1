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
    parser, parsers = whole_parser()
    for one in parsers.values() if args.shell == "zsh" else ():
        for action in one._actions:
            if action.nargs != 0 and not action.choices and action.type is None:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    # In bash, what this does not complete is a file.
    print(
        shtab.complete(parser, shell=args.shell).replace(
            "complete -o bashdefault", "complete -o bashdefault -o default"
        )
    )


def whole_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return one parser of all commands, and that of each command."""
    from convnext_dense.cli.main import COMMANDS, OTHER_NAMES, module_of

    parser = argparse.ArgumentParser(prog="convnext-dense")
    commands = parser.add_subparsers()
    parsers = {}
    for name, text in COMMANDS.items():
        aliases = [short for short, full in OTHER_NAMES.items() if full == name]
        parsers[name] = parser_of(module_of(name), partial(commands.add_parser, name, help=text, aliases=aliases))
    return parser, parsers
