"""Distributions of one quantity, written as a monotone function of a standard normal variate.

    x = h(z),  z ~ N(0, 1)

That one function gives sampling, densities and truncation, and it makes correlation simple: correlate the z.
A location that is left out (`mean`, `median`) is taken from the model: the typical value of the patient.
"""

import abc
import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr, ndtr, ndtri
from jaxtyping import Array

from qspjax._checks import check_above, check_finite, check_instance, check_number, concrete, refuse, warn
from qspjax._parameters import as_parameter
from qspjax._types import Numeric, Scalar

_PERCENT = 5.0
"""A coefficient of variation of at least this was most likely meant in percent."""


class AbstractDistribution(eqx.Module):
    """A continuous distribution of one quantity.

    Example:
        >>> import qspjax as qsp
        >>> distribution = qsp.LogNormal(3.0, cv=0.3)
        >>> distribution.from_normal(0.0), distribution.to_normal(3.0)
        (Array(3., dtype=float64), Array(0., dtype=float64))
    """

    @abc.abstractmethod
    def from_normal(self, z: Numeric, typical: Numeric | None = None) -> Array:
        """Return the quantity that belongs to a standard normal variate, for a patient with this typical value."""

    @abc.abstractmethod
    def to_normal(self, x: Numeric, typical: Numeric | None = None) -> Array:
        """Return the standard normal variate that belongs to a quantity; the inverse of `from_normal`.

        Below the support it is -inf, above it inf.
        """

    @abc.abstractmethod
    def log_prob(self, x: Numeric, typical: Numeric | None = None) -> Array:
        """Return the log density at `x`, -inf outside the support."""


class Normal(AbstractDistribution):
    """Normal distribution, `x = mean + sd z`.

    Args:
        mean: The mean; left out, the typical value from the model.
        sd: The standard deviation.

    Example:
        >>> import qspjax as qsp
        >>> float(qsp.Normal(70.0, sd=15.0).from_normal(2.0))
        100.0
    """

    mean: Scalar | None = eqx.field(default=None, converter=as_parameter)
    sd: Scalar = eqx.field(converter=as_parameter, kw_only=True)

    def __check_init__(self) -> None:
        if self.mean is not None:
            check_number("mean", self.mean)
        check_number("sd", self.sd)
        check_above("sd", self.sd, 0.0)

    def from_normal(self, z: Numeric, typical: Numeric | None = None) -> Array:
        return jnp.asarray(_location(self.mean, typical, "mean") + self.sd * z)

    def to_normal(self, x: Numeric, typical: Numeric | None = None) -> Array:
        return jnp.asarray((x - _location(self.mean, typical, "mean")) / self.sd)

    def log_prob(self, x: Numeric, typical: Numeric | None = None) -> Array:
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
        arguments = {"cv": cv, "omega": omega, "median": median}
        for name, value in arguments.items():
            if value is not None:
                check_number(name, value)
                check_above(name, value, 0.0)
        fraction = concrete(cv)
        if fraction is not None and (fraction >= _PERCENT).any():
            percent = float(fraction.max())
            warn(
                f"Argument `cv` is a fraction, and {percent:g} is a spread of {100 * percent:g} %: "
                f"{percent:g} % is {percent / 100:g}."
            )
        self.median = as_parameter(median)
        self.omega = as_parameter(omega) if cv is None else jnp.sqrt(jnp.log1p(as_parameter(cv) ** 2))

    @classmethod
    def from_mean(cls, mean: Scalar, *, sd: Scalar) -> "LogNormal":
        """Return the log-normal distribution with this mean and standard deviation of x itself."""
        check_above("mean", mean, 0.0)
        check_above("sd", sd, 0.0)
        mean, cv = as_parameter(mean), as_parameter(sd) / mean
        return cls(mean / jnp.sqrt(1.0 + cv**2), cv=cv)

    def from_normal(self, z: Numeric, typical: Numeric | None = None) -> Array:
        return jnp.asarray(_location(self.median, typical, "median") * jnp.exp(self.omega * z))

    def to_normal(self, x: Numeric, typical: Numeric | None = None) -> Array:
        outside = jnp.asarray(x) <= 0
        z = jnp.log(jnp.where(outside, 1.0, x) / _location(self.median, typical, "median")) / self.omega
        return jnp.where(outside, -jnp.inf, z)

    def log_prob(self, x: Numeric, typical: Numeric | None = None) -> Array:
        inside = jnp.where(x > 0, x, 1.0)
        density = _log_normal_density(self.to_normal(inside, typical)) - jnp.log(self.omega * inside)
        return jnp.where(x > 0, density, -jnp.inf)


