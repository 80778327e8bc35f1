"""Markdown tables that are also readable as plain text."""

from collections.abc import Sequence


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with text aligned left and numbers aligned right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(_is_number(cell) for cell in column[1:]) for column in columns]
    marks = [("-" * (width - 1) + ":") if right else "-" * width for width, right in zip(widths, numeric, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    return "\n".join([line(header), line(marks), *map(line, rows)])


def format_difference(computed: float, published: float) -> str:
    """Return the difference of the computed from the published value, in per cent of the latter."""
    return f"{100 * (computed / published - 1):+.2f} %"


def _is_number(cell: str) -> bool:
    return cell in ("", "-") or cell[:1] in "+-0123456789"
