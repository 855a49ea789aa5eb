"""Measurements below the limit of quantification: three ways to take them (Beal 2001).

The names M1, M3 and M4 are those of pharmacometrics. Reference: Beal, J Pharmacokinet Pharmacodyn 2001;28:481,
doi:10.1023/A:1012299115260.
"""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from qspjax._checks import check_above, check_number
from qspjax.fit._error_models import AbstractErrorModel, Predictors


class AbstractCensoring(eqx.Module):
    """What becomes of the measurements of an output that lie below a limit."""

    limit: eqx.AbstractVar[float]

    @abc.abstractmethod
    def keeps(self) -> bool:
        """Return whether censored measurements stay in the likelihood."""

    @abc.abstractmethod
    def log_density(self, error: AbstractErrorModel, y: Any, censored: Any, predictors: Predictors) -> Array:
        """Return the log likelihood of each measurement, censored or not."""


def _limit() -> Any:
    return eqx.field(static=True)


class M1(AbstractCensoring):
    """Leave measurements below the limit out.

    Args:
        limit: The lower limit of quantification.
    """

    limit: float = _limit()

    def __check_init__(self) -> None:
        check_number("limit", self.limit)

    def keeps(self) -> bool:
        return False

    def log_density(self, error: AbstractErrorModel, y: Any, censored: Any, predictors: Predictors) -> Array:
        return error.log_density(y, predictors)


class M3(AbstractCensoring):
    """A measurement below the limit has the likelihood P(y < limit), for a normal error Phi((limit - f) / sd).

    Args:
        limit: The lower limit of quantification.
    """

    limit: float = _limit()

    def __check_init__(self) -> None:
        check_number("limit", self.limit)

    def keeps(self) -> bool:
        return True

    def log_density(self, error: AbstractErrorModel, y: Any, censored: Any, predictors: Predictors) -> Array:
        known = error.log_density(jnp.where(censored, self.limit, y), predictors)
        return jnp.where(censored, error.log_below(self.limit, predictors), known)


class M4(AbstractCensoring):
    """As M3, given that measurements are positive: every likelihood is one of y > 0.

    $$ P(0 < y < limit) / P(y > 0), \\quad p(y) / P(y > 0) $$

    Args:
        limit: The lower limit of quantification, positive.
    """

    limit: float = _limit()

    def __check_init__(self) -> None:
        check_above("limit", self.limit, 0.0)

    def keeps(self) -> bool:
        return True

    def log_density(self, error: AbstractErrorModel, y: Any, censored: Any, predictors: Predictors) -> Array:
        below, negative = error.log_below(self.limit, predictors), error.log_below(0.0, predictors)
        known = error.log_density(jnp.where(censored, self.limit, y), predictors)
        return jnp.where(censored, _log_difference(below, negative), known) - _log1mexp(negative)


def _log1mexp(x: Array) -> Array:
    """Return log(1 - exp(x)) for x < 0, accurate at both ends."""
    small = x > -0.6931471805599453
    near, far = jnp.where(small, x, -1.0), jnp.where(small, -1.0, x)
    return jnp.where(small, jnp.log(-jnp.expm1(near)), jnp.log1p(-jnp.exp(far)))


def _log_difference(larger: Array, smaller: Array) -> Array:
    """Return log(exp(larger) - exp(smaller))."""
    none = jnp.isneginf(smaller)
    gap = jnp.where(none, -1.0, smaller - larger)
    return larger + jnp.where(none, 0.0, _log1mexp(gap))