class Uniform(AbstractDistribution):
    """Uniform distribution between `low` and `high`, both finite.

    Example:
        >>> import qspjax as qsp
        >>> float(qsp.Uniform(0.2, 0.8).from_normal(0.0))
        0.5
    """

    low: Scalar = eqx.field(converter=as_parameter)
    high: Scalar = eqx.field(converter=as_parameter)

    def __check_init__(self) -> None:
        _check_order(self.low, self.high)
        check_finite("low", self.low)
        check_finite("high", self.high)

    def from_normal(self, z: Numeric, typical: Numeric | None = None) -> Array:
        return jnp.asarray(self.low + (self.high - self.low) * ndtr(z))

    def to_normal(self, x: Numeric, typical: Numeric | None = None) -> Array:
        width = self.high - self.low
        return _quantile((x - self.low) / width, (self.high - x) / width)

    def log_prob(self, x: Numeric, typical: Numeric | None = None) -> Array:
        return jnp.where((x >= self.low) & (x <= self.high), -jnp.log(self.high - self.low), -jnp.inf)


class LogUniform(AbstractDistribution):
    """Uniform distribution of the logarithm between `low` and `high`, both positive and finite.

    $$ x = \\text{low} (\\text{high} / \\text{low})^{\\Phi(z)} $$

    Example:
        >>> import qspjax as qsp
        >>> qsp.LogUniform(0.1, 10.0).from_normal(0.0).round(6)
        Array(1., dtype=float64)
    """

    low: Scalar = eqx.field(converter=as_parameter)
    high: Scalar = eqx.field(converter=as_parameter)

    def __check_init__(self) -> None:
        _check_order(self.low, self.high)
        check_above("low", self.low, 0.0)
        check_finite("high", self.high)

    def from_normal(self, z: Numeric, typical: Numeric | None = None) -> Array:
        return jnp.clip(self.low * jnp.exp(jnp.log(self.high / self.low) * ndtr(z)), self.low, self.high)

    def to_normal(self, x: Numeric, typical: Numeric | None = None) -> Array:
        width = jnp.log(self.high / self.low)
        outside = jnp.asarray(x) <= 0
        inside = jnp.where(outside, self.low, x)
        z = _quantile(jnp.log(inside / self.low) / width, jnp.log(self.high / inside) / width)
        return jnp.where(outside, -jnp.inf, z)

    def log_prob(self, x: Numeric, typical: Numeric | None = None) -> Array:
        within = (x >= self.low) & (x <= self.high)
        density = -jnp.log(jnp.where(within, x, 1.0)) - jnp.log(jnp.log(self.high / self.low))
        return jnp.where(within, density, -jnp.inf)


