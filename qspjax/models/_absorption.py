"""Absorption with a delay: a chain of transit compartments, whose number is an integer or any number."""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from qspjax._checks import check_whole, concrete, refuse
from qspjax._declared import AbstractDelivered, Delivery
from qspjax._model import Units
from qspjax._parameters import parameter
from qspjax._types import Observed, Scalar


class TransitAbsorptionState(NamedTuple):
    """Amounts of drug in mg: dose compartment and transits, absorption compartment, central compartment."""

    transit: jax.Array
    absorption: Scalar
    central: Scalar


class TransitAbsorption(AbstractDelivered):
    """One compartment with absorption through a chain of transit compartments.

    $$ transit_0' = -ktr transit_0, \\quad transit_i' = ktr (transit_{i-1} - transit_i), \\quad ktr = (n + 1) / mtt $$

    $$ absorption' = ktr transit_n - ka absorption, \\quad central' = ka absorption - (CL / V) central $$

    with n = `transits` and concentration = central / V. `transit[0]` is the compartment that takes the dose, so the
    chain delivers F dose ktr (ktr t)^n exp(-ktr t) / n!, of mean `mtt`: the input of Savic et al., for integer n, with
    any number of overlapping doses. Dose to `oral`; a dose to `central` is intravenous. Where n is not an integer, or
    is to be estimated, see `SavicAbsorption`.

    Reference: Savic et al. 2007, doi:10.1007/s10928-007-9066-0.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.TransitAbsorption(CL=3.0, V=30.0, ka=1.2, mtt=2.0, transits=3)
        >>> solution = qsp.simulate(patient, qsp.bolus(300.0, to="oral"), [0.0, 2.0, 10.0])
        >>> solution.observed["concentration"].round(2)
        Array([0.  , 2.73, 4.92], dtype=float64)
    """

    units: ClassVar[Units] = Units(
        time="h",
        dose="mg",
        states=dict.fromkeys(TransitAbsorptionState._fields, "mg"),
        observed={"concentration": "mg/L"},
    )

    CL: Scalar = parameter(unit="L/h", doc="clearance")
    V: Scalar = parameter(unit="L", doc="volume of distribution")
    ka: Scalar = parameter(unit="1/h", doc="absorption rate constant")
    mtt: Scalar = parameter(unit="h", doc="mean transit time")
    transits: int = eqx.field(static=True, kw_only=True)
    F: Scalar = parameter(unit="", doc="bioavailability", minimum=0.0, default=1.0)

    def __check_init__(self) -> None:
        if isinstance(self.transits, bool) or not isinstance(self.transits, int) or self.transits < 1:
            refuse("transits", "be a whole number of at least 1 (SavicAbsorption takes any)", self.transits)

    def initial(self) -> TransitAbsorptionState:
        return TransitAbsorptionState(transit=jnp.zeros(self.transits + 1), absorption=0.0, central=0.0)

    def vector_field(self, t: Scalar, y: TransitAbsorptionState) -> TransitAbsorptionState:
        flow = (self.transits + 1) / self.mtt * y.transit
        absorbed = self.ka * y.absorption
        return TransitAbsorptionState(
            transit=jnp.concatenate([jnp.zeros(1), flow[:-1]]) - flow,
            absorption=flow[-1] - absorbed,
            central=absorbed - self.CL / self.V * y.central,
        )

    def observe(self, t: Scalar, y: TransitAbsorptionState) -> Observed:
        return {"concentration": y.central / self.V}

    def deliveries(self) -> Mapping[str, Delivery]:
        return {"oral": Delivery("transit[0]", bioavailability=self.F)}


NODES = 12
"""Compartments for the fractional part of n: concentrations are within 1e-8 of the peak, 1e-6 for n < 1."""


class SavicAbsorptionState(NamedTuple):
    """Amounts of drug in mg: whole transits, the fractional one, absorption compartment, central compartment."""

    transit: jax.Array
    fraction: jax.Array
    absorption: Scalar
    central: Scalar


