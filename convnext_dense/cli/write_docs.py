"""Update the computed tables in docs/, docs/roadmap.png and docs/bad_inputs.md.

python tools/write_docs.py
"""

from pathlib import Path

from convnext_dense.description.documents import write_documents


def main() -> None:
    """Write the documents and print their paths."""
    for path in write_documents(Path(__file__).parents[2]):
        print(path)
