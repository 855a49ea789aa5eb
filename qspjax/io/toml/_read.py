"""A file in TOML, read with issues that name the line."""

import math
import re
import tomllib
from collections.abc import Callable
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TypeVar

from qspjax.io._content import content_of, text_of
from qspjax.io._issues import FileIssues, Issue
from qspjax.io.toml._table import Table, line_of, lines_of

T = TypeVar("T")

MOST_BYTES = 16 * 2**20
"""The maximum number of bytes of a file."""


def read_bytes(file: Path | Traversable, source: str) -> bytes:
    """Return the content of a file, or of one that comes with qspjax.

    Raises:
        FileIssues: If it cannot be read.
    """
    return content_of(file, source, MOST_BYTES) if isinstance(file, Path) else file.read_bytes()


def read_file(file: str | Path | Traversable, read: Callable[[Table, str, bytes, Path | None], T | None]) -> T:
    """Return what a function makes of the table of a file, its name, its bytes and its folder (None if it has none).

    Raises:
        FileIssues: If the file cannot be read, or the function found anything wrong; by lines.
    """
    file = Path(file) if isinstance(file, str) else file
    source = str(file) if isinstance(file, Path) else file.name
    text = read_bytes(file, source)
    values = parsed(text, source)
    messages: list[tuple[tuple[str, ...], str]] = []
    if isinstance(values.get("model"), str):
        values["model"] = {"name": values["model"]}
    found = read(Table(values, (), messages), source, text, file.resolve().parent if isinstance(file, Path) else None)
    if found is None or messages:
        lines = lines_of(text_of(text, source))
        issues = [Issue(source, path, message, line_of(path, lines)) for path, message in messages]
        raise FileIssues(sorted(issues, key=lambda issue: issue.line or 0))
    return found


def parsed(text: bytes, source: str) -> dict[str, object]:
    """Return the values of a file in TOML.

    Raises:
        FileIssues: If it is not TOML, with the line.
    """
    plain = text_of(text, source)
    try:
        return tomllib.loads(plain, parse_float=_finite)
    except OverflowError as error:
        line = plain.count("\n", 0, plain.find(str(error))) + 1
        raise FileIssues([Issue(source, (), f"must be a number of at most 1.8e308, but is {error}.", line)]) from None
    except tomllib.TOMLDecodeError as error:
        message, _, position = str(error).partition(" (at ")
        line = re.match(r"line (\d+)", position)
        last = plain.count("\n") + 1
        issue = Issue(source, (), f"must be TOML, but is not: {message}.", int(line[1]) if line else last)
        raise FileIssues([issue]) from None
    except (RecursionError, ValueError):
        message = "must be TOML, but has a number or a nesting too long to read."
        raise FileIssues([Issue(source, (), message)]) from None


def _finite(text: str) -> float:
    """Read a number, which must not become infinite because of its size."""
    value = float(text)
    if math.isinf(value) and "inf" not in text:
        raise OverflowError(text)
    return value
