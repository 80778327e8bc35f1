"""Writes the computed parts of the documentation: tables between their markers, and the picture of the road."""

import json
from pathlib import Path

from convnext_dense.description.picture import draw_roadmap
from convnext_dense.description.tables import TABLES, build_table, roadmap_gmacs

# Document -> the tables that it holds, each between `<!-- table NAME -->` and `<!-- end of table NAME -->`.
DOCUMENTS = {"docs/roadmap.md": ("roadmap",), "docs/tables.md": tuple(name for name in TABLES if name != "roadmap")}


def write_documents(root: Path) -> list[Path]:
    """Writes all of them.

    Args:
        root: The repository.

    Returns:
        The files that were written.
    """
    facts = json.loads((root / "tests/data/published.json").read_text(encoding="utf-8"))["roadmap"]
    picture = root / "docs/roadmap.png"
    draw_roadmap(facts, roadmap_gmacs(), picture)
    for document, names in DOCUMENTS.items():
        text = (root / document).read_text(encoding="utf-8")
        for name in names:
            text = replace_table(text, name, build_table(name, root))
        (root / document).write_text(text, encoding="utf-8")
    return [picture, *(root / document for document in DOCUMENTS)]


def replace_table(text: str, name: str, table: str) -> str:
    """Puts a table between its markers in a document.

    Raises:
        ValueError: The document lacks the markers.
    """
    start, end = f"<!-- table {name} -->", f"<!-- end of table {name} -->"
    before, found, rest = text.partition(start)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"The document has no '{start}' followed by '{end}'.")
    return f"{before}{start}\n\n{table}\n\n{end}{after}"
