"""Omalizumab and IgE: the population model of Hayashi et al. 2007."""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import jax.numpy as jnp

from qspjax._declared import AbstractDelivered, Delivery
from qspjax._model import Units
from qspjax._parameters import parameter
from qspjax._types import Observed, Scalar

_HAYASHI = "Hayashi et al. 2007, doi:10.1111/j.1365-2125.2006.02803.x"
_KDA_DRUG = 150.0
_KDA_IGE = 190.0
_HOURS_PER_DAY = 24.0
_ML_PER_L = 1e3


class OmalizumabState(NamedTuple):
    """Amounts in nmol: drug in the depot, total drug and total IgE in the body."""

    depot: Scalar
    X: Scalar
    T: Scalar


class Omalizumab(AbstractDelivered):
    """Omalizumab binding to IgE at equilibrium, with production and elimination of IgE.

    Of the total drug X and the total IgE T the complex is C, with an affinity that depends on the ratio of the two:

    $$ Kd = Kd0 (X / T)^alpha, \\quad S = X + T + Kd V^2 / VC, \\quad C = 2 X T / (S + \\sqrt{S^2 - 4 X T}) $$

    $$ depot' = -ka depot, \\quad X' = ka depot - CL Cx - (CL + dCL) Cc, \\quad T' = P - CLE Ce - (CL + dCL) Cc $$

    with the concentrations Cx = (X - C) / V of free drug, Ce = (T - C) / V of free IgE and Cc = C / VC of complex.
    Before the first dose X = 0 and T = V IgE0. The defaults are the typical values for 61.1 kg and 482.4 ng/mL; the
    effects of weight and baseline IgE on them belong to the population. Clearances and volumes are apparent, so there
    is no bioavailability.

    Parameters are in the units of the paper; time is in days, a dose to `depot` in mg, and the amounts in nmol (molar
    masses 150 and 190 kDa). The observed values are `total_drug`, `total_ige`, `free_ige`, `suppression` (1 - free
    IgE / IgE0) and `ige_ratio` (total IgE / IgE0).

    Reference: Hayashi et al. 2007, doi:10.1111/j.1365-2125.2006.02803.x.

    Example:
        >>> import qspjax as qsp
        >>> regimen = qsp.bolus(150.0, to="depot").every(28.0, doses=4)
        >>> solution = qsp.simulate(qsp.models.Omalizumab(), regimen, [0.0, 98.0])
        >>> solution.observed["free_ige"].round(1)
        Array([482.4,  21.3], dtype=float64)
    """

    units: ClassVar[Units] = Units(
        time="d",
        dose="mg",
        states=dict.fromkeys(OmalizumabState._fields, "nmol"),
        observed={"total_drug": "ug/mL", "total_ige": "ng/mL", "free_ige": "ng/mL"},
    )

    ka: Scalar = parameter(unit="1/h", doc="absorption rate constant", source=_HAYASHI, default=0.0200)
    CL: Scalar = parameter(unit="mL/h", doc="clearance of free drug", source=_HAYASHI, default=7.32)
    dCL: Scalar = parameter(
        unit="mL/h", doc="clearance of complex beyond that of free drug", source=_HAYASHI, default=5.86
    )
    V: Scalar = parameter(unit="mL", doc="volume of free drug and of free IgE", source=_HAYASHI, default=5900.0)
    VC: Scalar = parameter(unit="mL", doc="volume of complex", source=_HAYASHI, default=3630.0)
    CLE: Scalar = parameter(unit="mL/h", doc="clearance of free IgE", source=_HAYASHI, default=71.0)
    P: Scalar = parameter(unit="ug/h", doc="production of IgE", source=_HAYASHI, default=30.3)
    IgE0: Scalar = parameter(unit="ng/mL", doc="baseline of IgE", source=_HAYASHI, default=482.4)
    Kd0: Scalar = parameter(
        unit="nM", doc="dissociation constant at equal amounts of drug and IgE", source=_HAYASHI, default=1.07
    )
    alpha: Scalar = parameter(
        unit="", doc="power of the ratio of drug to IgE in the dissociation constant", source=_HAYASHI, default=0.157
    )

    def initial(self) -> OmalizumabState:
        return OmalizumabState(depot=0.0, X=0.0, T=self.IgE0 / _KDA_IGE * self.V / _ML_PER_L)

    def vector_field(self, t: Scalar, y: OmalizumabState) -> OmalizumabState:
        Cx, Ce, Cc = self._concentrations(y)
        CL, dCL, CLE = (_HOURS_PER_DAY / _ML_PER_L * clearance for clearance in (self.CL, self.dCL, self.CLE))
        P = _HOURS_PER_DAY * self.P / _KDA_IGE
        absorbed = _HOURS_PER_DAY * self.ka * y.depot
        return OmalizumabState(
            depot=-absorbed,
            X=absorbed - CL * Cx - (CL + dCL) * Cc,
            T=P - CLE * Ce - (CL + dCL) * Cc,
        )

    def observe(self, t: Scalar, y: OmalizumabState) -> Observed:
        Cx, Ce, Cc = self._concentrations(y)
        total_ige, free_ige = _KDA_IGE * (Ce + Cc), _KDA_IGE * Ce
        return {
            "total_drug": _KDA_DRUG * (Cx + Cc) / _ML_PER_L,
            "total_ige": total_ige,
            "free_ige": free_ige,
            "suppression": 1 - free_ige / self.IgE0,
            "ige_ratio": total_ige / self.IgE0,
        }

    def deliveries(self) -> Mapping[str, Delivery]:
        return {"depot": Delivery("depot", scale=1e3 / _KDA_DRUG)}

    def _concentrations(self, y: OmalizumabState) -> tuple[Scalar, Scalar, Scalar]:
        """Return the concentrations of free drug, free IgE and complex in nM."""
        V, VC = self.V / _ML_PER_L, self.VC / _ML_PER_L
        C = _bound(y.X, y.T, self.Kd0 * V**2 / VC, self.alpha)
        return (y.X - C) / V, (y.T - C) / V, C / VC


def _bound(X: Scalar, T: Scalar, K: Scalar, alpha: Scalar) -> Scalar:
    """Return the smaller root of C^2 - (X + T + k) C + X T = 0 with k = K (X / T)^alpha.

    Without drug, C = 0 and dC/dX = 1, whatever k; the power, whose slope is infinite there, is left out. S^2 - 4 X T is
    computed as (X - T)^2 + k (2 (X + T) + k), which does not cancel.
    """
    X, T = jnp.asarray(X, dtype=float), jnp.asarray(T, dtype=float)
    ratio = X / jnp.where(T > 0, T, 1.0)
    present = (T > 0) & (ratio > jnp.finfo(ratio.dtype).tiny ** (1 / 3))
    k = jnp.where(present, K * jnp.exp(alpha * jnp.log(jnp.where(present, ratio, 1.0))), 0.0)
    square = (X - T) ** 2 + k * (2 * (X + T) + k)
    root = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    denominator = X + T + k + root
    return jnp.where(denominator > 0, 2 * X * T / jnp.where(denominator > 0, denominator, 1.0), 0.0)
