"""The blocks of code in README.md and docs/, and the commands in them as lists of words."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELLS = ("sh", "bash", "shell", "console")
# What begins a command; blocks without a language may show files and outputs, but not these.
_PROGRAM = r"(?:convnext-dense|python|pip|make|docker|tools/\S+\.sh|curl|git)"
PROGRAMS = re.compile(rf"^(?:[A-Z_]+=\S+ )*(?:\$ )?{_PROGRAM} ", re.MULTILINE)
_FENCE = re.compile(r"(?:<!-- not run: ([^\n]+) -->\n)?^( *)```(\w*)\n(.*?)^\2```$", re.DOTALL | re.MULTILINE)
_MARK = re.compile(r"<!-- not run: .*-->")
_PLACEHOLDER = re.compile(r"\.\.\.|[A-Z][A-Z0-9_.]*")
_NUMBERS = {"N": "1", "H": "32", "W": "32", "S": "0.2", "B": "1"}


class Block(NamedTuple):
    """A fenced block; ``reason`` is that of ``<!-- not run: REASON -->`` above it, or None."""

    page: str
    number: int
    language: str
    text: str
    reason: str | None

    @property
    def name(self):
        return f"{self.page}:{self.number}"

    @property
    def commands(self):
        return list(commands_of(self.text))


def blocks_of(text, page):
    """The blocks of a page, numbered from 1 among those that are shell or Python."""
    number = 0
    for reason, _, language, content in _FENCE.findall(text):
        number += language in (*SHELLS, "python")
        yield Block(page, number, language, content, reason or None)


def all_blocks(*languages):
    """All blocks of some languages; those without one have the language ''."""
    return [block for page in PAGES for block in blocks_of(page.read_text(), page.name) if block.language in languages]


def marks_without_a_block(text):
    """How many marks are not directly above a fence."""
    return len(_MARK.findall(text)) - sum(bool(reason) for reason, *_ in _FENCE.findall(text))


def commands_of(text):
    """Yield the commands of a block as lists of words, without comments, variables, and what the shell does itself."""
    for line in _whole_lines(text):
        for variant in _variants(line.removeprefix("$ ")):
            words = []
            for word in [*shlex.split(variant, comments=True), "&&"]:
                if word in ("&&", "||", ";", "|"):
                    if words:
                        yield words
                    words = []
                elif words or not re.fullmatch(r"\w+=\S*", word):
                    words.append(word)


def inline_commands():
    """Commands of ours between single backticks in the text of pages, with arguments: page and words."""
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for code in re.findall(r"`((?:convnext-dense|python tools/|python -m |pip install )[^`]*)`", text):
            for words in commands_of(" ".join(code.split())):
                if len(words) > 2 and "COMMAND" not in words[1]:
                    yield page.name, words


def commands_in_helps():
    """The commands that help texts on the page of commands give as examples: words."""
    for block in all_blocks("text"):
        for line in block.text.splitlines():
            found = re.match(r"(?!usage:)(?:[^:]*: +)?((?:python tools/|convnext-dense )\S.*?)\.?$", line)
            if found:
                yield from commands_of(found[1])


def _whole_lines(text):
    """Lines, joined where they go on after a backslash or inside quotes."""
    begun = ""
    for line in text.replace("\\\n", " ").splitlines():
        begun = f"{begun}\n{line}" if begun else line
        try:
            shlex.split(begun, comments=True)
        except ValueError:
            continue
        yield begun
        begun = ""
    assert not begun, begun


def _variants(line):
    """A line without what it is redirected to, and without its optional parts, ``[--data DIR]``, and one with them."""
    optional = re.compile(r"\[(-[^\]]*)\]")
    line = line.split(" > ")[0]
    yield optional.sub("", line)
    if optional.search(line):
        yield optional.sub(r"\1", line)


def is_placeholder(word):
    """Whether a word stands for something of the reader's: DIR, CONFIG, OUT.safetensors, WORK_DIR/CONFIG.py, ..."""
    return any(_PLACEHOLDER.fullmatch(part.removesuffix(".py")) for part in re.split(r"[/:]", word))


def with_numbers(words):
    """Words with numbers in place of N, H and W; an ellipsis, which repeats the word before, is left out."""
    return [_NUMBERS.get(word, word) for word in words if word != "..."]
