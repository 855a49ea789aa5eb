"""What is wrong with a file, as a list: every issue names the file, the place and what must be there."""

import dataclasses
import re
from collections.abc import Sequence

Path = tuple[str, ...]
"""The keys from the top of a file to a value; an element of a list has its number from 1: `effects[2]`."""


@dataclasses.dataclass(frozen=True)
class Issue:
    """One thing that is wrong with a file.

    Attributes:
        file: Name of the file.
        path: The keys that lead to the value, empty where the file as a whole is wrong.
        message: What it must be and what it is: "must ..., but is ...".
        line: Number of the line from 1, if it is known.
    """

    file: str
    path: Path
    message: str
    line: int | None = None

    @property
    def key(self) -> str:
        """The dotted name of the value, as TOML writes it."""
        return ".".join(map(_quoted, self.path))

    def __str__(self) -> str:
        table, key = ".".join(map(_quoted, self.path[:-1])), "".join(map(_quoted, self.path[-1:]))
        place = " ".join(part for part in (f"[{table}]" if table else "", key) if part)
        head = self.file if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(part for part in (head, place, self.message) if part)


class FileIssues(ValueError):
    """A file that cannot be used; `issues` lists what is wrong with it, and the text has a line for each."""

    def __init__(self, issues: Sequence[Issue]):
        """Collect the issues."""
        super().__init__("\n".join(map(str, issues)))
        self.issues = tuple(issues)


def _quoted(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+(\[\d+\])?", key) else f'"{key}"'
