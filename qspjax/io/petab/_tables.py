"""The files of a PEtab problem: a YAML file that names tables, and the tables, read as text."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qspjax._expression import PETAB, Expression, parse, symbol
from qspjax._extras import require
from qspjax.io._issues import FileIssues, Issue

LARGEST = 512 * 2**20
"""The most bytes of a file."""


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


class Problems:
    """What is wrong with the files of a problem, collected."""

    def __init__(self) -> None:
        self.found: list[Issue] = []

    def add(self, row: Row, column: str, message: str) -> None:
        """Note what is wrong with a cell."""
        self.found.append(Issue(row.file, (), message, line=row.line, column=column))

    def of_file(self, file: str, message: str) -> None:
        """Note what is wrong with a file."""
        self.found.append(Issue(file, (), message))

    def stop(self) -> None:
        """Refuse the files if anything is wrong with them."""
        if self.found:
            raise FileIssues(self.found)

    def number(self, row: Row, column: str, otherwise: float = math.nan) -> float:
        """Return a cell as a number; `otherwise` if it is empty."""
        text = row.get(column)
        if not text:
            return otherwise
        try:
            return float(text)
        except ValueError:
            self.add(row, column, f"must be a number, but is {text}.")
            return otherwise

    def formula(self, row: Row, column: str, text: str | None = None) -> float | Expression:
        """Return a cell (or a part of it) as a number or an expression."""
        text = row.get(column) if text is None else text
        try:
            return float(text)
        except ValueError:
            pass
        try:
            return parse(text, PETAB)
        except ValueError as error:
            self.add(row, column, f"must be a formula, but: {error}")
            return symbol("nothing")

    def formulas(self, row: Row, column: str) -> list[float | Expression]:
        """Return the formulas in a cell, which semicolons separate."""
        text = row.get(column)
        return [self.formula(row, column, part.strip()) for part in text.split(";")] if text else []


def read_yaml(path: Path) -> dict[str, Any]:
    """Return what a YAML file says; only plain data, nothing is executed."""
    yaml = require("yaml", extra="petab")
    try:
        content = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = None if mark is None else mark.line + 1
        raise FileIssues(
            [Issue(path.name, (), f"must be YAML, but {getattr(error, 'problem', error)}.", line=line)]
        ) from None
    if not isinstance(content, dict):
        raise FileIssues([Issue(path.name, (), "must name the files of a PEtab problem, but does not.")])
    return content


def read_tables(folder: Path, names: Sequence[str], needed: Sequence[str], problems: Problems) -> list[Row]:
    """Return the rows of tables below each other; a table without a column that is needed is noted."""
    rows: list[Row] = []
    for name in names:
        found = list(_rows(folder / name))
        header, body = found[0] if found else (0, []), found[1:]
        columns = [cell.strip() for cell in header[1]]
        for column in needed:
            if column not in columns:
                problems.of_file(
                    Path(name).name, f"must have a column {column}, but has {', '.join(columns) or 'none'}."
                )
        for line, cells in body:
            if len(cells) > len(columns) and any(cell.strip() for cell in cells[len(columns) :]):
                problems.of_file(
                    Path(name).name, f"must have {len(columns)} cells in line {line}, but has {len(cells)}."
                )
            values = {column: _plain(cell) for column, cell in zip(columns, cells, strict=False)}
            if any(values.values()):
                rows.append(Row(Path(name).name, line, values))
    return rows


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    import csv

    lines = _text(path).splitlines()
    for number, cells in enumerate(csv.reader(lines, delimiter="\t"), start=1):
        if cells:
            yield number, cells


def _plain(cell: str) -> str:
    text = cell.strip()
    return "" if text.lower() in ("nan", "na", "n/a", "null", "none") else text


def _text(path: Path) -> str:
    if not path.is_file():
        raise FileIssues([Issue(path.name, (), f"must be there, but {path} is no file.")])
    if path.stat().st_size > LARGEST:
        raise FileIssues([Issue(path.name, (), f"must have at most {LARGEST} bytes, but has {path.stat().st_size}.")])
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise FileIssues([Issue(path.name, (), "must be text in UTF-8, but is not.")]) from None


def listed(value: Any) -> list[str]:
    """Return one name, several, or none as a list."""
    return [] if value is None else [str(one) for one in value] if isinstance(value, list) else [str(value)]
