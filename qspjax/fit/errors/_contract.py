"""The contract of error models: how a measurement is distributed about its prediction.

Each turns a prediction into a few *predictors* on which the density depends directly, such as location and log scale.
The score and the Fisher information with respect to these give, by the chain rule with the sensitivities of the
predictors, gradients and Gauss-Newton curvatures of the whole fit.
"""

import abc
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from qspjax._checks import check_above
from qspjax._expression import Expression, as_formula
from qspjax._types import Key
from qspjax.fit.errors._domains import Domain, Numbers

Predictors: TypeAlias = tuple[Float[Array, "..."], ...]
"""What densities depend on, of shape (rows,) each; their slopes are of shape (directions, rows)."""


class Information(NamedTuple):
    """The Fisher information on the predictors of each row, as a factorisation L diag(weight) L^T.

    Attributes:
        weight: The weight of each predictor, of shape (rows,) each.
        lower: The elements of L below its unit diagonal that are not zero, by row and column, of shape (rows,) each.

    Example:
        >>> import jax.numpy as jnp
        >>> from qspjax.fit import Additive
        >>> error = Additive(0.5)
        >>> information = error.information(error.predictors(jnp.array([2.0]), {"sd": 0.5}))
        >>> [weight.tolist() for weight in information.weight]
        [[4.0], [2.0]]
    """

    weight: Predictors
    lower: Mapping[tuple[int, int], Float[Array, "..."]] = {}

    def terms(self, slopes: Predictors) -> Iterator[tuple[Float[Array, "..."], Float[Array, "..."]]]:
        """Yield weights w and directions d such that the information is the sum of w d d^T.

        Args:
            slopes: The slopes of the predictors in the parameters of the information, of shape (directions, rows) each.
        """
        for k, weight in enumerate(self.weight):
            mixed = [element * slopes[i] for (i, j), element in self.lower.items() if j == k]
            yield weight, sum(mixed, slopes[k])


class AbstractErrorModel(eqx.Module):
    """The distribution of a measurement y, given its prediction f and numbers of its own.

    Attributes:
        domain: The predictions and measurements for which it has a density.
        word: Its name in fit files; empty if they do not have it.

    Example:
        >>> from qspjax.fit import Combined, Output
        >>> sorted(Output("concentration", Combined("sd", "cv")).names())
        ['concentration', 'cv', 'sd']
    """

    domain: eqx.AbstractVar[Domain]
    word: eqx.AbstractClassVar[str]

    @abc.abstractmethod
    def predictors(self, prediction: Float[Array, "..."], given: Mapping[str, Numbers]) -> Predictors:
        """Return the predictors of the density, each of the shape of `prediction`.

        Args:
            prediction: The prediction of each measurement.
            given: The values of the formulas of this error model, by field.
        """

    @abc.abstractmethod
    def log_density(self, y: Numbers, predictors: Predictors) -> Float[Array, "..."]:
        """Return the log density (or probability) of a measurement."""

    @abc.abstractmethod
    def log_between(self, low: Numbers, high: Numbers, predictors: Predictors) -> Float[Array, "..."]:
        """Return the log probability of a measurement above `low` and at or below `high`; either may be infinite."""

    @abc.abstractmethod
    def information(self, predictors: Predictors) -> Information:
        """Return the Fisher information on the predictors."""

    @abc.abstractmethod
    def residual(self, y: Numbers, predictors: Predictors) -> Float[Array, "..."]:
        """Return the standardised residual."""

    @abc.abstractmethod
    def draw(self, key: Key, predictors: Predictors) -> Float[Array, "..."]:
        """Return one measurement from each density, independent of the others.

        Args:
            key: `jax.random.key(seed)`.
            predictors: The predictors of the densities.

        Raises:
            TypeError: If nothing can be drawn from the error model.
        """


def formula(*, since_previous: bool = False, **default: Any) -> Any:
    """Return a field that holds a formula, several, or pairs of a name and a formula.

    Args:
        since_previous: Whether the difference of its values from the previous record of the subject is used.
        default: The default, if it has one.
    """
    return eqx.field(metadata={"formula": True, "since_previous": since_previous}, static=True, **default)


def formulas_of(model: AbstractErrorModel) -> dict[str, float | Expression]:
    """Return the formulas of an error model, and of those within it, by field."""
    formulas: dict[str, float | Expression] = {}
    for field in dataclasses.fields(model):
        value = getattr(model, field.name)
        if isinstance(value, AbstractErrorModel):
            formulas |= formulas_of(value)
        elif field.metadata.get("formula") and value is not None:
            formulas |= {name: as_formula(field.name, part) for name, part in _parts(field.name, value)}
    return formulas


def _parts(name: str, value: object) -> Sequence[tuple[str, object]]:
    if not isinstance(value, tuple):
        return [(name, value)]
    pairs = [part if isinstance(part, tuple) else (str(k), part) for k, part in enumerate(value)]
    return [(f"{name}[{label}]", part) for label, part in pairs]


def since_previous(model: AbstractErrorModel) -> frozenset[str]:
    """Return the fields whose values are used as differences from the previous record of the subject."""
    return frozenset(field.name for field in dataclasses.fields(model) if field.metadata.get("since_previous"))


def check_positive(model: AbstractErrorModel, *fields: str) -> None:
    """Check that formulas which are numbers are positive."""
    formulas = formulas_of(model)
    for name in fields:
        if not isinstance(formulas[name], Expression):
            check_above(name, formulas[name], 0.0)


def safe_log(x: Numbers) -> Float[Array, "..."]:
    """Return log(x), with a slope of 0 at 0, so that -inf adds nothing to a gradient."""
    x = jnp.asarray(x, float)
    zero = x == 0
    return jnp.where(zero, -jnp.inf, jnp.log(jnp.where(zero, 1.0, x)))


def safe_inverse(x: Numbers) -> Float[Array, "..."]:
    """Return 1 / x, and 0 at 0."""
    x = jnp.asarray(x, float)
    return jnp.where(x > 0, 1.0 / jnp.where(x > 0, x, 1.0), 0.0)


def standardised(distance: Numbers, variance: Numbers) -> Float[Array, "..."]:
    """Return a distance over its standard deviation; 0 where there is neither."""
    distance = jnp.asarray(distance)
    return jnp.where(distance == 0, 0.0, distance / jnp.sqrt(jnp.where(distance == 0, 1.0, variance)))
