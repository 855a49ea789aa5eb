"""What a solver's loop asks about events, for one patient or for lanes of patients alike."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from qspjax._model import AbstractModel
from qspjax._types import Scalar, State
from qspjax.solve._consistent import Equations
from qspjax.solve._near import Near
from qspjax.solve.events._locate import (
    Bracket,
    StepHorizon,
    StepOutcome,
    classify_step,
    horizon_of,
    narrowed,
    open_bracket,
)
from qspjax.solve.events._system import EventSystem, NextSwitch, TriggerState, event_system, inset, repeat_change

T = TypeVar("T")


class EventMonitor(NamedTuple):
    """The events of the patients in hand; times have shape (...), states (states, ...), memories (numbers, ...).

    Attributes:
        system: What is static about the events.
        triggers: `(t, y, memory) -> TriggerState`.
        next_switch: `(t, y, memory, slope) -> NextSwitch`.
        act: `(t, y, memory) -> (y, memory, whether it came to an end)`.
        again: `(rate, t, y, memory, cause, span) -> (t, y, memory)` after a recorded change, to be differentiated.
    """

    system: EventSystem
    triggers: Callable[..., TriggerState]
    next_switch: Callable[..., NextSwitch]
    act: Callable[..., tuple[jax.Array, jax.Array, jax.Array]]
    again: Callable[..., tuple[jax.Array, jax.Array, jax.Array]]

    def ahead(self, now: "Awaited", t: jax.Array, y: jax.Array, remaining: jax.Array, slope: jax.Array) -> "StepAhead":
        """Return what is seen ahead of a step from `t`; `remaining` is the time to the next boundary."""
        seen = self.triggers(t, y, now.memory)
        if self.system.timed.any():
            switch = self.next_switch(t, y, now.memory, slope)
        else:
            never = jnp.full_like(t, jnp.inf)
            switch = NextSwitch(never, jnp.zeros(t.shape, bool), never, jnp.zeros(t.shape, int))
        return StepAhead(self, now, horizon_of(seen.gaps, seen.sizes, switch, now.bracket, t, remaining))

    def apply(
        self, wanted: jax.Array, t: jax.Array, y: jax.Array, memory: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Apply what is due where `wanted`; return state, memory and whether all came to an end."""

        def act(t: jax.Array, y: jax.Array, memory: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            new, kept, fine = self.act(t, y, memory)
            return jnp.where(wanted, new, y), jnp.where(wanted, kept, memory), fine | ~wanted

        def rest(_: jax.Array, y: jax.Array, memory: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            return y, memory, jnp.ones_like(wanted)

        return jax.lax.cond(eqxi.unvmap_any(wanted), act, rest, t, y, memory)

    def repeat(
        self, rate: jax.Array, t: jax.Array, y: jax.Array, memory: jax.Array, cause: jax.Array, span: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return time, state and memory after a recorded step, `cause` telling of the change it ended with."""
        memory = self.triggers(t, y, memory).memory

        def rest(_: jax.Array, t: jax.Array, y: jax.Array, memory: jax.Array, *__: jax.Array) -> tuple:
            return t, y, memory

        operands = (rate, t, y, memory, cause, span)
        return jax.lax.cond(eqxi.unvmap_any(cause >= 0), self.again, rest, *operands)

    def within(self, t0: jax.Array, t1: jax.Array, horizon: StepHorizon | None = None) -> tuple[jax.Array, jax.Array]:
        """Return the ends of a step, drawn in by rounding error where the vector field jumps there.

        The difference of the ends has the derivative of that of the times, however short the step is.
        """
        if not self.system.squeezed:
            return t0, t1
        start = end = inset(jnp.maximum(jnp.abs(t0), jnp.abs(t1)))
        if horizon is not None:
            start = jnp.where(horizon.leaves, start, 0.0)
            end = jnp.where(horizon.known <= t1 - t0 + horizon.precise, end, 0.0)
        start, end = jax.lax.stop_gradient((start, jnp.minimum(end, t1 - t0 - start)))
        return t0 + start, t1 - end


class Awaited(NamedTuple):
    """What is known of events between two steps: what they remember, and the change ahead."""

    memory: jax.Array
    bracket: Bracket


class StepAhead(NamedTuple):
    """A step that is attempted, as events see it."""

    monitor: EventMonitor
    now: Awaited
    horizon: StepHorizon

    def classify(self, h: jax.Array, t: jax.Array, y: jax.Array, good: jax.Array) -> "StepEvents":
        """Return what a step of length `h` came upon that ended at `t` and `y`; `good` tells whether its error fits."""
        system, triggers, memory = self.monitor.system, self.monitor.triggers, self.now.memory
        seen = triggers(t, y, memory)
        before = jnp.ones_like(seen.fires)
        if system.timed.any():
            just_before = t - 2.0 * self.horizon.precise - 64.0 * jnp.finfo(t.dtype).eps * jnp.abs(t)
            before = triggers(just_before, y, memory).fires
        outcome = classify_step(self.horizon, h, seen.gaps, own=system.own, good=good, fires=seen.fires, before=before)
        return StepEvents(self, h, seen, outcome)


class StepEvents(NamedTuple):
    """What an attempted step came upon.

    Attributes:
        ahead: What was seen ahead of it.
        h: Its length.
        seen: What the triggers say at its end.
        outcome: What it came upon.
    """

    ahead: StepAhead
    h: jax.Array
    seen: TriggerState
    outcome: StepOutcome

    @property
    def bracketing(self) -> jax.Array:
        """Whether the step may be as short as it is, since it closes in on an event."""
        return self.outcome.happens | jnp.isfinite(self.ahead.now.bracket.upper)

    def apply(
        self, jumps: jax.Array, t: jax.Array, y: jax.Array, good: jax.Array
    ) -> tuple[jax.Array, Awaited, jax.Array]:
        """Apply what is due where the state `jumps`; return state, what is known then, and whether all is settled."""
        now = self.ahead.now
        bracket = narrowed(now.bracket, self.h, self.seen.gaps, met=self.outcome.met, passed=good, over=jumps)
        memory = jnp.where(good, self.seen.memory, now.memory)
        y, memory, settled = self.ahead.monitor.apply(jumps, t, y, memory)
        return y, Awaited(memory, bracket), settled


class EventStart(NamedTuple):
    """The events of one patient at the start of a solve.

    Attributes:
        system: What is static about them.
        memory: What they remember.
        settled: Whether those that fire at the start came to an end.
    """

    system: EventSystem
    memory: jax.Array
    settled: jax.Array


def start_events(
    model: AbstractModel, start: State, t0: Scalar, near: Near
) -> tuple[jax.Array, EventStart | None, jax.Array]:
    """Return the flat state with which a solve begins, all events, None if there are none, and whether it may begin.

    Algebraic states satisfy their equations, else it may not; events that fire at the start have acted.
    """
    y0, system = ravel_pytree(start)[0], event_system(model, start, near)
    t0 = jnp.asarray(t0, y0.dtype)
    if system is None:
        y0, solved = Equations(model, start, near).solved(model, t0, y0)
        return y0, None, solved
    y0, memory, settled = system.start(model, t0, y0)
    y0, solved = system.equations.solved(model, t0, y0)
    return y0, EventStart(system, memory, settled), solved


class Events(NamedTuple):
    """The events of a structure of model, as functions of the leaves of the model.

    Attributes:
        system: What is static about them.
        model: `leaves -> model`.
    """

    system: EventSystem
    model: Callable[[Sequence[jax.Array]], AbstractModel]


def events_over_leaves(system: EventSystem, model: AbstractModel) -> Events:
    """Return the events of a model over its leaves, in the order of `jax.tree.leaves`."""
    arrays, static = eqx.partition(model, eqx.is_array)
    structure = jax.tree.structure(arrays)
    return Events(system, lambda leaves: eqx.combine(jax.tree.unflatten(structure, leaves), static))


def awaited(system: EventSystem, memory: jax.Array, t: jax.Array) -> Awaited:
    """Return what is known at the start of a solve."""
    return Awaited(memory, open_bracket(t, system.gaps))


def monitor_lanes(events: Events, leaves: Sequence[jax.Array], batched: Sequence[bool]) -> EventMonitor:
    """Return what watches over the events of the patients in lanes; a leaf has its lanes last where `batched`."""
    system = events.system
    axes = [-1 if own else None for own in batched]

    def over_lanes(function: Callable[..., T]) -> Callable[..., T]:
        def batched_function(*operands: jax.Array) -> T:
            each = jax.vmap(
                lambda leaves, *at: function(events.model(leaves), *at),
                in_axes=(axes, *[-1] * len(operands)),
                out_axes=-1,
            )
            return each(list(leaves), *operands)

        return batched_function

    return EventMonitor(
        system,
        triggers=over_lanes(system.triggers),
        next_switch=over_lanes(system.next_switch),
        act=over_lanes(partial(system.act, bounded=False)),
        again=over_lanes(partial(repeat_change, system)),
    )


def monitor_one(events: EventStart | None, model: AbstractModel) -> EventMonitor | None:
    """Return what watches over the events of one patient, None if there are none."""
    if events is None:
        return None
    system = events.system

    return EventMonitor(
        system,
        triggers=partial(system.triggers, model),
        next_switch=partial(system.next_switch, model),
        act=partial(system.act, model, bounded=False),
        again=partial(repeat_change, system, model),
    )
