"""Pharmacokinetics and pharmacodynamics as one model."""

from collections.abc import Mapping
from typing import NamedTuple

import equinox as eqx

from qspjax._checks import check_one_of
from qspjax._declared import AbstractWrapper, Declared, Delivery, declared
from qspjax._model import AbstractModel, Units
from qspjax._names import state_names
from qspjax._types import Observed, Scalar, State
from qspjax.models._pd import AbstractResponse


class CoupledState(NamedTuple):
    """The states of the two parts."""

    pk: State
    pd: State


class Coupled(AbstractWrapper):
    """A pharmacokinetic model and the response it drives.

    $$ pk' = f(t, pk), \\quad pd' = g(t, pd, C), \\quad C = observe(t, pk)[driver] $$

    `driver` names the value observed by `pk` that drives the response. Dose targets keep their names, parameters and
    states become `pk.CL`, `pk.central`, `pd.response`. A `Coupled` may be the `pk` of another one. It has the events,
    algebraic states, deliveries and sizes of both parts.

    Raises:
        ValueError: If `pk` does not observe `driver`, both parts observe a value of the same name, deliver doses to the
            same target, or state different units of time.

    Example:
        >>> import qspjax as qsp
        >>> response = qsp.models.InhibitionOfProduction(kin=10.0, kout=0.5, Imax=0.8, IC50=2.0)
        >>> patient = qsp.models.Coupled(qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2), response)
        >>> solution = qsp.simulate(patient, qsp.bolus(300.0, to="depot"), [0.0, 4.0, 48.0])
        >>> solution.observed["response"].round(2)
        Array([20.  ,  9.26, 19.15], dtype=float64)
    """

    pk: AbstractModel
    pd: AbstractResponse
    driver: str = eqx.field(static=True)

    # The parts are checked only here: a check that ran again on a cohort would see parameters of many patients.
    def __init__(self, pk: AbstractModel, pd: AbstractResponse, driver: str = "concentration") -> None:
        self.pk = pk
        self.pd = pd
        self.driver = driver
        observed = eqx.filter_eval_shape(lambda: pk.observe(0.0, pk.initial()))
        check_one_of("driver", driver, observed, "a value that `pk` observes")
        responses = eqx.filter_eval_shape(lambda C: pd.observe(0.0, pd.initial(), C), observed[driver])
        shared = [name for name in responses if name in observed]
        if shared:
            raise ValueError(
                f"Argument `pd` must not observe a name that `pk` observes too, but both observe `{shared[0]}`."
            )
        targets = declared(pk).deliveries()
        shared_targets = [target for target in declared(pd).deliveries() if target in targets]
        if shared_targets:
            raise ValueError(
                f"Argument `pd` must not have a dose target that `pk` has too, but both have `{shared_targets[0]}`."
            )
        if pk.units.time and pd.units.time and pk.units.time != pd.units.time:
            raise ValueError(
                f"Argument `pd` must compute in the unit of time of `pk`, `{pk.units.time}`, "
                f"but computes in `{pd.units.time}`."
            )

    @property
    def units(self) -> Units:
        """The units of both parts."""
        pk, pd = self.pk.units, self.pd.units
        states = {f"{part}.{name}": unit for part, u in (("pk", pk), ("pd", pd)) for name, unit in u.states.items()}
        return Units(pk.time or pd.time, pk.dose, states, {**pk.observed, **pd.observed})

    def initial(self) -> CoupledState:
        return CoupledState(pk=self.pk.initial(), pd=self.pd.initial())

    def vector_field(self, t: Scalar, y: CoupledState) -> CoupledState:
        return CoupledState(pk=self.pk.vector_field(t, y.pk), pd=self.pd.vector_field(*self._driven(t, y)))

    def observe(self, t: Scalar, y: CoupledState) -> Observed:
        observed = self.pk.observe(t, y.pk)
        return {**observed, **self.pd.observe(t, y.pd, observed[self.driver])}

    def declared(self) -> Declared:
        pk = declared(self.pk).under("pk", self.pk.initial)
        pd = declared(self.pd).under("pd", self.pd.initial, self._driven)
        merged = pk.merged(pd)

        def deliveries() -> Mapping[str, Delivery]:
            targets = {**merged.deliveries()}
            if targets and not pk.deliveries():  # the default target is the first state of `pk`
                first = (f"pk.{state}" for state in state_names(self.pk.initial())[:1])
                targets = {state: Delivery(state) for state in first} | targets
            return targets

        return merged._replace(deliveries=deliveries)

    def _driven(self, t: Scalar, y: CoupledState) -> tuple[Scalar, State, Scalar]:
        """Return the arguments of the functions of the response."""
        return t, y.pd, self.pk.observe(t, y.pk)[self.driver]
