"""A model that goes on after a change from outside: its events know the values of their triggers before it."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float

from qspjax._declared import AbstractWrapper, Declared, declared
from qspjax._events import Event
from qspjax._model import AbstractModel, Units
from qspjax._types import Observed, Scalar, State


class WithTriggerHistory(AbstractWrapper):
    """A model with earlier values of its triggers, so that an event fires if a change makes its trigger true."""

    model: AbstractModel
    held: jax.Array

    @property
    def units(self) -> Units:
        return self.model.units

    def initial(self) -> State:
        return self.model.initial()

    def vector_field(self, t: Scalar, y: State) -> State:
        return self.model.vector_field(t, y)

    def observe(self, t: Scalar, y: State) -> Observed:
        return self.model.observe(t, y)

    def declared(self) -> Declared:
        inner = declared(self.model)

        def events() -> tuple[Event, ...]:
            events = enumerate(inner.events())
            return tuple(dataclasses.replace(event, initial_value=self.held[i]) for i, event in events)

        return inner._replace(events=events)


def triggers(model: AbstractModel, t: Scalar, y: State) -> Float[jax.Array, " events"]:
    """Return the values of the triggers of a model, 1 for true."""
    return jnp.stack([jnp.asarray(event.trigger(t, y), float) for event in declared(model).events()])
