"""Records of doses and samples as profiles: the samples after each dose of a subject, until the next."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from qspjax._checks import ArgumentError, check_one_of, refuse
from qspjax.population._noncompartmental._profile import Profile

_NUMBERS = ("TIME", "AMT", "RATE", "TINF", "II", "ADDL", "SS", "EVID", "MDV", "DV", "CENS", "CMT", "DVID")
_NEAR = 0.05
"""A sample gives the value just before a repeated dose if no further away than this share of the interval."""


class Place(NamedTuple):
    """The origin of a profile: subject, kind of sample (None if there is only one), number and time of the dose."""

    subject: object
    kind: object
    dose: int
    time: float


def records_of(data: Any) -> dict[str, np.ndarray]:
    """Return the columns of a table or of a data set as arrays, with identifiers as they were written."""
    records = getattr(data, "records", None)
    columns = data if records is None or isinstance(data, Mapping) else records
    try:
        table = {str(name): np.asarray(columns[name]) for name in columns}
    except (TypeError, KeyError, IndexError):
        refuse("data", "be a table with columns ID, TIME, DV, or data of `io.read_nonmem`", f"a {type(data).__name__}")
    for name in ("ID", "TIME", "DV"):
        check_one_of("data", name, table, "columns, and one of them must be this: its columns are")
    sizes = {name: column.shape for name, column in table.items()}
    if len(set(sizes.values())) > 1 or len(sizes["ID"]) != 1:
        refuse("data", "have columns of one length", sizes)
    if columns is not data:
        ids, subject = (getattr(data, name) for name in ("ids", "subject"))
        table["ID"] = np.asarray([ids[i] for i in subject], dtype=object)
    elif table["ID"].dtype.kind == "f" and (table["ID"] % 1 == 0).all():
        table["ID"] = table["ID"].astype(int)
    return {name: _numbers(name, column) if name in _NUMBERS else column for name, column in table.items()}


def _numbers(name: str, column: np.ndarray) -> np.ndarray:
    try:
        return column.astype(float)
    except (TypeError, ValueError):
        if name in ("CMT", "DVID"):
            return column
        refuse("data", f"have numbers in column {name}, and NaN where one is missing", column.dtype)


def profiles_of(
    table: Mapping[str, np.ndarray], limit: float | None, intravenous: bool | None, until: float
) -> Iterator[tuple[Place, Profile]]:
    """Yield every profile of a table: by subject, by kind of sample, by dose."""
    size = table["ID"].size
    zeros, missing = np.zeros(size), np.full(size, np.nan)
    dosing = {name: np.nan_to_num(table.get(name, zeros)) for name in ("AMT", "RATE", "TINF", "II", "ADDL", "SS")}
    if "DUR" in table and "TINF" not in table:
        dosing["TINF"] = np.nan_to_num(table["DUR"].astype(float))
    evid = table.get("EVID", missing)
    evid = np.where(np.isnan(evid), (dosing["AMT"] != 0) | (dosing["SS"] != 0), evid)
    if not np.isin(evid, (0, 1, 2, 3, 4)).all():
        must = "have EVID 0 to 4 (`io.read_nonmem(..., dialect='rxode')` reads other codes)"
        refuse("data", must, evid[~np.isin(evid, (0, 1, 2, 3, 4))][0])
    value = table["DV"]
    censored = table.get("CENS", zeros)
    below = censored == 1
    if limit is not None:
        below = below | (value < limit)
    below = below | (value <= 0)
    missing_value = (np.nan_to_num(table.get("MDV", zeros)) == 1) & ~np.isin(censored, (-1, 1))
    sample = (evid == 0) & (np.isfinite(value) | (censored == 1)) & ~missing_value
    value = np.where(np.isnan(value) & below, 0.0, value)  # what replaces it is a choice of the analysis
    kinds = table.get("DVID", np.full(size, None, dtype=object))
    columns = {**dosing, "TIME": table["TIME"], "EVID": evid, "DV": value, "below": below, "sample": sample}
    for subject in dict.fromkeys(table["ID"].tolist()):
        subject_rows = np.flatnonzero(table["ID"] == subject)
        subject_kinds = dict.fromkeys(kinds[subject_rows][sample[subject_rows]].tolist())
        several = len(dict.fromkeys(kinds[sample].tolist())) > 1
        for kind in subject_kinds or [None]:
            rows = subject_rows[~sample[subject_rows] | np.array([k == kind for k in kinds[subject_rows]], dtype=bool)]
            subset = {name: column[rows] for name, column in columns.items()}
            number = 0
            for period in _periods(subset):
                for start, profile in _of_period(period, str(subject), intravenous, until):
                    number += 1
                    yield Place(subject, kind if several else None, number, start), profile


def _periods(table: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """Cut the records of one subject at resets, and sort each part by time; equal times keep their order."""
    reset = np.isin(table["EVID"], (3, 4)) | ((table["SS"] == 1) & np.isin(table["EVID"], (1, 4)))
    for part in np.split(np.arange(reset.size), np.flatnonzero(reset)):
        if part.size:
            sequence = part[np.argsort(table["TIME"][part], kind="stable")]
            yield {name: column[sequence] for name, column in table.items()}


class _Dose(NamedTuple):
    """All doses at one time; `row` is that of the first record."""

    row: int
    time: float
    amount: float
    duration: float
    bolus: bool
    intravenous: bool
    steady: bool
    interval: float


def _of_period(
    table: Mapping[str, np.ndarray], subject: str, intravenous: bool | None, until: float
) -> Iterator[tuple[float, Profile]]:
    samples = np.flatnonzero(table["sample"])
    time, value, below = table["TIME"][samples], table["DV"][samples], table["below"][samples]
    if (doses := _doses(table, intravenous)) and samples.size:
        _check_times(time[time < doses[0].time], subject)
    elif samples.size:
        _check_times(time, subject)
        yield float(time[0]), Profile(time - time[0], value, below)
    for i, dose in enumerate(doses):
        following = doses[i + 1] if i + 1 < len(doses) else None
        end = following.time if following else math.inf
        selected = (time >= dose.time) & (time <= min(end, dose.time + until))
        at_start = time == dose.time
        if dose.bolus or (at_start & (samples > dose.row)).any():  # a sample before the dose is not its C0
            selected &= ~(at_start & (samples < dose.row))
        if following and following.bolus:
            selected &= ~((time == end) & (samples > following.row))
        elif following and (time == end).sum() > 1:
            selected &= ~((time == end) & (np.cumsum(time == end) > 1))
        _check_times(time[selected], subject)
        tau = end - dose.time if following else dose.interval
        yield (
            dose.time,
            Profile(
                time=time[selected] - dose.time,
                value=value[selected],
                below=below[selected],
                amount=dose.amount,
                duration=dose.duration,
                intravenous=dose.intravenous,
                before=0.0 if i == 0 and not dose.steady else _before(dose, tau, time, value),
                tau=tau,
                first=i == 0 and not dose.steady,
                steady=dose.steady,
            ),
        )


def _doses(table: Mapping[str, np.ndarray], intravenous: bool | None) -> list[_Dose]:
    """Return the doses of one period, including additional ones, with those at the same time combined."""
    rows = np.flatnonzero(np.isin(table["EVID"], (1, 4)) & (table["AMT"] > 0))
    administrations = sorted(
        (table["TIME"][row] + n * table["II"][row], row) for row in rows for n in range(int(table["ADDL"][row]) + 1)
    )
    doses = []
    for moment in dict.fromkeys(time for time, _ in administrations):
        simultaneous = [int(row) for time, row in administrations if time == moment]
        row, durations = simultaneous[0], [_duration(table, row) for row in simultaneous]
        duration = math.nan if any(math.isnan(d) for d in durations) else max(durations)
        by_vein = duration != 0 if intravenous is None else intravenous
        repeated = table["SS"][row] > 0 or table["ADDL"][row] > 0
        doses.append(
            _Dose(
                row,
                float(moment),
                float(sum(table["AMT"][row] for row in simultaneous)),
                duration,
                by_vein and duration == 0,
                by_vein,
                bool(table["SS"][row] > 0),
                float(table["II"][row]) if repeated and table["II"][row] > 0 else math.inf,
            )
        )
    return doses


def _duration(table: Mapping[str, np.ndarray], row: int) -> float:
    """Return the duration of an infusion, 0 for a bolus, NaN if the rate or the duration is left to a model."""
    if table["TINF"][row] > 0:
        return float(table["TINF"][row])
    rate = table["RATE"][row]
    return float(table["AMT"][row] / rate) if rate > 0 else math.nan if rate < 0 else 0.0


def _before(dose: _Dose, tau: float, time: np.ndarray, value: np.ndarray) -> float:
    """Return the value just before a repeated dose: that of the last sample, if it is near enough."""
    earlier = np.flatnonzero(time <= dose.time)
    near = earlier.size and dose.time - time[earlier[-1]] <= _NEAR * tau
    return float(value[earlier[-1]]) if near else math.nan


def _check_times(time: np.ndarray, subject: str) -> None:
    same = np.flatnonzero(np.diff(time) == 0)
    if same.size:
        raise ArgumentError(
            "data",
            f"must have one sample of each kind at a time, but subject {subject} has two at TIME {time[same[0]]:g}; "
            "a column DVID distinguishes kinds.",
        )
