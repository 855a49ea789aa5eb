"""The inputs of a simulation from records: a clock that never goes back, doses, time after dose, occasions."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from qspjax._dosing._regimen import Action, Regimen, table
from qspjax.io.nonmem._records import column, is_dose
from qspjax.io.nonmem._types import Flags, Floats, Integers, Values
from qspjax.io.nonmem._values import starts_of

_SAME = 1e-12
"""Times with at most this relative difference are the same: 3 x 0.1 and 0.3."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """The position of each record.

    Attributes:
        subject: The number of the subject of each record, from 0.
        position: The number of the record within its subject, from 0.
        starts: The first record of each subject.
        clock: The time of each record on a clock that goes on where TIME goes back at a reset.
    """

    subject: Integers
    position: Integers
    starts: Int[np.ndarray, " subjects"]
    clock: Floats

    @classmethod
    def of(cls, values: Values) -> "Layout":
        """Lay out records whose subjects are together and in the order of time."""
        identity = values["ID"]
        starts = starts_of(identity)
        subject = np.repeat(np.arange(starts.size), np.diff(np.append(starts, identity.size)))
        return cls(subject, np.arange(identity.size) - starts[subject], starts, _clock(values["TIME"], starts))

    @property
    def shape(self) -> tuple[int, int]:
        """Number of subjects, and of the records of the one with the most."""
        return self.starts.size, int(self.position.max()) + 1

    def padded(self, values: Shaped[np.ndarray, " records"], fill: float) -> Shaped[np.ndarray, "subjects outputs"]:
        """Return values of the records as a table of subjects and records, padded."""
        padded = np.full(self.shape, fill, dtype=values.dtype)
        padded[self.subject, self.position] = values
        return padded

    def continued(self, values: Floats) -> Float[np.ndarray, "subjects outputs"]:
        """Return values of the records as a table of subjects and records, padded with the last of each subject."""
        ends = np.append(self.starts[1:], self.subject.size) - 1
        return values[np.minimum(self.starts[:, None] + np.arange(self.shape[1]), ends[:, None])]


def _clock(time: Floats, starts: Int[np.ndarray, " subjects"]) -> Floats:
    """Return times that go on where they would go back at a reset."""
    clock = time.copy()
    back = np.zeros(time.size, dtype=bool)
    back[1:] = time[1:] < time[:-1]
    back[starts] = False
    jumps = np.flatnonzero(back)
    ends = np.unique(np.concatenate([jumps, starts, [time.size]]))
    for jump in jumps.tolist():
        until = ends[np.searchsorted(ends, jump, side="right")]
        before = clock[jump - 1]
        clock[jump:until] = np.maximum(time[jump:until] + (before - time[jump]), before)
        clock[jump] = before
    return clock


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of the table of doses before padding, each array of shape (rows,), in the order of subject and time.

    Attributes:
        record: The record of each row.
        kind: `Action` code.
        time: The time of each row.
        order: The number of the record within its subject from 1, or -1 for an additional dose.
    """

    record: Int[np.ndarray, " rows"]
    kind: Int[np.ndarray, " rows"]
    time: Float[np.ndarray, " rows"]
    order: Int[np.ndarray, " rows"]


def rows_of(values: Values, layout: Layout) -> Rows:
    """Return one row for each dose, additional ones included, and for each reset."""
    doses = np.flatnonzero(is_dose(values))
    resets = np.flatnonzero((values["EVID"] == 3) | (values["EVID"] == 4))
    counts = column(values, "ADDL")[doses].astype(int) + 1
    repeated = np.repeat(doses, counts)
    number = np.arange(repeated.size) - np.repeat(np.cumsum(counts) - counts, counts)
    record = np.concatenate([resets, repeated])
    kind = np.concatenate([np.full(resets.size, Action.RESET), _kinds(values)[repeated]])
    time = layout.clock[record] + np.concatenate([np.zeros(resets.size), number * column(values, "II")[repeated]])
    order = np.concatenate([layout.position[resets] + 1, np.where(number == 0, layout.position[repeated] + 1, -1)])
    sequence = np.lexsort((kind != Action.RESET, order, time, layout.subject[record]))
    return Rows(*(part[sequence] for part in (record, kind, time, order)))


def _kinds(values: Values) -> Integers:
    """Return the `Action` of each record, if it is a dose."""
    rate, duration = column(values, "RATE"), column(values, "TINF")
    modelled = np.select([rate == -1, rate == -2], [Action.INFUSION_MODEL_RATE, Action.INFUSION_MODEL_DURATION], 0)
    return np.select([duration > 0, rate > 0], [Action.INFUSION_OVER, Action.INFUSION_RATE], modelled)


def most_rows(values: Values) -> int:
    """Return an upper bound of the number of rows of the padded table, for all subjects together."""
    starts = starts_of(values["ID"])
    rows = np.where(is_dose(values), column(values, "ADDL") + 2, (values["EVID"] == 3).astype(float))
    return int(starts.size * np.add.reduceat(rows, starts).max())


