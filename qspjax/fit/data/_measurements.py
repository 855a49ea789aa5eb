"""Measurements, rows of time, output and value, and the experiments they belong to."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from qspjax._checks import check_instance, check_no_unit, check_one_of, described, refuse
from qspjax._dosing._covariates import FIRST
from qspjax._dosing._doses import no_doses
from qspjax._dosing._regimen import Regimen, check_regimen
from qspjax._expression import AnyFunction, Expression, Formula, as_formula
from qspjax._types import Scalar
from qspjax.fit._frozen import settle
from qspjax.fit._types import Columns, Numbers
from qspjax.fit.data._formula import names_in
from qspjax.fit.errors._censoring import AbstractCensoring
from qspjax.fit.errors._contract import AbstractErrorModel, formulas_of

Column: TypeAlias = Float[np.ndarray, " rows"]
"""A number of each row."""


@dataclasses.dataclass(frozen=True, eq=False, init=False)
class Output:
    """A quantity that is measured: how it follows from the model, and how measurements scatter about it.

    Args:
        prediction: A formula over observed values, parameters of the model and of the fit, and `time`:
            `"concentration"`, `"scale * (receptor + complex)"`.
        error: The error model.
        below: The treatment of measurements below a limit of quantification; by default censored ones have the
            likelihood of lying beyond their own limit, as with `M3()`.

    Raises:
        ValueError: If the formula cannot be read.

    Example:
        >>> from qspjax.fit import Output, Proportional
        >>> str(Output("scale * complex", Proportional("cv")).prediction)
        'scale * complex'
    """

    prediction: float | Expression
    error: AbstractErrorModel
    below: AbstractCensoring | None

    def __init__(
        self, prediction: Formula, error: AbstractErrorModel, *, below: AbstractCensoring | None = None
    ) -> None:
        """Read the formula."""
        check_instance("error", error, AbstractErrorModel, "an error model such as Additive('sigma')")
        if below is not None:
            check_instance("below", below, AbstractCensoring, "M1(limit), M3(limit) or M4(limit)")
        settle(self, prediction=as_formula("prediction", prediction, AnyFunction()), error=error, below=below)

    def formulas(self) -> tuple[float | Expression, ...]:
        """Return its formulas: that of the prediction, and those of the error."""
        return self.prediction, *formulas_of(self.error).values()

    def names(self) -> frozenset[str]:
        """Return the names that its formulas use."""
        return names_in(*self.formulas())


@dataclasses.dataclass(frozen=True, eq=False, init=False)
class Measurements:
    """Rows of data: time, output and value; replicates have rows of their own, NaN is a missing value.

    Args:
        time: Times, shape (rows,); inf for the steady state that the experiment comes to.
        value: Measured values, shape (rows,).
        output: The name of the output of each row, or one name for all.
        censored: Which rows are limits rather than measurements, like CENS of a data set: 1 (or true) for a value below
            the limit, -1 for one above, 0 for a measured value. Values below the limit of their output count as
            censored.
        lower: Lower bounds of censored rows, less than the upper ones. NaN stands for the value of a row that is
            censored above, and for no bound of one that is censored below.
        upper: Upper bounds of censored rows. NaN stands for the limit of the output of a row that is censored below, or
            its value if the output has no limit, and for no bound of one that is censored above.
        given: More columns by name, for formulas: numbers, or names and formulas over parameters.
        order: Numbers that order what happens at equal times, as in `simulate`: a row sees the doses and changes at its
            time whose `order` is not greater. By default it sees them all.

    Raises:
        ValueError: If columns differ in length or hold no numbers, or a value is infinite.

    Example:
        >>> from qspjax.fit import Measurements
        >>> Measurements([0.0, 1.0, 1.0], [9.8, 3.9, 4.1], output="concentration").rows
        3
    """

    time: Column
    value: Column
    output: tuple[str, ...]
    side: Int[np.ndarray, " rows"]
    lower: Column
    upper: Column
    given: Mapping[str, tuple[float | Expression, ...]]
    order: Column

    def __init__(
        self,
        time: Numbers,
        value: Numbers,
        *,
        output: str | Sequence[str],
        censored: Numbers | None = None,
        lower: Numbers | None = None,
        upper: Numbers | None = None,
        given: Mapping[str, Sequence[Formula] | Formula] | None = None,
        order: Numbers | None = None,
    ) -> None:
        """Bring all columns to one length."""
        settle(self, time=_column("time", time), value=_column("value", value))
        if self.time.shape != self.value.shape:
            refuse("value", f"have one element per time ({self.time.size})", f"of shape {self.value.shape}")
        if np.isnan(self.time).any():
            refuse("time", "hold numbers, or inf for the steady state", "NaN somewhere")
        if (infinite := np.flatnonzero(np.isinf(self.value))).size:
            row = infinite[0]
            refuse("value", f"be finite, or NaN where one is missing, in row {row + 1}", self.value[row])
        names = [output] * self.rows if isinstance(output, str) else list(output)
        if len(names) != self.rows:
            refuse("output", f"name one output per row ({self.rows})", f"of {len(names)} names")
        side = self._each("censored", 0 if censored is None else censored).astype(int)
        if not np.isin(side, (-1, 0, 1)).all():
            refuse("censored", "be 1 (below a limit), -1 (above one) or 0", side[~np.isin(side, (-1, 0, 1))][0])
        lower, upper = self._each("lower", lower), self._each("upper", upper)
        if (lower >= upper).any():
            row = np.flatnonzero(lower >= upper)[0]
            refuse("lower", f"be less than `upper` ({upper[row]:g})", f"{lower[row]:g}")
        settle(self, output=tuple(map(str, names)), side=side, lower=lower, upper=upper)
        settle(self, given={name: self._cells(name, column) for name, column in (given or {}).items()})
        settle(self, order=self._each("order", np.inf if order is None else order))

    def _each(self, name: str, values: Numbers | None) -> Column:
        """Return a column of numbers, one per row; None is NaN."""
        values = np.nan if values is None else values
        check_no_unit(name, values)
        column = np.full(self.rows, values, float) if np.asarray(values).ndim == 0 else _column(name, values)
        if column.shape != self.time.shape:
            refuse(name, f"have one element per row ({self.rows})", f"of shape {column.shape}")
        return column

    def _cells(self, name: str, column: Sequence[Formula] | Formula) -> tuple[float | Expression, ...]:
        """Return a column of formulas."""
        cells = [column] * self.rows if isinstance(column, (str, float, int, Expression)) else list(column)
        if len(cells) != self.rows:
            refuse(name, f"have one element per row ({self.rows})", f"of {len(cells)} elements")
        return tuple(as_formula(name, cell.item() if isinstance(cell, np.generic) else cell) for cell in cells)

    def with_columns(self, columns: Mapping[str, Sequence[Formula]]) -> "Measurements":
        """Return the same rows with more columns for formulas."""
        bounds = {"censored": self.side, "lower": self.lower, "upper": self.upper}
        given = {**self.given, **columns}
        return Measurements(self.time, self.value, output=self.output, **bounds, given=given, order=self.order)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.time.size

    @classmethod
    def of(
        cls,
        table: Columns,
        *,
        output: str | None = None,
        time: str = "time",
        value: str = "value",
    ) -> "Measurements":
        """Return the measurements in a table.

        Args:
            table: Columns by name, such as a data frame of pandas; the column `output` names outputs, `censored`
                (1 below, -1 above) marks limits, `lower` and `upper` are bounds of such rows.
            output: The name of the output, if the table has no column `output`.
            time: The column of times.
            value: The column of values.
        """
        for name in (time, value):
            check_one_of("table", name, list(table), "a column")
        names = [str(name) for name in np.asarray(table["output"])] if output is None else output
        censored, lower, upper = (table.get(name) for name in ("censored", "lower", "upper"))
        return cls(table[time], table[value], output=names, censored=censored, lower=lower, upper=upper)


@dataclasses.dataclass(frozen=True, eq=False, init=False)
class Change:
    """Parameters of the model and states that are set at a time.

    A change acts before everything else that happens at its time: a dose and a measurement at the same time see the new
    values. Where `order` says so, it acts after some of them.

    Args:
        at: The time.
        set: By name, new values of parameters of the model, until they are set again: numbers, or formulas over the
            parameters of the fit and the model and the values observed at that time. A parameter of the fit has its
            estimate there, and any other parameter of the model the value that earlier changes gave it.
        put: By name, new values of states, in the same way.
        order: Its position among what happens at its time, as in `simulate`: doses and measurements at the same time
            whose `order` is less come before it. By default none does.
        typical: Whether parameters of the model have the numbers of the model in formulas, whatever changes set.

    Example:
        >>> from qspjax.fit import Change
        >>> Change(24.0, set={"CL": "CL_fasted"}).at
        24.0
    """

    at: float
    set: Mapping[str, float | Expression]
    put: Mapping[str, float | Expression]
    order: float
    typical: bool

    def __init__(
        self,
        at: float,
        *,
        set: Mapping[str, Formula | Scalar] | None = None,
        put: Mapping[str, Formula | Scalar] | None = None,
        order: float = FIRST,
        typical: bool = False,
    ) -> None:
        """Read the formulas."""
        check_no_unit("at", at)
        settle(self, set={name: as_formula(name, value, AnyFunction()) for name, value in (set or {}).items()})
        settle(self, put={name: as_formula(name, value, AnyFunction()) for name, value in (put or {}).items()})
        settle(self, at=float(at), order=float(order), typical=typical)

    def formulas(self) -> tuple[float | Expression, ...]:
        """Return its formulas."""
        return *self.set.values(), *self.put.values()

    def names(self) -> frozenset[str]:
        """Return the names that its formulas use."""
        return names_in(*self.formulas())

    def setting(self, values: Mapping[str, Formula | Scalar]) -> "Change":
        """Return the same change with other values of parameters."""
        return Change(self.at, set=values, put=self.put, order=self.order, typical=self.typical)

    def following(self, values: Mapping[str, Formula | Scalar]) -> "Change":
        """Return the same change with values that follow from the numbers of the model, whatever changes set."""
        return Change(self.at, set=values, put=self.put, order=self.order, typical=True)


@dataclasses.dataclass(frozen=True, eq=False, init=False)
class Experiment:
    """Measurements under one regimen and one set of conditions.

    Args:
        measurements: The data.
        regimen: The doses.
        set: By name, parameters of the model that have their own value here: numbers, or formulas over the parameters
            of the fit, such as `{"kon": "kon_mutant"}`. A name that is no parameter of the model must be used in
            formulas, such as those of outputs.
        put: By name, states that begin with their own value here, in the same way.
        equilibrated: The condition in whose steady state the experiment begins: a `Change` whose time is ignored.
        changes: Later changes of conditions.
        start: When it begins; by default at 0, or with the first dose or measurement if that is earlier.
        seen: The order of each measurement among what happens at its time; by default it follows from the `order` of
            measurements, doses and changes.
        optional: Names in `set` and in changes that nothing needs to use, such as columns of a data set.

    Raises:
        ValueError: If changes are not in the order of time.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Experiment, Measurements
        >>> data = Measurements([1.0, 4.0], [8.1, 4.2], output="concentration")
        >>> Experiment(data, qsp.bolus(300.0, to="central")).measurements.rows
        2
    """

    measurements: Measurements
    regimen: Regimen
    begin: Change
    equilibrated: Change | None
    changes: tuple[Change, ...]
    start: float | None
    seen: Column
    optional: frozenset[str]

    def __init__(
        self,
        measurements: Measurements,
        regimen: Regimen | None = None,
        *,
        set: Mapping[str, Formula | Scalar] | None = None,
        put: Mapping[str, Formula | Scalar] | None = None,
        equilibrated: Change | None = None,
        changes: Sequence[Change] = (),
        start: float | None = None,
        seen: Column | None = None,
        optional: Collection[str] = (),
    ) -> None:
        """Keep the parts."""
        check_instance("measurements", measurements, Measurements, "Measurements")
        check_no_unit("start", start)
        regimen = no_doses() if regimen is None else regimen
        check_regimen(regimen)
        moments = [(change.at, change.order) for change in changes]
        if moments != sorted(moments):
            must = "be in the order of time, and of `order` at equal times"
            refuse("changes", must, ", ".join(f"{at:g}" for at, _ in moments))
        settle(self, measurements=measurements, regimen=regimen, equilibrated=equilibrated, start=start)
        settle(self, begin=Change(0.0 if start is None else start, set=set, put=put), changes=tuple(changes))
        settle(self, optional=frozenset(optional))
        settle(self, seen=_seen(measurements, regimen, self.changes) if seen is None else seen)

    def measuring(self, measurements: Measurements) -> "Experiment":
        """Return the same experiment with other measurements."""
        conditions = {"set": self.begin.set, "put": self.begin.put, "equilibrated": self.equilibrated}
        others = {"changes": self.changes, "start": self.start, "optional": self.optional}
        return Experiment(measurements, self.regimen, **conditions, **others)

    def closely(self, points: int) -> "Experiment":
        """Return the same experiment with placeholder measurements of each output at many times."""
        data = self.measurements
        times, outputs, given = [], [], {column: [] for column in data.given}
        for output in dict.fromkeys(data.output):
            indices = [i for i, other in enumerate(data.output) if other == output]
            finite = data.time[indices][np.isfinite(data.time[indices])]
            first = min(0.0 if self.start is None else self.start, finite.min(initial=0.0))
            times += np.linspace(first, max(finite.max(initial=0.0), first + 1e-9), points).tolist()
            outputs += [output] * points
            for column in given:
                given[column] += [data.given[column][indices[0]]] * points
        return self.measuring(Measurements(times, np.ones(len(times)), output=outputs, given=given))

    def changed(self, *, begin: Change, changes: Sequence[Change]) -> "Experiment":
        """Return the same experiment with other settings at the same times, or without those that nothing needs."""
        conditions = {"set": begin.set, "put": begin.put, "equilibrated": self.equilibrated, "changes": changes}
        others = {"start": self.start, "seen": self.seen, "optional": self.optional}
        return Experiment(self.measurements, self.regimen, **conditions, **others)

    def formulas(self) -> tuple[float | Expression, ...]:
        """Return its formulas."""
        stages = [self.begin, *self.changes, *([] if self.equilibrated is None else [self.equilibrated])]
        tables = [*(stage.formulas() for stage in stages), *self.measurements.given.values()]
        return tuple(formula for table in tables for formula in table)

    def names(self) -> frozenset[str]:
        """Return the names that its formulas use."""
        return names_in(*self.formulas())


def _seen(data: Measurements, regimen: Regimen, changes: Sequence[Change]) -> Column:
    """Return the order up to which each measurement sees what happens at its time, inf where it sees all.

    Measurements with nothing between them have the same number, so that one output serves them.
    """
    if np.isinf(data.order).all():
        return data.order
    events = np.array([(change.at, change.order) for change in changes]).reshape(-1, 2)
    time, order = (
        np.concatenate([np.ravel(np.broadcast_to(np.asarray(column), np.shape(regimen.time))), event])
        for column, event in zip((regimen.time, regimen.order), events.T, strict=True)
    )
    later = together(time[None], data.time[:, None]) & (order[None] > data.order[:, None])
    following = np.where(later, order[None], np.inf).min(axis=1, initial=np.inf)
    return np.where(np.isinf(following), np.inf, np.nextafter(following, -np.inf))


def together(time: Float[np.ndarray, "..."], other: Float[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
    """Return which times are equal up to rounding."""
    with np.errstate(invalid="ignore"):
        return np.isfinite(time) & np.isfinite(other) & (np.abs(time - other) <= 1e-12 * np.abs(other))


def passed(
    changes: Sequence[Change], time: Float[np.ndarray, " moments"], order: Float[np.ndarray, " moments"]
) -> Int[np.ndarray, " moments"]:
    """Return how many changes come before each moment, which sees what happens at its time up to `order`."""
    at, number = np.array([(change.at, change.order) for change in changes]).reshape(-1, 2).T
    same = together(at[None], time[:, None])
    return np.sum(np.where(same, number[None] <= order[:, None], at[None] < time[:, None]), axis=1)


def _column(name: str, values: Numbers) -> Column:
    check_no_unit(name, values)
    try:
        column = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        refuse(name, "hold numbers", described(values))
    if column.ndim != 1:
        refuse(name, "have shape (rows,)", f"of shape {column.shape}")
    return column
