"""README and docs: links lead somewhere, blocks fit, and pages have what there is, such as every option and format."""

import configparser
import re
from pathlib import Path

import pytest
import yaml
from doc_blocks import all_blocks
from mmengine.config import Config

from convnext_dense.cli.completion import whole_parser
from convnext_dense.cli.main import COMMANDS
from convnext_dense.data.formats import FORMAT_NAMES

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
FORMATS = ROOT / "tests/fixtures/formats"  # written by the tools themselves


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


@pytest.mark.parametrize("language", ["sh", "bash", "python", "text", ""])
def test_blocks_do_not_scroll_sideways(language):
    """80 columns fit into a page of the site at 1280 pixels."""
    for block in all_blocks(language):
        if block.page != "README.md":
            assert max(map(len, block.text.splitlines())) <= 80, block


def test_every_extra_is_on_the_page_of_the_installation():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    rows = re.findall(r"^\| (.*?) \|", (ROOT / "docs/install.md").read_text(), re.MULTILINE)
    named = set(re.findall(r"`([\w-]+)`", " ".join(rows)))
    assert set(setup["options.extras_require"]) - named == {"docs", "peers", "test", "dev", "benchmark-yolo"}


def test_formats_are_laid_out_as_the_tools_write_them():
    text = (ROOT / "docs/formats.md").read_text()
    assert sorted(re.findall(r"^### .*: `(.*)`$", text, re.MULTILINE)) == FORMAT_NAMES
    lines = "".join(block.text for block in all_blocks("") if block.page == "formats.md").splitlines()
    assert len(lines) >= len(FORMAT_NAMES)
    folders = [folder for folder in FORMATS.iterdir() if folder.is_dir()]
    for line in lines:
        paths = [re.sub(r"\.(jpg|png)$", ".*", path) for path in re.findall(r"DIR/(\S+)", line)]
        patterns = [path.replace("train/CITY/", "train/**/").replace("CLASS", "train/*") for path in paths]
        assert any(all(any(folder.glob(one)) for one in patterns) for folder in folders), line


def test_every_class_and_key_of_a_config_is_on_its_page():
    text = (ROOT / "docs/config.md").read_text()
    modules = (path.read_text() for path in (ROOT / "convnext_dense").rglob("*.py"))
    registered = {name for code in modules for name in re.findall(r"register_module\(\)\nclass (\w+)", code)}
    assert len(registered) > 30
    assert registered <= set(re.findall(r"(?:\.|`)(\w+)(?:`|\n|$)", text))
    keys = {key for path in (ROOT / "configs/finetune").glob("*.py") for key in Config.fromfile(path).finetune}
    assert "steps" in keys
    assert keys <= set(re.findall(r"`(\w+)`", text))


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130
