"""Tumour size under a drug to which the tumour becomes resistant, and the survival that it predicts."""

import math
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from jax.scipy.special import erfc

from qspjax._model import AbstractModel, Units
from qspjax._parameters import parameter
from qspjax._types import Observed, Scalar

_CLARET = "Claret et al. 2009, doi:10.1200/JCO.2008.21.0807"
_DAYS_PER_WEEK = 7.0
_LAST_DEVIATION = 25.0
"""Standard deviations beyond the mean after which the hazard is no longer told apart: erfc^2 would be 0 further on."""


class TumourState(NamedTuple):
    """Drug in the body (g), sum of diameters (mm), relative shrinkage at the landmark, cumulative hazard of death."""

    drug: Scalar
    tumour: Scalar
    shrinkage: Scalar
    hazard: Scalar


class TumourGrowthInhibition(AbstractModel):
    """Growth of a tumour, its inhibition by a drug, resistance to it, and overall survival.

    The exposure E is the daily dose: the drug A leaves at `ke`, within hours, so that E = ke A follows the rate of an
    infusion to `drug`. The sum of the longest diameters y grows, and shrinks by an effect that is lost at the rate
    `resistance` since time 0, when treatment begins:

    $$ A' = dose - ke A, \\quad y' = KL y - KD e^{-resistance t} E y, \\quad y(0) = y0 $$

    Log survival time (in days) is normal, with a mean that the baseline and the relative shrinkage x at the landmark
    (7 weeks) predict, and the cumulative hazard H has the rate h of that distribution, with phi and Phi the standard
    normal density and distribution function:

    $$ mu = intercept + of_baseline y0 + of_shrinkage x, \\quad x' = -y' / y0 \\text{ until the landmark} $$

    $$ H' = h(t) = \\frac{phi(z)}{survival\\_sd \\, t \\, (1 - Phi(z))}, \\quad z = (\\log t - mu) / survival\\_sd $$

    Until the landmark x is the shrinkage so far; few die that early. Time is in days, a dose to `drug` in g, rate
    constants of the tumour in 1/week as in the paper. The observed values are `diameters` (y), `change` (y / y0 - 1),
    `exposure` (E), `cumulative_hazard` (H, for `population.event_times`) and `survival` (e^-H). The survival parameters
    are those of colorectal cancer. KD is per g of daily dose, so not comparable between drugs.

    Reference: Claret et al. 2009, doi:10.1200/JCO.2008.21.0807.

    Example:
        >>> import qspjax as qsp
        >>> fluorouracil = qsp.models.TumourGrowthInhibition(KL=0.015, KD=0.058, resistance=0.042, y0=71.0)
        >>> daily = qsp.infusion(365.0, to="drug", rate=1.0)  # 1 g a day for a year
        >>> solution = qsp.simulate(fluorouracil, daily, [0.0, 49.0, 210.0])
        >>> solution.observed["diameters"].round(1)
        Array([71. , 55.6, 41.5], dtype=float64)
    """

    units: ClassVar[Units] = Units(
        time="d",
        dose="g",
        states={"drug": "g", "tumour": "mm", "shrinkage": "", "hazard": ""},
        observed={"diameters": "mm", "change": "", "exposure": "g/d", "cumulative_hazard": "", "survival": ""},
    )

    KL: Scalar = parameter(unit="1/week", doc="growth rate constant of the tumour", minimum=0.0)
    KD: Scalar = parameter(unit="d/g/week", doc="rate constant of the effect for a daily dose of 1 g", minimum=0.0)
    resistance: Scalar = parameter(unit="1/week", doc="rate at which the effect is lost (lambda)", minimum=0.0)
    y0: Scalar = parameter(unit="mm", doc="sum of the longest diameters at baseline")
    ke: Scalar = parameter(unit="1/d", doc="rate at which exposure follows the dose", default=4.0)
    intercept: Scalar = parameter(
        unit="", doc="mean of log survival time (d) without the terms below", source=_CLARET, above=None, default=6.27
    )
    of_baseline: Scalar = parameter(
        unit="1/mm", doc="effect of the baseline on log survival time", source=_CLARET, above=None, default=-0.0038
    )
    of_shrinkage: Scalar = parameter(
        unit="", doc="effect of the relative shrinkage on log survival time", source=_CLARET, above=None, default=1.61
    )
    survival_sd: Scalar = parameter(
        unit="", doc="standard deviation of log survival time", source=_CLARET, default=0.699
    )
    landmark: Scalar = parameter(
        unit="week", doc="time of the shrinkage that predicts survival", source=_CLARET, default=7.0
    )

    def initial(self) -> TumourState:
        return TumourState(drug=0.0, tumour=self.y0, shrinkage=0.0, hazard=0.0)

    def vector_field(self, t: Scalar, y: TumourState) -> TumourState:
        KL, KD, resistance = (rate / _DAYS_PER_WEEK for rate in (self.KL, self.KD, self.resistance))
        E = self.ke * y.drug
        grown = (KL - KD * jnp.exp(-resistance * t) * E) * y.tumour
        return TumourState(
            drug=-E,
            tumour=grown,
            shrinkage=jnp.where(t < _DAYS_PER_WEEK * self.landmark, -grown / self.y0, 0.0),
            hazard=self._hazard(t, y.shrinkage),
        )

    def observe(self, t: Scalar, y: TumourState) -> Observed:
        return {
            "diameters": y.tumour,
            "change": y.tumour / self.y0 - 1.0,
            "exposure": self.ke * y.drug,
            "cumulative_hazard": y.hazard,
            "survival": jnp.exp(-y.hazard),
        }

    def _hazard(self, t: Scalar, shrinkage: Scalar) -> Scalar:
        """Return the hazard of the log-normal distribution, which is 0 at the beginning."""
        mean = self.intercept + self.of_baseline * self.y0 + self.of_shrinkage * shrinkage
        begun = t > 0.0
        since = jnp.where(begun, t, 1.0)
        z = jnp.minimum((jnp.log(since) - mean) / self.survival_sd, _LAST_DEVIATION)
        density = jnp.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)
        return jnp.where(begun, density / (self.survival_sd * since * 0.5 * erfc(z / math.sqrt(2.0))), 0.0)
