"""Error models with a location and a scale, after a transform of the measurement.

    h(y) = h(f) + s z,    log p(y) = log p_z((h(y) - h(f)) / s) - log s + log h'(y)

with f the prediction, s the scale, z a standardised residual and h a transform of both sides. Where s is 0, or f lies
at the edge of what can be measured, f is certain to be measured.

Reference: Carroll and Ruppert, J Am Stat Assoc 1984;79:321, doi:10.1080/01621459.1984.10478052.
"""

import abc
from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from qspjax._expression import Expression
from qspjax._transform import AbstractTransform
from qspjax._types import Key
from qspjax.fit.data._formula import names_in, value_of
from qspjax.fit.errors._contract import AbstractErrorModel, Information, Predictors, formulas_of, safe_log
from qspjax.fit.errors._distributions import AbstractResidualDistribution
from qspjax.fit.errors._domains import Numbers

STEP, REACH = 0.125, 3.25
"""The step and the range of the trapezoidal rule over t with z = sinh(t), which gives expectations over z."""


class AbstractLocationScale(AbstractErrorModel):
    """A scaled residual that is added to the prediction after a transform of both sides.

    Its predictors are location, log scale, and the values of the formulas that `scale` does not use, in their order:
    the numbers on which the transform depends.

    Attributes:
        distribution: That of the standardised residual z.

    Example:
        >>> from qspjax.fit import Additive, LogNormalError
        >>> [isinstance(error, AbstractLocationScale) for error in (Additive("sd"), LogNormalError("sd"))]
        [True, True]
    """

    distribution: eqx.AbstractVar[AbstractResidualDistribution]

    @abc.abstractmethod
    def scale(self) -> Expression:
        """Return the scale s of the residual, as a formula over fields and `prediction`."""

    @abc.abstractmethod
    def transform(self, *numbers: Float[Array, "..."]) -> AbstractTransform:
        """Return h, for the numbers on which it depends."""

    @abc.abstractmethod
    def support(self) -> tuple[float, float]:
        """Return the bounds between which all measurements lie."""

    @property
    def power(self) -> float:
        """The power of residuals whose mean gives the scale (see the distribution); 0 unless the transform is fixed."""
        return 0.0 if self.transform_fields() else self.distribution.power

    def predictors(self, prediction: Float[Array, "..."], given: Mapping[str, Numbers]) -> Predictors:
        numbers = tuple(jnp.asarray(given[name]) * jnp.ones_like(prediction) for name in self.transform_fields())
        log_scale = safe_log(value_of(self.scale(), {**given, "prediction": prediction}))
        return self.transformed(prediction, numbers), log_scale * jnp.ones_like(prediction), *numbers

    def log_density(self, y: Numbers, predictors: Predictors) -> Float[Array, "..."]:
        certain, location, log_scale = _uncertain(predictors)
        transform, inside = self.transform(*predictors[2:]), self._is_inside(y)
        y = jnp.where(inside, y, self._inner())
        z = (transform.forward(y) - location) * jnp.exp(-log_scale)
        density = self.distribution.log_density(z) - log_scale - transform.log_det(y)
        return jnp.where(inside, jnp.where(certain, jnp.nan, density), -jnp.inf)

    def log_between(self, low: Numbers, high: Numbers, predictors: Predictors) -> Float[Array, "..."]:
        certain, location, log_scale = _uncertain(predictors)
        low, high = (jnp.asarray(limit, float) for limit in (low, high))
        edges = []
        for limit in (low, high):
            edge = self.transformed(jnp.clip(limit, *self.support()), predictors[2:])
            open_end = jnp.isinf(edge)
            z = (jnp.where(open_end, 0.0, edge) - location) * jnp.exp(-log_scale)
            edges.append(jnp.where(open_end, edge, z))
        at = self.measured_at(jnp.zeros_like(location), predictors)
        surely = jnp.where((low <= at) & (at <= high), 0.0, -jnp.inf)
        log_probability = jnp.where(certain, surely, self.distribution.log_between(*edges))
        return jnp.where(high <= self.support()[0], -jnp.inf, log_probability)

    def information(self, predictors: Predictors) -> Information:
        on_location, on_log_scale = self.distribution.information()
        ones = jnp.ones_like(predictors[1])
        weight = jnp.exp(-2.0 * predictors[1]) * on_location, ones * on_log_scale
        if not jax.tree.leaves(eqx.filter(self.transform(*predictors[2:]), eqx.is_inexact_array)):
            return Information((*weight, *(jnp.zeros_like(number) for number in predictors[2:])))
        return self._with_numbers(weight, predictors)

    def residual(self, y: Numbers, predictors: Predictors) -> Float[Array, "..."]:
        return (self.transformed(y, predictors[2:]) - predictors[0]) * jnp.exp(-predictors[1])

    def draw(self, key: Key, predictors: Predictors) -> Float[Array, "..."]:
        return self.measured_at(self.distribution.draw(key, predictors[0].shape), predictors)

    def transform_fields(self) -> tuple[str, ...]:
        """Return the formulas that the scale does not use, in their order; the transform depends on these."""
        return tuple(name for name in formulas_of(self) if name not in names_in(self.scale()))

    def measured_at(self, z: Float[Array, "..."], predictors: Predictors) -> Float[Array, "..."]:
        """Return the measurement whose standardised residual is z."""
        return self.transform(*predictors[2:]).inverse(predictors[0] + jnp.exp(predictors[1]) * z)

    def transformed(self, value: Numbers, numbers: Predictors) -> Float[Array, "..."]:
        """Return h of values; infinite, without a slope, at the edge of the support, and NaN beyond it.

        Args:
            value: The values.
            numbers: The numbers on which the transform depends.
        """
        value, transform, (low, high) = jnp.asarray(value, float), self.transform(*numbers), self.support()
        inside = self._is_inside(value)
        edge = jnp.where(value == low, -jnp.inf, jnp.where(value == high, jnp.inf, jnp.nan))
        return jnp.where(inside, transform.forward(jnp.where(inside, value, self._inner())), edge)

    def _is_inside(self, value: Numbers) -> Bool[Array, "..."]:
        low, high = self.support()
        return (jnp.asarray(value) > low) & (jnp.asarray(value) < high)

    def _inner(self) -> float:
        """Return a number within the support."""
        low, high = self.support()
        if np.isfinite(low) and np.isfinite(high):
            return 0.5 * (low + high)
        return low + 1.0 if np.isfinite(low) else min(high - 1.0, 1.0)

    def _with_numbers(self, weight: Predictors, predictors: Predictors) -> Information:
        """Return the information on location, log scale and the numbers of the transform: E[score score^T]."""
        t = np.arange(-REACH, REACH + 0.5 * STEP, STEP)
        z = jnp.asarray(np.sinh(t))
        shares = jnp.exp(self.distribution.log_density(z)) * np.cosh(t)

        def score(z: Array) -> tuple[Array, ...]:
            y = self.measured_at(z * jnp.ones_like(predictors[0]), predictors)
            inside = self._is_inside(y)
            y = jnp.where(inside, y, self._inner())
            scores = jax.grad(lambda p: jnp.sum(self.log_density(y, p)))(predictors)
            return tuple(jnp.where(inside, part, 0.0) for part in scores)

        scores = jax.vmap(score)(z)
        moments = {
            (i, k): jnp.tensordot(shares / shares.sum(), scores[i] * scores[k], axes=1)
            for i in range(2, len(predictors))
            for k in range(i + 1)
        }
        return _factorised(weight, moments)


def _factorised(weight: Predictors, moments: Mapping[tuple[int, int], Array]) -> Information:
    """Return factors of information that is diagonal in the first predictors, see `Information`."""
    pivots, lower = [*weight], {}
    for i in range(len(weight), 1 + max(i for i, _ in moments)):
        pivot = moments[i, i]
        for k in range(i):
            inner = sum(lower[i, m] * lower[k, m] * pivots[m] for m in range(k) if (k, m) in lower)
            usable = pivots[k] > 0
            lower[i, k] = jnp.where(usable, (moments[i, k] - inner) / jnp.where(usable, pivots[k], 1.0), 0.0)
            pivot = pivot - lower[i, k] ** 2 * pivots[k]
        pivots.append(jnp.maximum(pivot, 0.0))
    return Information(tuple(pivots), lower)


def _uncertain(predictors: Predictors) -> tuple[Array, Array, Array]:
    """Return where the measurement is certain, and location and log scale, which are 0 there."""
    location, log_scale = predictors[:2]
    certain = jnp.isneginf(log_scale) | jnp.isinf(location)
    return certain, jnp.where(certain, 0.0, location), jnp.where(certain, 0.0, log_scale)
