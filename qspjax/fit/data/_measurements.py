"""What was measured: rows of time, output and value, in experiments."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qspjax._checks import check_instance, check_one_of, refuse
from qspjax._dosing._covariates import FIRST
from qspjax._dosing._doses import no_doses
from qspjax._dosing._regimen import Regimen
from qspjax._expression import Expression
from qspjax.fit.data._formula import Formula, as_formula, names_in
from qspjax.fit.errors._censoring import AbstractCensoring
from qspjax.fit.errors._models import AbstractErrorModel, formulas_of


class Output:
    """A quantity that is measured: how it follows from the model, and how measurements scatter about it.

    Args:
        prediction: A formula over observed values, parameters of the model and of the fit, and `time`:
            `"concentration"`, `"scale * (receptor + complex)"`.
        error: The error model.
        below: What becomes of measurements below a limit of quantification; by default censored ones have the
            likelihood of lying beyond their own limit, as with `M3()`.

    Raises:
        ValueError: If the formula cannot be read.

    Example:
        >>> from qspjax.fit import Output, Proportional
        >>> str(Output("scale * complex", Proportional("cv")).prediction)
        'scale * complex'
    """

    def __init__(
        self, prediction: Formula, error: AbstractErrorModel, *, below: AbstractCensoring | None = None
    ) -> None:
        """Read the formula."""
        check_instance("error", error, AbstractErrorModel, "an error model such as Additive('sigma')")
        if below is not None:
            check_instance("below", below, AbstractCensoring, "M1(limit), M3(limit) or M4(limit)")
        self.prediction, self.error, self.below = as_formula("prediction", prediction), error, below

    def names(self) -> frozenset[str]:
        """Return the names that its formulas use."""
        return names_in(self.prediction, *formulas_of(self.error).values())


class Measurements:
    """Rows of data: when, which output, and what was found; replicates are rows, NaN is a missing value.

    Args:
        time: Times, shape (rows,); inf for the steady state that the experiment comes to.
        value: What was measured, shape (rows,).
        output: The name of the output of each row, or one name for all.
        censored: Which rows are no measurements but limits, as CENS of a data set: 1 (or true) for what lies below, -1
            for what lies above, 0 for what was measured. Values below the limit of their output are censored as well.
        lower: What censored rows are known to lie above, NaN where that is not said: then it is the value of a row
            that is censored above, and nothing for one below.
        upper: What censored rows are known to lie below, NaN where that is not said: then it is the limit of the output
            of a row that is censored below, or its value if there is none, and nothing for one above.
        given: More columns by name, for formulas: numbers, or names and formulas over parameters.
        order: Numbers that order what happens at equal times, as in `simulate`: a row sees the doses and changes of its
            own time whose `order` is not greater. By default it sees them all.

    Raises:
        ValueError: If columns differ in length or hold no numbers, or a value is infinite.

    Example:
        >>> from qspjax.fit import Measurements
        >>> Measurements([0.0, 1.0, 1.0], [9.8, 3.9, 4.1], output="concentration").rows
        3
    """

    def __init__(
        self,
        time: Any,
        value: Any,
        *,
        output: str | Sequence[str],
        censored: Any = None,
        lower: Any = None,
        upper: Any = None,
        given: Mapping[str, Sequence[Formula] | Formula] | None = None,
        order: Any = None,
    ) -> None:
        """Bring all columns to one length."""
        self.time, self.value = (_column(name, x) for name, x in (("time", time), ("value", value)))
        if self.time.shape != self.value.shape:
            refuse("value", f"have one element a time ({self.time.size})", f"of shape {self.value.shape}")
        if np.isnan(self.time).any():
            refuse("time", "hold numbers, or inf for the steady state", "NaN somewhere")
        if (infinite := np.flatnonzero(np.isinf(self.value))).size:
            row = infinite[0]
            refuse("value", f"be finite, or NaN where one is missing, in row {row + 1}", self.value[row])
        several = [output] * self.rows if isinstance(output, str) else list(output)
        self.output = tuple(map(str, several))
        if len(self.output) != self.rows:
            refuse("output", f"name one output a row ({self.rows})", f"of {len(self.output)} names")
        self.order = self._each("order", np.inf if order is None else order)
        self.side = self._each("censored", 0 if censored is None else censored).astype(int)
        self.lower, self.upper = (self._each(*pair) for pair in (("lower", lower), ("upper", upper)))
        if not np.isin(self.side, (-1, 0, 1)).all():
            refuse(
                "censored", "be 1 (below a limit), -1 (above one) or 0", self.side[~np.isin(self.side, (-1, 0, 1))][0]
            )
        if (self.lower >= self.upper).any():
            row = np.flatnonzero(self.lower >= self.upper)[0]
            refuse("lower", f"be less than `upper` ({self.upper[row]:g})", f"{self.lower[row]:g}")
        self.given: dict[str, tuple[float | Expression, ...]] = {}
        for name, column in (given or {}).items():
            one = isinstance(column, (str, float, int, Expression))
            cells = [column] * self.rows if one else list(column)
            if len(cells) != self.rows:
                refuse(name, f"have one element a row ({self.rows})", f"of {len(cells)} elements")
            self.given[name] = tuple(as_formula(name, _plain(cell)) for cell in cells)

    def _each(self, name: str, values: Any) -> np.ndarray:
        """Return a column of numbers, one element a row; None is NaN."""
        column = np.full(self.rows, np.nan if values is None else values, float) if np.ndim(values) == 0 else values
        column = _column(name, column)
        if column.shape != self.time.shape:
            refuse(name, f"have one element a row ({self.rows})", f"of shape {column.shape}")
        return column

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.time.size

    @classmethod
    def of(cls, table: Any, *, output: str | None = None, time: str = "time", value: str = "value") -> "Measurements":
        """Return the measurements in a table.

        Args:
            table: A mapping of columns, such as a data frame of pandas; the column `output` names outputs, `censored`
                (1 below, -1 above) marks limits, `lower` and `upper` are bounds of such rows.
            output: The name of the output, if the table has no column `output`.
            time: The column of times.
            value: The column of values.
        """
        for name in (time, value):
            check_one_of("table", name, list(table), "a column")
        names = [str(one) for one in table["output"]] if output is None else output
        more = {name: table[name] for name in ("censored", "lower", "upper") if name in table}
        return cls(table[time], table[value], output=names, **more)


class Change:
    """What is set at a moment: parameters of the model, and states.

    A change acts before everything else that happens at its time: a dose and a measurement at the same time see the new
    values. Where `order` says so, it acts after some of them.

    Args:
        at: The time.
        set: By name, new values of parameters of the model, until they are set again: numbers, or formulas over the
            parameters of the fit and the model and what is observed at that moment.
        put: By name, new values of states, in the same way.
        order: Its place among what happens at its time, as in `simulate`: doses and measurements of the same time whose
            `order` is less come before it. By default none does.

    Example:
        >>> from qspjax.fit import Change
        >>> Change(24.0, set={"CL": "CL_fasted"}).at
        24.0
    """

    def __init__(
        self,
        at: float,
        *,
        set: Mapping[str, Formula] | None = None,
        put: Mapping[str, Formula] | None = None,
        order: float = FIRST,
    ) -> None:
        """Read the formulas."""
        self.at, self.order = float(at), float(order)
        self.set = {name: as_formula(name, value) for name, value in (set or {}).items()}
        self.put = {name: as_formula(name, value) for name, value in (put or {}).items()}

    def names(self) -> frozenset[str]:
        """Return the names that its formulas use."""
        return names_in(*self.set.values(), *self.put.values())

    def setting(self, values: Mapping[str, Formula]) -> "Change":
        """Return the same change with other values of parameters."""
        new = copy.copy(self)
        new.set = {name: as_formula(name, value) for name, value in values.items()}
        return new


class Experiment:
    """Measurements under one regimen and one set of conditions.

    Args:
        measurements: The data.
        regimen: The doses.
        set: By name, parameters of the model that have their own value here: numbers, or formulas over the parameters
            of the fit, such as `{"kon": "kon_mutant"}`. A name that is no parameter of the model can be used in
            formulas of outputs.
        put: By name, states that begin with their own value here, in the same way.
        equilibrated: The condition in whose steady state the experiment begins: a `Change` whose time means nothing.
        changes: What is set later on.
        start: When it begins; by default at 0, or with the first dose or measurement if that is earlier.

    Raises:
        ValueError: If changes are not in the order of time.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Experiment, Measurements
        >>> data = Measurements([1.0, 4.0], [8.1, 4.2], output="concentration")
        >>> Experiment(data, qsp.bolus(300.0, to="central")).measurements.rows
        2
    """

    def __init__(
        self,
        measurements: Measurements,
        regimen: Regimen | None = None,
        *,
        set: Mapping[str, Formula] | None = None,
        put: Mapping[str, Formula] | None = None,
        equilibrated: Change | None = None,
        changes: Sequence[Change] = (),
        start: float | None = None,
    ) -> None:
        """Keep the parts."""
        check_instance("measurements", measurements, Measurements, "Measurements")
        regimen = no_doses() if regimen is None else regimen
        check_instance("regimen", regimen, Regimen, "a regimen")
        self.measurements, self.regimen, self.equilibrated = measurements, regimen, equilibrated
        self.start = start
        self.begin = Change(0.0 if start is None else start, set=set, put=put)
        moments = [(one.at, one.order) for one in changes]
        if moments != sorted(moments):
            must = "be in the order of time, and of `order` at equal times"
            refuse("changes", must, ", ".join(f"{at:g}" for at, _ in moments))
        self.changes = tuple(changes)
        self.seen = self._seen()

    def measuring(self, measurements: Measurements) -> "Experiment":
        """Return the same experiment with other measurements."""
        new = copy.copy(self)
        new.measurements = measurements
        new.seen = new._seen()
        return new

    def closely(self, points: int) -> "Experiment":
        """Return the same experiment with measurements of each output at many times, whose values mean nothing."""
        data = self.measurements
        times, outputs, given = [], [], {column: [] for column in data.given}
        for output in dict.fromkeys(data.output):
            mine = [i for i, other in enumerate(data.output) if other == output]
            finite = data.time[mine][np.isfinite(data.time[mine])]
            first = min(0.0 if self.start is None else self.start, finite.min(initial=0.0))
            times += np.linspace(first, max(finite.max(initial=0.0), first + 1e-9), points).tolist()
            outputs += [output] * points
            for column in given:
                given[column] += [data.given[column][mine[0]]] * points
        return self.measuring(Measurements(times, np.ones(len(times)), output=outputs, given=given))

    def changed(self, *, begin: Change, changes: Sequence[Change]) -> "Experiment":
        """Return the same experiment with other settings at the same moments, or without those that nothing needs."""
        new = copy.copy(self)
        new.begin, new.changes = begin, tuple(changes)
        return new

    def _seen(self) -> np.ndarray:
        """Return what orders the measurements: each sees what happens at its time up to this, inf where that is all.

        Measurements with nothing between them have the same number, so that one output serves them.
        """
        data = self.measurements
        if np.isinf(data.order).all():
            return data.order
        events = np.array([(one.at, one.order) for one in self.changes]).reshape(-1, 2)
        time, order = (
            np.concatenate([np.ravel(np.broadcast_to(np.asarray(column), np.shape(self.regimen.time))), own])
            for column, own in zip((self.regimen.time, self.regimen.order), events.T, strict=True)
        )
        later = together(time[None], data.time[:, None]) & (order[None] > data.order[:, None])
        following = np.where(later, order[None], np.inf).min(axis=1, initial=np.inf)
        return np.where(np.isinf(following), np.inf, np.nextafter(following, -np.inf))

    def names(self) -> frozenset[str]:
        """Return the names that its formulas use."""
        stages = [self.begin, *self.changes, *([] if self.equilibrated is None else [self.equilibrated])]
        given = [names_in(*column) for column in self.measurements.given.values()]
        return frozenset().union(*(stage.names() for stage in stages), *given)


def together(time: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return which times are the same but for rounding."""
    with np.errstate(invalid="ignore"):
        return np.isfinite(time) & np.isfinite(other) & (np.abs(time - other) <= 1e-12 * np.abs(other))


def passed(changes: Sequence[Change], time: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return how many changes come before each of some moments, which see what is at their time up to `order`."""
    at, number = np.array([(one.at, one.order) for one in changes]).reshape(-1, 2).T
    same = together(at[None], time[:, None])
    return np.sum(np.where(same, number[None] <= order[:, None], at[None] < time[:, None]), axis=1)


def _column(name: str, values: Any) -> np.ndarray:
    try:
        column = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        refuse(name, "hold numbers", f"of type {type(values).__name__}")
    if column.ndim != 1:
        refuse(name, "have shape (rows,)", f"of shape {column.shape}")
    return column


def _plain(cell: Any) -> Any:
    return cell.item() if isinstance(cell, np.generic) else cell
