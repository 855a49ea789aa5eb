"""Issues of records of a table, and values in its format."""

from collections.abc import Callable, Iterable

import numpy as np

from qspjax.io._issues import IssueCollector
from qspjax.io.nonmem._types import Flags, Integers


def add_where(
    issues: IssueCollector,
    wrong: Flags,
    lines: Integers,
    column: str,
    message: Callable[[int], str],
) -> None:
    """Add an issue for each record that is wrong; `message` takes the number of the record."""
    for record in np.flatnonzero(wrong).tolist():
        issues.add(message(record), line=int(lines[record]), column=column)


def listed(names: Iterable[object]) -> str:
    """Return a list of names for a message."""
    return ", ".join(map(str, names)) or "none"


def written(value: str | float) -> str:
    """Return a value in the format of a table: the shortest number with the same bits, `.` for a missing one."""
    if isinstance(value, str):
        return value
    value = float(value)
    if value != value:
        return "."
    is_integer = value.is_integer() and abs(value) < 1e16 and (value != 0 or str(value) == "0.0")
    return str(int(value)) if is_integer else repr(value)
