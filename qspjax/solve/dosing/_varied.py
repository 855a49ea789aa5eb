"""Parameters that change with time as states that stand still, so that every method solves them as it is.

A parameter that a regimen sets gets a state of its own with slope 0: setting it is a jump, and a straight line between
two values an infusion. The vector field keeps its signature, and derivatives, failures and outputs need nothing more.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp

from qspjax._checks import refuse
from qspjax._events import AbstractEventful, Event, events_of, of_whole
from qspjax._model import AbstractAlgebraic, AbstractModel, AbstractSized, algebraic_of, declared_sizes
from qspjax._names import at, in_full, state_names
from qspjax._types import Observed, Scalar, State


class VariedState(NamedTuple):
    """The states of a model, and the parameters that change."""

    state: State
    parameters: tuple[Scalar, ...]


def with_parameters(model: AbstractModel, names: tuple[str, ...], values: Any) -> AbstractModel:
    """Return a model with some of its parameters replaced."""
    for name, value in zip(names, values, strict=True):
        model = at(model, name).set(value)
    return model


def parameters_now(model: AbstractModel, names: tuple[str, ...]) -> tuple[Scalar, ...]:
    """Return the values of some parameters of a model, each a number.

    Raises:
        ValueError: If the model has no parameter of that name, or one that is no number.
    """
    values = tuple(jnp.asarray(at(model, name).get(), dtype=float) for name in names)
    for name, value in zip(names, values, strict=True):
        if value.ndim:
            refuse("name", "be a parameter that is one number", f"`{name}` of shape {value.shape}")
    return values


class Varied(AbstractAlgebraic, AbstractEventful, AbstractSized):
    """A model some of whose parameters are states."""

    model: AbstractModel
    names: tuple[str, ...] = eqx.field(static=True)

    def initial(self) -> VariedState:
        return self.extended(self.model.initial())

    def extended(self, state: State) -> VariedState:
        """Return a state of the model together with the parameters."""
        return VariedState(state, parameters_now(self.model, self.names))

    def vector_field(self, t: Scalar, y: VariedState) -> VariedState:
        slope = with_parameters(self.model, self.names, y.parameters).vector_field(t, y.state)
        return VariedState(slope, tuple(jnp.zeros_like(value) for value in y.parameters))

    def observe(self, t: Scalar, y: VariedState) -> Observed:
        return with_parameters(self.model, self.names, y.parameters).observe(t, y.state)

    def events(self) -> tuple[Event, ...]:
        return tuple(self._event(number, event) for number, event in enumerate(events_of(self.model)))

    def _event(self, number: int, event: Event) -> Event:
        """Return an event of the model, as a function of the model's states and parameters now."""

        def now(name: str) -> Callable[[Scalar, VariedState], Any]:
            def function(t: Scalar, y: VariedState) -> Any:
                own = events_of(with_parameters(self.model, self.names, y.parameters))[number]
                return getattr(own, name)(t, y.state)

            return function

        place = {name: f"parameters.{i}" for i, name in enumerate(self.names)}
        given = ("trigger", "assign", "delay", "priority")
        current = dataclasses.replace(event, **{name: now(name) for name in given if getattr(event, name) is not None})
        return of_whole(
            current,
            lambda t, y: (t, y),
            lambda name, y: place.get(name) or f"state.{in_full(name, state_names(y.state))}",
        )

    def algebraic(self) -> tuple[str, ...]:
        states = state_names(self.model.initial())
        return tuple(f"state.{in_full(name, states)}" for name in algebraic_of(self.model))

    def sizes(self) -> Mapping[str, float]:
        sizes, states = declared_sizes(self.model), state_names(self.model.initial())
        return {f"state.{in_full(name, states)}": size for name, size in sizes.items()}
