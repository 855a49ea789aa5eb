"""What is wrong with a table, gathered as it is found: each issue has its line and column."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from qspjax.io._issues import FileIssues, Issue


class Notes:
    """The issues of one file; `found` has all of them, in the order in which they were found."""

    def __init__(self, source: str):
        """Start without issues; `source` is the name of the file."""
        self.source = source
        self.found: list[Issue] = []

    def add(self, message: str, *, line: int | None = None, column: str = "") -> None:
        """Note an issue."""
        self.found.append(Issue(self.source, (), message, line, column))

    def where(self, wrong: np.ndarray, lines: np.ndarray, column: str, message: Callable[[int], str]) -> None:
        """Note an issue for each record that is wrong; `message` takes the number of the record."""
        for record in np.flatnonzero(wrong):
            self.add(message(record), line=int(lines[record]), column=column)

    def stop(self, message: str, *, line: int | None = None, column: str = "") -> NoReturn:
        """Note an issue after which nothing else can be read, and raise all of them."""
        self.add(message, line=line, column=column)
        self.close()
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Raise the issues, if there are any, in the order of lines."""
        if self.found:
            raise FileIssues(sorted(self.found, key=lambda issue: issue.line or 0))


def listed(names: Sequence[Any]) -> str:
    """Return names in a row, for a message."""
    return ", ".join(map(str, names)) or "none"


def written(value: Any) -> str:
    """Return a value as a table has it: the shortest number that gives the same bits again, `.` for a missing one."""
    if isinstance(value, str):
        return value
    value = float(value)
    if value != value:
        return "."
    whole = value.is_integer() and abs(value) < 1e16 and (value != 0 or str(value) == "0.0")
    return str(int(value)) if whole else repr(value)
