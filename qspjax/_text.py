"""Results as text: tables with aligned columns."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

_NUMERIC = "+-.?0123456789"


def aligned(rows: Sequence[Sequence[str]], *, most: int = 60) -> str:
    """Return rows of cells as lines, with columns of numbers aligned right and columns of words aligned left.

    Args:
        rows: The cells, those of the header first; all rows have the same number.
        most: Maximum number of rows shown; a last line says how many more there are.

    Example:
        >>> print(aligned([["", "value", "unit"], ["CL", "3", "L/h"], ["V", "30", "L"]]))
            value  unit
        CL      3  L/h
        V      30  L
    """
    head, *body = rows
    shown = body[:most]
    columns = list(zip(head, *shown, strict=True))
    sides = ["<", *(">" if all(cell and cell[0] in _NUMERIC for cell in column[1:]) else "<" for column in columns[1:])]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in (head, *shown)
    ]
    return "\n".join([*lines, f"... and {len(body) - most} more"] if len(body) > most else lines)


def number(value: Any) -> str:
    """Return a number with four digits, `-` for one that is not defined."""
    value = float(value)
    return "-" if math.isnan(value) else f"{value:.4g}"


def by_output(names: Iterable[str], **columns: Any) -> str:
    """Return a table with one row per input and output, from arrays of shape (inputs, outputs)."""
    outputs = next(iter(columns.values())).shape[1]
    rows = [["input", *(["output"] if outputs > 1 else []), *columns]]
    for i, name in enumerate(names):
        for k in range(outputs):
            output = [str(k)] if outputs > 1 else []
            rows.append([name, *output, *(number(column[i, k]) for column in columns.values())])
    return aligned(rows)