class Truncated(AbstractDistribution):
    """Another distribution, truncated to `low` <= x <= `high` and renormalised.

    With F the untruncated distribution function, the truncated quantile of u is that of F(low) + u (F(high) - F(low)).
    It is computed from the smaller of the probabilities below and above, so far tails stay exact (`from_normal` out to
    37 standard deviations, beyond which the probabilities are 0).

    Example:
        >>> import qspjax as qsp
        >>> weight = qsp.Truncated(qsp.Normal(70.0, sd=15.0), 40.0, 120.0)
        >>> weight.from_normal(-9.0).round(2)
        Array(40., dtype=float64)
    """

    distribution: AbstractDistribution
    low: Scalar = eqx.field(default=-jnp.inf, converter=as_parameter)
    high: Scalar = eqx.field(default=jnp.inf, converter=as_parameter)

    def __check_init__(self) -> None:
        check_instance("distribution", self.distribution, AbstractDistribution, "a distribution")
        _check_order(self.low, self.high)

    def from_normal(self, z: Numeric, typical: Numeric | None = None) -> Array:
        low, high = self._ends(typical)
        below = ndtr(low) * ndtr(-z) + ndtr(high) * ndtr(z)
        above = ndtr(-low) * ndtr(-z) + ndtr(-high) * ndtr(z)
        return jnp.clip(self.distribution.from_normal(_quantile(below, above), typical), self.low, self.high)

    def to_normal(self, x: Numeric, typical: Numeric | None = None) -> Array:
        low, high = self._ends(typical)
        inner, mass = self.distribution.to_normal(x, typical), _log_mass(low, high)
        return _quantile(jnp.exp(_log_mass(low, inner) - mass), jnp.exp(_log_mass(inner, high) - mass))

    def log_prob(self, x: Numeric, typical: Numeric | None = None) -> Array:
        density = self.distribution.log_prob(x, typical) - _log_mass(*self._ends(typical))
        return jnp.where((x >= self.low) & (x <= self.high), density, -jnp.inf)

    def _ends(self, typical: Numeric | None) -> tuple[Array, Array]:
        return self._end(self.low, typical), self._end(self.high, typical)

    def _end(self, bound: Numeric, typical: Numeric | None) -> Array:
        end = self.distribution.to_normal(jnp.where(jnp.isinf(bound), 1.0, bound), typical)
        return jnp.where(jnp.isinf(bound), bound, end)


def _quantile(below: Numeric, above: Numeric) -> Array:
    """Return the normal variate with these probabilities below and above it, from the smaller; inf outside (0, 1)."""
    lower = below < above
    tail = jnp.where(lower, below, above)
    z = jnp.where(tail <= 0, -jnp.inf, ndtri(jnp.where(tail <= 0, 0.5, tail)))
    return jnp.where(lower, z, -z)


def _log_mass(low: Numeric, high: Numeric) -> Array:
    """Return ln(Phi(high) - Phi(low)) from the lower tail, where it is exact; -inf where the interval is empty."""
    flip = low + high > 0
    low, high = jnp.where(flip, -high, low), jnp.where(flip, -low, high)
    upper = jnp.where(jnp.isinf(high), 0.0, high)
    unused = (low >= high) | jnp.isinf(low)
    log_upper = _log_ndtr(upper)
    gap = jnp.where(unused, -1.0, _log_ndtr(jnp.where(unused, 0.0, low)) - log_upper)
    closed_below = log_upper + jnp.log(-jnp.expm1(gap))
    open_below = jnp.where(jnp.isinf(high), 0.0, log_upper)
    return jnp.where(low >= high, -jnp.inf, jnp.where(jnp.isinf(low), open_below, closed_below))


def _log_ndtr(x: Numeric) -> Array:
    return log_ndtr(x, series_order=10)


def _location(value: Numeric | None, typical: Numeric | None, argument: str) -> Numeric:
    location = typical if value is None else value
    if location is None:
        raise ValueError(
            f"Argument `{argument}` must be given where no model gives the typical value, but is left out."
        )
    return location


def _log_normal_density(z: Numeric) -> Array:
    return jnp.asarray(-0.5 * z**2 - 0.5 * math.log(2.0 * math.pi))


def _check_order(low: Numeric, high: Numeric) -> None:
    for name, value in (("low", low), ("high", high)):
        check_number(name, value)
        if (bound := concrete(value)) is not None and np.isnan(bound).any():
            refuse(name, "be a number or infinite", bound)
    least, greatest = concrete(low), concrete(high)
    if least is not None and greatest is not None and not (least < greatest).all():
        refuse("high", f"be greater than `low` ({float(least):g})", greatest)
