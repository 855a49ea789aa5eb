"""The error model of measurements that are normal after a Box-Cox transform of both sides."""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from qspjax._expression import Expression, Formula
from qspjax._transform import AbstractTransform
from qspjax._types import ArrayInput, Scalar
from qspjax.fit.errors._continuous import ABOVE_ZERO, SD, check_distribution
from qspjax.fit.errors._contract import check_positive, formula
from qspjax.fit.errors._distributions import AbstractResidualDistribution, Gaussian
from qspjax.fit.errors._domains import POSITIVE, Domain
from qspjax.fit.errors._location_scale import AbstractLocationScale

SMALL, TERMS = 0.1, 12
"""(exp(x) - 1) / x is a power series with this number of terms below this size of x, so that its slopes are exact."""


class BoxCoxError(AbstractLocationScale):
    """Normal error after a Box-Cox transform of both sides, h(y) = h(f) + sd z.

    $$ h(y) = (y^\\lambda - 1) / \\lambda, \\quad h(y) = \\log y \\text{ if } \\lambda = 0, \\quad
       \\log p(y) = \\log \\phi((h(y) - h(f)) / sd) - \\log sd + (\\lambda - 1) \\log y $$

    With lambda = 1 the error is additive, with 0 log-normal. As is usual, the probability that a normal h(y) lies
    outside the range of h, beyond -1 / lambda, is neglected; a draw from there is 0 (infinite if lambda is negative).

    Args:
        sd: The standard deviation of h(y): a number or a formula, also over `prediction`.
        shape: Lambda: a number, or a formula such as the name of a parameter that is estimated.
        distribution: That of z.

    References: Box and Cox, J R Stat Soc B 1964;26:211, doi:10.1111/j.2517-6161.1964.tb00553.x; of residual errors in
    pharmacometrics, Dosne, Bergstrand and Karlsson, J Pharmacokinet Pharmacodyn 2016;43:137,
    doi:10.1007/s10928-015-9460-y.

    Example:
        >>> import jax.numpy as jnp
        >>> error = BoxCoxError(0.2, shape="lambda")
        >>> predictors = error.predictors(jnp.array(2.0), {"sd": 0.2, "shape": 0.5})
        >>> float(error.log_density(2.5, predictors).round(3)), float(error.log_density(-1.0, predictors))
        (-1.161, -inf)
    """

    word: ClassVar[str] = "boxcox"
    domain: ClassVar[Domain] = Domain(POSITIVE, POSITIVE, "leave the record out, or use Combined(sd, cv)")
    sd: Formula = formula()
    shape: Formula = formula()
    distribution: AbstractResidualDistribution = Gaussian()

    def __check_init__(self) -> None:
        check_distribution(self.distribution)
        check_positive(self, "sd")

    def scale(self) -> Expression:
        return SD

    def transform(self, *numbers: Float[Array, "..."]) -> AbstractTransform:
        return BoxCox(numbers[0])

    def support(self) -> tuple[float, float]:
        return ABOVE_ZERO


class BoxCox(AbstractTransform):
    """The Box-Cox transform, x = (theta^shape - 1) / shape, and its limit ln(theta) at shape 0.

    Args:
        shape: Lambda.
    """

    shape: Scalar

    def forward(self, natural: ArrayInput) -> Float[Array, "..."]:
        log = jnp.log(jnp.asarray(natural, float))
        return log * _relative_growth(jnp.asarray(self.shape) * log)

    def inverse(self, transformed: ArrayInput) -> Float[Array, "..."]:
        x = jnp.asarray(transformed, float)
        shift = self.shape * x
        small = jnp.abs(shift) < 1e-5
        near = x * (1.0 - shift / 2.0 + shift**2 / 3.0)
        inside = ~small & (shift > -1.0) & jnp.isfinite(shift)
        far = jnp.log1p(jnp.where(inside, shift, 0.0)) / jnp.where(inside, self.shape, 1.0)
        edge = jnp.where(x < 0, 0.0, jnp.inf)
        return jnp.where(small, jnp.exp(near), jnp.where(inside, jnp.exp(far), edge))

    def log_det(self, natural: ArrayInput) -> Float[Array, "..."]:
        return (1.0 - jnp.asarray(self.shape)) * jnp.log(jnp.asarray(natural, float))


def _relative_growth(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return (exp(x) - 1) / x, 1 at 0."""
    small = jnp.abs(x) < SMALL
    near, far = jnp.where(small, x, 0.0), jnp.where(small, 1.0, x)
    series = jnp.ones_like(near)
    for k in range(TERMS, 1, -1):
        series = 1.0 + near / k * series
    return jnp.where(small, series, jnp.expm1(far) / far)
