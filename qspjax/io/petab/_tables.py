"""The files of a PEtab problem: a YAML file that names tables, and the tables, read as text."""

import csv
import dataclasses
import difflib
import functools
import math
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qspjax._expression import PETAB, Expression, parse, symbol
from qspjax._extras import require
from qspjax.io._content import content_of, text_of
from qspjax.io._issues import FileIssues, Issue

if TYPE_CHECKING:
    import yaml

RESERVED = frozenset(("time", "true", "false", "inf", "nan"))
"""Words that are no ids in the mathematics of PEtab."""

LARGEST = 512 * 2**20
"""The maximum number of bytes of a file."""

_NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|inf|infinity)", re.ASCII | re.IGNORECASE)
_MISSING = frozenset(("nan", "NaN", "-nan", "-NaN", "NA", "<NA>", "N/A", "n/a", "NULL", "null", "None"))
_MISSING = _MISSING | {"#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN"}
"""Cells that pandas reads as empty, and so most readers of PEtab."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        file: The name of the file.
        line: The number of the line, from 1.
        cells: The text of each column; missing values are empty.
    """

    file: str
    line: int
    cells: Mapping[str, str]

    def get(self, column: str) -> str:
        """Return the text of a cell, empty if it or its column is missing."""
        return self.cells.get(column, "")


class TableIssues:
    """Collects the issues of the files of a problem, and reads cells."""

    def __init__(self) -> None:
        self.issues: list[Issue] = []
        self.ids: frozenset[str] = frozenset()

    def declare(self, *ids: Iterable[str]) -> None:
        """Read names in formulas as ids from now on, even `pi`; not the words that PEtab reserves."""
        self.ids = self.ids.union(*ids) - RESERVED

    def add(self, row: Row, column: str, message: str) -> None:
        """Add an issue of a cell."""
        self.issues.append(Issue(row.file, (), message, line=row.line, column=column))

    def of_file(self, file: str, message: str) -> None:
        """Add an issue of a file."""
        self.issues.append(Issue(file, (), message))

    def close(self) -> None:
        """Raise the issues, if there are any."""
        if self.issues:
            raise FileIssues(self.issues)

    def number(self, row: Row, column: str, otherwise: float = math.nan) -> float:
        """Return a cell as a number; `otherwise` if it is empty."""
        text = row.get(column)
        if not text:
            return otherwise
        value = as_number(text)
        if value is None:
            self.add(row, column, f"must be a number, but is {text}.")
            return otherwise
        return value

    def formula(self, row: Row, column: str, text: str | None = None) -> float | Expression:
        """Return a cell (or a part of it) as a number or an expression."""
        text = row.get(column) if text is None else text
        value = as_number(text)
        if value is not None:
            return value
        try:
            return parse(text, PETAB, ids=self.ids)
        except ValueError as error:
            self.add(row, column, f"must be a formula, but: {error}")
            return symbol("nothing")

    def formulas(self, row: Row, column: str) -> list[float | Expression]:
        """Return the formulas in a cell, which semicolons separate."""
        text = row.get(column)
        return [self.formula(row, column, part.strip()) for part in text.split(";")] if text else []


def ids_in(rows: Iterable[Row], column: str) -> frozenset[str]:
    """Return the ids in a column of a table."""
    return frozenset(row.get(column) for row in rows)


def as_number(text: str) -> float | None:
    """Return the number that a text is in all programs, None if it is none or too large."""
    if _NUMBER.fullmatch(text) is None:
        return None
    value = float(text)
    return value if math.isfinite(value) or "inf" in text.lower() else None


def read_yaml(path: Path, must: str = "must name the files of a PEtab problem") -> dict[str, object]:
    """Return the content of a YAML file: plain data only, nothing is executed; `must` says what it must do."""
    yaml = require("yaml", extra="petab")
    text = _text(path)
    try:
        content = yaml.load(text, Loader=_loader())
    except RecursionError:
        raise FileIssues([Issue(path.name, (), "must be YAML, but is nested too deeply.")]) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = None if mark is None else mark.line + 1
        raise FileIssues(
            [Issue(path.name, (), f"must be YAML, but {getattr(error, 'problem', error)}.", line=line)]
        ) from None
    if not isinstance(content, dict):
        raise FileIssues([Issue(path.name, (), f"{must}, but does not.")])
    return content


@functools.cache
def _loader() -> "type[yaml.SafeLoader]":
    """Return the loader of plain data, which refuses repeated keys."""
    yaml = require("yaml", extra="petab")

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: "yaml.MappingNode", deep: bool = False) -> dict[Hashable, object]:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for key, (key_node, _) in zip(keys, node.value, strict=False):
                if keys.count(key) > 1:
                    raise yaml.constructor.ConstructorError(None, None, f"has the key {key} twice", key_node.start_mark)
            return yaml.SafeLoader.construct_mapping(self, node, deep)

    return Loader


def read_tables(
    folder: Path, names: Sequence[str], needed: Sequence[str], others: Sequence[str], issues: TableIssues
) -> list[Row]:
    """Return the rows of several tables, one after the other; a missing column is an issue.

    Args:
        folder: The folder of the tables.
        names: The names of the files.
        needed: Required columns.
        others: Optional columns.
        issues: Collects the issues.
    """
    rows: list[Row] = []
    for name in names:
        lines = list(_rows(folder / name))
        columns = [cell.strip() for cell in lines[0][1]] if lines else []
        for column in needed:
            if column not in columns:
                issues.of_file(Path(name).name, f"must have a column {column}, but has {', '.join(columns) or 'none'}.")
        check_columns(Path(name).name, columns, (*needed, *others), issues)
        for line, cells in lines[1:]:
            if len(cells) > len(columns) and any(cell.strip() for cell in cells[len(columns) :]):
                issues.of_file(Path(name).name, f"must have {len(columns)} cells in line {line}, but has {len(cells)}.")
            values = {column: _plain(cell) for column, cell in zip(columns, cells, strict=False)}
            if any(values.values()):
                rows.append(Row(Path(name).name, line, values))
    return rows


def check_columns(file: str, columns: Sequence[str], standard: Iterable[str], issues: TableIssues) -> None:
    """Add issues of columns without a name, with the same name, or with nearly a name of the standard."""
    standard = tuple(standard)
    for number, column in enumerate(columns, start=1):
        if not column:
            issues.of_file(file, f"must have a name for each column, but column {number} has none.")
        elif column in columns[: number - 1]:
            issues.of_file(file, f"must have columns with different names, but has {column} twice.")
        elif column not in standard:
            close = difflib.get_close_matches(column, [name for name in standard if name not in columns], 1, 0.88)
            if close:
                issues.of_file(file, f"must have columns of PEtab, but has {column}: did you mean {close[0]}?")


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each line that has any, with the number of the line in which it begins."""
    lines = _text(path).split("\n")
    reader, begins = csv.reader([f"{line}\n" for line in lines], delimiter="\t", strict=True), 1
    try:
        for cells in reader:
            if cells:
                yield begins, cells
            begins = reader.line_num + 1
    except csv.Error as error:
        message = f"must be a table whose cells are separated by tabs, but a cell is not one: {error}."
        raise FileIssues([Issue(path.name, (), message, begins)]) from None


def _plain(cell: str) -> str:
    text = cell.strip()
    return "" if text in _MISSING else text


def _text(path: Path) -> str:
    return text_of(content_of(path, path.name, LARGEST), path.name)


def listed(value: object) -> list[str]:
    """Return one name, several, or none as a list."""
    return [] if value is None else [str(name) for name in value] if isinstance(value, list) else [str(value)]
