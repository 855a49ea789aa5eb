"""The measurements of a fit, output by output: from pooled numbers and observed values to log likelihoods."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qspjax._expression import Expression
from qspjax.fit._error_models import Predictors, formulas_of
from qspjax.fit._formula import names_in, value_of
from qspjax.fit._measurements import Output


@dataclasses.dataclass(frozen=True)
class Rows:
    """The measurements of one output.

    Attributes:
        name: The output.
        output: Its formulas and error model.
        experiment: The number of the experiment of each row, shape (rows,).
        place: Where its time stands among all times of the experiment, stages after each other.
        time: Its time.
        value: What was measured.
        censored: Whether it is below the limit of quantification.
        given: Places in the pool of columns of the table, and of what the experiments set, by name.
    """

    name: str
    output: Output
    experiment: np.ndarray
    place: np.ndarray
    time: np.ndarray
    value: np.ndarray
    censored: np.ndarray
    given: Mapping[str, np.ndarray]

    def predicted(self, pool: Any, observed: Mapping[str, Any], known: Mapping[str, Any]) -> tuple[Any, Predictors]:
        """Return the prediction of each row, and the predictors of its density.

        Args:
            pool: The values of the pool.
            observed: Observed values, shape (experiments, times).
            known: Parameters by name.
        """
        output = self.output
        needed = names_in(output.prediction, *formulas_of(output.error).values())
        values: dict[str, Any] = {}
        for name in needed:
            if name in self.given:
                values[name] = pool[self.given[name]]
            elif name in observed:
                values[name] = observed[name][self.experiment, self.place]
            elif name != "prediction":
                values[name] = known[name]
        prediction = self._each(output.prediction, values)
        values["prediction"] = prediction
        formulas = formulas_of(output.error)
        given = {field: self._each(formula, values) for field, formula in formulas.items()}
        return prediction, output.error.predictors(prediction, given)

    def _each(self, formula: float | Expression, values: Mapping[str, Any]) -> Any:
        value = jnp.asarray(value_of(formula, values, jnp.asarray(self.time)), float)
        return jnp.broadcast_to(value, self.value.shape)

    def log_density(self, predictors: Predictors) -> Any:
        """Return the log likelihood of each row."""
        error, below = self.output.error, self.output.below
        if below is None:
            return error.log_density(self.value, predictors)
        return below.log_density(error, self.value, self.censored, predictors)

    def scores(self, predictors: Predictors) -> tuple[Any, Predictors, Predictors]:
        """Return the log likelihood of each row, its slope and its expected curvature in each predictor.

        The curvature of a censored row is that which is observed, where that is not negative.
        """

        def total(predictors: Predictors) -> tuple[Any, Any]:
            density = self.log_density(predictors)
            return jnp.sum(density), density

        (_, density), score = jax.value_and_grad(total, has_aux=True)(predictors)
        expected = self.output.error.information(predictors)
        if self.output.below is None:
            return density, score, expected
        weights = []
        for k, weight in enumerate(expected):
            ones = tuple(jnp.ones_like(p) if i == k else jnp.zeros_like(p) for i, p in enumerate(predictors))
            _, (bend, _) = jax.jvp(jax.grad(total, has_aux=True), (predictors,), (ones,))
            weights.append(jnp.where(self.censored, jnp.maximum(-bend[k], 0.0), weight))
        return density, score, tuple(weights)

    def residual(self, predictors: Predictors) -> Any:
        """Return the standardised residual of each row, NaN where it is censored."""
        return jnp.where(self.censored, jnp.nan, self.output.error.residual(self.value, predictors))


def chosen(output: Output, value: np.ndarray, censored: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows stay in the likelihood of an output, and which of all are censored."""
    if output.below is None:
        return np.isfinite(value), np.zeros(value.shape, bool)
    with np.errstate(invalid="ignore"):
        below = value < output.below.limit
    censored = below if censored is None else below | censored
    known = np.isfinite(value) & ~censored
    return known | (censored & output.below.keeps()), censored
