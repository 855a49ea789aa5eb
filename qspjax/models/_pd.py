"""Pharmacodynamics: responses driven by a concentration, directly, through an effect compartment, or by turnover.

A response does not know its pharmacokinetics; `Coupled` joins the two. It computes in the units of time and
concentration of whatever drives it, so its parameters state dimensions, such as `[concentration]` and `1/[time]`.
"""

import abc
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from qspjax._checks import concrete, refuse
from qspjax._model import Units, check_traits
from qspjax._parameters import check_parameters, parameter
from qspjax._types import Observed, Scalar, State


class AbstractResponse(eqx.Module):
    """A response to a concentration: as `AbstractModel`, but driven by `C`.

    $$ dy/dt = f(t, y, C), \\quad y(t_0) = y_0, \\quad z = g(t, y, C) $$

    A response with events, algebraic states, deliveries or sizes derives from `AbstractEventful`, ... as well; the
    functions of its events take `C` too.

    Example:
        >>> class Resistance(AbstractResponse):
        ...     rate: jax.Array = parameter(unit="1/[time]/[concentration]", doc="rate at which resistance is acquired")
        ...     def initial(self):
        ...         return 0.0
        ...     def vector_field(self, t, y, C):
        ...         return self.rate * C * (1.0 - y)
        ...     def observe(self, t, y, C):
        ...         return {"resistance": y}
        >>> float(Resistance(rate=0.1).vector_field(0.0, 0.5, C=2.0))
        0.1
    """

    units: ClassVar[Units] = Units()

    @abc.abstractmethod
    def initial(self) -> State:
        """Return the state before the first dose; `()` for a response without one."""

    @abc.abstractmethod
    def vector_field(self, t: Scalar, y: State, C: Scalar) -> State:
        """Return dy/dt at a concentration, with the structure of `y`."""

    @abc.abstractmethod
    def observe(self, t: Scalar, y: State, C: Scalar) -> Observed:
        """Return what can be observed, by name."""

    def __check_init__(self) -> None:
        check_traits(type(self))
        check_parameters(self)


class AbstractEffect(AbstractResponse):
    """A direct effect: a function of the concentration at the same time, observed as `effect`.

    Example:
        >>> class Saturating(AbstractEffect):
        ...     slope: jax.Array = parameter(unit="1/[concentration]", doc="slope at zero concentration")
        ...     def __call__(self, C):
        ...         return 1.0 - jnp.exp(-self.slope * C)
        >>> Saturating(slope=0.5).observe(0.0, (), C=2.0)["effect"].round(4)
        Array(0.6321, dtype=float64)
    """

    @abc.abstractmethod
    def __call__(self, C: Scalar) -> Scalar:
        """Return the effect of a concentration."""

    def initial(self) -> tuple[()]:
        return ()

    def vector_field(self, t: Scalar, y: tuple[()], C: Scalar) -> tuple[()]:
        return ()

    def observe(self, t: Scalar, y: tuple[()], C: Scalar) -> Observed:
        return {"effect": self(C)}


class Emax(AbstractEffect):
    """The Emax model.

    $$ E = E0 + Emax C / (EC50 + C) $$

    A negative `Emax` lowers the baseline.

    Reference: Holford and Sheiner 1981, doi:10.2165/00003088-198106060-00002.

    Example:
        >>> import qspjax as qsp
        >>> effect = qsp.models.Emax(E0=1.0, Emax=10.0, EC50=2.0)
        >>> float(effect(2.0))
        6.0
    """

    E0: Scalar = parameter(unit="[effect]", doc="effect without drug", above=None)
    Emax: Scalar = parameter(unit="[effect]", doc="largest change of the effect", above=None)
    EC50: Scalar = parameter(unit="[concentration]", doc="concentration of half the largest change")

    def __call__(self, C: Scalar) -> Scalar:
        return self.E0 + self.Emax * C / (self.EC50 + C)


class SigmoidEmax(AbstractEffect):
    """The sigmoid Emax (Hill) model.

    $$ E = E0 + Emax C^gamma / (EC50^gamma + C^gamma) $$

    Reference: Holford and Sheiner 1981, doi:10.2165/00003088-198106060-00002.

    Example:
        >>> import qspjax as qsp
        >>> effect = qsp.models.SigmoidEmax(E0=1.0, Emax=10.0, EC50=2.0, gamma=2.0)
        >>> round(float(effect(4.0)), 6)
        9.0
    """

    E0: Scalar = parameter(unit="[effect]", doc="effect without drug", above=None)
    Emax: Scalar = parameter(unit="[effect]", doc="largest change of the effect", above=None)
    EC50: Scalar = parameter(unit="[concentration]", doc="concentration of half the largest change")
    gamma: Scalar = parameter(unit="", doc="Hill coefficient")

    def __call__(self, C: Scalar) -> Scalar:
        return self.E0 + self.Emax * occupied(C, self.EC50, self.gamma)


