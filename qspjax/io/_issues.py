"""The mistakes of a file as a list of issues: each names the file, the position and what must be there."""

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from typing import NoReturn

Path = tuple[str, ...]
"""The keys from the top of a file to a value; an element of a list has its number from 1: `effects[2]`."""


@dataclasses.dataclass(frozen=True)
class Issue:
    """A mistake in a file, or a remark that leaves it usable.

    Attributes:
        file: Name of the file.
        path: The keys that lead to the value, empty where the file as a whole is wrong.
        message: What it must be and what it is: "must ..., but is ...".
        line: Number of the line from 1, if it is known.
        column: The name of the column, where the file is a table.
        element: The name of the element, if the file is in SBML: `reaction J1`.
        place: Number of the character in the line from 1, if it is known.
        warning: Whether the file can be used as it is.

    Example:
        >>> print(Issue("data.csv", (), "must be a number, but is BLQ.", line=3, column="DV"))
        data.csv:3: DV: must be a number, but is BLQ.
    """

    file: str
    path: Path
    message: str
    line: int | None = None
    column: str = ""
    element: str = ""
    place: int | None = None
    warning: bool = False

    @property
    def key(self) -> str:
        """The dotted name of the value, as TOML writes it."""
        return ".".join(map(_quoted, self.path))

    def __str__(self) -> str:
        table, key = ".".join(map(_quoted, self.path[:-1])), "".join(map(_quoted, self.path[-1:]))
        location = " ".join(
            part for part in (f"[{table}]" if table else "", key or self.column or self.element) if part
        )
        head = ":".join(str(part) for part in (self.file, self.line, self.place) if part is not None)
        return ": ".join(part for part in (head, location, self.message) if part)


class FileIssues(ValueError):
    """A file that cannot be used; `issues` lists all its mistakes, and the text has a line for each.

    The text omits repetitions of an issue of a column in many lines, and all issues after the first hundred.

    Example:
        >>> raise FileIssues([Issue("data.csv", (), "must be a number, but is BLQ.", line=3, column="DV")])
        Traceback (most recent call last):
        qspjax.io._issues.FileIssues: data.csv:3: DV: must be a number, but is BLQ.
    """

    def __init__(self, issues: Sequence[Issue]):
        """Collect the issues."""
        super().__init__("\n".join(_shortened(issues)))
        self.issues = tuple(issues)


class IssueCollector:
    """Collects the issues of a file as it is read, and warnings that leave it usable.

    Attributes:
        source: The name of the file.
        issues: The issues, in the order in which they were found.
        warnings: Remarks that leave the file usable.
        has_lines: Whether objects made from the file still know its lines, as those of a flattened model do not.

    Example:
        >>> issues = IssueCollector("data.csv")
        >>> issues.add("must be a number, but is BLQ.", line=3, column="DV")
        >>> issues.close()
        Traceback (most recent call last):
        qspjax.io._issues.FileIssues: data.csv:3: DV: must be a number, but is BLQ.
    """

    def __init__(self, source: str, *, most: int | None = None):
        """Start without issues; reading stops after `most`."""
        self.source, self.has_lines, self._most = source, True, most
        self.issues: list[Issue] = []
        self.warnings: list[Issue] = []

    def add(
        self, message: str, element: str = "", *, line: int | None = None, column: str = "", place: int | None = None
    ) -> None:
        """Add an issue."""
        self.issues.append(Issue(self.source, (), message, line or None, column, element, place or None))
        if self._most is not None and len(self.issues) >= self._most:
            self.close()

    def warn(self, message: str, element: str = "", *, line: int | None = None) -> None:
        """Add a warning, unless it is there already."""
        warning = Issue(self.source, (), message, line or None, element=element, warning=True)
        if (self._most is None or len(self.warnings) < self._most) and warning not in self.warnings:
            self.warnings.append(warning)

    def stop(
        self, message: str, element: str = "", *, line: int | None = None, column: str = "", place: int | None = None
    ) -> NoReturn:
        """Add an issue after which nothing else can be read, and raise all of them."""
        self.add(message, element, line=line, column=column, place=place)
        raise FileIssues(self.sorted())

    def sorted(self) -> list[Issue]:
        """Return the issues, each once, in the order of lines."""
        return sorted(dict.fromkeys(self.issues), key=lambda issue: (issue.line or 0, issue.place or 0))

    def close(self) -> None:
        """Raise the issues, if there are any."""
        if self.issues:
            raise FileIssues(self.sorted())


_MOST_SHOWN = 100
_MOST_OF_A_KIND = 3


def _shortened(issues: Sequence[Issue]) -> list[str]:
    shown, kinds = [], Counter((issue.file, issue.column, issue.message) for issue in issues)
    counts: Counter[tuple[str, str, str]] = Counter()
    for issue in issues:
        kind = (issue.file, issue.column, issue.message)
        counts[kind] += 1
        if not issue.column or counts[kind] <= _MOST_OF_A_KIND:
            more = kinds[kind] - _MOST_OF_A_KIND
            last = issue.column and counts[kind] == _MOST_OF_A_KIND and more > 0
            shown.append(f"{issue} (and in {more} more lines)" if last else str(issue))
    if len(shown) <= _MOST_SHOWN:
        return shown
    return [*shown[:_MOST_SHOWN], f"... and {len(shown) - _MOST_SHOWN} more issues"]


def _quoted(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+(\[\d+\])?", key) else f'"{key}"'