def regimen_of(values: Values, layout: Layout, rows: Rows) -> Regimen:
    """Return the table of doses, padded to the longest."""
    subject = layout.subject[rows.record]
    counts = np.bincount(subject, minlength=layout.starts.size)
    position = np.arange(subject.size) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (layout.starts.size, max(int(counts.max()), 1))
    dosing = rows.kind != Action.RESET
    first = dosing & (rows.order > 0)
    targets, index = _targets(values, rows, dosing)

    def of(name: str, mask: Bool[np.ndarray, " rows"], other: float = 0.0) -> Float[np.ndarray, " rows"]:
        return np.where(mask, column(values, name)[rows.record], other)

    columns = {
        "time": (rows.time, np.inf),
        "kind": (rows.kind, 0),
        "index": (index, 0),
        "amount": (of("AMT", dosing), 0.0),
        "duration": (of("TINF", rows.kind == Action.INFUSION_OVER, 1.0), 1.0),
        "rate": (of("RATE", rows.kind == Action.INFUSION_RATE, 1.0), 1.0),
        "ordered": (layout.clock[rows.record], np.inf),
        "order": (rows.order.astype(float), 0.0),
        "interval": (of("II", dosing), 0.0),
        "steady": (of("SS", first).astype(int), 0),
    }
    padded = {}
    for name, (values_of_rows, fill) in columns.items():
        padded[name] = np.full(shape, fill, dtype=values_of_rows.dtype)
        padded[name][subject, position] = values_of_rows
    return table(targets, **padded)


def _targets(
    values: Values, rows: Rows, dosing: Bool[np.ndarray, " rows"]
) -> tuple[tuple[str | int, ...], Int[np.ndarray, " rows"]]:
    """Return the dose targets, and the index of that of each row."""
    compartments = values.get("CMT", np.zeros(values["ID"].shape, dtype=int))[rows.record].tolist()
    targets = tuple(dict.fromkeys(c for c, doses in zip(compartments, dosing.tolist(), strict=True) if doses)) or (0,)
    numbers = {target: i for i, target in enumerate(targets)}
    index = [numbers[c] if doses else 0 for c, doses in zip(compartments, dosing.tolist(), strict=True)]
    return targets, np.array(index, dtype=int)


def time_after_dose(values: Values, layout: Layout, rows: Rows) -> Floats:
    """Return the time after the last dose, NaN before the first and after a reset.

    An additional dose is not given if a reset, or a steady state that replaces the earlier one (SS = 1), came before
    it.
    """
    early = np.where(rows.order < 0, rows.time - _SAME * np.abs(rows.time), rows.time)
    ends = (values["EVID"] == 3) | (values["EVID"] == 4) | (is_dose(values) & (column(values, "SS") == 1))
    is_given = (early <= _next(ends, layout)[rows.record]) | (rows.order > 0)
    subject = np.concatenate([layout.subject[rows.record][is_given], layout.subject])
    time = np.concatenate([early[is_given], layout.clock])
    order = np.concatenate([rows.order[is_given], layout.position + 1])
    kind = np.concatenate([np.where(rows.kind[is_given] == Action.RESET, 0, 1), np.full(layout.subject.size, 2)])
    at = np.concatenate([rows.time[is_given], layout.clock])
    sequence = np.lexsort((kind, order, time, subject))
    subject, kind, at = subject[sequence], kind[sequence], at[sequence]
    numbers = np.arange(sequence.size)
    start = np.maximum.accumulate(np.where(np.diff(subject, prepend=-1) != 0, numbers, 0))
    dose = np.maximum.accumulate(np.where(kind == 1, numbers, -1))
    reset = np.maximum.accumulate(np.where(kind == 0, numbers, -1))
    after = np.where((dose >= start) & (dose > reset), np.maximum(at - at[dose], 0.0), np.nan)
    elapsed = np.empty(layout.subject.size)
    records = kind == 2
    elapsed[sequence[records] - int(is_given.sum())] = after[records]
    return elapsed


def _next(events: Flags, layout: Layout) -> Floats:
    """Return the time of the next event of the subject after each record, inf if there is none."""
    size = events.size
    numbers = np.where(events, np.arange(size), size)
    following = np.append(np.minimum.accumulate(numbers[::-1])[::-1][1:], size)
    exists = following < size
    same = exists & (layout.subject[np.minimum(following, size - 1)] == layout.subject)
    return np.where(same, layout.clock[np.minimum(following, size - 1)], np.inf)


def occasions(values: Values, layout: Layout) -> Integers:
    """Return the number of dose records at different times so far."""
    doses = np.flatnonzero(is_dose(values))
    moments = np.stack([layout.subject, layout.clock, values["TIME"]])[:, doses]
    new = np.ones(doses.size, dtype=bool)
    new[1:] = (moments[:, 1:] != moments[:, :-1]).any(axis=0)
    counted = np.zeros(layout.subject.size, dtype=int)
    counted[doses[new]] = 1
    total = np.cumsum(counted)
    return total - (total - counted)[layout.starts][layout.subject]
