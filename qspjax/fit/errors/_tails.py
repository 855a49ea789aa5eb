"""Shapes of residuals: the standardised distribution of what an error model scales."""

import abc
import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.special import betainc, gammaln, log_ndtr
from jaxtyping import Array

from qspjax._checks import check_above, check_number
from qspjax._parameters import as_parameter
from qspjax._types import Scalar


class AbstractTails(eqx.Module):
    """A symmetric distribution of a standardised residual z.

    Example:
        >>> from qspjax.fit import Additive
        >>> isinstance(Additive("sd", tails=StudentT(4.0)).tails, AbstractTails)
        True
    """

    @abc.abstractmethod
    def log_density(self, z: Any) -> Array:
        """Return log p(z)."""

    @abc.abstractmethod
    def log_cdf(self, z: Any) -> Array:
        """Return log P(Z <= z), accurate far in the tail."""

    @abc.abstractmethod
    def information(self) -> tuple[Any, Any]:
        """Return the Fisher information on location, in units of 1 / scale^2, and on the log of the scale."""

    def log_between(self, low: Any, high: Any) -> Array:
        """Return log P(low < Z <= high), accurate in both tails; an infinite edge must be a constant."""
        low, high = jnp.broadcast_arrays(low, high)
        mirrored = low + high > 0.0  # the probability is found in the tail that is nearer
        low, high = jnp.where(mirrored, -high, low), jnp.where(mirrored, -low, high)
        return log_difference(self._log_upto(high), self._log_upto(low))

    def _log_upto(self, edge: Array) -> Array:
        is_open = jnp.isinf(edge)
        return jnp.where(is_open, jnp.where(edge > 0, 0.0, -jnp.inf), self.log_cdf(jnp.where(is_open, 0.0, edge)))


class Gaussian(AbstractTails):
    """The standard normal distribution.

    Example:
        >>> round(float(Gaussian().log_cdf(-40.0)), 2)
        -804.61
    """

    def log_density(self, z: Any) -> Array:
        return -0.5 * z**2 - 0.5 * math.log(2.0 * math.pi)

    def log_cdf(self, z: Any) -> Array:
        return log_ndtr(z)

    def information(self) -> tuple[Any, Any]:
        return 1.0, 2.0


class Laplace(AbstractTails):
    """The Laplace distribution of scale 1, p(z) = exp(-|z|) / 2: least absolute deviations.

    Example:
        >>> round(float(Laplace().log_cdf(0.0)), 4)
        -0.6931
    """

    def log_density(self, z: Any) -> Array:
        return -jnp.abs(z) - math.log(2.0)

    def log_cdf(self, z: Any) -> Array:
        below = jnp.minimum(z, 0.0) - math.log(2.0)
        return jnp.where(z < 0, below, jnp.log1p(-0.5 * jnp.exp(-jnp.maximum(z, 0.0))))

    def information(self) -> tuple[Any, Any]:
        return 1.0, 1.0


class StudentT(AbstractTails):
    """Student's t distribution: heavy tails, so that an outlier weighs little.

    Args:
        df: Degrees of freedom.

    Raises:
        ValueError: If `df` is not positive.

    Example:
        >>> round(float(StudentT(4.0).log_cdf(0.0)), 4)
        -0.6931
    """

    df: Scalar = eqx.field(default=4.0, converter=as_parameter)

    def __check_init__(self) -> None:
        check_number("df", self.df)
        check_above("df", self.df, 0.0)

    def log_density(self, z: Any) -> Array:
        df = self.df
        constant = gammaln((df + 1) / 2) - gammaln(df / 2) - 0.5 * jnp.log(df * math.pi)
        return constant - (df + 1) / 2 * jnp.log1p(z**2 / df)

    def log_cdf(self, z: Any) -> Array:
        tail = 0.5 * betainc(self.df / 2, 0.5, self.df / (self.df + z**2))
        return jnp.where(z < 0, jnp.log(tail), jnp.log1p(-tail))

    def information(self) -> tuple[Any, Any]:
        return (self.df + 1) / (self.df + 3), 2 * self.df / (self.df + 3)


def log_difference(larger: Any, smaller: Any) -> Array:
    """Return log(exp(larger) - exp(smaller))."""
    none = jnp.isneginf(smaller)
    gap = jnp.where(none, -1.0, smaller - larger)
    return larger + jnp.where(none, 0.0, _log1mexp(gap))


def _log1mexp(x: Array) -> Array:
    """Return log(1 - exp(x)) for x < 0, accurate at both ends."""
    small = x > -0.6931471805599453
    near, far = jnp.where(small, x, -1.0), jnp.where(small, -1.0, x)
    return jnp.where(small, jnp.log(-jnp.expm1(near)), jnp.log1p(-jnp.exp(far)))
