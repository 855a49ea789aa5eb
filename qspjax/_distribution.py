"""Distributions of one quantity, written as a monotone function of a standard normal variate.

    x = h(z),  z ~ N(0, 1)

That one function gives sampling, densities and truncation, and it makes correlation simple: correlate the z.
A location that is left out (`mean`, `median`) is taken from the model: the typical value of the patient.
"""

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, Float

from qspjax._checks import check_above, check_minimum, concrete, refuse
from qspjax._model import as_parameter
from qspjax._types import Key, Scalar


class AbstractDistribution(eqx.Module):
    """A continuous distribution of one quantity."""

    @abc.abstractmethod
    def from_normal(self, z: Any, typical: Any = None) -> Array:
        """Return the quantity that belongs to a standard normal variate, for a patient with this typical value."""

    @abc.abstractmethod
    def to_normal(self, x: Any, typical: Any = None) -> Array:
        """Return the standard normal variate that belongs to a quantity; the inverse of `from_normal`."""

    @abc.abstractmethod
    def log_prob(self, x: Any, typical: Any = None) -> Array:
        """Return the log density at `x`, -inf outside the support."""


class Normal(AbstractDistribution):
    """Normal distribution, `x = mean + sd z`.

    Args:
        mean: The mean; left out, the typical value from the model.
        sd: The standard deviation.
    """

    mean: Scalar | None = eqx.field(default=None, converter=as_parameter)
    sd: Scalar = eqx.field(converter=as_parameter, kw_only=True)

    def __check_init__(self) -> None:
        check_above("sd", self.sd, 0.0)

    def from_normal(self, z: Any, typical: Any = None) -> Array:
        return _location(self.mean, typical, "mean") + self.sd * z

    def to_normal(self, x: Any, typical: Any = None) -> Array:
        return (x - _location(self.mean, typical, "mean")) / self.sd

    def log_prob(self, x: Any, typical: Any = None) -> Array:
        return _log_normal_density(self.to_normal(x, typical)) - jnp.log(self.sd)


class LogNormal(AbstractDistribution):
    """Log-normal distribution, `x = median exp(omega z)`.

    Give the spread once: as `cv`, the coefficient of variation of x itself (0.3 is 30 %), or as `omega`, the standard
    deviation of log x. They are related by omega^2 = ln(1 + cv^2); omega^2 is the variance that NONMEM prints as OMEGA.

    Args:
        median: The median; left out, the typical value from the model.
        cv: The coefficient of variation, a fraction.
        omega: The standard deviation of the logarithm.

    Example:
        >>> import qspjax as qsp
        >>> round(float(qsp.LogNormal(cv=0.3).omega), 6)
        0.29356
    """

    median: Scalar | None
    omega: Scalar

    def __init__(self, median: Scalar | None = None, *, cv: Scalar | None = None, omega: Scalar | None = None):
        """Give exactly one of `cv` and `omega`."""
        if (cv is None) == (omega is None):
            raise ValueError(
                "Exactly one of the arguments `cv` and `omega` must be given, but "
                + ("none is." if cv is None else "both are.")
            )
        check_above("cv" if omega is None else "omega", cv if omega is None else omega, 0.0)
        if median is not None:
            check_above("median", median, 0.0)
        self.median = as_parameter(median)
        self.omega = as_parameter(omega) if cv is None else jnp.sqrt(jnp.log1p(as_parameter(cv) ** 2))

    @classmethod
    def from_mean(cls, mean: Scalar, *, sd: Scalar) -> "LogNormal":
        """Return the log-normal distribution with this mean and standard deviation of x itself."""
        check_above("mean", mean, 0.0)
        check_above("sd", sd, 0.0)
        mean, cv = as_parameter(mean), as_parameter(sd) / mean
        return cls(mean / jnp.sqrt(1.0 + cv**2), cv=cv)

    def from_normal(self, z: Any, typical: Any = None) -> Array:
        return _location(self.median, typical, "median") * jnp.exp(self.omega * z)

    def to_normal(self, x: Any, typical: Any = None) -> Array:
        return jnp.log(x / _location(self.median, typical, "median")) / self.omega

    def log_prob(self, x: Any, typical: Any = None) -> Array:
        inside = jnp.where(x > 0, x, 1.0)
        density = _log_normal_density(self.to_normal(inside, typical)) - jnp.log(self.omega * inside)
        return jnp.where(x > 0, density, -jnp.inf)


