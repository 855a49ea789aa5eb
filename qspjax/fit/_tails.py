"""Shapes of residuals: the standardised distribution of what an error model scales."""

import abc
import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.special import betainc, gammaln, log_ndtr
from jaxtyping import Array

from qspjax._checks import check_above, check_number
from qspjax._model import as_parameter
from qspjax._types import Scalar


class AbstractTails(eqx.Module):
    """A symmetric distribution of a standardised residual z."""

    @abc.abstractmethod
    def log_density(self, z: Any) -> Array:
        """Return log p(z)."""

    @abc.abstractmethod
    def log_cdf(self, z: Any) -> Array:
        """Return log P(Z <= z), accurate far in the tail."""

    @abc.abstractmethod
    def information(self) -> tuple[Any, Any]:
        """Return the Fisher information on location, in units of 1 / scale^2, and on the log of the scale."""


class Gaussian(AbstractTails):
    """The standard normal distribution."""

    def log_density(self, z: Any) -> Array:
        return -0.5 * z**2 - 0.5 * math.log(2.0 * math.pi)

    def log_cdf(self, z: Any) -> Array:
        return log_ndtr(z)

    def information(self) -> tuple[Any, Any]:
        return 1.0, 2.0


class Laplace(AbstractTails):
    """The Laplace distribution of scale 1, p(z) = exp(-|z|) / 2: least absolute deviations."""

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
