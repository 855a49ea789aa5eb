"""The classic event codes of RxODE and rxode2, translated into the records of NONMEM.

A code of 101 or more is written as `(hundreds of the compartment) (kind) (its last two digits) (suffix)`: 101 is a
dose into compartment 1, 10101 an infusion into it. Kind 0 is a bolus; 1 and 2 are infusions, whose AMT is the rate,
positive where it is turned on and negative where it is turned off: bioavailability scales the duration of kind 1 and
the rate of kind 2. The suffix is 01, 10 and 20 for SS = 1 and 2, or 40 for the steady state of a constant infusion.
"""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from qspjax.io._issues import IssueCollector
from qspjax.io.nonmem._issues import add_where, written
from qspjax.io.nonmem._text import DOSING
from qspjax.io.nonmem._types import Flags, Floats, Integers, Values

_BOLUS, _RATE, _DURATION = 0, 1, 2
_KINDS = {
    4: "replacing an amount is not supported",
    5: "multiplying an amount is not supported",
    6: "a modelled duration must be written as EVID 1 with RATE -2",
    7: "a modelled rate must be written as EVID 1 with RATE -1",
    8: "a modelled duration must be written as EVID 1 with RATE -2",
    9: "a modelled rate must be written as EVID 1 with RATE -1",
}
_PLAIN, _CONSTANT = 1, 40
_STEADY = {_PLAIN: 0.0, 10: 1.0, 20: 2.0, _CONSTANT: 1.0}
_SUFFIXES = {30: "turning a compartment off is not supported", 50: "a phantom dose is not supported"}
_OTHERS = {
    5: "replacing an amount is not supported",
    6: "multiplying an amount is not supported",
    7: "a phantom dose is not supported",
}
"""Codes below 100 that NONMEM does not have."""


def translate(values: Values, lines: Integers, bad: Flags, issues: IssueCollector) -> Values:
    """Return the records of NONMEM for those of rxode2; codes without such a record are issues.

    The two records of an infusion become a dose record with AMT = rate x duration, and a record of another event
    (EVID 2) that gives an output but no data.
    """
    if "EVID" not in values:
        return values
    code = np.nan_to_num(values["EVID"])
    code = np.where((code == np.floor(code)) & (code >= 0) & (code < 1e9), code, 0).astype(int)
    kind, suffix = code // 10_000 % 10, code % 100
    compartment = code // 100_000 * 100 + code // 100 % 100
    reasons = {c: _unknown(c) for c in np.unique(code).tolist()}
    unknown = np.array([bool(reasons[c]) for c in code.tolist()], dtype=bool) & ~bad
    must = "must be an event that is known"
    add_where(
        issues, unknown, lines, "EVID", lambda record: f"{must}, but is {code[record]}: {reasons[int(code[record])]}."
    )
    bad |= unknown
    dosing = (code > 100) & ~bad
    infusing, constant = dosing & (kind != _BOLUS), dosing & (suffix == _CONSTANT)
    target = values.get("CMT", np.zeros(lines.shape, dtype=int)).copy()
    _check_compartment(target, compartment, dosing, lines, bad, issues)
    _check_rate(values, infusing, constant, lines, bad, issues)
    target[dosing] = compartment[dosing]

    columns = {name: values.get(name, np.zeros(lines.shape)).copy() for name in DOSING}
    columns["SS"] = np.where(dosing, _translated(suffix, _STEADY), columns["SS"])
    columns["RATE"] = np.where(constant, columns["AMT"], np.where(infusing, 0.0, columns["RATE"]))
    evid = np.where(dosing, 1.0, values["EVID"])
    for start, stop in _pairs(values, kind, compartment, infusing & ~bad & ~constant, lines, bad, issues):
        rate, duration = columns["AMT"][start], values["TIME"][stop] - values["TIME"][start]
        for column in columns.values():
            column[stop] = 0.0
        columns["AMT"][start] = rate * duration
        columns["RATE" if kind[start] == _RATE else "TINF"][start] = rate if kind[start] == _RATE else duration
        evid[stop] = 2.0
    columns["AMT"][constant] = 0.0
    added = {name: column for name, column in columns.items() if name in values or column.any()}
    if "CMT" in values or dosing.any():
        added["CMT"] = target
    return {**values, **added, "EVID": evid}


