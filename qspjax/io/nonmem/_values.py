"""Columns of text as columns of numbers: missing values, replaced values, categories, names of compartments."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Int

from qspjax._checks import check_names, refuse
from qspjax.io._issues import IssueCollector
from qspjax.io.nonmem._clock import read_hours, read_times
from qspjax.io.nonmem._conditions import find
from qspjax.io.nonmem._issues import add_where, listed
from qspjax.io.nonmem._text import DATES, DOSING, RESERVED, Text, number, reserved
from qspjax.io.nonmem._types import Flags, Floats, Integers, Labels, Values

_MISSING = ("", ".")
_BELOW = re.compile(r"<.*|bl[oq]+|bql|bd?l|l?loq|<?lod|nd|below.*", re.IGNORECASE)
"""What laboratories write where a value is below the limit of quantification."""
_NAME = re.compile(r"[A-Za-z_][\w.\[\]]*", re.ASCII)
Value: TypeAlias = float | str | None
Recode: TypeAlias = Mapping[str, Mapping[str, Value] | Mapping[float, Value] | Mapping[float | str, Value]]
"""By column, values and their replacements."""

_NO_CATEGORIES = tuple(name for name in RESERVED if name not in ("ID", "DVID"))


def replaced(text: Text, recode: Recode, issues: IssueCollector) -> Text:
    """Return the table with some values of columns replaced by others; None stands for a missing one."""
    columns = dict(text.columns)
    for column, pairs in recode.items():
        name = _column("recode", column, text, issues)
        if name is None:
            continue
        if not isinstance(pairs, Mapping):
            refuse("recode", "give a mapping of values to values for each column", pairs)
        exact = {_plain(old): _plain(new) for old, new in pairs.items()}
        by_number = {number(old): new for old, new in exact.items() if number(old) is not None}
        fields = {field: exact.get(field, by_number.get(number(field), field)) for field in set(columns[name])}
        columns[name] = [fields[field] for field in columns[name]]
    return Text(columns, text.line, text.header)


def _plain(value: Value) -> str:
    return "." if value is None else str(value).strip()


def _column(argument: str, name: str, text: Text, issues: IssueCollector) -> str | None:
    """Return the name of a column as in the table; add an issue if there is no such column."""
    column = find(reserved(name), tuple(text.columns))
    if column is None:
        names = listed(text.columns)
        issues.add(f"must be a column, for `{argument}`, but is none of {names}.", line=text.header, column=name)
    return column


def read_values(
    text: Text, issues: IssueCollector, *, categories: Sequence[str], missing: Sequence[str] = ()
) -> tuple[Values, Labels, Flags]:
    """Read every column.

    Args:
        text: The table.
        issues: Collects the issues.
        categories: Names of the columns of text, to be read as codes.
        missing: Text that stands for a missing value, besides "." and nothing.

    Returns:
        The values, the labels of the categories by column, and which records have a field that cannot be read.
    """
    absent = {*_MISSING, *missing}
    bad = np.zeros(text.line.shape, dtype=bool)
    values: Values = {}
    labels: Labels = {}
    named = [_column("categories", name, text, issues) for name in check_names("categories", categories)]
    declared = {name for name in named if name is not None}
    for name in sorted(declared & set(_NO_CATEGORIES)):
        refuse("categories", "name covariates, ID or DVID", name)
    for name, fields in text.columns.items():
        if name in declared:
            labels[name] = tuple(sorted(set(fields) - absent))
            codes = dict.fromkeys(absent, np.nan) | {label: float(code) for code, label in enumerate(labels[name])}
            values[name] = np.array([codes[field] for field in fields], dtype=float)
        elif name == "CMT":
            values[name] = _compartments(fields, absent, text.line, bad, issues)
        elif name not in ("TIME", *DATES):
            value, read = (0.0 if name in DOSING else np.nan), (read_hours if name == "II" else number)
            values[name] = _numbers(name, fields, dict.fromkeys(absent, value), value, read, text.line, bad, issues)
    nameless = np.isnan(values["ID"]) & ~bad
    add_where(issues, nameless, text.line, "ID", lambda _: "must be given, but is missing.")
    bad |= nameless
    starts = starts_of(values["ID"])
    first = np.repeat(starts, np.diff(np.append(starts, bad.size)))
    clocks = {name: fields for name, fields in text.columns.items() if name in ("TIME", *DATES)}
    timed = {name: ["" if field in absent else field for field in fields] for name, fields in clocks.items()}
    values["TIME"] = read_times(Text(timed, text.line, None), first, bad, issues)
    return {name: values[name] for name in text.columns if name in values}, labels, bad


def starts_of(identity: Floats) -> Int[np.ndarray, " subjects"]:
    """Return the first record of each subject, for the ID of each record."""
    return np.flatnonzero(np.concatenate([[True], identity[1:] != identity[:-1]]))


def _numbers(
    name: str,
    fields: list[str],
    replacements: Mapping[str, float],
    otherwise: float,
    read: Callable[[str], float | None],
    lines: Integers,
    bad: Flags,
    issues: IssueCollector,
) -> Floats:
    numbers = {field: replacements[field] if field in replacements else read(field) for field in set(fields)}
    if None in numbers.values():
        wrong = np.array([numbers[field] is None for field in fields], dtype=bool)
        hint = "" if name in _NO_CATEGORIES else " (or a category: `categories`)"

        def message(record: int) -> str:
            limit = ": write the limit, and 1 in a column CENS" if _BELOW.fullmatch(fields[record]) else ""
            return f"must be a number{hint}, but is {fields[record]}{limit if name == 'DV' else ''}."

        add_where(issues, wrong, lines, name, message)
        bad |= wrong
        numbers = {field: otherwise if value is None else value for field, value in numbers.items()}
    return np.array([numbers[field] for field in fields], dtype=float)


def _compartments(
    fields: list[str], absent: Collection[str], lines: Integers, bad: Flags, issues: IssueCollector
) -> np.ndarray:
    """Return the compartments, as numbers, or as objects if some are names."""
    parsed = {field: 0 if field in absent else _compartment(field) for field in set(fields)}
    wrong = np.array([parsed[field] is None for field in fields], dtype=bool)
    must = "must be the number or the name of a compartment"
    add_where(issues, wrong, lines, "CMT", lambda record: f"{must}, but is {fields[record]}.")
    bad |= wrong
    has_names = any(isinstance(value, str) for value in parsed.values())
    return np.array([parsed[field] or 0 for field in fields], dtype=object if has_names else int)


def _compartment(field: str) -> int | str | None:
    value = number(field)
    if value is None:
        return field if _NAME.fullmatch(field) else None
    return int(value) if value.is_integer() and abs(value) < 2**31 else None
