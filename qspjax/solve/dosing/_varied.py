"""Parameters that change with time as states with slope zero, so that every method solves them without changes.

A parameter that a regimen sets gets a state of its own with slope 0: setting it is a jump, and a straight line between
two values an infusion. The vector field keeps its signature, and derivatives, failures and outputs need nothing more.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp

from qspjax._checks import refuse
from qspjax._declared import AbstractWrapper, Declared, declared
from qspjax._events import Event
from qspjax._model import AbstractModel
from qspjax._names import at
from qspjax._types import Observed, Scalar, State


class VariedState(NamedTuple):
    """The states of a model, and the parameters that change."""

    state: State
    parameters: tuple[Scalar, ...]


def with_parameters(model: AbstractModel, names: tuple[str, ...], values: Sequence[Scalar]) -> AbstractModel:
    """Return a model with some of its parameters replaced."""
    for name, value in zip(names, values, strict=True):
        model = at(model, name).set(value)
    return model


def parameters_now(model: AbstractModel, names: tuple[str, ...]) -> tuple[Scalar, ...]:
    """Return the values of some parameters of a model, each a number.

    Raises:
        ValueError: If the model has no parameter of that name, or one that is not a single number.
    """
    values = tuple(jnp.asarray(at(model, name).get(), dtype=float) for name in names)
    for name, value in zip(names, values, strict=True):
        if value.ndim:
            refuse("name", "be a parameter that is one number", f"`{name}` of shape {value.shape}")
    return values


class Varied(AbstractWrapper):
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

    def declared(self) -> Declared:
        inner = declared(self.model)
        events = lambda: tuple(self._event(number, event) for number, event in enumerate(inner.events()))  # noqa: E731
        names = {name: f"parameters.{i}" for i, name in enumerate(self.names)}
        return inner._replace(events=events).under("state", self.model.initial, lambda t, y: (t, y), names)

    def _event(self, number: int, event: Event) -> Event:
        """Return an event of the model, as a function of the model's states and parameters now."""

        def now(name: str) -> Callable[[Scalar, VariedState], Scalar | Mapping[str, Scalar]]:
            def function(t: Scalar, y: VariedState) -> Scalar | Mapping[str, Scalar]:
                current = declared(with_parameters(self.model, self.names, y.parameters)).events()[number]
                return getattr(current, name)(t, y.state)

            return function

        functions = [name for name in ("trigger", "assign", "delay", "priority") if getattr(event, name) is not None]
        return dataclasses.replace(event, **{name: now(name) for name in functions})
