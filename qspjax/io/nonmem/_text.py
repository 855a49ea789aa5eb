"""The text of a table: its lines as named columns of text, without the records that are to be ignored."""

import csv
import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from qspjax._checks import refuse
from qspjax.io._content import content_of, text_of
from qspjax.io._issues import IssueCollector
from qspjax.io.nonmem._conditions import Condition, find, read_conditions
from qspjax.io.nonmem._issues import listed
from qspjax.io.nonmem._types import Flags, Integers

MOST_BYTES = 256 * 2**20
"""The maximum number of bytes of a file."""

DATES = ("DATE", "DAT1", "DAT2", "DAT3")
DOSING = ("AMT", "RATE", "II", "ADDL", "SS", "TINF")
RESERVED = ("ID", "TIME", *DATES, "DV", "MDV", "EVID", "CMT", *DOSING, "DVID", "CENS", "LIMIT")
"""Names with a meaning of their own; every other column is a covariate."""

_SYNONYMS = {"DUR": "TINF"}
_DROPPED = ("DROP", "SKIP")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eEdD][+-]?\d+)?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Text:
    """A table as text.

    Attributes:
        columns: By name, the text of each record, without surrounding blanks.
        line: The line of each record, from 1.
        header: The line with the names, None if the caller gave them.
    """

    columns: dict[str, list[str]]
    line: Integers
    header: int | None


def number(text: str) -> float | None:
    """Return a number in the notation of Fortran and most programs, None if it is not one or not finite."""
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text.replace("d", "e").replace("D", "e"))
    return value if np.isfinite(value) else None


def reserved(name: str) -> str:
    """Return a reserved name in upper case, any other name as it is."""
    upper = name.upper()
    upper = _SYNONYMS.get(upper, upper)
    return upper if upper in RESERVED else name


def read_text(
    path: Path,
    issues: IssueCollector,
    *,
    columns: Sequence[str] | None,
    rename: Mapping[str, str],
    ignore: str | Sequence[str],
    accept: str | Sequence[str],
) -> Text:
    """Read the columns of a file; the arguments are those of `read_nonmem`."""
    mark, dropping = read_conditions("ignore", ignore)
    _, accepting = read_conditions("accept", accept, marks=False)
    if dropping and accepting:
        refuse("accept", "be left out where `ignore` has conditions, as in NONMEM", "given")
    content = text_of(content_of(path, issues.source, MOST_BYTES), issues.source)
    numbered = [(i, line) for i, line in enumerate(content.split("\n"), start=1) if line.strip()]
    if not numbered:
        issues.stop("must have a line of names and records, but is empty.")
    header, records = _split_header(numbered, mark or "#", has_names=columns is not None)
    separator = _separator((header or records[0])[1]) if header or records else ","
    if columns is not None:
        names, dropped = _input_names(columns)
    else:
        names, dropped = (_fields(header[1], separator, header[0], issues) or []) if header else [], set()
    line_of_names = header[0] if header and columns is None else None
    names = _renamed(names, rename, line_of_names, issues)
    _check_names(names, dropped, line_of_names, issues)
    rows, lines = [], []
    for line, text in records:
        fields = _fields(text, separator, line, issues)
        if fields is None:
            continue
        if len(fields) != len(names):
            issues.add(f"must have {len(names)} fields, one for each name, but has {len(fields)}.", line=line)
            continue
        rows.append(fields)
        lines.append(line)
    fields_of = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in names]
    named = dict(zip(names, fields_of, strict=True))
    keep = _selected(named, lines, dropping, accepting, issues)
    if not keep.any():
        issues.close()
        issues.stop("must have records, but has none" + (" that are not ignored." if records else "."))
    if not keep.all():
        named = {name: list(itertools.compress(column, keep)) for name, column in named.items()}
    text = {name: column for name, column in named.items() if name not in dropped}
    return Text(text, np.asarray(lines, dtype=int)[keep], line_of_names)


def _split_header(
    numbered: list[tuple[int, str]], mark: str, *, has_names: bool
) -> tuple[tuple[int, str] | None, list[tuple[int, str]]]:
    """Return the line of names and the lines of records.

    The names are on the first line that is not ignored. With a letter or "@" as the mark, they are ignored like
    comments: then they are on the first line with the letter, or the last one with any letter before the records. If
    the caller has given names (`has_names`), a first line without a number is the line that they replace.
    """
    if mark == "@":
        ignored = [re.match(r"\s*[A-Za-z@]", line) is not None for _, line in numbered]
        before = next((i for i, is_ignored in enumerate(ignored) if not is_ignored), len(numbered))
        header = numbered[before - 1] if before else None
    else:
        ignored = [line.startswith(mark) for _, line in numbered]
        header = numbered[0] if mark.isalpha() and ignored[0] else None
    records = [entry for entry, is_ignored in zip(numbered, ignored, strict=True) if not is_ignored]
    if header is None and records and not (has_names and _has_number(records[0][1])):
        header, records = records[0], records[1:]
    return header, records


