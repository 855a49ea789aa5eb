"""The rules of NONMEM and PREDPP for dose, observation, other and reset records."""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

from qspjax.io._issues import IssueCollector
from qspjax.io.nonmem._issues import add_where, written
from qspjax.io.nonmem._text import DOSING
from qspjax.io.nonmem._types import Flags, Floats, Integers, Values
from qspjax.io.nonmem._values import starts_of

MOST_DOSES = 100_000
"""The maximum of ADDL."""


_Rule: TypeAlias = tuple[str, Flags, str]
"""A column, the records in which it is wrong, and what it must be."""


def complete(values: Values) -> Values:
    """Return the columns with an event and a missing-data indicator for every record, as NM-TRAN supplies them.

    A record without EVID is a dose if AMT, RATE or SS is not 0, else an observation; without MDV it has data if it is
    an observation with a DV, or with CENS 1 or -1.
    """
    size = values["ID"].size
    absent = np.full(size, np.nan)
    dosing = np.any([values.get(name, np.zeros(size)) != 0 for name in ("AMT", "RATE", "SS")], axis=0)
    evid = values.get("EVID", absent)
    evid = np.where(np.isnan(evid), dosing.astype(float), evid)
    cens = {"CENS": np.where(np.isnan(values["CENS"]), 0.0, values["CENS"])} if "CENS" in values else {}
    mdv = values.get("MDV", absent)
    without = (evid != 0) | (np.isnan(values.get("DV", absent)) & ~np.isin(cens.get("CENS", absent), (-1, 1)))
    mdv = np.where(np.isnan(mdv), without.astype(float), mdv)
    return {**values, "EVID": evid, "MDV": mdv, **cens}


def check_records(values: Values, lines: Integers, bad: Flags, issues: IssueCollector) -> None:
    """Add issues of the records and of their order; records that are `bad` have an issue already."""
    for name, wrong, must in (*_events(values), *_doses(values), *_patterns(values), *_data(values)):

        def message(record: int, name: str = name, must: str = must) -> str:
            value = written(values[name][record]) if name in values else "."
            return f"must {must}, but is {'missing' if value == '.' else value}."

        add_where(issues, wrong & ~bad, lines, name, message)
    _check_order(values, lines, issues)


def column(values: Values, name: str) -> Floats:
    """Return a column of numbers, zeros if it is missing."""
    return values.get(name, np.zeros(values["ID"].shape))


def is_dose(values: Values) -> Flags:
    """Return which records give a dose."""
    return (values["EVID"] == 1) | (values["EVID"] == 4)


def has_data(values: Values) -> Flags:
    """Return which records are measurements: observations with MDV 0, and those beyond a limit, whatever MDV is."""
    return (values["EVID"] == 0) & ((values["MDV"] == 0) | np.isin(column(values, "CENS"), (-1, 1)))


def _events(values: Values) -> Iterator[_Rule]:
    evid = values["EVID"]
    coded = evid > 100
    yield "EVID", coded, 'be 0, 1, 2, 3 or 4 (dialect "rxode" has others)'
    yield "EVID", ~np.isin(evid, (0, 1, 2, 3, 4)) & ~coded, "be 0, 1, 2, 3 or 4"
    yield "MDV", ~np.isin(values["MDV"], (0, 1)), "be 0 or 1"
    for code, kind in ((0, "an observation"), (2, "a record of another event"), (3, "a reset")):
        for name in DOSING:
            if name in values:
                beyond = name == "SS" and ~np.isin(values[name], (0, 1, 2))  # reported below
                yield name, (evid == code) & (values[name] != 0) & ~np.asarray(beyond), f"be 0 on {kind} (EVID {code})"
    compartment = values.get("CMT", np.zeros(evid.shape, dtype=int))
    negative = np.array([not isinstance(c, str) and c < 0 for c in compartment.tolist()], dtype=bool)
    yield "CMT", negative, "not be negative (turning a compartment off is not supported)"