class EffectCompartmentState(NamedTuple):
    """Concentration at the site of effect."""

    Ce: Scalar


class EffectCompartment(AbstractResponse):
    """An effect compartment: the effect follows a concentration that lags behind the one in plasma.

    $$ Ce' = ke0 (C - Ce), \\quad effect = effect(Ce), \\quad Ce(0) = 0 $$

    Reference: Sheiner et al. 1979, doi:10.1002/cpt1979253358.

    Example:
        >>> import qspjax as qsp
        >>> response = qsp.models.EffectCompartment(ke0=0.5, effect=qsp.models.Emax(E0=0.0, Emax=10.0, EC50=2.0))
        >>> patient = qsp.models.Coupled(qsp.models.OneCompartment(CL=3.0, V=30.0), response)
        >>> solution = qsp.simulate(patient, qsp.bolus(300.0, to="central"), [0.0, 4.0])
        >>> solution.observed["effect"].round(2)
        Array([0. , 7.7], dtype=float64)
    """

    ke0: Scalar = parameter(unit="1/[time]", doc="rate constant of equilibration with the effect compartment")
    effect: AbstractEffect = eqx.field(kw_only=True)

    def initial(self) -> EffectCompartmentState:
        return EffectCompartmentState(Ce=0.0)

    def vector_field(self, t: Scalar, y: EffectCompartmentState, C: Scalar) -> EffectCompartmentState:
        return EffectCompartmentState(Ce=self.ke0 * (C - y.Ce))

    def observe(self, t: Scalar, y: EffectCompartmentState, C: Scalar) -> Observed:
        return {"effect_concentration": y.Ce, "effect": self.effect(y.Ce)}


class IndirectResponseState(NamedTuple):
    """The response that turns over."""

    response: Scalar


class AbstractIndirectResponse(AbstractResponse):
    """A response produced at `kin` and lost at `kout`, at rest at kin / kout, observed as `response`."""

    kin: eqx.AbstractVar[Scalar]
    kout: eqx.AbstractVar[Scalar]

    def initial(self) -> IndirectResponseState:
        return IndirectResponseState(response=self.kin / self.kout)

    def observe(self, t: Scalar, y: IndirectResponseState, C: Scalar) -> Observed:
        return {"response": y.response}


class InhibitionOfProduction(AbstractIndirectResponse):
    """Indirect response I: the drug inhibits production.

    $$ response' = kin (1 - Imax C^gamma / (IC50^gamma + C^gamma)) - kout response, \\quad response(0) = kin / kout $$

    Reference: Dayneka, Garzone and Jusko 1993, doi:10.1007/BF01061691; with Imax and gamma, Sharma and Jusko 1996,
    doi:10.1007/BF02353483.

    Example:
        >>> import qspjax as qsp
        >>> response = qsp.models.InhibitionOfProduction(kin=10.0, kout=0.5, Imax=0.8, IC50=2.0)
        >>> float(response.vector_field(0.0, response.initial(), 2.0).response)
        -4.0
    """

    kin: Scalar = parameter(unit="[response]/[time]", doc="production rate without drug")
    kout: Scalar = parameter(unit="1/[time]", doc="loss rate constant without drug")
    Imax: Scalar = parameter(unit="", doc="largest fractional inhibition, at most 1", minimum=0.0)
    IC50: Scalar = parameter(unit="[concentration]", doc="concentration of half the largest inhibition")
    gamma: Scalar = parameter(unit="", doc="Hill coefficient", default=1.0)

    def __check_init__(self) -> None:
        _check_fraction("Imax", self.Imax)

    def vector_field(self, t: Scalar, y: IndirectResponseState, C: Scalar) -> IndirectResponseState:
        inhibition = self.Imax * occupied(C, self.IC50, self.gamma)
        return IndirectResponseState(response=self.kin * (1 - inhibition) - self.kout * y.response)


class InhibitionOfLoss(AbstractIndirectResponse):
    """Indirect response II: the drug inhibits loss.

    $$ response' = kin - kout (1 - Imax C^gamma / (IC50^gamma + C^gamma)) response, \\quad response(0) = kin / kout $$

    Reference: Dayneka, Garzone and Jusko 1993, doi:10.1007/BF01061691; with Imax and gamma, Sharma and Jusko 1996,
    doi:10.1007/BF02353483.

    Example:
        >>> import qspjax as qsp
        >>> response = qsp.models.InhibitionOfLoss(kin=10.0, kout=0.5, Imax=0.8, IC50=2.0)
        >>> float(response.vector_field(0.0, response.initial(), 2.0).response)
        4.0
    """

    kin: Scalar = parameter(unit="[response]/[time]", doc="production rate without drug")
    kout: Scalar = parameter(unit="1/[time]", doc="loss rate constant without drug")
    Imax: Scalar = parameter(unit="", doc="largest fractional inhibition, at most 1", minimum=0.0)
    IC50: Scalar = parameter(unit="[concentration]", doc="concentration of half the largest inhibition")
    gamma: Scalar = parameter(unit="", doc="Hill coefficient", default=1.0)

    def __check_init__(self) -> None:
        _check_fraction("Imax", self.Imax)

    def vector_field(self, t: Scalar, y: IndirectResponseState, C: Scalar) -> IndirectResponseState:
        inhibition = self.Imax * occupied(C, self.IC50, self.gamma)
        return IndirectResponseState(response=self.kin - self.kout * (1 - inhibition) * y.response)


