"""Error models of continuous measurements: additive, proportional, combined, and log-normal."""

import math
from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Float

from qspjax._checks import check_instance, refuse
from qspjax._expression import Expression, Formula, sqrt, symbol
from qspjax._transform import Identity, Log
from qspjax.fit.errors._contract import check_positive, formula
from qspjax.fit.errors._distributions import AbstractResidualDistribution, Gaussian
from qspjax.fit.errors._domains import NOT_ZERO, POSITIVE, Domain
from qspjax.fit.errors._location_scale import AbstractLocationScale

SD, CV, PREDICTION = symbol("sd"), symbol("cv"), symbol("prediction")
LEAVE_OUT = "leave the record out, or use Combined(sd, cv)"
EVERYWHERE, ABOVE_ZERO = (-math.inf, math.inf), (0.0, math.inf)


class Additive(AbstractLocationScale):
    """Constant error, y = f + sd z.

    Args:
        sd: The standard deviation (for distributions other than the normal one, their scale): a number, or a formula
            over parameters, observed values, `time` and `prediction`.
        distribution: That of z.

    Example:
        >>> import jax.numpy as jnp
        >>> error = Additive("sigma")
        >>> float(error.log_density(1.2, error.predictors(jnp.array(1.0), {"sd": 0.1})).round(3))
        -0.616
    """

    word: ClassVar[str] = "additive"
    domain: ClassVar[Domain] = Domain()
    sd: Formula = formula()
    distribution: AbstractResidualDistribution = Gaussian()

    def __check_init__(self) -> None:
        check_distribution(self.distribution)
        check_positive(self, "sd")

    def scale(self) -> Expression:
        return SD

    def transform(self, *numbers: Float[Array, "..."]) -> Identity:
        return Identity()

    def support(self) -> tuple[float, float]:
        return EVERYWHERE


class Proportional(AbstractLocationScale):
    """Error in proportion to the prediction, y = f (1 + cv z).

    Args:
        cv: The coefficient of variation: a number or a formula.
        distribution: That of z.

    Example:
        >>> from qspjax.fit import Output
        >>> sorted(Output("concentration", Proportional("cv")).names())
        ['concentration', 'cv']
    """

    word: ClassVar[str] = "proportional"
    domain: ClassVar[Domain] = Domain(prediction=NOT_ZERO, remedy=LEAVE_OUT)
    cv: Formula = formula()
    distribution: AbstractResidualDistribution = Gaussian()

    def __check_init__(self) -> None:
        check_distribution(self.distribution)
        check_positive(self, "cv")

    def scale(self) -> Expression:
        return CV * abs(PREDICTION)

    def transform(self, *numbers: Float[Array, "..."]) -> Identity:
        return Identity()

    def support(self) -> tuple[float, float]:
        return EVERYWHERE


class Combined(AbstractLocationScale):
    """Additive and proportional error, y = f + sqrt(sd^2 + (cv f)^2) z; write others as a formula of `Additive`.

    Args:
        sd: The standard deviation at prediction 0: a number or a formula.
        cv: The coefficient of variation of large predictions: a number or a formula.
        distribution: That of z.

    Example:
        >>> from qspjax.fit import Output
        >>> sorted(Output("concentration", Combined("sd", "cv")).names())
        ['concentration', 'cv', 'sd']
    """

    word: ClassVar[str] = "combined"
    domain: ClassVar[Domain] = Domain()
    sd: Formula = formula()
    cv: Formula = formula()
    distribution: AbstractResidualDistribution = Gaussian()

    def __check_init__(self) -> None:
        check_distribution(self.distribution)
        check_positive(self, "sd", "cv")

    def scale(self) -> Expression:
        return sqrt(SD**2.0 + (CV * PREDICTION) ** 2.0)

    def transform(self, *numbers: Float[Array, "..."]) -> Identity:
        return Identity()

    def support(self) -> tuple[float, float]:
        return EVERYWHERE


class LogNormalError(AbstractLocationScale):
    """Log-normal error, log(y) = log(f) + sd z; the density is that of y itself.

    Args:
        sd: The standard deviation of the logarithm: a number or a formula.
        base: The base of the logarithm to which `sd` refers; by default e.
        distribution: That of z.

    Example:
        >>> from qspjax.fit import Output
        >>> sorted(Output("concentration", LogNormalError("sd")).names())
        ['concentration', 'sd']
    """

    word: ClassVar[str] = "lognormal"
    domain: ClassVar[Domain] = Domain(prediction=POSITIVE, value=POSITIVE, remedy=LEAVE_OUT)
    sd: Formula = formula()
    base: float = eqx.field(default=math.e, static=True)
    distribution: AbstractResidualDistribution = Gaussian()

    def __check_init__(self) -> None:
        check_distribution(self.distribution)
        check_positive(self, "sd")
        if not self.base > 1:
            refuse("base", "be greater than 1", self.base)

    def scale(self) -> Expression:
        return SD

    def transform(self, *numbers: Float[Array, "..."]) -> Log:
        return Log(self.base)

    def support(self) -> tuple[float, float]:
        return ABOVE_ZERO


def check_distribution(distribution: object) -> None:
    """Check the distribution of a standardised residual."""
    kind = "a distribution of residuals such as Gaussian() or StudentT(4)"
    check_instance("distribution", distribution, AbstractResidualDistribution, kind)