def _doses(values: Values) -> Iterator[_Rule]:
    dose, steady = is_dose(values), np.isin(column(values, "SS"), (1, 2))
    amount, rate, duration = (column(values, name) for name in ("AMT", "RATE", "TINF"))
    constant = steady & ((rate > 0) | (rate == -1)) & (duration == 0)
    without_amount = dose & (amount == 0) & ~constant
    yield "AMT", dose & (amount < 0), "not be negative"
    yield "AMT", without_amount & (rate > 0), "be positive with RATE > 0, unless SS is 1 or 2 (a constant infusion)"
    yield "AMT", without_amount & ~(rate > 0), "be positive on a dose record (EVID 1 or 4)"
    must = "be 0, positive, -1 (a modelled rate) or -2 (a modelled duration)"
    yield "RATE", dose & (rate < 0) & ~np.isin(rate, (-1, -2)), must
    yield "TINF", dose & (duration < 0), "not be negative"
    yield "RATE", dose & (rate != 0) & (duration > 0), "be 0 where TINF (or DUR) gives the duration"


def _patterns(values: Values) -> Iterator[_Rule]:
    dose, state = is_dose(values), column(values, "SS")
    amount, interval, additional = (column(values, name) for name in ("AMT", "II", "ADDL"))
    steady = dose & np.isin(state, (1, 2))
    constant = steady & (amount == 0)
    yield "SS", ~np.isin(state, (0, 1, 2)), "be 0, 1 or 2"
    yield "II", dose & (interval < 0), "not be negative"
    yield "II", steady & ~constant & (interval == 0), "be positive with SS, unless AMT is 0 (a constant infusion)"
    yield "II", constant & (interval > 0), "be 0 for the steady state of a constant infusion (AMT = 0)"
    yield "II", dose & ~steady & (additional > 0) & (interval == 0), "be positive with ADDL"
    yield "ADDL", dose & (additional < 0), "not be negative"
    yield "ADDL", dose & (additional > 0) & (additional != np.floor(additional)), "be a whole number"
    yield "ADDL", dose & (additional > MOST_DOSES), f"be at most {MOST_DOSES}"
    yield "ADDL", constant & (additional > 0), "be 0 for the steady state of a constant infusion (AMT = 0)"


def _data(values: Values) -> Iterator[_Rule]:
    absent = np.full(values["ID"].shape, np.nan)
    data = has_data(values)
    censored, observed, limit = column(values, "CENS"), values.get("DV", absent), values.get("LIMIT", absent)
    yield "CENS", ~np.isin(censored, (-1, 0, 1)), "be 0, 1 (below DV) or -1 (above DV)"
    yield "DV", data & (censored == -1) & np.isnan(observed), "be the limit where CENS is -1"
    yield "LIMIT", data & (censored == 1) & (limit >= observed), "be less than DV where CENS is 1"
    yield "LIMIT", data & (censored == -1) & (limit <= observed), "be greater than DV where CENS is -1"


def _check_order(values: Values, lines: Integers, issues: IssueCollector) -> None:
    """Add issues of subjects that come back and times that decrease, except at a reset, which may start a new clock."""
    identity, time = values["ID"], values["TIME"]
    starts = starts_of(identity)
    _, first = np.unique(identity[starts], return_index=True)
    repeated = np.ones(starts.size, dtype=bool)
    repeated[first] = False
    back = np.zeros(identity.size, dtype=bool)
    back[starts] = repeated & ~np.isnan(identity[starts])
    add_where(
        issues,
        back,
        lines,
        "ID",
        lambda record: f"must have its records together, but {written(identity[record])} comes back after another ID.",
    )
    less = np.zeros(identity.size, dtype=bool)
    less[1:] = time[1:] < time[:-1]
    less[starts] = False
    add_where(
        issues,
        less & ~np.isin(values["EVID"], (3, 4)),
        lines,
        "TIME",
        lambda record: (
            "must not decrease within a subject, except at EVID 3 or 4, "
            f"but is {written(time[record])} after {written(time[record - 1])}."
        ),
    )
