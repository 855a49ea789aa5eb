"""The text of a table: its lines as named columns of text, without the records that are to be ignored."""

import csv
import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from qspjax._checks import refuse
from qspjax.io.nonmem._conditions import Condition, find, read_conditions
from qspjax.io.nonmem._issues import Notes, listed

MOST_BYTES = 256 * 2**20
"""The largest file that is read."""

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
        columns: By name, the text of each record without blanks around it.
        line: The line of each record, from 1.
        header: The line with the names, None if they were given by the caller.
    """

    columns: dict[str, list[str]]
    line: np.ndarray
    header: int | None


def number(text: str) -> float | None:
    """Return a number as Fortran and most programs write it, None if it is none or not finite."""
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
    notes: Notes,
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
    numbered = [(i, line) for i, line in enumerate(_lines(path, notes), start=1) if line.strip()]
    if not numbered:
        notes.stop("must have a line of names and records, but is empty.")
    header, records = _parted(numbered, mark or "#", given=columns is not None)
    separator = _separator((header or records[0])[1]) if header or records else ","
    if columns is not None:
        names, dropped = _input_names(columns)
    else:
        names, dropped = (_fields(header[1], separator, header[0], notes) or []) if header else [], set()
    place = header[0] if header and columns is None else None
    names = _renamed(names, rename, place, notes)
    _check_names(names, dropped, place, notes)
    rows, lines = [], []
    for line, text in records:
        fields = _fields(text, separator, line, notes)
        if fields is None:
            continue
        if len(fields) != len(names):
            notes.add(f"must have {len(names)} fields, one for each name, but has {len(fields)}.", line=line)
            continue
        rows.append(fields)
        lines.append(line)
    found = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in names]
    named = dict(zip(names, found, strict=True))
    keep = _kept(named, lines, dropping, accepting, notes)
    if not keep.any():
        notes.close()
        notes.stop("must have records, but has none" + (" that are not ignored." if records else "."))
    if not keep.all():
        named = {name: [field for field, kept in zip(c, keep, strict=True) if kept] for name, c in named.items()}
    text = {name: column for name, column in named.items() if name not in dropped}
    return Text(text, np.asarray(lines, dtype=int)[keep], place)


def _lines(path: Path, notes: Notes) -> list[str]:
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            notes.stop(f"must have at most {MOST_BYTES} bytes, but has {size}.")
        content = path.read_bytes()
    except FileNotFoundError:
        notes.stop("must be a file, but does not exist.")
    except OSError as error:
        notes.stop(f"must be a file that can be read, but is not ({error.strerror}).")
    if b"\0" in content:
        notes.stop("must be text, but is binary.", line=content[: content.index(b"\0")].count(b"\n") + 1)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        notes.stop("must be text in UTF-8, but is not.", line=content[: error.start].count(b"\n") + 1)
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _parted(
    numbered: list[tuple[int, str]], mark: str, *, given: bool
) -> tuple[tuple[int, str] | None, list[tuple[int, str]]]:
    """Return the line of names and the lines of records.

    The names stand on the first line that is not ignored; with a letter or "@" as the mark it is ignored like the
    comments: then it is the first line with the letter, or the last one with any letter before the records. Where the
    names are `given`, a first line without a single number is taken as the line that they replace.
    """
    if mark == "@":
        ignored = [re.match(r"\s*[A-Za-z@]", line) is not None for _, line in numbered]
        before = next((i for i, is_ignored in enumerate(ignored) if not is_ignored), len(numbered))
        header = numbered[before - 1] if before else None
    else:
        ignored = [line.startswith(mark) for _, line in numbered]
        header = numbered[0] if mark.isalpha() and ignored[0] else None
    records = [entry for entry, is_ignored in zip(numbered, ignored, strict=True) if not is_ignored]
    if header is None and records and not (given and _has_number(records[0][1])):
        header, records = records[0], records[1:]
    return header, records


def _has_number(line: str) -> bool:
    return any(number(field.strip(' "')) is not None for field in re.split(r"[,\s]+", line))


def _separator(line: str) -> str:
    return next((separator for separator in (",", "\t") if separator in line), " ")


def _fields(line: str, separator: str, number_of_line: int, notes: Notes) -> list[str] | None:
    if separator == " ":
        return line.split()
    if '"' not in line:
        return [field.strip() for field in line.split(separator)]
    try:
        (fields,) = csv.reader([line], delimiter=separator, strict=True, skipinitialspace=True)
    except csv.Error:
        notes.add('must have quotes (") in pairs around whole fields, but has not.', line=number_of_line)
        return None
    return [field.strip() for field in fields]


def _input_names(columns: Sequence[str]) -> tuple[list[str], set[str]]:
    """Return the names of $INPUT and which of them are dropped; a dropped date still dates the times, as in NM-TRAN."""
    if isinstance(columns, str) or not all(isinstance(entry, str) for entry in columns):
        refuse("columns", "be a sequence of names", columns)
    names, dropped = [], set()
    for i, entry in enumerate(columns, start=1):
        parts = [part.strip() for part in entry.split("=")]
        kept = [part for part in parts if part.upper() not in _DROPPED]
        name = next((part for part in kept if reserved(part) in RESERVED), kept[0] if kept else f"DROP {i}")
        names.append(name)
        if len(kept) < len(parts) and reserved(name) not in DATES:
            dropped.add(name)
    return names, dropped


def _renamed(names: Sequence[str], rename: Mapping[str, str], line: int | None, notes: Notes) -> list[str]:
    renamed = list(names)
    for old, new in rename.items():
        found = find(old, names)
        if found is None:
            notes.add(f"must be a column, to be renamed, but is none of {listed(names)}.", line=line, column=old)
        else:
            renamed[list(names).index(found)] = new
    return [reserved(name) for name in renamed]


def _check_names(names: Sequence[str], dropped: set[str], line: int | None, notes: Notes) -> None:
    for i, name in enumerate(names, start=1):
        if not name:
            notes.add(f"must have a name for each column, but column {i} has none.", line=line)
    for name, times in Counter(names).items():
        if times > 1 and name:
            notes.add(f"must be there once, but is there {times} times.", line=line, column=name)
    kept = [name for name in names if name not in dropped]
    if len(names) == 1 and ";" in names[0]:
        notes.stop("must be separated by commas, tabs or blanks, but is by semicolons: save it with commas.", line=line)
    found = listed(kept)
    for name in ("ID", "TIME"):
        if name not in kept:
            notes.add(f"must be a column, but is missing: there are {found}.", line=line, column=name)
    if not {"DV", "AMT"} & set(kept):
        notes.add(f"must be a column, unless AMT is, but is missing: there are {found}.", line=line, column="DV")
    first, *others = [name for name in DATES if name in kept] or [""]
    if others:
        notes.add(f"must be the only date, but {listed(others)} is there, too.", line=line, column=first)
    notes.close()


def _kept(
    columns: dict[str, list[str]],
    lines: list[int],
    dropping: Sequence[Condition],
    accepting: Sequence[Condition],
    notes: Notes,
) -> np.ndarray:
    """Return which records stay: none of the conditions to ignore, one of those to accept if there are any."""
    keep = np.ones(len(lines), dtype=bool)
    if dropping:
        keep &= ~np.any(list(_fulfilled(columns, lines, dropping, notes)), axis=0)
    if accepting:
        keep &= np.any(list(_fulfilled(columns, lines, accepting, notes)), axis=0)
    return keep


def _fulfilled(
    columns: dict[str, list[str]], lines: list[int], conditions: Sequence[Condition], notes: Notes
) -> Iterator[np.ndarray]:
    for condition in conditions:
        name = find(reserved(condition.column), tuple(columns))
        if name is None:
            names = listed(list(columns))
            notes.stop(f"must be a column, for {condition.text}, but is none of {names}.", column=condition.column)
        verdicts = {field: condition.holds(field, number) for field in set(columns[name])}
        for field, line in zip(columns[name], lines, strict=True):
            if verdicts[field] is None:
                notes.add(f"must be a number, for {condition.text}, but is {field}.", line=line, column=name)
        yield np.array([bool(verdicts[field]) for field in columns[name]], dtype=bool)
