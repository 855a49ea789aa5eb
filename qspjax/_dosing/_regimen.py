"""Doses are data: a `Regimen` is a table of timed actions, one row per dose.

Times, amounts, durations and rates are arrays, so a regimen can be differentiated, batched and replaced without
retracing. Targets are names in the user's code and integer codes in the table. A column has shape `(rows,)`, or
`(patients, rows)` where patients differ; a row with time = inf is padding. What the table means for a model, and when
one row cancels another, is described in `solve.dosing`.
"""

import dataclasses
import enum
import functools
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, Real

from qspjax._arrays import argmax_first, floats, namespace, on_device, taken
from qspjax._checks import (
    check_above,
    check_increasing,
    check_instance,
    check_no_unit,
    check_number,
    check_whole,
    concrete,
    refuse,
)
from qspjax._dosing._adaptive import AbstractRule, Decision
from qspjax._dosing._amounts import AbstractAmount, Covariates
from qspjax._made import made
from qspjax._renamed import renamed_attribute
from qspjax._types import Scalar


class Action(enum.IntEnum):
    """What a row of the table does."""

    BOLUS = 0
    """Add F * amount to the target at once."""
    INFUSION_OVER = 1
    """Infuse over `duration`: bioavailability scales the rate."""
    INFUSION_RATE = 2
    """Infuse at `rate`: bioavailability scales the duration (NONMEM's RATE > 0)."""
    INFUSION_MODEL_DURATION = 3
    """Infuse over the duration that the model's delivery declares (NONMEM's RATE = -2, D1)."""
    INFUSION_MODEL_RATE = 4
    """Infuse at the rate that the model's delivery declares (NONMEM's RATE = -1, R1)."""
    RESET = 5
    """Put all states back to the initial ones, stop infusions, cancel what was ordered before (NONMEM's EVID = 3)."""
    SET = 6
    """Give a parameter the value `amount`."""
    SCALE = 7
    """Multiply a state by `amount`."""

    @property
    def phrase(self) -> str:
        """What a row is, in words."""
        return _PHRASES.get(self, "an infusion")


_PHRASES = {Action.BOLUS: "a bolus", Action.RESET: "a reset", Action.SET: "a change", Action.SCALE: "a scaling"}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A target that is a parameter of the model instead of a state."""

    name: str


@dataclasses.dataclass(frozen=True)
class Level:
    """A target that is a state itself, by name or by number from 1, whatever delivery leads to it."""

    name: str | int


def name_of(target: "Target") -> str:
    """Return the name of a target, or its number."""
    return str(target.name if isinstance(target, Parameter | Level) else target)


class Echo(NamedTuple):
    """A target that is a state of the past: what goes to another target enters it later."""

    target: str
    state: str


Target: TypeAlias = str | int | Level | Parameter | Echo
"""What a row goes to: a dose target by name, or by number from 1 as NONMEM's CMT; a state; a parameter; an echo."""


class RegimenShape(NamedTuple):
    """The static side of a table: the most that a solve must provide for any patient.

    Attributes:
        infuses: Whether a row may be an infusion; without any, a solve needs neither rates nor their ends.
        resets: Rows that reset.
        steady: Patterns of doses that begin at steady state.
        members: Rows of one such pattern.
        earlier: Doses before a steady state that may still run, or be on their way, when it begins.
        periodic: Whether a steady state may be that of repeated doses.
        constant: Whether a steady state may be that of a constant infusion.
        repeated: Whether all rows are repeated at an interval.
    """

    infuses: bool = False
    resets: int = 0
    steady: int = 0
    members: int = 0
    earlier: int = 0
    periodic: bool = False
    constant: bool = False
    repeated: bool = False

    def merged(self, other: "RegimenShape") -> "RegimenShape":
        """Return the shape of two tables stacked into one."""
        return RegimenShape(
            infuses=self.infuses or other.infuses,
            resets=self.resets + other.resets,
            steady=self.steady + other.steady,
            members=max(self.members, other.members),
            earlier=max(self.earlier, other.earlier),
            periodic=self.periodic or other.periodic,
            constant=self.constant or other.constant,
            repeated=self.repeated and other.repeated,
        )


