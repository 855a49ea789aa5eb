"""Absorption with a delay: a chain of transit compartments."""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from qspjax._checks import refuse
from qspjax._model import AbstractDelivered, Delivery, Units, parameter
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
    chain delivers F dose ktr (ktr t)^n exp(-ktr t) / n!, of mean `mtt`: the input of Savic et al., for whole n, with
    any number of overlapping doses. Dose to `oral`; a dose to `central` is intravenous.

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
    transits: int = eqx.field(static=True)
    F: Scalar = parameter(unit="", doc="bioavailability", minimum=0.0, default=1.0)

    def __check_init__(self) -> None:
        if isinstance(self.transits, bool) or not isinstance(self.transits, int) or self.transits < 1:
            refuse("transits", "be a whole number of at least 1", self.transits)

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