def _translated(codes: Integers, meaning: dict[int, float]) -> Floats:
    return np.select([codes == code for code in meaning], list(meaning.values()), default=0.0)


def _unknown(code: int) -> str:
    """Return why an event code is not supported, empty if it is (or if no dialect has it)."""
    if code <= 100:
        return _OTHERS.get(code, "")
    kind, suffix = code // 10_000 % 10, code % 100
    if code // 100 % 100 + code // 100_000 == 0:
        return "it has no compartment"
    if kind not in (_BOLUS, _RATE, _DURATION):
        return _KINDS.get(kind, f"its kind {kind} is not supported")
    if suffix not in _STEADY:
        return _SUFFIXES.get(suffix, f"its suffix {suffix:02d} is not supported")
    if suffix == _CONSTANT and kind != _RATE:
        return "the steady state of a constant infusion has kind 1"
    return ""


def _check_compartment(
    target: np.ndarray,  # of numbers, or of numbers and names
    compartment: Integers,
    dosing: Flags,
    lines: Integers,
    bad: Flags,
    issues: IssueCollector,
) -> None:
    pairs = zip(target.tolist(), compartment.tolist(), strict=True)
    differs = dosing & np.array([cmt not in (0, coded) for cmt, coded in pairs], dtype=bool)

    def message(record: int) -> str:
        return f"must be {compartment[record]}, as EVID says, but is {target[record]}."

    add_where(issues, differs, lines, "CMT", message)
    bad |= differs


def _check_rate(
    values: Values, infusing: Flags, constant: Flags, lines: Integers, bad: Flags, issues: IssueCollector
) -> None:
    absent = np.zeros(lines.shape)
    amount, rate = values.get("AMT", absent), values.get("RATE", absent)
    differs = infusing & (rate != 0) & (rate != amount)
    must = "must be 0 or AMT, which is the rate here"
    add_where(issues, differs, lines, "RATE", lambda record: f"{must}, but is {written(rate[record])}.")
    zero = infusing & (amount == 0)
    add_where(issues, zero, lines, "AMT", lambda _: "must be the rate of an infusion, but is 0.")
    negative = constant & (amount < 0)
    positive = "must be positive, since turning off a constant infusion is not supported"
    add_where(issues, negative, lines, "AMT", lambda record: f"{positive}, but is {written(amount[record])}.")
    bad |= differs | zero | negative


def _pairs(
    values: Values,
    kind: Integers,
    compartment: Integers,
    infusing: Flags,
    lines: Integers,
    bad: Flags,
    issues: IssueCollector,
) -> Iterator[tuple[int, int]]:
    """Yield each infusion and the record that turns it off, the next of its kind and compartment with minus AMT."""
    running: dict[tuple[float, ...], list[int]] = defaultdict(list)
    for record in np.flatnonzero(infusing).tolist():
        rate = float(values["AMT"][record])
        key = (float(values["ID"][record]), int(kind[record]), int(compartment[record]), abs(rate))
        if rate > 0:
            running[key].append(record)
        elif not running[key]:
            text = f"must turn off an infusion that was turned on, but none at rate {written(-rate)} is running."
            issues.add(text, line=int(lines[record]), column="AMT")
            bad[record] = True
        elif values["TIME"][record] <= values["TIME"][running[key][0]]:
            text = "must be later than the record that turned the infusion on, but is not."
            issues.add(text, line=int(lines[record]), column="TIME")
            bad[record] = bad[running[key].pop(0)] = True
        else:
            yield running[key].pop(0), record
    for starts in running.values():
        for record in starts:
            text = "must be followed by a record that turns the infusion off (minus AMT), but is not."
            issues.add(text, line=int(lines[record]), column="AMT")
            bad[record] = True
