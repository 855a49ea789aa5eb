"""Columns of text as columns of numbers: missing values, replaced values, categories, names of compartments."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from qspjax._checks import check_names, refuse
from qspjax.io.nonmem._clock import read_hours, read_times
from qspjax.io.nonmem._conditions import find
from qspjax.io.nonmem._issues import Notes, listed
from qspjax.io.nonmem._text import DATES, DOSING, RESERVED, Text, number, reserved

_MISSING = ("", ".")
_ABSENT = np.nan
_NAME = re.compile(r"[A-Za-z_][\w.\[\]]*", re.ASCII)
_NO_CATEGORIES = tuple(name for name in RESERVED if name not in ("ID", "DVID"))

Values = dict[str, np.ndarray]
"""The columns of a table, an entry a record: numbers, or compartments by number and name (`CMT`)."""


def replaced(text: Text, recode: Mapping[str, Mapping[Any, Any]], notes: Notes) -> Text:
    """Return the table with some values of columns replaced by others; None stands for a missing one."""
    columns = dict(text.columns)
    for given, pairs in recode.items():
        name = _found("recode", given, columns, text, notes)
        if name is None:
            continue
        if not isinstance(pairs, Mapping):
            refuse("recode", "give a mapping of values to values for each column", pairs)
        exact = {_plain(old): _plain(new) for old, new in pairs.items()}
        by_number = {number(old): new for old, new in exact.items() if number(old) is not None}
        fields = {field: exact.get(field, by_number.get(number(field), field)) for field in set(columns[name])}
        columns[name] = [fields[field] for field in columns[name]]
    return Text(columns, text.line, text.header)


def _plain(value: Any) -> str:
    return "." if value is None else str(value).strip()


def _found(argument: str, given: str, columns: Mapping[str, Any], text: Text, notes: Notes) -> str | None:
    name = find(reserved(given), tuple(columns))
    if name is None:
        names = listed(list(columns))
        notes.add(f"must be a column, for `{argument}`, but is none of {names}.", line=text.header, column=given)
    return name


def read_values(
    text: Text, notes: Notes, *, categories: Sequence[str], missing: Sequence[str] = ()
) -> tuple[Values, dict[str, tuple[str, ...]], np.ndarray]:
    """Read every column.

    Args:
        text: The table.
        notes: Where issues go.
        categories: Names of the columns of text, to be read as codes.
        missing: Text that stands for a missing value, besides "." and nothing.

    Returns:
        The values, the labels of the categories by column, and which records have a field that cannot be read.
    """
    gone = {*_MISSING, *missing}
    bad = np.zeros(text.line.shape, dtype=bool)
    values: Values = {}
    labels: dict[str, tuple[str, ...]] = {}
    declared = {_found("categories", name, text.columns, text, notes) for name in check_names("categories", categories)}
    for name in sorted(declared & set(_NO_CATEGORIES)):
        refuse("categories", "name covariates, ID or DVID", name)
    for name, fields in text.columns.items():
        if name in declared:
            labels[name] = tuple(sorted(set(fields) - gone))
            codes = dict.fromkeys(gone, _ABSENT) | {label: float(code) for code, label in enumerate(labels[name])}
            values[name] = np.array([codes[field] for field in fields], dtype=float)
        elif name == "CMT":
            values[name] = _compartments(fields, gone, text.line, bad, notes)
        elif name not in ("TIME", *DATES):
            absent = 0.0 if name in DOSING else _ABSENT
            read = read_hours if name == "II" else number
            values[name] = _numbers(name, fields, gone, absent, read, text.line, bad, notes)
    nameless = np.isnan(values["ID"]) & ~bad
    notes.where(nameless, text.line, "ID", lambda _: "must be given, but is missing.")
    bad |= nameless
    starts = starts_of(values["ID"])
    first = np.repeat(starts, np.diff(np.append(starts, bad.size)))
    told = {name: fields for name, fields in text.columns.items() if name in ("TIME", *DATES)}
    timed = {name: ["" if field in gone else field for field in fields] for name, fields in told.items()}
    values["TIME"] = read_times(Text(timed, text.line, None), first, bad, notes)
    return {name: values[name] for name in text.columns if name in values}, labels, bad


def starts_of(identity: np.ndarray) -> np.ndarray:
    """Return the first record of each subject, for the ID of each record."""
    return np.flatnonzero(np.concatenate([[True], identity[1:] != identity[:-1]]))


def _numbers(
    name: str,
    fields: list[str],
    gone: set[str],
    absent: float,
    read: Callable[[str], float | None],
    lines: np.ndarray,
    bad: np.ndarray,
    notes: Notes,
) -> np.ndarray:
    known = {field: absent if field in gone else read(field) for field in set(fields)}
    if None in known.values():
        wrong = np.array([known[field] is None for field in fields], dtype=bool)
        hint = "" if name in _NO_CATEGORIES else " (or a category: `categories`)"
        notes.where(wrong, lines, name, lambda record: f"must be a number{hint}, but is {fields[record]}.")
        bad |= wrong
        known = {field: absent if value is None else value for field, value in known.items()}
    return np.array([known[field] for field in fields], dtype=float)


def _compartments(fields: list[str], gone: set[str], lines: np.ndarray, bad: np.ndarray, notes: Notes) -> np.ndarray:
    known = {field: 0 if field in gone else _compartment(field) for field in set(fields)}
    wrong = np.array([known[field] is None for field in fields], dtype=bool)
    must = "must be the number or the name of a compartment"
    notes.where(wrong, lines, "CMT", lambda record: f"{must}, but is {fields[record]}.")
    bad |= wrong
    known = {field: 0 if value is None else value for field, value in known.items()}
    named = any(isinstance(value, str) for value in known.values())
    return np.array([known[field] for field in fields], dtype=object if named else int)


def _compartment(field: str) -> int | str | None:
    value = number(field)
    if value is None:
        return field if _NAME.fullmatch(field) else None
    return int(value) if value.is_integer() and abs(value) < 2**31 else None
