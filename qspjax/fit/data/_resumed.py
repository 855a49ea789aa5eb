"""A model that goes on after a change from outside: its events remember what their triggers were before it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from qspjax._events import AbstractEventful, Event, events_of
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
from qspjax._types import Observed, Scalar, State


class Resumed(AbstractAlgebraic, AbstractDelivered, AbstractEchoing, AbstractEventful, AbstractSized):
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

    def events(self) -> tuple[Event, ...]:
        own = events_of(self.model)
        return tuple(dataclasses.replace(event, initial_value=self.held[i]) for i, event in enumerate(own))

    def algebraic(self) -> tuple[str, ...]:
        return algebraic_of(self.model)

    def deliveries(self) -> Mapping[str, Delivery]:
        return deliveries_of(self.model)

    def echoes(self) -> Echoes:
        return echoes_of(self.model)

    def sizes(self) -> Mapping[str, float]:
        return declared_sizes(self.model)


def triggers(model: AbstractModel, t: Any, y: State) -> jax.Array:
    """Return what the triggers of a model are, shape (events,), 1 for true."""
    return jnp.stack([jnp.asarray(event.trigger(t, y), float) for event in events_of(model)])
