"""Priors of PEtab as log densities."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy import stats
from jax.scipy.special import gammaln
from jaxtyping import Array, Float

from qspjax._types import Scalar

if TYPE_CHECKING:
    from scipy.stats.distributions import rv_frozen

LogDensity: TypeAlias = Callable[..., Array]
"""The log density, as a function of a value and the parameters of the distribution."""

Quantile: TypeAlias = Callable[[Float[np.ndarray, " starts"]], Float[np.ndarray, " starts"]]
"""The values below which a start lies with given probabilities."""


def _laplace(x: Scalar, location: float, scale: float) -> Array:
    return stats.laplace.logpdf(x, location, scale)


def _of_logarithm(density: LogDensity) -> LogDensity:
    def log_density(x: Scalar, *parameters: float) -> Array:
        return density(jnp.log(x), *parameters) - jnp.log(x)

    return log_density


def _rayleigh(x: Scalar, scale: float) -> Array:
    return jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1.0)) - 2 * math.log(scale) - 0.5 * (x / scale) ** 2, -jnp.inf)


def _chi_square(x: Scalar, df: float) -> Array:
    half = 0.5 * df
    return (half - 1) * jnp.log(x) - 0.5 * x - half * math.log(2.0) - gammaln(half)


def _log_uniform(x: Scalar, lower: float, upper: float) -> Array:
    inside = (x >= lower) & (x <= upper)
    return jnp.where(inside, -jnp.log(x) - math.log(math.log(upper / lower)), -jnp.inf)


def _uniform(x: Scalar, lower: float, upper: float) -> Array:
    return stats.uniform.logpdf(x, lower, upper - lower)


DENSITIES: dict[str, tuple[int, LogDensity]] = {
    "uniform": (2, _uniform),
    "normal": (2, stats.norm.logpdf),
    "laplace": (2, _laplace),
    "lognormal": (2, _of_logarithm(stats.norm.logpdf)),
    "loglaplace": (2, _of_logarithm(_laplace)),
    "loguniform": (2, _log_uniform),
    "cauchy": (2, stats.cauchy.logpdf),
    "chisquare": (1, _chi_square),
    "exponential": (1, lambda x, scale: stats.expon.logpdf(x, 0.0, scale)),
    "gamma": (2, lambda x, shape, scale: stats.gamma.logpdf(x, shape, 0.0, scale)),
    "rayleigh": (1, _rayleigh),
}
"""By name (small letters, no hyphens), the number of parameters and the log density."""


class PetabPrior(eqx.Module):
    """A prior by its name and parameters, truncated at bounds where the standard requires it.

    Attributes:
        kind: Its name in `DENSITIES`.
        parameters: Its parameters.
        log_mass: The log of the probability within the bounds.
    """

    kind: str = eqx.field(static=True)
    parameters: tuple[float, ...] = eqx.field(static=True)
    log_mass: float = eqx.field(default=0.0, static=True)

    def __call__(self, x: Scalar) -> Array:
        return DENSITIES[self.kind][1](x, *self.parameters) - self.log_mass


def plain_kind(name: str) -> str:
    """Return the name of a prior in small letters and without hyphens."""
    return name.replace("-", "").replace("_", "").lower()


def log_mass(kind: str, parameters: Sequence[float], lower: float, upper: float) -> float:
    """Return the log of the probability that a prior has between bounds."""
    exact = _exact(kind, parameters)
    return float(math.log(max(exact.cdf(upper) - exact.cdf(lower), 1e-300)))


def quantile(kind: str, parameters: Sequence[float], lower: float, upper: float) -> Quantile:
    """Return the quantile function of a prior that is truncated at bounds."""
    exact = _exact(kind, parameters)
    low, high = exact.cdf(lower), exact.cdf(upper)
    return lambda probability: exact.ppf(low + probability * (high - low))


def _exact(kind: str, parameters: Sequence[float]) -> "rv_frozen":
    """Return a prior as a distribution of scipy."""
    from scipy import stats as exact

    a, b = (*parameters, 0.0)[:2]
    return {
        "uniform": lambda: exact.uniform(a, b - a),
        "normal": lambda: exact.norm(a, b),
        "laplace": lambda: exact.laplace(a, b),
        "lognormal": lambda: exact.lognorm(b, scale=math.exp(a)),
        "loglaplace": lambda: exact.loglaplace(1 / b, scale=math.exp(a)),
        "loguniform": lambda: exact.loguniform(a, b),
        "cauchy": lambda: exact.cauchy(a, b),
        "chisquare": lambda: exact.chi2(a),
        "exponential": lambda: exact.expon(scale=a),
        "gamma": lambda: exact.gamma(a, scale=b),
        "rayleigh": lambda: exact.rayleigh(scale=a),
    }[kind]()
