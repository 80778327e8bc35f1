"""The papers' numbers, each with its source, as ``published.json`` holds them; and the sentences of bad inputs."""

import json
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent


def read_published() -> dict[str, Any]:
    """Return what ``published.json`` holds."""
    return json.loads((_FOLDER / "published.json").read_text(encoding="utf-8"))


def read_bad_inputs() -> dict[str, dict[str, str]]:
    """Return the rows of ``bad_inputs.json`` by the name of the input."""
    return json.loads((_FOLDER / "bad_inputs.json").read_text(encoding="utf-8"))
