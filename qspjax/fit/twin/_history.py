"""What a patient was given and what was measured of it, as arrays whose shapes change seldom.

Rows and doses are padded to a power of two, so that one compiled program serves many updates of many patients. Padding
repeats the last row, and does not count.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from qspjax._checks import ArgumentError, check_instance, check_one_of, refuse
from qspjax._dosing._doses import no_doses
from qspjax._dosing._regimen import Regimen, changed, check_regimen
from qspjax.fit.data._measurements import Measurements, Output
from qspjax.fit.data._output_data import OutputData, chosen

LEAST = 8
"""The least number of rows of a table."""
SPAN = 1e6
"""What the `order` of doses and measurements of an update has more than that of the update before."""


class Row(NamedTuple):
    """A measurement.

    Attributes:
        time: Its time.
        order: Its order among what happens at its time.
        output: The name of what was measured.
        value: The measured value, or that of its record where it is censored.
        side: 1 where it is censored below, -1 where above, else 0.
        lower: The lower bound of a censored value, else -inf.
        upper: The upper bound of a censored value, else inf.
    """

    time: float
    order: float
    output: str
    value: float
    side: int
    lower: float
    upper: float


class Rows(eqx.Module):
    """The measurements of one output.

    Attributes:
        place: The index of the time of each.
        time: Its time.
        value: See `Row`.
        side: See `Row`.
        lower: See `Row`.
        upper: See `Row`.
        old: Whether it counted before.
        new: Whether it is new.
    """

    place: Int[Array | np.ndarray, " rows"]
    time: Float[Array | np.ndarray, " rows"]
    value: Float[Array | np.ndarray, " rows"]
    side: Int[Array | np.ndarray, " rows"]
    lower: Float[Array | np.ndarray, " rows"]
    upper: Float[Array | np.ndarray, " rows"]
    old: Shaped[Array | np.ndarray, " rows"]
    new: Shaped[Array | np.ndarray, " rows"]

    def data(self, name: str, output: Output) -> OutputData:
        """Return the rows as those of a fit with one experiment."""
        size = self.place.shape[0]
        columns = {key: getattr(self, key) for key in ("place", "time", "value", "side", "lower", "upper")}
        nothing = np.zeros(size, int)
        return OutputData(
            name, output, experiment=nothing, record=np.arange(size), order=np.zeros(size), given={}, **columns
        )


class Table(eqx.Module):
    """Doses and measurements, padded.

    Attributes:
        regimen: The doses.
        ts: The times of all measurements, not decreasing.
        order: Their order among what happens at these times.
        rows: The measurements, output by output.
    """

    regimen: Regimen
    ts: Float[Array | np.ndarray, " times"]
    order: Float[Array | np.ndarray, " times"]
    rows: dict[str, Rows]

    @classmethod
    def of(cls, regimen: Regimen, old: Sequence[Row], new: Sequence[Row]) -> "Table":
        """Return the table of doses and of measurements, of which some are new."""
        pairs = sorted([*((row, False) for row in old), *((row, True) for row in new)], key=lambda pair: pair[0][:2])
        places: dict[str, list[int]] = {}
        for place, (row, _) in enumerate(pairs):
            places.setdefault(row.output, []).append(place)
        rows = {name: _rows(pairs, np.array(places[name])) for name in sorted(places)}
        moments = np.array([row[:2] for row, _ in pairs])[_padded(np.arange(len(pairs)))]
        return cls(regimen.padded(room(regimen.rows)), moments[:, 0], moments[:, 1], rows)


def room(size: int) -> int:
    """Return the rows of a table that holds some."""
    return max(LEAST, 1 << (size - 1).bit_length())


def _padded(indices: np.ndarray) -> np.ndarray:
    return np.concatenate([indices, np.repeat(indices[-1:], room(indices.size) - indices.size)])


def _rows(pairs: Sequence[tuple[Row, bool]], places: np.ndarray) -> Rows:
    chosen = _padded(places)
    columns = {name: np.array([getattr(pairs[k][0], name) for k in chosen]) for name in Row._fields[3:]}
    counts = np.arange(chosen.size) < places.size
    is_new = np.array([pairs[k][1] for k in chosen])
    time = np.array([pairs[k][0].time for k in chosen])
    return Rows(chosen, time, **columns, old=counts & ~is_new, new=counts & is_new)


@dataclasses.dataclass(frozen=True)
class History:
    """What a patient was given, and what was measured.

    Attributes:
        regimen: The doses.
        rows: The measurements, in the order in which they counted.
        updates: How many updates there were.
    """

    regimen: Regimen = dataclasses.field(default_factory=no_doses)
    rows: tuple[Row, ...] = ()
    updates: int = 0

    @property
    def latest(self) -> float:
        """The time of the latest measurement, -inf without."""
        return max((row.time for row in self.rows), default=-np.inf)

    def given(self, doses: Regimen, argument: str) -> Regimen:
        """Return the doses together with further ones, which come after what was measured."""
        check_regimen(doses)
        if np.ndim(doses.time) > 1:
            refuse(argument, "be those of one patient", "those of several")
        if doses.decision is not None:
            refuse(argument, "be those that were given", "adapted by a rule")
        times = np.asarray(doses.time)
        early = times[times < self.latest]
        if early.size:
            must = f"come no earlier than what was measured, at {self.latest:g}"
            refuse(argument, must, f"at {early.min():g}: it would change what the measurements said")
        later = changed(doses, order=np.asarray(doses.order) + SPAN * self.updates)
        return self.regimen + later if self.regimen.rows else later

    def after(
        self, measurements: Measurements, doses: Regimen | None, outputs: Mapping[str, Output]
    ) -> tuple["History", list[list[Row]]]:
        """Return the history with further doses, and new measurements moment by moment, which are not in it yet."""
        rows = sorted(rows_of(measurements, outputs, SPAN * self.updates), key=lambda row: row[:2])
        if not rows:
            raise ArgumentError("measurements", "must have values, but all are missing or left out.")
        regimen = self.regimen if doses is None else self.given(doses, "doses")
        if doses is not None:
            latest, times = max(self.latest, rows[-1].time), np.asarray(doses.time)
            late = times[np.isfinite(times) & (times > latest)]
            if late.size:
                must = f"have been given by the time of the latest measurement, {latest:g}"
                refuse("doses", must, f"one at {late[0]:g} (`forecast` takes those that are to come)")
        moments: dict[tuple[float, float], list[Row]] = {}
        for row in rows:
            moments.setdefault(row[:2], []).append(row)
        return History(regimen, self.rows, self.updates + 1), [*moments.values()]

    def with_rows(self, rows: Sequence[Row]) -> "History":
        """Return the history with measurements that count now."""
        return dataclasses.replace(self, rows=(*self.rows, *rows))


def rows_of(data: Measurements, outputs: Mapping[str, Output], first: float) -> list[Row]:
    """Return measurements row by row, without missing ones; their `order` begins at a number."""
    check_instance("measurements", data, Measurements, "Measurements")
    if data.given:
        refuse("measurements", "have no columns of their own in a twin", ", ".join(data.given))
    if np.isinf(data.time).any():
        refuse("measurements", "have finite times in a twin", "one of a steady state")
    names, rows = np.array(data.output, dtype=object), []
    for name in dict.fromkeys(data.output):
        check_one_of("measurements", name, outputs, "an output of the twin")
        is_output = names == name
        included, columns = chosen(outputs[name], data, is_output, "patient")
        time, order = data.time[is_output], first + np.minimum(data.order[is_output], SPAN - 1.0)
        for k in np.flatnonzero(included):
            numbers = {key: column[k].item() for key, column in columns.items()}
            rows.append(Row(float(time[k]), float(order[k]), name, **numbers))
    return rows
