"""Fractional kinetics: elimination or return that remembers, by a power law, when the drug came.

The memory is a sum of exponentials, each a linear state, so that doses, methods and derivatives are those of any linear
model.

References: Dokoumetzidis and Macheras 2009, doi:10.1007/s10928-009-9116-x; Dokoumetzidis, Magin and Macheras 2010,
doi:10.1007/s10928-010-9170-4. The sum: Beylkin and Monzon 2010, doi:10.1016/j.acha.2009.08.011.
"""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qspjax._checks import concrete, refuse
from qspjax._model import AbstractModel, Units
from qspjax._parameters import parameter
from qspjax._types import Observed, Scalar

SPACING = 0.7
"""Of the logarithms of the rates: the sum is then within 1e-5 of the power law, relative to it."""


class Memory(NamedTuple):
    """A sum of exponentials in place of a power law.

    $$ t^{\\alpha - 1} / \\Gamma(\\alpha) \\approx \\sum_i w_i \\exp(-r_i t) $$

    Attributes:
        rates: The rates, increasing, shape (modes,).
        weights: The weights, shape (modes,).
    """

    rates: Float[Array, " modes"]
    weights: Float[Array, " modes"]


def power_law_memory(alpha: Scalar, shortest: float, longest: float) -> Memory:
    """Return the sum of exponentials for times between two.

    The power law is the integral over all rates of sin(pi alpha) / pi r^(-alpha) exp(-r t), here by the trapezoidal
    rule in log(r). All terms slower than 1 / (30 longest) are one of the same weight and mean rate, and all faster than
    30 / shortest are one of the same weight and mean time, so no part of the sum is left out.

    Args:
        alpha: The order, between 0 and 1.
        shortest: From this time on the sum is accurate.
        longest: Up to this time.
    """
    middle = np.exp(np.arange(np.log(1.0 / (30.0 * longest)), np.log(30.0 / shortest), SPACING))
    density = SPACING * jnp.sin(jnp.pi * alpha) / jnp.pi

    def beyond(end: float, power: Scalar) -> Scalar:
        """Return the sum of density r^power over all rates beyond one end."""
        ratio = jnp.exp(-SPACING * jnp.abs(power))
        return density * end**power * ratio / (1.0 - ratio)

    slow, fast = middle[0], middle[-1]
    slow_weight = beyond(slow, 1.0 - alpha)
    slow_rate = beyond(slow, 2.0 - alpha) / slow_weight
    fast_time = beyond(fast, -alpha)
    fast_rate = fast_time / beyond(fast, -alpha - 1.0)
    rates = jnp.concatenate([jnp.stack([slow_rate]), middle, jnp.stack([fast_rate])])
    weights = [jnp.stack([slow_weight]), density * middle ** (1.0 - alpha), jnp.stack([fast_time * fast_rate])]
    return Memory(rates, jnp.concatenate(weights))


class FractionalOneCompartmentState(NamedTuple):
    """Amount of drug in mg, and its means over the past, shape (modes,)."""

    central: Scalar
    memory: Float[Array, " modes"]


class FractionalOneCompartment(AbstractModel):
    """One compartment with fractional elimination: its rate slows down as the drug ages.

    $$ central' = -k D^{1 - \\alpha} central, \\quad concentration = central / V $$

    with the Riemann-Liouville derivative from the first dose on. After a bolus the amount is that of a Mittag-Leffler
    function, D E_alpha(-k t^alpha): first a stretched exponential, then a power law. Memory states are moving averages
    of the amount, from which the derivative is a weighted sum of differences,

    $$ memory_i' = r_i (central - memory_i), \\quad D^{1 - \\alpha} central \\approx \\sum_i w_i (central - memory_i) $$

    From `shortest` to `longest` (h) after a dose amounts are within 1e-6 of the dose of the exact ones, whatever alpha.

    Reference: Dokoumetzidis and Macheras 2009, doi:10.1007/s10928-009-9116-x.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.FractionalOneCompartment(k=0.5, alpha=0.6, V=10.0)
        >>> solution = qsp.simulate(patient, qsp.bolus(100.0, to="central"), [0.0, 1.0, 10.0, 100.0])
        >>> solution.observed["concentration"].round(3)
        Array([10.   ,  6.095,  2.366,  0.592], dtype=float64)
    """

    units: ClassVar[Units] = Units("h", "mg", {"central": "mg", "memory": "mg"}, {"concentration": "mg/L"})

    k: Scalar = parameter(unit="", doc="fractional elimination rate constant, in 1/h^alpha")
    alpha: Scalar = parameter(unit="", doc="order, less than 1: the smaller, the longer drug stays")
    V: Scalar = parameter(unit="L", doc="volume of distribution")
    shortest: float = eqx.field(default=0.01, static=True)
    longest: float = eqx.field(default=1000.0, static=True)

    def __check_init__(self) -> None:
        _check_order(self.alpha, self.shortest, self.longest)

    def initial(self) -> FractionalOneCompartmentState:
        return FractionalOneCompartmentState(central=0.0, memory=jnp.zeros_like(self._memory().rates))

    def vector_field(self, t: Scalar, y: FractionalOneCompartmentState) -> FractionalOneCompartmentState:
        rates, weights = self._memory()
        return FractionalOneCompartmentState(
            central=-self.k * jnp.sum(weights * (y.central - y.memory)), memory=rates * (y.central - y.memory)
        )

    def observe(self, t: Scalar, y: FractionalOneCompartmentState) -> Observed:
        return {"concentration": y.central / self.V}

    def _memory(self) -> Memory:
        return power_law_memory(self.alpha, self.shortest, self.longest)


