"""Write what is computed for readers: tables between markers, the roadmap picture, bad inputs, the zoo, metafiles."""

from pathlib import Path

from convnext_dense.checkpoints import read_zoo
from convnext_dense.checkpoints.zoo import TASKS
from convnext_dense.description.markdown import format_table
from convnext_dense.description.metafiles import write_metafiles
from convnext_dense.description.picture import draw_roadmap
from convnext_dense.description.published import read_bad_inputs, read_published
from convnext_dense.description.tables import build_table, roadmap_gmacs
from convnext_dense.description.zoo_table import list_zoo
from convnext_dense.errors import UserError

# Document -> its tables, each between `<!-- table NAME -->` and `<!-- end of table NAME -->`.
DOCUMENTS = {
    "docs/roadmap.md": ("roadmap",),
    "docs/tables.md": ("archs", "classification", "detection", "segmentation"),
    "docs/models.md": ("models", "peers"),
}
BAD_INPUTS = "docs/bad_inputs.md"
ZOO = "docs/zoo.md"

_BAD_INPUTS_HEAD = """\
---
hide: [toc]
---

# Error messages

A wrong file, value or name ends a command with one sentence and a nonzero exit code. These are the inputs that are
tested, with their messages; three dots stand for a path, a number or the rest of the message. Type a few words of
yours to find it.

Every row is a test (`tests/test_bad_inputs.py`), which makes the input and runs the command. The table is written by
`python tools/write_docs.py` from `convnext_dense/description/bad_inputs.json`.
"""


def write_documents(root: Path) -> list[Path]:
    """Write the computed parts of all documents of a repository, and return the written files."""
    facts = read_published()["roadmap"]
    picture = root / "docs/roadmap.png"
    draw_roadmap(facts, roadmap_gmacs(), picture)
    for document, names in DOCUMENTS.items():
        text = (root / document).read_text(encoding="utf-8")
        for name in names:
            text = replace_table(text, name, build_table(name))
        (root / document).write_text(text, encoding="utf-8")
    bad_inputs = root / BAD_INPUTS
    bad_inputs.write_text(describe_bad_inputs(), encoding="utf-8")
    zoo = root / ZOO
    zoo.write_text(replace_table(zoo.read_text(encoding="utf-8"), "zoo", describe_zoo()), encoding="utf-8")
    return [picture, bad_inputs, zoo, *write_metafiles(root), *(root / document for document in DOCUMENTS)]


def describe_bad_inputs() -> str:
    """Return the page of bad inputs, from the table that the tests use."""
    rows = read_bad_inputs().values()
    header = ("input", "message", "met by")
    cells = [(row["input"], row["message"].replace("|", "\\|"), f"`{row['command']}`") for row in rows]
    return f"{_BAD_INPUTS_HEAD}\n{format_table(header, cells)}\n"


def describe_zoo() -> str:
    """Return the table of public weights, ordered by task."""
    return list_zoo(sorted(read_zoo().values(), key=lambda entry: TASKS.index(entry.task)))


def replace_table(text: str, name: str, table: str) -> str:
    """Replace the table between its markers in a document.

    Raises:
        UserError: The markers are missing in the document.
    """
    start, end = f"<!-- table {name} -->", f"<!-- end of table {name} -->"
    before, start_marker, rest = text.partition(start)
    _, end_marker, after = rest.partition(end)
    if not start_marker or not end_marker:
        raise UserError(f"The document has no '{start}' followed by '{end}'.")
    return f"{before}{start}\n\n{table}\n\n{end}{after}"
