"""Distributions of residuals, standardised by the location and the scale of an error model."""

import abc
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import betainc, gammaln, log_ndtr
from jaxtyping import Array, Float

from qspjax._checks import check_above, check_number
from qspjax._parameters import as_parameter
from qspjax._types import Key, Scalar
from qspjax.fit.errors._domains import Numbers


class AbstractResidualDistribution(eqx.Module):
    """A symmetric distribution of a standardised residual z.

    Attributes:
        name: Its name in PEtab.
        power: p, if the best scale is the mean of |z|^p, to the power of 1 / p; 0 if it has no closed form.

    Example:
        >>> from qspjax.fit import Additive
        >>> isinstance(Additive("sd", distribution=StudentT(4.0)).distribution, AbstractResidualDistribution)
        True
    """

    name: eqx.AbstractClassVar[str]
    power: eqx.AbstractClassVar[float]

    @abc.abstractmethod
    def log_density(self, z: Numbers) -> Float[Array, "..."]:
        """Return log p(z)."""

    @abc.abstractmethod
    def log_cdf(self, z: Numbers) -> Float[Array, "..."]:
        """Return log P(Z <= z), accurate far in the tail."""

    @abc.abstractmethod
    def information(self) -> tuple[Scalar, Scalar]:
        """Return the Fisher information on location, in units of 1 / scale^2, and on the log of the scale."""

    @abc.abstractmethod
    def draw(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "..."]:
        """Return independent draws of z.

        Args:
            key: `jax.random.key(seed)`.
            shape: The shape of the draws.
        """

    def log_between(self, low: Numbers, high: Numbers) -> Float[Array, "..."]:
        """Return log P(low < Z <= high), accurate in both tails; an infinite edge must be a constant."""
        low, high = jnp.broadcast_arrays(low, high)
        mirrored = low + high > 0.0  # the probability is taken from the nearer tail
        low, high = jnp.where(mirrored, -high, low), jnp.where(mirrored, -low, high)
        return log_difference(self._log_up_to(high), self._log_up_to(low))

    def _log_up_to(self, edge: Array) -> Array:
        is_open = jnp.isinf(edge)
        return jnp.where(is_open, jnp.where(edge > 0, 0.0, -jnp.inf), self.log_cdf(jnp.where(is_open, 0.0, edge)))


class Gaussian(AbstractResidualDistribution):
    """The standard normal distribution.

    Example:
        >>> round(float(Gaussian().log_cdf(-40.0)), 2)
        -804.61
    """

    name: ClassVar[str] = "normal"
    power: ClassVar[float] = 2.0

    def log_density(self, z: Numbers) -> Float[Array, "..."]:
        return -0.5 * jnp.asarray(z) ** 2 - 0.5 * math.log(2.0 * math.pi)

    def log_cdf(self, z: Numbers) -> Float[Array, "..."]:
        return log_ndtr(z)

    def information(self) -> tuple[Scalar, Scalar]:
        return 1.0, 2.0

    def draw(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "..."]:
        return jax.random.normal(key, shape)


class DoubleExponential(AbstractResidualDistribution):
    """The double exponential (Laplace) distribution of scale 1, p(z) = exp(-|z|) / 2: least absolute deviations.

    Example:
        >>> round(float(DoubleExponential().log_cdf(0.0)), 4)
        -0.6931
    """

    name: ClassVar[str] = "laplace"
    power: ClassVar[float] = 1.0

    def log_density(self, z: Numbers) -> Float[Array, "..."]:
        return -jnp.abs(z) - math.log(2.0)

    def log_cdf(self, z: Numbers) -> Float[Array, "..."]:
        z = jnp.asarray(z)
        below = jnp.minimum(z, 0.0) - math.log(2.0)
        return jnp.where(z < 0, below, jnp.log1p(-0.5 * jnp.exp(-jnp.maximum(z, 0.0))))

    def information(self) -> tuple[Scalar, Scalar]:
        return 1.0, 1.0

    def draw(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "..."]:
        return jax.random.laplace(key, shape)


class StudentT(AbstractResidualDistribution):
    """Student's t distribution: heavy tails, so that an outlier weighs little.

    Args:
        df: Degrees of freedom.

    Raises:
        ValueError: If `df` is not positive.

    Example:
        >>> round(float(StudentT(4.0).log_cdf(0.0)), 4)
        -0.6931
    """

    name: ClassVar[str] = "student"
    power: ClassVar[float] = 0.0
    df: Scalar = eqx.field(default=4.0, converter=as_parameter)

    def __check_init__(self) -> None:
        check_number("df", self.df)
        check_above("df", self.df, 0.0)

    def log_density(self, z: Numbers) -> Float[Array, "..."]:
        df = jnp.asarray(self.df)
        constant = gammaln((df + 1) / 2) - gammaln(df / 2) - 0.5 * jnp.log(df * math.pi)
        return constant - (df + 1) / 2 * jnp.log1p(jnp.asarray(z) ** 2 / df)

    def log_cdf(self, z: Numbers) -> Float[Array, "..."]:
        z = jnp.asarray(z)
        tail = 0.5 * betainc(self.df / 2, 0.5, self.df / (self.df + z**2))
        return jnp.where(z < 0, jnp.log(tail), jnp.log1p(-tail))

    def information(self) -> tuple[Scalar, Scalar]:
        return (self.df + 1) / (self.df + 3), 2 * self.df / (self.df + 3)

    def draw(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "..."]:
        return jax.random.t(key, self.df, shape)


def log_difference(larger: Numbers, smaller: Numbers) -> Float[Array, "..."]:
    """Return log(exp(larger) - exp(smaller))."""
    vanishes = jnp.isneginf(smaller)
    gap = jnp.where(vanishes, -1.0, jnp.subtract(smaller, larger))
    return jnp.asarray(larger) + jnp.where(vanishes, 0.0, _log1mexp(gap))


def _log1mexp(x: Array) -> Array:
    """Return log(1 - exp(x)) for x < 0, accurate at both ends."""
    small = x > -0.6931471805599453
    near, far = jnp.where(small, x, -1.0), jnp.where(small, -1.0, x)
    return jnp.where(small, jnp.log(-jnp.expm1(near)), jnp.log1p(-jnp.exp(far)))