class StimulationOfProduction(AbstractIndirectResponse):
    """Indirect response III: the drug stimulates production.

    $$ response' = kin (1 + Smax C^gamma / (SC50^gamma + C^gamma)) - kout response, \\quad response(0) = kin / kout $$

    Reference: Dayneka, Garzone and Jusko 1993, doi:10.1007/BF01061691; with gamma, Sharma and Jusko 1996,
    doi:10.1007/BF02353483.

    Example:
        >>> import qspjax as qsp
        >>> response = qsp.models.StimulationOfProduction(kin=10.0, kout=0.5, Smax=3.0, SC50=2.0)
        >>> float(response.vector_field(0.0, response.initial(), 2.0).response)
        15.0
    """

    kin: Scalar = parameter(unit="[response]/[time]", doc="production rate without drug")
    kout: Scalar = parameter(unit="1/[time]", doc="loss rate constant without drug")
    Smax: Scalar = parameter(unit="", doc="largest fractional stimulation", minimum=0.0)
    SC50: Scalar = parameter(unit="[concentration]", doc="concentration of half the largest stimulation")
    gamma: Scalar = parameter(unit="", doc="Hill coefficient", default=1.0)

    def vector_field(self, t: Scalar, y: IndirectResponseState, C: Scalar) -> IndirectResponseState:
        stimulation = self.Smax * occupied(C, self.SC50, self.gamma)
        return IndirectResponseState(response=self.kin * (1 + stimulation) - self.kout * y.response)


class StimulationOfLoss(AbstractIndirectResponse):
    """Indirect response IV: the drug stimulates loss.

    $$ response' = kin - kout (1 + Smax C^gamma / (SC50^gamma + C^gamma)) response, \\quad response(0) = kin / kout $$

    Reference: Dayneka, Garzone and Jusko 1993, doi:10.1007/BF01061691; with gamma, Sharma and Jusko 1996,
    doi:10.1007/BF02353483.

    Example:
        >>> import qspjax as qsp
        >>> response = qsp.models.StimulationOfLoss(kin=10.0, kout=0.5, Smax=3.0, SC50=2.0)
        >>> float(response.vector_field(0.0, response.initial(), 2.0).response)
        -15.0
    """

    kin: Scalar = parameter(unit="[response]/[time]", doc="production rate without drug")
    kout: Scalar = parameter(unit="1/[time]", doc="loss rate constant without drug")
    Smax: Scalar = parameter(unit="", doc="largest fractional stimulation", minimum=0.0)
    SC50: Scalar = parameter(unit="[concentration]", doc="concentration of half the largest stimulation")
    gamma: Scalar = parameter(unit="", doc="Hill coefficient", default=1.0)

    def vector_field(self, t: Scalar, y: IndirectResponseState, C: Scalar) -> IndirectResponseState:
        stimulation = self.Smax * occupied(C, self.SC50, self.gamma)
        return IndirectResponseState(response=self.kin - self.kout * (1 + stimulation) * y.response)


def occupied(C: Scalar, C50: Scalar, gamma: Scalar) -> Scalar:
    """Return C^gamma / (C50^gamma + C^gamma), with finite derivatives of any order up to three at C = 0.

    Without drug the value is 0 and the slope 0 for gamma > 1 and 1 / C50 for gamma = 1, both exact; for gamma < 1 the
    slope is infinite, and is replaced by 1 / C50. No power is taken, so large gamma cannot overflow.
    """
    ratio = jnp.asarray(C / C50, dtype=float)
    present = ratio > jnp.finfo(ratio.dtype).tiny ** (1 / 3)
    with_drug = jax.nn.sigmoid(gamma * jnp.log(jnp.where(present, ratio, 1.0)))
    without_drug = jnp.where(gamma > 1, 0.0, ratio)
    return jnp.where(present, with_drug, without_drug)


def _check_fraction(argument: str, value: Scalar) -> None:
    array = concrete(value)
    if array is not None and (array > 1).any():
        refuse(argument, "be at most 1", array.max())