class Regimen(eqx.Module):
    """A table of timed actions. Make one with `bolus` and `infusion`, combine with `+`, `.every` and `.then`.

    Attributes:
        time: When each dose is given, shape (rows,) or (patients, rows); inf is padding.
        kind: `Action` code of each row.
        index: Which of `targets` each row goes to.
        amount: Amount of each row, before bioavailability.
        duration: Duration of each row that is an `INFUSION_OVER`, else 1.
        rate: Rate of each row that is an `INFUSION_RATE`, else 1.
        ordered: When the dose was ordered: for the repetitions of `every` the time of the first. A reset cancels what
            was ordered before.
        order: Orders what happens at equal times, see `simulate`; 0 unless a data set says more.
        interval: Time to the next dose of the same order, 0 without (NONMEM's II).
        steady: 1 where the dose begins a pattern at steady state, 2 where that is added to the state (NONMEM's SS).
        group: The offset from this row to the first row of the pattern.
        adapts: 1 where adaptive dosing multiplies the amount, else 0.
        rule: Which of `rules` gives the amount of each row, or -1 where `amount` is a number already.
        rules: Amounts that depend on covariates; `prescribe` evaluates them.
        decision: How the doses are adapted at visits, or None.
        end: Time at which the regimen is over, where `then` goes on.
        targets: The dose targets by name, or by number from 1 as NONMEM's CMT (0 is the model's default), and
            states and parameters.
        static_shape: What a solve must provide for.

    Example:
        >>> import qspjax as qsp
        >>> loading = qsp.bolus(200.0, to="depot")
        >>> regimen = loading + qsp.bolus(100.0, to="depot", at=24.0).every(24.0, doses=2)
        >>> regimen.time, regimen.amount
        (Array([ 0., 24., 48.], dtype=float64), Array([200., 100., 100.], dtype=float64))
    """

    time: Float[Array, "*#patients rows"]
    kind: Int[Array, "*#patients rows"]
    index: Int[Array, "*#patients rows"]
    amount: Float[Array, "*#patients rows"]
    duration: Float[Array, "*#patients rows"]
    rate: Float[Array, "*#patients rows"]
    ordered: Float[Array, "*#patients rows"]
    order: Float[Array, "*#patients rows"]
    interval: Float[Array, "*#patients rows"]
    steady: Int[Array, "*#patients rows"]
    group: Int[Array, "*#patients rows"]
    adapts: Int[Array, "*#patients rows"]
    rule: Int[Array, "*#patients rows"]
    rules: tuple[AbstractAmount, ...]
    decision: Decision | None
    end: Float[Array, "*#patients"]
    targets: tuple[Target, ...] = eqx.field(static=True)
    static_shape: RegimenShape = eqx.field(static=True)
    if not TYPE_CHECKING:
        extent = renamed_attribute("Regimen.extent", "Regimen.static_shape")

    def __str__(self) -> str:
        """Return the table of doses, a line per dose."""
        columns = {name: np.asarray(getattr(self, name)) for name in _COLUMNS}
        if any(column.ndim > 1 for column in columns.values()):
            patients = max(len(column) for column in columns.values() if column.ndim > 1)
            return f"Regimen of {self.rows} rows for each of {patients} patients"
        lines = []
        for values in zip(*columns.values(), strict=True):
            row = dict(zip(columns, values, strict=True))
            if np.isfinite(row["time"]):
                lines.append(f"at {row['time']:g}: {self._described(row)}")
        return "\n".join(lines) or "no doses"

    def _described(self, row: Mapping[str, float | np.integer]) -> str:
        kind, target = Action(int(row["kind"])), self.targets[int(row["index"])] if self.targets else ""
        if kind == Action.RESET:
            return "reset"
        name = name_of(target)
        if kind in (Action.SET, Action.SCALE):
            return f"{name} {'=' if kind == Action.SET else '*='} {row['amount']:g}"
        dose = f"{row['amount']:g}" if row["rule"] < 0 else type(self.rules[int(row["rule"])]).__name__
        manner = {
            Action.BOLUS: "",
            Action.INFUSION_OVER: f" over {row['duration']:g}",
            Action.INFUSION_RATE: f" at rate {row['rate']:g}",
            Action.INFUSION_MODEL_DURATION: " over the model's duration",
            Action.INFUSION_MODEL_RATE: " at the model's rate",
        }[kind]
        steady = {0: "", 1: ", at steady state", 2: ", with its steady state added"}[int(row["steady"])]
        every = f" every {row['interval']:g}" if steady and row["interval"] else ""
        return f"{dose} to {name}{manner}{steady}{every}"

    @property
    def rows(self) -> int:
        """Number of rows, padding included."""
        return self.time.shape[-1]

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters that change with time."""
        return tuple(target.name for target in self.targets if isinstance(target, Parameter))

    @property
    def levels(self) -> tuple[Level, ...]:
        """The states that are scaled."""
        return tuple(target for target in self.targets if isinstance(target, Level))

    def ndims(self) -> "Regimen":
        """Return a tree like the regimen: the number of dimensions of each leaf for one patient."""
        columns = eqx.tree_at(lambda r: r.end, jax.tree.map(lambda _: 1, self), 0)
        if self.decision is None:
            return columns
        rule = jax.tree.map(jnp.ndim, self.decision.rule)
        return eqx.tree_at(lambda r: r.decision.rule, columns, rule)

    def __add__(self, other: "Regimen") -> "Regimen":
        """Give the doses of both regimens."""
        check_instance("other", other, Regimen, "a regimen, to be added to a regimen")
        targets = self.targets + tuple(name for name in other.targets if name not in self.targets)
        xp, columns = _columns(self, other)
        _, below = _columns(other, self)
        numbers = [targets.index(name) for name in other.targets]
        below["index"] = xp.asarray(numbers, dtype=int)[below["index"]] if numbers else below["index"]
        below["rule"] = xp.where(below["rule"] >= 0, below["rule"] + len(self.rules), -1)
        columns = on_device({name: _concatenated(xp, column, below[name]) for name, column in columns.items()})
        end = on_device(xp.maximum(self.end, other.end))
        if self.decision is not None and other.decision is not None:
            raise ValueError("Only one of the regimens that are added can be adapted: add them first, then adapt.")
        return changed(
            self,
            **columns,
            rules=self.rules + other.rules,
            decision=self.decision or other.decision,
            end=end,
            targets=targets,
            static_shape=self.static_shape.merged(other.static_shape),
        )

    def every(self, interval: Scalar, *, doses: int) -> "Regimen":
        """Repeat the regimen every `interval`, `doses` times in total (NONMEM's II, and ADDL = doses - 1).

        Args:
            interval: Time from one dose to the next (one per patient, or the same for all); differentiable.
            doses: How many times in total, at least 1.

        Raises:
            ValueError: If `interval` is not positive or `doses` is less than 1.
        """
        check_number("interval", interval)
        check_above("interval", interval, 0.0)
        check_whole("doses", doses, 1)
        if not self.rows:
            return self
        if self.static_shape.steady:
            raise ValueError("A regimen at steady state cannot be repeated: call `at_steady_state` last.")
        xp, columns = _columns(self, interval)
        interval, first = floats(interval), xp.min(columns["time"], axis=-1)
        shift = xp.repeat(xp.arange(doses), self.rows) * interval[..., None]
        if xp is np:
            again = np.arange(doses * self.rows) % self.rows
            columns = {name: column[..., again] for name, column in columns.items()}
        else:
            columns = {name: xp.tile(column, doses) for name, column in columns.items()}
        columns["time"] = columns["time"] + shift
        is_dose = columns["kind"] < Action.RESET
        columns["ordered"] = xp.where(is_dose, columns["ordered"], columns["time"])
        columns["interval"] = xp.where(is_dose, interval[..., None], columns["interval"])
        end = xp.maximum(xp.asarray(self.end) + (doses - 1) * interval, first + doses * interval)
        shape = self.static_shape._replace(resets=self.static_shape.resets * doses, repeated=True)
        return changed(self, **on_device(columns), end=on_device(end), static_shape=shape)

    def at_steady_state(self, *, added: bool = False) -> "Regimen":
        """Begin at steady state: as if the doses had been repeated at their interval indefinitely before (NONMEM's SS).

        At the time of the first dose the states are those of the periodic solution; where a dose has a lag L, at the
        phase interval - L. Earlier doses that still run, or are on their way, go on. With `added` the steady state is
        added to the current state, less the initial state (SS = 2); otherwise the system starts again: running
        infusions stop and what was ordered before is cancelled (SS = 1). All doses within one interval form one
        pattern, even if there are several. An infusion of amount 0 at a rate, not repeated, means the steady state of
        that constant infusion, which ends at its time.

        If the doses lead to no steady state, because as much is given as can be eliminated or nothing is eliminated,
        the solve fails (`RESULTS.steady_state_not_found`). Lags and durations may equal the interval, or multiples of
        it; an output at the very time of a dose, or of the end of an infusion, has the derivative of the side on which
        that comes before the output.

        Args:
            added: Whether to add the steady state to the current state instead of replacing it.

        Raises:
            ValueError: If the regimen is not repeated with `every`, or holds several orders.

        Example:
            >>> import qspjax as qsp
            >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
            >>> regimen = qsp.bolus(300.0, to="central").every(12.0, doses=3).at_steady_state()
            >>> qsp.simulate(patient, regimen, [0.0, 12.0, 36.0]).observed["concentration"].round(2)
            Array([14.31, 14.31,  4.31], dtype=float64)
        """
        if not self.rows or self.static_shape.steady or self.static_shape.resets or self.parameters or self.levels:
            raise ValueError("Only doses, repeated with `every`, can be at steady state.")
        constant = not self.static_shape.repeated
        amount, interval = concrete(self.amount), concrete(self.interval)
        has_doses = (amount is not None and amount.any()) or len(self.rules)
        if constant and (has_doses or not self.static_shape.infuses or self.rows > 1):
            raise ValueError("A regimen at steady state must be repeated with `.every(interval, doses=)` first.")
        if interval is not None and np.ptp(interval, axis=-1).any():
            raise ValueError("Doses at steady state must have one interval: use one regimen for each, and `+`.")
        xp, columns = _columns(self)
        time = columns["time"]
        first = xp.min(time, axis=-1, keepdims=True)
        member = (time < first + columns["interval"] * (1 - 1e-9)) | (time == first)
        members = concrete(member)
        reference = (np.argmax(-time, axis=-1) if xp is np else argmax_first(-jnp.asarray(time)))[..., None]
        pattern = {
            "steady": xp.where(member, 2 if added else 1, 0),
            "group": xp.where(member, reference - xp.arange(self.rows), 0),
        }
        shape = self.static_shape._replace(
            steady=1,
            members=self.rows if members is None else int(members.sum(axis=-1).max()),
            periodic=not constant,
            constant=constant,
        )
        return changed(self, **on_device(pattern), static_shape=shape)

    def then(self, other: "Regimen") -> "Regimen":
        """Go on with another regimen when this one is over: its last infusion ended and its last interval passed.

        Raises:
            ValueError: If the end is not known: an infusion at a rate of an amount that depends on covariates.
        """
        check_instance("other", other, Regimen, "a regimen, to follow a regimen")
        end = concrete(self.end)
        if end is not None and np.isnan(end).any():
            refuse("rate", "be replaced by `over` in a regimen that goes on with `then`", "of an unknown duration")
        shift = self.end[..., None]
        shifted = (other.time + shift, other.ordered + shift, other.end + self.end)
        later = eqx.tree_at(lambda r: (r.time, r.ordered, r.end), other, shifted)
        if later.decision is not None:
            later = eqx.tree_at(lambda r: r.decision.at, later, later.decision.at + shift)
        return self + later

    def adapted(self, rule: AbstractRule, *, at: Scalar | Sequence[float]) -> "Regimen":
        """Adapt the doses at visits: a rule decides by which factor those that follow are multiplied.

        A dose at the time of a visit is given after the decision. A dose keeps the factor of its start; an infusion
        keeps its duration, and its rate is multiplied. The factors are in `solution.stats["factors"]`. What is added to
        the regimen afterwards, with `+`, is not adapted.

        Args:
            rule: Such as `ReduceAbove("toxicity", 3.0)`, or your own.
            at: Times of the visits, shape (visits,) or (patients, visits), not decreasing; trailing inf is padding.

        Raises:
            ValueError: If times decrease or the regimen is adapted already.

        Example:
            >>> import qspjax as qsp
            >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
            >>> daily = qsp.bolus(300.0, to="central").every(24.0, doses=3)
            >>> regimen = daily.adapted(qsp.ReduceAbove("concentration", 5.0), at=[1.0, 25.0])
            >>> solution = qsp.simulate(patient, regimen, [0.0, 24.0, 48.0])
            >>> solution.observed["concentration"].round(2), solution.stats["factors"]
            (Array([10.  ,  5.91,  3.04], dtype=float64), Array([0.5 , 0.25], dtype=float64))
        """
        if self.decision is not None:
            raise ValueError("A regimen can be adapted only once.")
        check_number("at", at)
        check_increasing("at", jnp.asarray(at, dtype=float))
        doses = self.kind < Action.RESET
        if self.parameters:  # a parameter that changes is no dose
            doses &= ~np.array([isinstance(target, Parameter) for target in self.targets])[self.index]
        return dataclasses.replace(self, adapts=doses.astype(int), decision=Decision(rule, at))

    def prescribe(self, covariates: Covariates) -> "Regimen":
        """Return the regimen with every amount a number, for patients with these covariates.

        Args:
            covariates: By name, numbers for one patient or arrays of shape (patients,).

        Raises:
            ValueError: If an amount needs a covariate that is missing, or is negative.
        """
        for name, value in covariates.items():
            check_no_unit(name, value)
        amount = self.amount
        for code, rule in enumerate(self.rules):
            value = rule(covariates)
            value = jnp.asarray(value)
            amounts = concrete(value)
            if amounts is not None and (negative := np.argwhere(np.atleast_1d(amounts) < 0.0)).size:
                patient = f" in patient {negative[0][0]}" if value.ndim else ""
                actual = f"{amounts[amounts < 0.0].flat[0]:g} by {type(rule).__name__}{patient}"
                refuse("amount", "be at least 0", actual)
            amount = jnp.where(self.rule == code, value[..., None] if value.ndim else value, amount)
        return eqx.tree_at(lambda r: (r.amount, r.rule, r.rules), self, (amount, jnp.full_like(self.rule, -1), ()))

    def echoed(self, echoes: Sequence[Sequence[int]]) -> "Regimen":
        """Return the regimen in which what goes to a target goes to other targets too, in additional rows.

        Args:
            echoes: For each target, the numbers of these others.
        """
        xp, table = _columns(self)
        columns, index = table, table["index"]
        for k in range(max(map(len, echoes), default=0)):
            has_echo = xp.asarray([len(numbers) > k for numbers in echoes])[index]
            number = xp.asarray([numbers[k] if len(numbers) > k else 0 for numbers in echoes])[index]
            echo = {"time": xp.where(has_echo, table["time"], xp.inf), "index": number}
            echo["order"] = xp.full_like(table["order"], -1.0)  # not a record: outputs at its time come after it
            columns = {name: _concatenated(xp, x, echo.get(name, table[name])) for name, x in columns.items()}
        return changed(self, **on_device(columns))

    def padded(self, rows: int) -> "Regimen":
        """Return the regimen with padding rows up to `rows`, so that other regimens share its compiled program.

        Its columns are in numpy where they are at hand: a compiled program takes them as they are. Whether all rows are
        repeated is forgotten, since it makes no difference to a program.
        """
        xp, columns = _columns(self)
        before = self.rows
        for name, column in columns.items() if rows > before else ():
            padding = xp.full((*column.shape[:-1], rows - before), _COLUMNS[name], column.dtype)
            columns[name] = xp.concatenate([column, padding], axis=-1)
        shape = self.static_shape
        return changed(self, **columns, static_shape=shape._replace(repeated=False) if shape.repeated else shape)


def changed(regimen: Regimen, **changes: object) -> Regimen:
    """Return a regimen with other values."""
    return made(Regimen, {**vars(regimen), **changes})


def _columns(regimen: Regimen, *others: PyTree) -> tuple[ModuleType, dict[str, Array | np.ndarray]]:
    """Return numpy if a regimen and the others are at hand, else jax.numpy, and the columns in it."""
    fields = vars(regimen)
    columns = {name: fields[name] for name in _COLUMNS}
    xp = namespace(*columns.values(), fields["end"], fields["rules"], fields["decision"], *others)
    return xp, {name: xp.asarray(column) for name, column in columns.items()}


_COLUMNS: dict[str, float] = {
    "time": jnp.inf,
    "kind": int(Action.BOLUS),
    "index": 0,
    "amount": 0.0,
    "duration": 1.0,
    "rate": 1.0,
    "ordered": jnp.inf,
    "order": 0.0,
    "interval": 0.0,
    "steady": 0,
    "group": 0,
    "adapts": 0,
    "rule": -1,
}
"""The columns of the table and what padding holds in them."""

_INTEGERS = ("kind", "index", "steady", "group", "adapts", "rule")
"""Columns of integers."""


def table(
    targets: Sequence[Target],
    *,
    end: Scalar | None = None,
    rules: Sequence[AbstractAmount] = (),
    **columns: Real[Array, "..."] | Real[np.ndarray, "..."] | None,
) -> Regimen:
    """Return the regimen of a table; columns that are not given have their defaults.

    Args:
        targets: The targets that `index` refers to.
        end: Time at which the regimen is over; by default that of its last row.
        rules: Amounts that depend on covariates.
        **columns: Columns of a `Regimen`, each of shape (rows,) or (patients, rows), `time` at least; codes in numpy.
    """
    time = floats(columns["time"])
    columns = {"ordered": time, **columns}
    filled = {}
    for name in _COLUMNS:
        values = columns.get(name)
        if values is not None:
            filled[name] = on_device(namespace(values).asarray(values, dtype=_type(name)))
        else:
            filled[name] = on_device(_default(name, time.shape[-1]))
    codes = ("kind", "steady", "interval", "group")
    kind, steady, interval, group = (np.asarray(columns.get(name, 0)) for name in codes)
    is_real = np.ones(time.shape, dtype=bool) if concrete(time) is None else np.isfinite(np.asarray(time))
    begins = is_real & (steady > 0) & (group == 0)
    infuses = (kind >= Action.INFUSION_OVER) & (kind <= Action.INFUSION_MODEL_RATE)
    shape = RegimenShape(
        infuses=bool(np.any(infuses)),
        resets=_max_count(is_real & (kind == Action.RESET)),
        steady=_max_count(begins),
        members=max(1, _max_count(is_real & (steady > 0)) - _max_count(begins) + 1) if begins.any() else 0,
        periodic=bool(np.any(begins & (interval > 0))),
        constant=bool(np.any(begins & (interval == 0))),
    )
    if end is None:
        xp = namespace(time)
        end = xp.max(xp.where(xp.isfinite(time), time, -xp.inf), axis=-1, initial=-xp.inf)
        end = xp.where(xp.isfinite(end), end, 0.0)
    over = on_device(floats(end))
    others = {"rules": tuple(rules), "decision": None, "targets": tuple(targets), "static_shape": shape}
    return made(Regimen, {**filled, **others, "end": over})


def _type(name: str) -> type:
    """Return the type of the numbers in a column."""
    return int if name in _INTEGERS else float


@functools.lru_cache(maxsize=256)
def _default(name: str, rows: int) -> np.ndarray:
    """Return a column as it is where nothing is given."""
    column = np.full(rows, _COLUMNS[name], _type(name))
    column.flags.writeable = False
    return column


def check_regimen(regimen: object, description: str = "a regimen") -> None:
    """Check that doses are one regimen; several are added."""
    if isinstance(regimen, (list, tuple)):
        refuse("regimen", f"be {description}, several of them added with `+` (`a + b`)", f"a {type(regimen).__name__}")
    check_instance("regimen", regimen, Regimen, description)


def stacked(regimens: Sequence[Regimen]) -> Regimen:
    """Return regimens as one with an axis of patients, one patient for each, so that one program solves them all."""
    targets = tuple(dict.fromkeys(target for regimen in regimens for target in regimen.targets))
    rows = max(regimen.rows for regimen in regimens)
    shape = regimens[0].static_shape
    for regimen in regimens[1:]:
        maxima = {name: max(getattr(shape, name), getattr(regimen.static_shape, name)) for name in ("resets", "steady")}
        shape = shape.merged(regimen.static_shape)._replace(**maxima)
    xp = namespace(list(regimens))

    def column(name: str, regimen: Regimen) -> Array | np.ndarray:
        values = xp.asarray(getattr(regimen, name))
        if name == "index" and regimen.targets:
            values = xp.asarray([targets.index(target) for target in regimen.targets], dtype=int)[values]
        spare = [(0, 0)] * (values.ndim - 1) + [(0, rows - values.shape[-1])]
        return xp.pad(values, spare, constant_values=_COLUMNS[name])

    columns = on_device({name: xp.stack([column(name, regimen) for regimen in regimens]) for name in _COLUMNS})
    ends = on_device(xp.stack([xp.asarray(regimen.end) for regimen in regimens]))
    return Regimen(**columns, rules=(), decision=None, end=ends, targets=targets, static_shape=shape)


def of_patients(regimen: Regimen, numbers: np.ndarray, size: int) -> Regimen:
    """Return the regimen of some of `size` patients; what all of them share stays as it is."""

    def chosen(leaf: jax.Array, ndim: int) -> jax.Array:
        if np.ndim(leaf) <= ndim:
            return leaf
        if leaf.shape[0] != size:
            refuse("regimen", f"have one row per patient ({size})", f"of shape {leaf.shape}")
        return taken(leaf, numbers)

    return jax.tree.map(chosen, regimen, regimen.ndims())


def _max_count(mask: np.ndarray) -> int:
    return int(mask.sum(axis=-1).max(initial=0))


def _concatenated(xp: ModuleType, first: Array | np.ndarray, second: Array | np.ndarray) -> Array | np.ndarray:
    lead = np.broadcast_shapes(first.shape[:-1], second.shape[:-1])
    return xp.concatenate([xp.broadcast_to(column, (*lead, column.shape[-1])) for column in (first, second)], axis=-1)
