"""A model that goes on after a change from outside: its events remember what their triggers were before it."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float

from qspjax._declared import AbstractWrapper, Declared, declared
from qspjax._events import Event
from qspjax._model import AbstractModel, Units
from qspjax._types import Observed, Scalar, State


class WithTriggerHistory(AbstractWrapper):
    """A model whose triggers had these values until now, so that one that a change makes true fires."""

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
    """Return what the triggers of a model are, 1 for true."""
    return jnp.stack([jnp.asarray(event.trigger(t, y), float) for event in declared(model).events()])
