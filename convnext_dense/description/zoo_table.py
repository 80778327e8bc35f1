"""The table of public weights, for a terminal and for the documentation."""

from collections.abc import Iterable, Mapping

from convnext_dense.checkpoints import ZooEntry
from convnext_dense.description.markdown import format_table


def list_zoo(entries: Iterable[ZooEntry]) -> str:
    """Return a table of names, tasks, numbers and licences."""
    rows = [
        (
            entry.name,
            entry.task,
            describe_numbers(entry.published) or "-",
            describe_numbers(entry.measured or {}) or "not measured",
            f"{entry.licence}, gated" if entry.gated else entry.licence,
        )
        for entry in entries
    ]
    return format_table(("name", "task", "published", "measured here", "licence"), rows)


def describe_numbers(metrics: Mapping[str, float]) -> str:
    """Return metrics as text, such as ``box AP 46.2, mask AP 41.7``; nothing without a metric."""
    return ", ".join(f"{name} {value}" for name, value in metrics.items())