class SavicAbsorption(AbstractDelivered):
    """One compartment with absorption through any number n of transit compartments, which may be estimated.

    $$ absorption' = F dose \\; ktr \\frac{(ktr \\, t)^n e^{-ktr \\, t}}{\\Gamma(n + 1)} - ka \\, absorption, \\quad
       ktr = \\frac{n + 1}{mtt} $$

    with n = `transits`, and concentration and `central` as in `TransitAbsorption`. Doses may overlap, be infused, or be
    at steady state: the input is that of linear compartments. With a = n - floor(n), a chain of floor(n) + 1 of them is
    followed by compartments side by side that pass on

    $$ (1 + s)^{-a} = \\int_0^1 \\frac{\\beta(u; a, 1 - a)}{1 + s u} du \\approx \\sum_j \\frac{w_j(a)}{1 + s u_j} $$

    s being in units of ktr, by Clenshaw-Curtis quadrature. Its weights are polynomials in a, so that everything is
    differentiable in n; where n is an integer, one of these compartments remains.

    Args:
        stages: Maximum number of whole compartments of a patient: n should stay below it. Smaller is faster.

    References: Savic et al. 2007, doi:10.1007/s10928-007-9066-0; Clenshaw and Curtis, Numer Math 1960;2:197,
    doi:10.1007/BF01386223.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.SavicAbsorption(CL=3.0, V=30.0, ka=1.2, mtt=2.0, transits=3.4)
        >>> solution = qsp.simulate(patient, qsp.bolus(300.0, to="oral"), [0.0, 2.0, 10.0])
        >>> solution.observed["concentration"].round(2)
        Array([0.  , 2.65, 4.92], dtype=float64)
    """

    units: ClassVar[Units] = Units(
        time="h",
        dose="mg",
        states=dict.fromkeys(SavicAbsorptionState._fields, "mg"),
        observed={"concentration": "mg/L"},
    )

    CL: Scalar = parameter(unit="L/h", doc="clearance")
    V: Scalar = parameter(unit="L", doc="volume of distribution")
    ka: Scalar = parameter(unit="1/h", doc="absorption rate constant")
    mtt: Scalar = parameter(unit="h", doc="mean transit time")
    transits: Scalar = parameter(unit="", doc="number of transit compartments", minimum=0.0)
    F: Scalar = parameter(unit="", doc="bioavailability", minimum=0.0, default=1.0)
    stages: int = eqx.field(static=True, default=10)

    def __check_init__(self) -> None:
        check_whole("stages", self.stages, 1)
        transits = concrete(self.transits)
        if transits is not None and np.max(transits) > self.stages:
            refuse("transits", f"be at most `stages`, {self.stages}", float(np.max(transits)))

    def initial(self) -> SavicAbsorptionState:
        return SavicAbsorptionState(
            transit=jnp.zeros(self.stages), fraction=jnp.zeros(NODES), absorption=0.0, central=0.0
        )

    def vector_field(self, t: Scalar, y: SavicAbsorptionState) -> SavicAbsorptionState:
        ktr = (self.transits + 1.0) / self.mtt
        last = jax.lax.stop_gradient(jnp.clip(jnp.floor(self.transits), 0.0, self.stages - 1.0))
        index = np.arange(self.stages)
        flow = ktr * y.transit
        onward = jnp.where(index < last, flow, 0.0)
        through = jnp.sum(jnp.where(index == last, flow, 0.0))
        *side, straight = _weights(self.transits - last)
        passed = ktr / _POINTS[:-1] * y.fraction
        absorbed = self.ka * y.absorption
        return SavicAbsorptionState(
            transit=jnp.concatenate([jnp.zeros(1), onward[:-1]]) - flow,
            fraction=jnp.stack(side) * through - passed,
            absorption=straight * through + jnp.sum(passed) - absorbed,
            central=absorbed - self.CL / self.V * y.central,
        )

    def observe(self, t: Scalar, y: SavicAbsorptionState) -> Observed:
        return {"concentration": y.central / self.V}

    def deliveries(self) -> Mapping[str, Delivery]:
        return {"oral": Delivery("transit[0]", bioavailability=self.F)}


_ANGLES = np.pi * np.arange(NODES + 1) / NODES
_HALVED = np.where(np.arange(NODES + 1) % NODES == 0, 0.5, 1.0)
_POINTS = 0.5 + 0.5 * np.cos(_ANGLES)
_CHEBYSHEV = 2.0 / NODES * _HALVED[:, None] * np.cos(np.outer(_ANGLES, np.arange(NODES + 1))) * _HALVED


def _weights(a: Scalar) -> list[Scalar]:
    """Return the weights of a beta distribution with a and 1 - a at `_POINTS`, from its Chebyshev moments."""
    moments = [jnp.ones_like(a), 2.0 * a - 1.0]
    for k in range(1, NODES):
        moments.append(((k - 1) * moments[k - 1] + 2.0 * (2.0 * a - 1.0) * moments[k]) / (k + 1))
    return [sum(float(c) * moment for c, moment in zip(row, moments, strict=True)) for row in _CHEBYSHEV]
