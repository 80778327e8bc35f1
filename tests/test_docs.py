"""README and docs: links lead somewhere, every page is in the site, and every option is on the page of commands."""

import re
from pathlib import Path

import pytest
import yaml

from convnext_dense.cli.completion import whole_parser
from convnext_dense.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_lead_to_files(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    for target in targets:
        assert "://" in target or (page.parent / target).exists(), target


def test_every_page_is_in_the_site():
    nav = (ROOT / "mkdocs.yml").read_text().split("nav:")[1]
    named = re.findall(r"([\w]+\.md)", nav)
    assert sorted(named) == [page.name for page in PAGES]
    assert yaml.safe_load((ROOT / "mkdocs.yml").read_text())["strict"]


def test_every_option_is_on_the_page_of_commands():
    """If this fails, run python tools/write_docs.py."""
    sections = dict(section.split("\n", 1) for section in (ROOT / "docs/commands.md").read_text().split("\n## ")[1:])
    assert list(sections) == list(COMMANDS)
    _, parsers = whole_parser()
    for name, section in sections.items():
        for action in parsers[name]._actions:
            for option in action.option_strings:
                if action.help != "==SUPPRESS==":
                    assert option in section, (name, option)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130