class FractionalTwoCompartmentState(NamedTuple):
    """Amounts of drug in mg, and means over the past of the peripheral one, shape (modes,)."""

    central: Scalar
    peripheral: Scalar
    memory: Float[Array, " modes"]


class FractionalTwoCompartment(AbstractModel):
    """Two compartments with fractional return from the peripheral one: tissue that traps the drug.

    $$ central' = -(CL / V1 + k12) central + q, \\quad peripheral' = k12 central - q, \\quad q = k21 D^{1 - \\alpha}
    peripheral $$

    with concentration = central / V1; the derivative and its error as in `FractionalOneCompartment`, times in days.

    Reference: Dokoumetzidis, Magin and Macheras 2010, doi:10.1007/s10928-010-9170-4.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.FractionalTwoCompartment(CL=60.0, V1=40.0, k12=3.0, k21=0.5, alpha=0.6)
        >>> solution = qsp.simulate(patient, qsp.bolus(400.0, to="central"), [0.0, 1.0, 10.0])
        >>> solution.observed["concentration"].round(3)
        Array([10.   ,  0.616,  0.08 ], dtype=float64)
    """

    units: ClassVar[Units] = Units(
        "d", "mg", {"central": "mg", "peripheral": "mg", "memory": "mg"}, {"concentration": "mg/L"}
    )

    CL: Scalar = parameter(unit="L/d", doc="clearance")
    V1: Scalar = parameter(unit="L", doc="central volume")
    k12: Scalar = parameter(unit="1/d", doc="rate constant of distribution")
    k21: Scalar = parameter(unit="", doc="fractional rate constant of return, in 1/d^alpha")
    alpha: Scalar = parameter(unit="", doc="order of return, less than 1: the smaller, the longer drug stays")
    shortest: float = eqx.field(default=0.01, static=True)
    longest: float = eqx.field(default=1000.0, static=True)

    def __check_init__(self) -> None:
        _check_order(self.alpha, self.shortest, self.longest)

    def initial(self) -> FractionalTwoCompartmentState:
        return FractionalTwoCompartmentState(0.0, 0.0, jnp.zeros_like(self._memory().rates))

    def vector_field(self, t: Scalar, y: FractionalTwoCompartmentState) -> FractionalTwoCompartmentState:
        rates, weights = self._memory()
        q = self.k21 * jnp.sum(weights * (y.peripheral - y.memory))
        return FractionalTwoCompartmentState(
            central=-(self.CL / self.V1 + self.k12) * y.central + q,
            peripheral=self.k12 * y.central - q,
            memory=rates * (y.peripheral - y.memory),
        )

    def observe(self, t: Scalar, y: FractionalTwoCompartmentState) -> Observed:
        return {"concentration": y.central / self.V1}

    def _memory(self) -> Memory:
        return power_law_memory(self.alpha, self.shortest, self.longest)


def _check_order(alpha: Scalar, shortest: float, longest: float) -> None:
    array = concrete(alpha)
    if array is not None and (array >= 1).any():
        refuse("alpha", "be less than 1 (of order 1 is `OneCompartment`, or `TwoCompartment`)", array.max())
    if not 0.0 < shortest < longest:
        refuse("shortest", f"be positive and less than `longest` ({longest:g})", shortest)
