"""Pharmacokinetics and pharmacodynamics as one model."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import equinox as eqx

from qspjax._checks import check_one_of
from qspjax._events import AbstractEventful, Event, events_of, of_whole
from qspjax._model import (
    AbstractAlgebraic,
    AbstractDelivered,
    AbstractEchoing,
    AbstractModel,
    AbstractSized,
    Delivery,
    Echoes,
    Units,
    algebraic_of,
    declared_sizes,
    deliveries_of,
    echoes_of,
)
from qspjax._names import in_full, state_names
from qspjax._types import Observed, Scalar, State
from qspjax.models._pd import AbstractResponse


class CoupledState(NamedTuple):
    """The states of the two parts."""

    pk: State
    pd: State


class Coupled(AbstractEventful, AbstractAlgebraic, AbstractDelivered, AbstractEchoing, AbstractSized):
    """A pharmacokinetic model and the response it drives.

    $$ pk' = f(t, pk), \\quad pd' = g(t, pd, C), \\quad C = observe(t, pk)[driver] $$

    `driver` names the value that drives the response among those that `pk` observes. Dose targets keep their names,
    parameters and states become `pk.CL`, `pk.central`, `pd.response`. A `Coupled` may be the `pk` of another one. The
    events, algebraic states, deliveries and sizes of both parts are its own.

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

    # The parts are joined once, here: a check that ran again on a cohort would see parameters of many patients.
    def __init__(self, pk: AbstractModel, pd: AbstractResponse, driver: str = "concentration") -> None:
        self.pk = pk
        self.pd = pd
        self.driver = driver
        observed = eqx.filter_eval_shape(lambda: pk.observe(0.0, pk.initial()))
        check_one_of("driver", driver, observed, "a value that `pk` observes")
        responses = eqx.filter_eval_shape(lambda C: pd.observe(0.0, pd.initial(), C), observed[driver])
        both = [name for name in responses if name in observed]
        if both:
            raise ValueError(
                f"Argument `pd` must not observe a name that `pk` observes too, but both observe `{both[0]}`."
            )
        twice = [target for target in deliveries_of(pd) if target in deliveries_of(pk)]
        if twice:
            raise ValueError(
                f"Argument `pd` must not have a dose target that `pk` has too, but both have `{twice[0]}`."
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

    def events(self) -> tuple[Event, ...]:
        pk = [of_whole(event, lambda t, y: (t, y.pk), self._name_of_pk) for event in events_of(self.pk)]
        pd = [of_whole(event, self._driven, self._name_of_pd) for event in events_of(self.pd)]
        return (*pk, *pd)

    def algebraic(self) -> tuple[str, ...]:
        return (*self._states_of("pk", algebraic_of(self.pk)), *self._states_of("pd", algebraic_of(self.pd)))

    def deliveries(self) -> Mapping[str, Delivery]:
        found = {}
        if deliveries_of(self.pd) and not deliveries_of(self.pk):  # the default target is the first of `pk`
            found = {state: Delivery(state) for state in self._states_of("pk", state_names(self.pk.initial())[:1])}
        for part in ("pk", "pd"):
            own = deliveries_of(getattr(self, part))
            states = self._states_of(part, [delivery.state for delivery in own.values()])
            for (target, delivery), state in zip(own.items(), states, strict=True):
                found[target] = dataclasses.replace(delivery, state=state)
        return found

    def sizes(self) -> Mapping[str, float]:
        pk, pd = declared_sizes(self.pk), declared_sizes(self.pd)
        names = (*self._states_of("pk", pk), *self._states_of("pd", pd))
        return dict(zip(names, (*pk.values(), *pd.values()), strict=True))

    def echoes(self) -> Echoes:
        later, lengths = {}, []
        for part in ("pk", "pd"):
            own = echoes_of(getattr(self, part))
            for name, copies in own.later.items():
                later[f"{part}.{name}"] = {f"{part}.{copy}": length for copy, length in copies.items()}
            lengths += [f"{part}.{name}" for name in own.lengths]
        return Echoes(later, tuple(lengths))

    def _driven(self, t: Scalar, y: CoupledState) -> tuple[Scalar, State, Scalar]:
        """Return what the functions of the response take."""
        return t, y.pd, self.pk.observe(t, y.pk)[self.driver]

    def _states_of(self, part: str, names: Iterable[str]) -> list[str]:
        """Return what states of a part are called here."""
        states = state_names(getattr(self, part).initial())
        return [f"{part}.{in_full(name, states)}" for name in names]

    def _name_of_pk(self, name: str, y: CoupledState) -> str:
        return f"pk.{in_full(name, state_names(y.pk))}"

    def _name_of_pd(self, name: str, y: CoupledState) -> str:
        return f"pd.{in_full(name, state_names(y.pd))}"
