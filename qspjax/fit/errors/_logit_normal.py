"""The error model of measurements between two bounds that are normal after a logit of both sides."""

from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Float

from qspjax._expression import Expression, Formula
from qspjax._transform import Logit
from qspjax.fit.errors._continuous import SD, check_distribution
from qspjax.fit.errors._contract import check_positive, formula
from qspjax.fit.errors._distributions import AbstractResidualDistribution, Gaussian
from qspjax.fit.errors._domains import Domain, between
from qspjax.fit.errors._location_scale import AbstractLocationScale


class LogitNormalError(AbstractLocationScale):
    """Normal error after a logit of both sides, for measurements between two bounds, such as scores or fractions.

    $$ h(y) = \\log((y - a) / (b - y)) = h(f) + sd z, \\quad
       \\log p(y) = \\log \\phi((h(y) - h(f)) / sd) - \\log sd + \\log((b - a) / ((y - a) (b - y))) $$

    Args:
        sd: The standard deviation of the logit: a number or a formula.
        lower: The lower bound a, which no measurement attains.
        upper: The upper bound b, likewise.
        distribution: That of z.

    Raises:
        ValueError: If the bounds are not numbers in increasing order.

    References: Atchison and Shen, Biometrika 1980;67:261, doi:10.1093/biomet/67.2.261; of scores, Lesaffre, Rizopoulos
    and Tsonaka, Biostatistics 2007;8:72, doi:10.1093/biostatistics/kxj034.

    Example:
        >>> import jax.numpy as jnp
        >>> error = LogitNormalError("sd", lower=0.0, upper=100.0)
        >>> predictors = error.predictors(jnp.array(80.0), {"sd": 0.3})
        >>> float(error.log_density(85.0, predictors).round(3)), float(error.log_density(100.0, predictors))
        (-2.934, -inf)
    """

    word: ClassVar[str] = "logitnormal"
    sd: Formula = formula()
    lower: float = eqx.field(default=0.0, static=True)
    upper: float = eqx.field(default=1.0, static=True)
    distribution: AbstractResidualDistribution = Gaussian()

    def __check_init__(self) -> None:
        check_distribution(self.distribution)
        check_positive(self, "sd")
        self.transform()

    @property
    def domain(self) -> Domain:
        inside = between(self.lower, self.upper)
        return Domain(inside, inside, "leave the record out, or choose bounds that the prediction does not reach")

    def scale(self) -> Expression:
        return SD

    def transform(self, *numbers: Float[Array, "..."]) -> Logit:
        return Logit(self.lower, self.upper)

    def support(self) -> tuple[float, float]:
        return self.lower, self.upper