class Uniform(AbstractDistribution):
    """Uniform distribution between `low` and `high`."""

    low: Scalar = eqx.field(converter=as_parameter)
    high: Scalar = eqx.field(converter=as_parameter)

    def __check_init__(self) -> None:
        _check_order(self.low, self.high)

    def from_normal(self, z: Any, typical: Any = None) -> Array:
        return self.low + (self.high - self.low) * ndtr(z)

    def to_normal(self, x: Any, typical: Any = None) -> Array:
        return ndtri((x - self.low) / (self.high - self.low))

    def log_prob(self, x: Any, typical: Any = None) -> Array:
        return jnp.where((x >= self.low) & (x <= self.high), -jnp.log(self.high - self.low), -jnp.inf)


class Truncated(AbstractDistribution):
    """Another distribution, truncated to `low` <= x <= `high` and renormalised.

    With F the untruncated distribution function, the truncated quantile of u is that of F(low) + u (F(high) - F(low)).
    It is computed on the side of the lower tail, so far tails stay exact.
    """

    distribution: AbstractDistribution
    low: Scalar = eqx.field(default=-jnp.inf, converter=as_parameter)
    high: Scalar = eqx.field(default=jnp.inf, converter=as_parameter)

    def __check_init__(self) -> None:
        _check_order(self.low, self.high)

    def from_normal(self, z: Any, typical: Any = None) -> Array:
        below, above = self._ends(typical)
        flip = below + above > 0  # work in the lower tail, where probabilities keep their relative accuracy
        low, high, z = jnp.where(flip, -above, below), jnp.where(flip, -below, above), jnp.where(flip, -z, z)
        inner = ndtri(ndtr(low) * ndtr(-z) + ndtr(high) * ndtr(z))
        x = self.distribution.from_normal(jnp.where(flip, -inner, inner), typical)
        return jnp.clip(x, self.low, self.high)

    def to_normal(self, x: Any, typical: Any = None) -> Array:
        below, above = self._ends(typical)
        inner = self.distribution.to_normal(x, typical)
        return ndtri((ndtr(inner) - ndtr(below)) / (ndtr(above) - ndtr(below)))

    def log_prob(self, x: Any, typical: Any = None) -> Array:
        below, above = self._ends(typical)
        mass = ndtr(above) - ndtr(below)
        density = self.distribution.log_prob(x, typical) - jnp.log(mass)
        return jnp.where((x >= self.low) & (x <= self.high), density, -jnp.inf)

    def _ends(self, typical: Any) -> tuple[Array, Array]:
        return self._end(self.low, typical), self._end(self.high, typical)

    def _end(self, bound: Any, typical: Any) -> Array:
        inside = jnp.isfinite(bound) & ((bound > 0) | (not isinstance(self.distribution, LogNormal)))
        end = self.distribution.to_normal(jnp.where(inside, bound, 1.0), typical)
        return jnp.where(inside, end, jnp.where(bound > 0, jnp.inf, -jnp.inf))


def sample(distribution: AbstractDistribution, *, key: Key, shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
    """Draw independent samples of a distribution that states its own location."""
    return distribution.from_normal(jax.random.normal(key, shape))


def _location(own: Any, typical: Any, argument: str) -> Any:
    if own is None and typical is None:
        raise ValueError(
            f"Argument `{argument}` must be given where no model gives the typical value, but is left out."
        )
    return typical if own is None else own


def _log_normal_density(z: Any) -> Array:
    return -0.5 * z**2 - 0.5 * math.log(2.0 * math.pi)


def _check_order(low: Any, high: Any) -> None:
    low, high = concrete(low), concrete(high)
    if low is not None and high is not None and not (low < high).all():
        refuse("high", f"be greater than `low` ({float(low):g})", high)
    for name, value in (("low", low), ("high", high)):
        if value is not None:
            check_minimum(name, jnp.nan_to_num(value), -jnp.inf)
