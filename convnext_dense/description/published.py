"""The papers' numbers with their sources, from ``published.json``, and the messages of ``bad_inputs.json``."""

import json
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent


def read_published() -> dict[str, Any]:
    """Return the content of ``published.json``."""
    return json.loads((_FOLDER / "published.json").read_text(encoding="utf-8"))


def read_bad_inputs() -> dict[str, dict[str, str]]:
    """Return the rows of ``bad_inputs.json`` by the name of the input."""
    return json.loads((_FOLDER / "bad_inputs.json").read_text(encoding="utf-8"))
