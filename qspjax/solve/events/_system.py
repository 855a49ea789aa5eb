"""Events of one patient as functions of a flat state: what tells that one is due, and what it changes.

Between events the solver integrates as ever. After every step it looks at the triggers; where one has turned true the
step is taken again, shorter, until the change is bracketed to rounding error (`_locate`), and the event is applied.
What events remember (whether a trigger held, which changes wait, until when and with which values) is a vector of
numbers beside the state: the memory. A time that the vector field or a trigger compares with (`t < 5`) is known ahead,
so steps end there exactly, and no pulse between two steps is missed.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike, DTypeLike

from qspjax._arrays import argmax_first, first_true
from qspjax._declared import declared
from qspjax._events import Event, assigned_names
from qspjax._jaxpr._comparisons import watched
from qspjax._model import AbstractModel
from qspjax._names import match, state_names
from qspjax._parameters import as_parameter
from qspjax._types import Scalar, State
from qspjax.solve._consistent import Equations
from qspjax.solve._near import Near

CASCADE = 32
"""The number of changes at one moment, and four more for each event, after which a patient is given up."""


class TriggerState(NamedTuple):
    """What the triggers say of a state.

    Attributes:
        fires: Whether a change is due, or a trigger has turned true.
        gaps: The differences of all comparisons, shape (gaps,).
        sizes: What is subtracted in each, in absolute value.
        memory: The memory, in which triggers that turned false are noted.
    """

    fires: jax.Array
    gaps: jax.Array
    sizes: jax.Array
    memory: jax.Array


class NextSwitch(NamedTuple):
    """What is known of the changes ahead.

    Attributes:
        known: How far the next one is whose time is known, inf if there is none.
        leaves: Whether one is here.
        switch: How far the next one of the vector field is, inf if there is none.
        place: Which gap that is.
    """

    known: jax.Array
    leaves: jax.Array
    switch: jax.Array
    place: jax.Array


class _Memory(NamedTuple):
    """What events remember.

    `changes` is the number of changes so far, `was_true` has shape (events,), the others (events, pending) and (events,
    pending, values).
    """

    changes: jax.Array
    was_true: jax.Array
    waits: jax.Array
    until: jax.Array
    values: jax.Array


class EventSystem:
    """The events of one structure of model; compared by identity.

    Attributes:
        equations: The vector field over flat states.
        size: Numbers in a memory.
        gaps: Number of gaps.
        own: How many of them, the first ones, are those of triggers.
        timed: Which gaps depend on the time other than through the state.
        squeezed: Whether the vector field itself compares with the time, so that steps keep off the ends.
    """

    def __init__(self, model: AbstractModel, start: State, near: Near) -> None:
        self.equations = Equations(model, start, near)
        self._unravel = ravel_pytree(start)[1]
        states = state_names(start)
        events = declared(model).events()
        self._events = len(events)
        self._targets = [[match(n, states, "assign", "a state") for n in assigned_names(e, start)] for e in events]
        self._width = max(map(len, self._targets), default=0)
        delayed = [event.delay is not None for event in events]
        self._pending = max([event.pending if late else 2 for event, late in zip(events, delayed, strict=True)] or [0])
        self._assigned = sorted({i for targets in self._targets for i in targets})
        self._states = len(states)
        self.size = self._events * (1 + self._pending * (2 + self._width)) + bool(events)

        seen: list[np.ndarray] = []

        def trace(model: AbstractModel, t: jax.Array, y: jax.Array) -> jax.Array:
            triggers = [watched(event.trigger, t, self._unravel(y)).timed for event in declared(model).events()]
            field = watched(model.vector_field, t, self._unravel(y)).timed
            seen.append(np.concatenate([*triggers, np.zeros(0, bool)]))
            seen.append(field)
            return y

        flat = ravel_pytree(start)[0]
        eqx.filter_eval_shape(trace, model, jnp.zeros(()), flat)
        own, field = seen
        self.own = own.size
        self._field = np.flatnonzero(field)
        waiting = np.ones(self._events * self._pending if any(delayed) else 0, bool)
        self.timed = np.concatenate([own, np.ones(self._field.size, bool), waiting])
        self.gaps = self.timed.size
        self.squeezed = bool(self._field.size)

    def start(self, model: AbstractModel, t: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return state, memory and whether all is well, after the events that fire at the start."""
        was_true = [jnp.asarray(event.initial_value, y.dtype) for event in declared(model).events()]
        memory = jnp.zeros(self.size, y.dtype)
        memory = memory.at[1 : 1 + len(was_true)].set(jnp.stack(was_true)) if was_true else memory
        return self.act(model, t, y, memory, bounded=True)

    def triggers(self, model: AbstractModel, t: jax.Array, y: jax.Array, memory: jax.Array) -> TriggerState:
        """Look at the triggers."""
        events, state = declared(model).events(), self._unravel(y)
        watching = [watched(event.trigger, t, state) for event in events]
        gaps, sizes = [seen.gaps for seen in watching], [seen.sizes for seen in watching]
        if self._field.size:
            seen = watched(model.vector_field, t, state)
            gaps.append(seen.gaps[self._field])
            sizes.append(seen.sizes[self._field])
        if not events:
            return TriggerState(jnp.zeros((), bool), jnp.concatenate(gaps), jnp.concatenate(sizes), memory)
        kept = self._unpack(memory)
        holds = jnp.stack([_truth(seen.value) for seen in watching])
        waits = kept.waits > 0.0
        late = waits & (kept.until <= t + _rounding(t))
        persistent = np.asarray([event.persistent for event in events])
        lost = waits.any(axis=1) & ~persistent & ~holds
        fires = (holds & (kept.was_true == 0.0)).any() | late.any() | lost.any()
        if self.gaps > sum(gap.size for gap in gaps):
            gaps.append(jnp.where(waits, t - kept.until, -1.0).ravel())
            sizes.append((jnp.abs(t) + jnp.abs(kept.until)).ravel())
        kept = kept._replace(was_true=jnp.where(holds, kept.was_true, 0.0))
        return TriggerState(fires, jnp.concatenate(gaps), jnp.concatenate(sizes), self._pack(kept))

    def rates(
        self, model: AbstractModel, t: jax.Array, y: jax.Array, memory: jax.Array, slope: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return the gaps and their derivatives along the solution."""

        def gaps(t: jax.Array, y: jax.Array) -> jax.Array:
            return self.triggers(model, t, y, memory).gaps

        return jax.jvp(gaps, (t, y), (jnp.ones_like(t), slope))

    def next_switch(
        self, model: AbstractModel, t: jax.Array, y: jax.Array, memory: jax.Array, slope: jax.Array
    ) -> NextSwitch:
        """Return what is known of the changes ahead."""
        gaps, rates = self.rates(model, t, y, memory, slope)
        moves = self.timed & (rates != 0.0)
        away = jnp.where(moves, -gaps / jnp.where(moves, rates, 1.0), jnp.inf)
        here = jnp.abs(away) <= _rounding(t)
        away = jnp.where((away > 0.0) & ~here, away, jnp.inf)
        switches = away[self.own : self.own + self._field.size]
        place = self.own + argmax_first(-switches) if switches.size else jnp.zeros((), int)
        return NextSwitch(jnp.min(away, initial=jnp.inf), here.any(), jnp.min(switches, initial=jnp.inf), place)

    def act(
        self,
        model: AbstractModel,
        t: jax.Array,
        y: jax.Array,
        memory: jax.Array,
        *,
        bounded: bool,
        later: tuple[jax.Array, jax.Array] | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Apply all changes that are due; return state, memory and whether it came to an end.

        Algebraic states are solved before each, so that every trigger sees what follows from the last change.

        Args:
            model: The patient.
            t: The time.
            y: The state.
            memory: The memory.
            bounded: Whether the loop has to be differentiable backwards.
            later: A time and a state a little later, at which the triggers are looked at first; None for these.
        """
        if not self._events:
            return y, memory, jnp.ones((), bool)
        most = CASCADE + 4 * self._events

        def settle(carry: tuple, seen: tuple[jax.Array, jax.Array] | None = None) -> tuple:
            y, kept, _, fine, rounds = carry
            y, kept, acted, room = self._settle(model, t, y, kept, (t, y) if seen is None else seen)
            y, _ = self.equations.solved(model, t, y)
            return y, kept, acted, fine & room, rounds + 1

        y, _ = self.equations.solved(model, t, y)
        first = (y, self._unpack(memory), jnp.ones((), bool), jnp.ones((), bool), jnp.zeros((), int))
        now = settle(first, later)

        def busy(carry: tuple) -> jax.Array:
            return carry[2] & (carry[4] < most)

        if bounded:
            now = eqxi.while_loop(busy, settle, now, max_steps=most, kind="bounded", base=4)
        else:
            now = jax.lax.while_loop(busy, settle, now)
        y, kept, acted, fine, _ = now
        return y, self._pack(kept), fine & ~acted

    def _settle(
        self, model: AbstractModel, t: jax.Array, y: jax.Array, kept: _Memory, seen: tuple[jax.Array, jax.Array]
    ) -> tuple:
        """Note what triggers say, then apply the change that comes first, if one is due."""
        events, state = declared(model).events(), self._unravel(y)
        noticed = self._unravel(seen[1])
        holds = jnp.stack([_truth(event.trigger(seen[0], noticed)) for event in events])
        delays = jnp.stack([_number(event.delay, t, state, y.dtype) for event in events])
        values = jnp.stack([self._values(event, t, state, y.dtype) for event in events])
        rises = holds & (kept.was_true == 0.0)
        waits = kept.waits > 0.0
        persistent = np.asarray([event.persistent for event in events])
        waits &= (persistent | holds)[:, None]
        place = jnp.arange(self._pending) == first_true(~waits)[:, None]
        entered = rises[:, None] & place & ~waits
        room = ~(rises & waits.all(axis=1)).any()
        waits |= entered
        then = t + jnp.maximum(delays, 0.0)
        if any(event.delay is not None for event in events):  # what follows a strict trigger comes after its time too
            strict = jnp.stack([self._is_strict(event, *seen) for event in events])
            then = then + jnp.where(strict & (delays > 0.0), 4.0 * _rounding(then), 0.0)
        until = jnp.where(entered, then[:, None], kept.until)
        stored = jnp.where(entered[..., None], values[:, None], kept.values)

        due = waits & (until <= t + _rounding(t))
        ranks = jnp.stack([_number(event.priority, t, state, y.dtype, -jnp.inf) for event in events])[:, None]
        best = due & (ranks == jnp.max(jnp.where(due, ranks, -jnp.inf)))
        drawn = jnp.where(best & (ranks > -jnp.inf), _draw(kept.changes, self._events)[:, None], 0.0)
        best &= drawn == jnp.max(drawn)
        chosen = best & (jnp.arange(best.size) == first_true(best.ravel())).reshape(best.shape)
        early = np.asarray([event.from_trigger_time for event in events])[:, None]
        old = jnp.where(chosen[..., None], stored, 0.0).sum(axis=1)
        given = jnp.where(early, old, values)
        y = self._put(y, chosen.any(axis=1), given)
        waits &= ~chosen
        until = jnp.where(waits, until, 0.0)
        stored = jnp.where(waits[..., None], stored, 0.0)
        kept = _Memory(kept.changes + chosen.any(), holds.astype(y.dtype), waits.astype(y.dtype), until, stored)
        return y, kept, due.any(), room

    def _is_strict(self, event: Event, t: jax.Array, y: jax.Array) -> jax.Array:
        """Whether a trigger that holds does not at the time itself that it compares with, as `time > 10` at 10."""
        return ~_truth(watched(event.trigger, t, self._unravel(y), within=4.0 * _rounding(t)).value)

    def _put(self, y: jax.Array, chosen: jax.Array, values: jax.Array) -> jax.Array:
        """Return the state with the values of the chosen event."""
        new = []
        for i in self._assigned:
            value = y[i]
            for number, targets in enumerate(self._targets):
                if i in targets:
                    value = jnp.where(chosen[number], values[number, targets.index(i)], value)
            new.append(value)
        place = np.arange(self._states) + len(new)
        place[self._assigned] = np.arange(len(new))
        return jnp.concatenate([jnp.stack(new), y])[place] if new else y

    def _values(self, event: Event, t: jax.Array, state: State, dtype: DTypeLike) -> jax.Array:
        values = [jnp.asarray(value, dtype) for value in event.assign(t, state).values()]
        return jnp.stack([*values, *[jnp.zeros((), dtype)] * (self._width - len(values))])

    def _unpack(self, memory: jax.Array) -> _Memory:
        E, Q = self._events, self._pending
        count, was_true, waits, until, values = jnp.split(memory, np.cumsum([1, E, E * Q, E * Q]))
        return _Memory(count[0], was_true, waits.reshape(E, Q), until.reshape(E, Q), values.reshape(E, Q, self._width))

    def _pack(self, kept: _Memory) -> jax.Array:
        return jnp.concatenate([part.ravel() for part in kept])


def event_system(model: AbstractModel, start: State, near: Near) -> EventSystem | None:
    """Return the events of a model, and the times its vector field compares with; None if it has neither.

    Raises:
        ValueError: If an event assigns a state that the model does not have.
    """
    found = EventSystem(model, jax.tree.map(as_parameter, start), near)
    return found if found.gaps or found.size else None


def follow_cause(
    system: EventSystem,
    model: AbstractModel,
    rate: jax.Array,
    t: jax.Array,
    y: jax.Array,
    memory: jax.Array,
    cause: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Return time and state at a change as functions of what decides its time; their values stay what they are.

    $$ dt^* = -dg / (g_t + g_y f), \\quad dy^* = dy + f dt^* $$

    with the slope f just before it, so that whatever follows, a jump of the state or of the slope, starts at a time
    that moves. Two steps of Newton's method on a parabola along the solution make second derivatives right as well.

    Args:
        system: The events.
        model: The patient, differentiated.
        rate: The running infusions.
        t: The time of the change.
        y: The state there.
        memory: The memory.
        cause: What caused it, see `StepOutcome`.
    """
    if not system.gaps:
        return t, y

    def field(t: jax.Array, y: jax.Array) -> jax.Array:
        return system.equations.field(model, t, y, rate)

    here = jnp.where(cause > system.gaps, cause - system.gaps - 1, jnp.clip(cause, 0, system.gaps - 1))
    located = (cause >= 0) & (cause != system.gaps)
    before = t - inset(t) if system.squeezed else t
    slope, bend = jax.jvp(field, (before, y), (jnp.ones_like(t), field(before, y)))
    gaps, rates = system.rates(model, t, y, memory, slope)
    pace = jnp.where(located & (rates[here] != 0.0), rates[here], 1.0)

    def along(away: jax.Array) -> tuple[jax.Array, jax.Array]:
        return t + away, y + away * slope + 0.5 * away * away * bend

    def left(gap: jax.Array) -> jax.Array:
        return jnp.where(located, (gap - jax.lax.stop_gradient(gap)) / pace, 0.0)

    away = -left(gaps[here])
    away = away - left(system.triggers(model, *along(away), memory).gaps[here])
    return along(away)


def repeat_change(
    system: EventSystem,
    model: AbstractModel,
    rate: jax.Array,
    t: jax.Array,
    y: jax.Array,
    memory: jax.Array,
    cause: jax.Array,
    span: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return time, state and memory after a recorded change, as `follow_cause` and `EventSystem.act` have it.

    What a repeated solve finds at the event differs from the recorded one by rounding error, which must not decide
    whether a trigger holds: triggers are looked at a little further along, 1e-10 of `span`.
    """
    time, state = follow_cause(system, model, rate, t, y, memory, cause)
    located = (cause >= 0) & (cause < system.gaps)
    little = jnp.where(located, 1e-10 * span, 0.0)
    seen = jax.lax.stop_gradient((t + little, y + little * system.equations.field(model, t, y, rate)))
    after, kept, _ = system.act(model, time, state, memory, bounded=True, later=seen)
    moves, acts = cause >= 0, (cause >= 0) & (cause <= system.gaps)
    after = jnp.where(acts, after, state)
    return jnp.where(moves, time, t), jnp.where(moves, after, y), jnp.where(acts, kept, memory)


def inset(t: jax.Array) -> jax.Array:
    """Return by how much steps keep off a time at which the vector field jumps."""
    return 4.0 * jnp.finfo(t.dtype).eps * jnp.abs(t)


def _draw(count: jax.Array, events: int) -> jax.Array:
    """Return a number in (0, 1] for each event: of equal priorities chance decides, the same in every run."""
    x = count.astype(jnp.uint32) * np.uint32(2654435769) + jnp.arange(events, dtype=jnp.uint32) * np.uint32(2246822507)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        x = (x ^ (x >> shift)) * np.uint32(factor)
    return (x.astype(count.dtype) + 1.0) / 2.0**32


def _rounding(t: jax.Array) -> jax.Array:
    return 16.0 * jnp.finfo(t.dtype).eps * jnp.abs(t)


def _truth(value: ArrayLike) -> jax.Array:
    value = jnp.asarray(value)
    return value if value.dtype == bool else value != 0


def _number(
    function: Callable[[Scalar, State], ArrayLike] | None,
    t: jax.Array,
    state: State,
    dtype: DTypeLike,
    default: float = 0.0,
) -> jax.Array:
    return jnp.asarray(default if function is None else function(t, state), dtype)
