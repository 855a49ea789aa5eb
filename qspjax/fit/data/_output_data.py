"""The measurements of a fit, output by output: from numbers of the table and observed values to log likelihoods."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Real

from qspjax._checks import ArgumentError
from qspjax._expression import Expression, nodes, text
from qspjax.fit._types import Number
from qspjax.fit.data._formula import called_by, gathered, value_of
from qspjax.fit.data._measurements import Measurements, Output
from qspjax.fit.errors._contract import AbstractErrorModel, Information, Predictors, formulas_of, since_previous
from qspjax.fit.errors._correlated import Correlated

Observed: TypeAlias = Mapping[str, Real[Array, "experiments times"]]
"""Observed values by name."""

Parameters: TypeAlias = Mapping[str, "Float[Array, ''] | Callable"]
"""The parameters by name, and the functions that formulas call."""

RowValues: TypeAlias = Real[Array, " rows"] | Real[np.ndarray, " rows"]
"""A number of each row."""

RowMask: TypeAlias = Bool[Array, " rows"] | Bool[np.ndarray, " rows"]
"""A truth value of each row."""

Explained: TypeAlias = tuple[RowValues, Mapping[str, RowValues], RowValues, Mapping[str, RowValues]]
"""Prediction, formulas of the error model by field, log likelihood, and by its text what the prediction takes the
logarithm of, of each row."""


@dataclasses.dataclass(frozen=True)
class OutputData:
    """The measurements of one output.

    Attributes:
        name: The output.
        output: Its formulas and error model.
        experiment: The number of the experiment of each row.
        record: The index of the measurement in its experiment.
        place: The index of its time among all times of the experiment, stage after stage.
        time: Its time.
        order: Its order among what happens at its time, see `seen` of `Experiment`.
        value: The measured value; where it is censored, the value of the record, or if that has none its limit.
        side: 1 where it is censored below, so that it is less than `upper`, -1 where above, 0 where it was measured.
        lower: The lower bound of a censored value, else -inf.
        upper: The upper bound of a censored value, else inf.
        given: By name, indices in the table of numbers, for columns of the data and for what the experiments set.
        members: The outputs of which this one is made, one after the other; see `joined`.
    """

    name: str
    output: Output
    experiment: Int[np.ndarray, " rows"]
    record: Int[np.ndarray, " rows"]
    place: Int[np.ndarray, " rows"]
    time: Float[np.ndarray, " rows"]
    order: Float[np.ndarray, " rows"]
    value: RowValues
    side: RowValues
    lower: RowValues
    upper: RowValues
    given: Mapping[str, Int[np.ndarray, " rows"]]
    members: "tuple[OutputData, ...]" = ()

    @property
    def censored(self) -> RowMask:
        """Which measurements are known only by their bounds."""
        return self.side != 0

    @property
    def limits(self) -> tuple[float, float]:
        """The limits of quantification between which every value is measured, or infinite.

        Where records have limits of their own, they are the narrowest of these.
        """
        low = np.max(self.upper[self.side > 0], initial=-np.inf)
        high = np.min(self.lower[self.side < 0], initial=np.inf)
        limit = None if self.output.below is None else self.output.below.limit
        return float(low if limit is None else max(low, limit)), float(high)

    @cached_property
    def previous(self) -> Int[np.ndarray, " rows"]:
        """The row before each one in its experiment, in the order of time and then of records; -1 of the first."""
        order = np.lexsort((self.order, self.time, self.experiment))
        follows = self.experiment[order[1:]] == self.experiment[order[:-1]]
        previous = np.full(order.size, -1)
        previous[order[1:][follows]] = order[:-1][follows]
        return previous

    def predicted(
        self, numbers: Float[Array, " numbers"], observed: Observed, known: Parameters
    ) -> tuple[Float[Array, " rows"], Predictors]:
        """Return the prediction of each row, and the predictors of its density.

        Args:
            numbers: The values of the table.
            observed: Observed values by name.
            known: Parameters by name.
        """
        prediction, given = self.quantities(numbers, observed, known)
        return prediction, self.output.error.predictors(prediction, given)

    def quantities(
        self, numbers: Float[Array, " numbers"], observed: Observed, known: Parameters
    ) -> tuple[Float[Array, " rows"], dict[str, Float[Array, " rows"]]]:
        """Return the prediction of each row, and the formulas of its error model by field; arguments as `predicted`."""
        members = self.members or (self,)
        parts = zip(members, _values(members, numbers, observed, known), strict=True)
        predictions, given = zip(*(rows.computed(values) for rows, values in parts), strict=True)
        return _in_a_row(predictions), {field: _in_a_row([part[field] for part in given]) for field in given[0]}

    def computed(
        self, values: Mapping[str, Number | Callable]
    ) -> tuple[Float[Array, " rows"], dict[str, Float[Array, " rows"]]]:
        """Return `quantities` of one output, from the values of the names that its formulas use."""
        output = self.output
        prediction = self._each(output.prediction, values)
        values = {**values, "prediction": prediction}
        given = {field: self._each(formula, values) for field, formula in formulas_of(output.error).items()}
        for field in since_previous(output.error):
            given[field] -= jnp.where(self.previous < 0, 0.0, given[field][self.previous])
        return prediction, given

    def logged(
        self, numbers: Float[Array, " numbers"], observed: Observed, known: Parameters
    ) -> dict[str, Float[Array, " rows"]]:
        """Return, by its text, everything of which the prediction takes a logarithm; arguments as `predicted`."""
        prediction = self.output.prediction
        if not isinstance(prediction, Expression):
            return {}
        (values,) = _values((self,), numbers, observed, known)
        inside = [node.args[-1] for node in nodes(prediction) if node.op in ("ln", "log")]
        return {text(formula): self._each(formula, values) for formula in inside}

    def _each(self, formula: float | Expression, values: Mapping[str, Number | Callable]) -> Float[Array, " rows"]:
        value = jnp.asarray(value_of(formula, values, jnp.asarray(self.time)), float)
        return jnp.broadcast_to(value, self.value.shape)

    def log_density(self, predictors: Predictors) -> Float[Array, " rows"]:
        """Return the log likelihood of each row: the density of a measured value, the probability of a censored one."""
        error, least = self.output.error, -np.inf if self.output.below is None else self.output.below.least
        density = error.log_density(jnp.where(self.censored, 0.0, self.value), predictors)
        if self._may_be_censored:
            inside = error.log_between(jnp.maximum(self.lower, least), self.upper, predictors)
            density = jnp.where(self.censored, inside, density)
        return density if np.isinf(least) else density - error.log_between(least, jnp.inf, predictors)

    @property
    def _may_be_censored(self) -> bool:
        return not isinstance(self.side, np.ndarray) or bool(self.side.any())

    def scores(self, predictors: Predictors) -> tuple[Float[Array, " rows"], Predictors, Information]:
        """Return the log likelihood of each row, its slope in each predictor and its expected curvature in them.

        The curvature of a censored row is the observed one, where that is not negative.
        """

        def total(predictors: Predictors) -> tuple[Array, Array]:
            density = self.log_density(predictors)
            return jnp.sum(density), density

        (_, density), score = jax.value_and_grad(total, has_aux=True)(predictors)
        expected = self.output.error.information(predictors)
        if self.output.below is None and not self._may_be_censored:
            return density, score, expected
        weights = []
        for k, weight in enumerate(expected.weight):
            ones = tuple(jnp.ones_like(p) if i == k else jnp.zeros_like(p) for i, p in enumerate(predictors))
            _, (curvature, _) = jax.jvp(jax.grad(total, has_aux=True), (predictors,), (ones,))
            weights.append(jnp.where(self.censored, jnp.maximum(-curvature[k], 0.0), weight))
        lower = {index: jnp.where(self.censored, 0.0, element) for index, element in expected.lower.items()}
        return density, score, Information(tuple(weights), lower)

    def residual(self, predictors: Predictors) -> Float[Array, " rows"]:
        """Return the standardised residual of each row, NaN where it is censored."""
        return jnp.where(self.censored, jnp.nan, self.output.error.residual(self.value, predictors))


def joined(rows: Sequence[OutputData]) -> tuple[OutputData, ...]:
    """Return the measurements with those outputs as one whose errors are of one kind.

    What is computed of every measurement is then a few operations on all of them: XLA compiles each on its own.
    """
    groups: list[list[OutputData]] = []
    for data in rows:
        group = next((group for group in groups if _alike(group[0], data)), None)
        if group is None:
            groups.append([data])
        else:
            group.append(data)
    return tuple(_joined(group) for group in groups)


def _alike(one: OutputData, other: OutputData) -> bool:
    """Return whether the errors of two outputs are of one kind, so that only their formulas differ."""
    errors = one.output.error, other.output.error
    if any(isinstance(error, Correlated) for error in errors) or type(errors[0]) is not type(errors[1]):
        return False
    least = [-np.inf if data.output.below is None else data.output.below.least for data in (one, other)]
    return least[0] == least[1] and _kind(errors[0]) == _kind(errors[1])


def _kind(error: AbstractErrorModel) -> list[object]:
    """Return an error model without its formulas."""
    parts: list[object] = [type(error), *formulas_of(error)]
    for field in dataclasses.fields(error):
        value = getattr(error, field.name)
        if isinstance(value, AbstractErrorModel):
            parts += _kind(value)
        elif not field.metadata.get("formula"):
            parts.append(value)
    return parts


def _joined(rows: Sequence[OutputData]) -> OutputData:
    if len(rows) == 1:
        return rows[0]
    columns = ("experiment", "record", "place", "time", "order", "value", "side", "lower", "upper")
    together = {name: np.concatenate([getattr(data, name) for data in rows]) for name in columns}
    name = ", ".join(data.name for data in rows)
    return dataclasses.replace(rows[0], name=name, given={}, members=tuple(rows), **together)


def _in_a_row(parts: Sequence[Array]) -> Float[Array, " rows"]:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def _values(
    outputs: Sequence[OutputData], numbers: Float[Array, " numbers"], observed: Observed, known: Parameters
) -> list[dict[str, Number | Callable]]:
    """Return the values of the names that the formulas of each output use; arguments as `OutputData.predicted`."""
    names = [sorted(data.output.names() - {"prediction"}) for data in outputs]
    values: list[dict[str, Number | Callable]] = [{} for _ in outputs]
    from_table: list[tuple[int, str, np.ndarray]] = []
    from_solves: list[tuple[int, str, np.ndarray]] = []
    shown = sorted({name for data, all in zip(outputs, names, strict=True) for name in all if name in observed})
    for k, (data, all) in enumerate(zip(outputs, names, strict=True)):
        values[k] |= {name: known[name] for name in called_by(*data.output.formulas())}
        for name in all:
            if name in data.given:
                from_table.append((k, name, data.given[name]))
            elif name in observed:
                experiments, times = observed[name].shape
                number = shown.index(name) * experiments + data.experiment
                from_solves.append((k, name, number * times + data.place))
            else:
                values[k][name] = known[name]
    solved = jnp.stack([observed[name] for name in shown]).ravel() if from_solves else jnp.zeros(0)
    for places, source in ((from_table, numbers), (from_solves, solved)):
        for (k, name, _), taken in zip(places, gathered(source, [place for *_, place in places]), strict=True):
            values[k][name] = taken
    return values


def chosen(
    output: Output, data: Measurements, is_output: Bool[np.ndarray, " rows"], experiment: str
) -> tuple[Bool[np.ndarray, " of_output"], dict[str, Real[np.ndarray, " of_output"]]]:
    """Return which measurements of an output stay in its likelihood, their values, and how each of them is censored.

    Args:
        output: The output.
        data: The measurements of an experiment.
        is_output: Which of them belong to this output.
        experiment: The name of the experiment.

    Raises:
        ValueError: If a censored measurement has no limit, or no value lies between its bounds.
    """
    value, side, lower, upper = (column[is_output] for column in (data.value, data.side, data.lower, data.upper))
    limit = None if output.below is None else output.below.limit
    if limit is not None:
        with np.errstate(invalid="ignore"):
            side = np.where((side == 0) & (value < limit), 1, side)
    lower = np.where((side < 0) & np.isnan(lower), value, lower)
    upper = np.where((side > 0) & np.isnan(upper), value if limit is None else limit, upper)
    nearer = np.where(side > 0, upper, lower)
    lower, upper = np.where(np.isnan(lower), -np.inf, lower), np.where(np.isnan(upper), np.inf, upper)
    left_out = output.below is not None and not output.below.keeps()
    included = np.where(side == 0, np.isfinite(value), (side < 0) | (not left_out))
    bounded = included & (side != 0)
    without = bounded & (np.isnan(nearer) | ~(np.isfinite(lower) | np.isfinite(upper)))
    if without.any():
        where = _place(data, is_output, without, experiment)
        must = "must have a limit where they are censored: their value, a bound, or `below` of the output (M3(limit))"
        raise ArgumentError("measurements", f"{must}, but there is none {where}.")
    least = -np.inf if output.below is None else output.below.least
    nothing = bounded & (np.maximum(lower, least) >= upper)
    if nothing.any():
        k = np.flatnonzero(nothing)[0]
        from_output = side[k] > 0 and np.isnan(data.upper[is_output][k]) and limit is not None
        limit_of = ", the limit of the output (a record has its own as `upper`)" if from_output else ""
        where = _place(data, is_output, nothing, experiment)
        must = "must have a lower bound less than the upper one where they are censored"
        found = f"values lie between {max(lower[k], least):g} and {upper[k]:g}{limit_of}, {where}"
        raise ArgumentError("measurements", f"{must}, but {found}.")
    value = np.where((side != 0) & np.isnan(value), nearer, value)
    return included, {"value": value, "side": side, "lower": lower, "upper": upper}


def _place(
    data: Measurements, is_output: Bool[np.ndarray, " rows"], chosen: Bool[np.ndarray, " of_output"], experiment: str
) -> str:
    """Say where the first of the chosen measurements of an output is, and how many more there are."""
    first, *more = np.flatnonzero(is_output)[chosen]
    others = f" (and in {len(more)} more)" if more else ""
    at = f"output `{data.output[first]}` at time {data.time[first]:g}"
    return f"in record {first + 1} of experiment `{experiment}`{others}: {at}"
