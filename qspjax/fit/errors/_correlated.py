"""Residual errors that are correlated between outputs and in time."""

from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Array, Float

from qspjax._checks import check_instance, refuse
from qspjax._expression import Expression, Formula, as_formula
from qspjax._transform import AbstractTransform
from qspjax.fit.errors._contract import Predictors, formula, formulas_of
from qspjax.fit.errors._distributions import AbstractResidualDistribution, Gaussian
from qspjax.fit.errors._domains import POSITIVE, Condition, Domain, between
from qspjax.fit.errors._location_scale import AbstractLocationScale


class Correlated(AbstractLocationScale):
    """A normal residual error that is correlated with others of its subject, at the same time and at other times.

    $$ corr(z_i, z_j) = \\rho \\exp(-|t_i - t_j| / \\tau), \\quad
       -2 \\log p(y) = \\log |2 \\pi R| + (y - f)^T R^{-1} (y - f) $$

    for standardised residuals z of one subject (or experiment), with rho = 1 within an output, and R the covariance of
    all residuals of the subject, here of errors without a transform. A first-order autoregression with correlation r
    after one unit of time, r^|t_i - t_j|, is `time="-1 / ln(r)"`.

    The density and the residual of each measurement are conditional on the ones before it, so that weighted residuals
    are independent of each other.

    Args:
        error: The size of the error, and its scale: `Additive`, `Proportional`, `Combined`, `LogNormalError`,
            `BoxCoxError` or `LogitNormalError`, with normal residuals.
        time: Tau, the time in which the correlation falls to 1 / e: a number or a formula. By default measurements are
            correlated only at equal times. Outputs that are correlated with each other have the same time constant.
        between: Rho by the name of another output, which is `Correlated` as well: numbers or formulas. It is enough for
            one of two outputs to name the other.

    Raises:
        ValueError: If the residual is not normal, or a number is out of range.

    References: Karlsson, Beal and Sheiner, J Pharmacokinet Biopharm 1995;23:651, doi:10.1007/BF02353466; Harvey, Time
    Series Models, 1993 (conditional densities).

    Example:
        >>> from qspjax.fit import Output, Proportional
        >>> parent = Output("parent", Correlated(Proportional("cv1"), time="tau"))
        >>> metabolite = Output("metabolite", Correlated(Proportional("cv2"), time="tau", between={"parent": 0.5}))
        >>> sorted(metabolite.names())
        ['cv2', 'metabolite', 'tau']
    """

    word: ClassVar[str] = ""
    error: AbstractLocationScale
    time: Formula | None = formula()
    between: tuple[tuple[str, Formula], ...] = formula()

    def __init__(
        self,
        error: AbstractLocationScale,
        *,
        time: Formula | None = None,
        between: Mapping[str, Formula] | None = None,
    ) -> None:
        """Check the parts."""
        kind = "an error model with a location and a scale, such as Proportional('cv')"
        check_instance("error", error, AbstractLocationScale, kind)
        if isinstance(error, Correlated):
            refuse("error", "be one that is not correlated yet", "Correlated")
        if not isinstance(error.distribution, Gaussian):
            refuse("error", "have normal residuals to be correlated", type(error.distribution).__name__)
        self.error = error
        self.time = None if time is None else as_formula("time", time)
        self.between = tuple((name, as_formula("between", rho)) for name, rho in (between or {}).items())
        for field, condition in self._conditions().items():
            value = formulas_of(self)[field]
            if not isinstance(value, Expression) and not condition.holds(value):
                refuse(field, f"be {condition.words}", value)

    @property
    def domain(self) -> Domain:
        return self.error.domain._replace(fields=self._conditions())

    @property
    def distribution(self) -> AbstractResidualDistribution:
        return self.error.distribution

    def scale(self) -> Expression:
        return self.error.scale()

    def transform(self, *numbers: Float[Array, "..."]) -> AbstractTransform:
        return self.error.transform(*numbers[: len(numbers) - len(self._conditions())])

    def support(self) -> tuple[float, float]:
        return self.error.support()

    def time_constant(self, predictors: Predictors) -> Float[Array, "..."] | None:
        """Return tau of each measurement, None if errors at different times are not correlated."""
        return None if self.time is None else predictors[len(predictors) - len(self.between) - 1]

    def correlations(self, predictors: Predictors) -> dict[str, Float[Array, "..."]]:
        """Return rho of each measurement, by the name of the other output."""
        return {name: predictors[k - len(self.between)] for k, (name, _) in enumerate(self.between)}

    def _conditions(self) -> dict[str, Condition]:
        time = {} if self.time is None else {"time": POSITIVE}
        return time | {f"between[{name}]": between(-1.0, 1.0) for name, _ in self.between}