def _has_number(line: str) -> bool:
    return any(number(field.strip(' "')) is not None for field in re.split(r"[,\s]+", line))


def _separator(line: str) -> str:
    return next((separator for separator in (",", "\t") if separator in line), " ")


def _fields(line: str, separator: str, number_of_line: int, issues: IssueCollector) -> list[str] | None:
    if separator == " ":
        return line.split()
    if '"' not in line:
        return [field.strip() for field in line.split(separator)]
    try:
        (fields,) = csv.reader([line], delimiter=separator, strict=True, skipinitialspace=True)
    except csv.Error:
        issues.add('must have quotes (") in pairs around whole fields, but does not.', line=number_of_line)
        return None
    return [field.strip() for field in fields]


def _input_names(columns: Sequence[str]) -> tuple[list[str], set[str]]:
    """Return the names of $INPUT and which of them are dropped; a dropped date still dates the times, as in NM-TRAN."""
    if isinstance(columns, str) or not all(isinstance(entry, str) for entry in columns):
        refuse("columns", "be a sequence of names", columns)
    names, dropped = [], set()
    for i, entry in enumerate(columns, start=1):
        parts = [part.strip() for part in entry.split("=")]
        named = [part for part in parts if part.upper() not in _DROPPED]
        name = next((part for part in named if reserved(part) in RESERVED), named[0] if named else f"DROP {i}")
        names.append(name)
        if len(named) < len(parts) and reserved(name) not in DATES:
            dropped.add(name)
    return names, dropped


def _renamed(names: Sequence[str], rename: Mapping[str, str], line: int | None, issues: IssueCollector) -> list[str]:
    renamed = list(names)
    for old, new in rename.items():
        column = find(old, names)
        if column is None:
            issues.add(f"must be a column, to be renamed, but is none of {listed(names)}.", line=line, column=old)
        else:
            renamed[list(names).index(column)] = new
    return [reserved(name) for name in renamed]


def _check_names(names: Sequence[str], dropped: set[str], line: int | None, issues: IssueCollector) -> None:
    for i, name in enumerate(names, start=1):
        if not name:
            issues.add(f"must have a name for each column, but column {i} has none.", line=line)
    for name, times in Counter(names).items():
        if times > 1 and name:
            issues.add(f"must occur once, but occurs {times} times.", line=line, column=name)
    present = [name for name in names if name not in dropped]
    if len(names) == 1 and ";" in names[0]:
        issues.stop(
            "must be separated by commas, tabs or blanks, but is by semicolons: save it with commas.", line=line
        )
    columns = listed(present)
    for name in ("ID", "TIME"):
        if name not in present:
            issues.add(f"must be a column, but is missing: there are {columns}.", line=line, column=name)
    if not {"DV", "AMT"} & set(present):
        issues.add(f"must be a column, unless AMT is, but is missing: there are {columns}.", line=line, column="DV")
    first, *others = [name for name in DATES if name in present] or [""]
    if others:
        issues.add(f"must be the only date, but there is also {listed(others)}.", line=line, column=first)
    issues.close()


def _selected(
    columns: dict[str, list[str]],
    lines: list[int],
    dropping: Sequence[Condition],
    accepting: Sequence[Condition],
    issues: IssueCollector,
) -> Flags:
    """Return the records that fulfil no condition to ignore, and one of those to accept if there are any."""
    keep = np.ones(len(lines), dtype=bool)
    if dropping:
        keep &= ~np.any(list(_fulfilled(columns, lines, dropping, issues)), axis=0)
    if accepting:
        keep &= np.any(list(_fulfilled(columns, lines, accepting, issues)), axis=0)
    return keep


def _fulfilled(
    columns: dict[str, list[str]], lines: list[int], conditions: Sequence[Condition], issues: IssueCollector
) -> Iterator[Flags]:
    for condition in conditions:
        name = find(reserved(condition.column), tuple(columns))
        if name is None:
            names = listed(list(columns))
            issues.stop(f"must be a column, for {condition.text}, but is none of {names}.", column=condition.column)
        verdicts = {field: condition.holds(field, number) for field in set(columns[name])}
        for field, line in zip(columns[name], lines, strict=True):
            if verdicts[field] is None:
                issues.add(f"must be a number, for {condition.text}, but is {field}.", line=line, column=name)
        yield np.array([bool(verdicts[field]) for field in columns[name]], dtype=bool)
