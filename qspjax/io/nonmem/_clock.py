"""Times of a table: numbers, or clock times and dates that become hours since the first record of the subject.

The rules of NM-TRAN: a single colon or a date makes all times of the file relative; a time without a colon is then in
hours. A date has month, day and year (`DATE`), or another order (`DAT1` to `DAT3`); one number alone is a day, two are
day and month without a year. A year of one or two digits up to 50 is in the 2000s, a greater one in the 1900s.
"""

import datetime
import re

import numpy as np

from qspjax.io._issues import IssueCollector
from qspjax.io.nonmem._issues import add_where
from qspjax.io.nonmem._text import DATES, Text, number
from qspjax.io.nonmem._types import Flags, Floats, Integers

_LAST_OF_THE_2000S = 50
_WITHOUT_YEAR = 2001
"""Not a leap year: a 29 February needs its year."""

_CLOCK = re.compile(r"(-?)(\d+):([0-5]?\d)(?::([0-5]?\d(?:\.\d*)?))?", re.ASCII)
_ORDERS = {"DATE": "month day year", "DAT1": "day month year", "DAT2": "year month day", "DAT3": "year day month"}


def read_hours(text: str) -> float | None:
    """Return a number, or a clock time as hours; None if it is neither."""
    seconds = _seconds(text)
    plain = number(text)
    return plain if plain is not None else None if seconds is None else seconds / 3600.0


def read_times(text: Text, first: Integers, bad: Flags, issues: IssueCollector) -> Floats:
    """Return the time of each record.

    Args:
        text: The table.
        first: The number of the first record of each record's subject.
        bad: Whether a record has an issue; set where its time cannot be read.
        issues: Collects the issues.
    """
    fields = text.columns["TIME"]
    date = next((name for name in DATES if name in text.columns), None)
    clock = date is not None or any(":" in field for field in fields)
    parsed = {field: _seconds(field) if clock else number(field) for field in set(fields)}
    unread = np.array([parsed[field] is None for field in fields], dtype=bool)
    must = f"must be a number {'of hours ' if clock else ''}or a clock time (H:MM)"
    add_where(issues, unread, text.line, "TIME", lambda record: f"{must}, but is {fields[record] or 'missing'}.")
    bad |= unread
    times = np.array([np.nan if parsed[field] is None else parsed[field] for field in fields], dtype=float)
    if not clock:
        return times
    days = _days(text, date, first, bad, issues) if date else np.zeros(times.shape)
    return ((days - days[first]) * 86400.0 + (times - times[first])) / 3600.0


def _seconds(text: str) -> float | None:
    clock = _CLOCK.fullmatch(text)
    if clock is None:
        plain = number(text)
        return None if plain is None else plain * 3600.0
    seconds = int(clock[2]) * 3600.0 + int(clock[3]) * 60.0 + float(clock[4] or 0)
    return -seconds if clock[1] else seconds


def _days(
    text: Text,
    name: str,
    first: Integers,
    bad: Flags,
    issues: IssueCollector,
) -> Floats:
    """Return the number of the day of each record, NaN where its date cannot be read."""
    fields, order = text.columns[name], _ORDERS[name]
    parsed = {field: _day(field, order.split()) or (np.nan, 0) for field in set(fields)}
    days, parts = (np.array(column) for column in zip(*(parsed[field] for field in fields), strict=True))
    unread, must = parts == 0, f"must be a date ({order})"
    add_where(issues, unread, text.line, name, lambda record: f"{must}, but is {fields[record] or 'missing'}.")
    mixed = (parts != parts[first]) & ~unread & ~unread[first]
    equal = "must have as many parts as the first date of the subject"
    add_where(
        issues, mixed, text.line, name, lambda record: f"{equal} ({fields[first[record]]}), but is {fields[record]}."
    )
    bad |= unread | mixed
    return np.where(mixed, np.nan, days).astype(float)


def _day(text: str, order: list[str]) -> tuple[int, int] | None:
    """Return the number of a day, and the number of parts of its date."""
    if re.fullmatch(r"-?\d{1,6}", text, re.ASCII):
        return int(text), 1
    if not re.fullmatch(r"\d{1,4}([^A-Za-z0-9]\d{1,4}){1,2}", text, re.ASCII):
        return None
    numbers = re.findall(r"\d+", text)
    named = order if len(numbers) == 3 else [part for part in order if part != "year"]
    date = dict(zip(named, numbers, strict=True))
    try:
        year = _year(date["year"]) if "year" in date else _WITHOUT_YEAR
        return datetime.date(year, int(date["month"]), int(date["day"])).toordinal(), len(numbers)
    except ValueError:
        return None


def _year(text: str) -> int:
    year = int(text)
    if len(text) > 2:
        return year
    return year + (2000 if year <= _LAST_OF_THE_2000S else 1900)
