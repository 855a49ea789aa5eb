"""Events of one patient as functions of a flat state: which changes are due, and what they change.

Between events the solver integrates as usual. After every step it evaluates the triggers; where one has turned true the
step is taken again, shorter, until the change is bracketed to rounding error (`_locate`), and the event is applied.
What events remember (whether a trigger held, which changes wait, until when and with which values) is a vector of
numbers in addition to the state: the memory. A time that the vector field or a trigger compares with (`t < 5`) is known
in advance, so steps end there exactly, and no pulse between two steps is missed.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

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


Loop: TypeAlias = Callable[[Callable[[tuple], jax.Array], Callable[[tuple], tuple], tuple, int], tuple]
"""A loop: from whether it goes on, a round, what it starts with, and the most rounds, to what it ends with."""


def unbounded(condition: Callable[[tuple], jax.Array], body: Callable[[tuple], tuple], start: tuple, _: int) -> tuple:
    """Run a loop that cannot be differentiated backwards."""
    return jax.lax.while_loop(condition, body, start)


def bounded(condition: Callable[[tuple], jax.Array], body: Callable[[tuple], tuple], start: tuple, most: int) -> tuple:
    """Run a loop that can be differentiated in every mode, many times."""
    return eqxi.while_loop(condition, body, start, max_steps=most, kind="bounded", base=4)


class TriggerState(NamedTuple):
    """The triggers at a state.

    Attributes:
        fires: Whether a change is due, or a trigger has turned true.
        gaps: The differences of all comparisons, shape (gaps,).
        sizes: The sum of the absolute values that are subtracted in each.
        memory: The memory, in which triggers that turned false are recorded.
    """

    fires: jax.Array
    gaps: jax.Array
    sizes: jax.Array
    memory: jax.Array


class NextSwitch(NamedTuple):
    """What is known of the changes ahead.

    Attributes:
        scheduled: The time to the next one whose time is known in advance, inf if there is none.
        leaves: Whether one is at the current time.
        switch: The time to the next one of the vector field, inf if there is none.
        gap: The index of its gap.
    """

    scheduled: jax.Array
    leaves: jax.Array
    switch: jax.Array
    gap: jax.Array


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
        n_triggers: How many of them, the first ones, are those of triggers.
        timed: Which gaps depend on the time other than through the state.
        curved: Which of them are not straight lines in time.
        squeezed: Whether the vector field itself compares with the time, so that steps are inset at their ends.
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

        traced: list[np.ndarray] = []

        def trace(model: AbstractModel, t: jax.Array, y: jax.Array) -> jax.Array:
            triggers = [watched(event.trigger, t, self._unravel(y)) for event in declared(model).events()]
            field = watched(model.vector_field, t, self._unravel(y))
            none = np.zeros(0, bool)
            traced.append(np.concatenate([*(trigger.timed for trigger in triggers), none]))
            traced.append(np.concatenate([*(trigger.curved for trigger in triggers), none]))
            traced.extend([field.timed, field.curved])
            return y

        flat = ravel_pytree(start)[0]
        eqx.filter_eval_shape(trace, model, jnp.zeros(()), flat)
        timed_triggers, curved_triggers, field, curved_field = traced
        self.n_triggers = timed_triggers.size
        self._field = np.flatnonzero(field)
        waiting = np.ones(self._events * self._pending if any(delayed) else 0, bool)
        self.timed = np.concatenate([timed_triggers, np.ones(self._field.size, bool), waiting])
        self.curved = np.concatenate([curved_triggers, curved_field[self._field], ~waiting])
        self.gaps = self.timed.size
        self.squeezed = bool(self._field.size)

    def start(self, model: AbstractModel, t: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return state, memory and whether all events settled, after those that fire at the start."""
        was_true = [jnp.asarray(event.initial_value, y.dtype) for event in declared(model).events()]
        memory = jnp.zeros(self.size, y.dtype)
        memory = memory.at[1 : 1 + len(was_true)].set(jnp.stack(was_true)) if was_true else memory
        return self.act(model, t, y, memory, loop=bounded)

    def triggers(self, model: AbstractModel, t: jax.Array, y: jax.Array, memory: jax.Array) -> TriggerState:
        """Evaluate the triggers."""
        events, state = declared(model).events(), self._unravel(y)
        watching = [watched(event.trigger, t, state) for event in events]
        gaps, sizes = [comparison.gaps for comparison in watching], [comparison.sizes for comparison in watching]
        if self._field.size:
            comparison = watched(model.vector_field, t, state)
            gaps.append(comparison.gaps[self._field])
            sizes.append(comparison.sizes[self._field])
        if not events:
            return TriggerState(jnp.zeros((), bool), jnp.concatenate(gaps), jnp.concatenate(sizes), memory)
        record = self._unpack(memory)
        holds = jnp.stack([_truth(comparison.value) for comparison in watching])
        waits = record.waits > 0.0
        late = waits & (record.until <= t + _rounding(t))
        persistent = np.asarray([event.persistent for event in events])
        cancelled = waits.any(axis=1) & ~persistent & ~holds
        fires = (holds & (record.was_true == 0.0)).any() | late.any() | cancelled.any()
        if self.gaps > sum(gap.size for gap in gaps):
            gaps.append(jnp.where(waits, t - record.until, -1.0).ravel())
            sizes.append((jnp.abs(t) + jnp.abs(record.until)).ravel())
        record = record._replace(was_true=jnp.where(holds, record.was_true, 0.0))
        return TriggerState(fires, jnp.concatenate(gaps), jnp.concatenate(sizes), self._pack(record))

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
        distance = jnp.where(moves, -gaps / jnp.where(moves, rates, 1.0), jnp.inf)
        at_change = jnp.abs(distance) <= _rounding(t)
        distance = jnp.where((distance > 0.0) & ~at_change, distance, jnp.inf)
        switches = distance[self.n_triggers : self.n_triggers + self._field.size]
        gap = self.n_triggers + argmax_first(-switches) if switches.size else jnp.zeros((), int)
        return NextSwitch(jnp.min(distance, initial=jnp.inf), at_change.any(), jnp.min(switches, initial=jnp.inf), gap)

    def act(
        self,
        model: AbstractModel,
        t: jax.Array,
        y: jax.Array,
        memory: jax.Array,
        *,
        loop: Loop,
        later: tuple[jax.Array, jax.Array] | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Apply all changes that are due; return state, memory and whether all events settled.

        Algebraic states are solved before each, so that every trigger sees the effect of the last change.

        Args:
            model: The patient.
            t: The time.
            y: The state.
            memory: The memory.
            loop: What applies one change after the other.
            later: A time and a state a little later, at which the triggers are first evaluated; None for `t` and `y`.
        """
        if not self._events:
            return y, memory, jnp.ones((), bool)
        limit = CASCADE + 4 * self._events

        def settle(carry: tuple, point: tuple[jax.Array, jax.Array] | None = None) -> tuple:
            y, record, _, settled, rounds = carry
            y, record, acted, room = self._settle(model, t, y, record, (t, y) if point is None else point)
            y, _ = self.equations.solved(model, t, y)
            return y, record, acted, settled & room, rounds + 1

        y, _ = self.equations.solved(model, t, y)
        initial = (y, self._unpack(memory), jnp.ones((), bool), jnp.ones((), bool), jnp.zeros((), int))
        now = settle(initial, later)

        def busy(carry: tuple) -> jax.Array:
            return carry[2] & (carry[4] < limit)

        y, record, acted, settled, _ = loop(busy, settle, now, limit)
        return y, self._pack(record), settled & ~acted

    def _settle(
        self, model: AbstractModel, t: jax.Array, y: jax.Array, record: _Memory, point: tuple[jax.Array, jax.Array]
    ) -> tuple:
        """Record the triggers, then apply the change that comes first, if one is due."""
        events, state = declared(model).events(), self._unravel(y)
        noticed = self._unravel(point[1])
        holds = jnp.stack([_truth(event.trigger(point[0], noticed)) for event in events])
        delays = jnp.stack([_number(event.delay, t, state, y.dtype) for event in events])
        values = jnp.stack([self._values(event, t, state, y.dtype) for event in events])
        rises = holds & (record.was_true == 0.0)
        waits = record.waits > 0.0
        persistent = np.asarray([event.persistent for event in events])
        waits &= (persistent | holds)[:, None]
        slot = jnp.arange(self._pending) == first_true(~waits)[:, None]
        entered = rises[:, None] & slot & ~waits
        room = ~(rises & waits.all(axis=1)).any()
        waits |= entered
        then = t + jnp.maximum(delays, 0.0)
        if any(event.delay is not None for event in events):  # the change of a strict trigger comes after its time, too
            strict = jnp.stack([self._is_strict(event, *point) for event in events])
            then = then + jnp.where(strict & (delays > 0.0), 4.0 * _rounding(then), 0.0)
        until = jnp.where(entered, then[:, None], record.until)
        stored = jnp.where(entered[..., None], values[:, None], record.values)

        due = waits & (until <= t + _rounding(t))
        ranks = jnp.stack([_number(event.priority, t, state, y.dtype, -jnp.inf) for event in events])[:, None]
        best = due & (ranks == jnp.max(jnp.where(due, ranks, -jnp.inf)))
        drawn = jnp.where(best & (ranks > -jnp.inf), _draw(record.changes, self._events)[:, None], 0.0)
        best &= drawn == jnp.max(drawn)
        chosen = best & (jnp.arange(best.size) == first_true(best.ravel())).reshape(best.shape)
        early = np.asarray([event.from_trigger_time for event in events])[:, None]
        old = jnp.where(chosen[..., None], stored, 0.0).sum(axis=1)
        new_values = jnp.where(early, old, values)
        y = self._assigned_state(y, chosen.any(axis=1), new_values)
        waits &= ~chosen
        until = jnp.where(waits, until, 0.0)
        stored = jnp.where(waits[..., None], stored, 0.0)
        record = _Memory(record.changes + chosen.any(), holds.astype(y.dtype), waits.astype(y.dtype), until, stored)
        return y, record, due.any(), room

    def _is_strict(self, event: Event, t: jax.Array, y: jax.Array) -> jax.Array:
        """Whether a trigger that holds does not hold exactly at the time it compares with, like `time > 10` at 10."""
        return ~_truth(watched(event.trigger, t, self._unravel(y), within=4.0 * _rounding(t)).value)

    def _assigned_state(self, y: jax.Array, chosen: jax.Array, values: jax.Array) -> jax.Array:
        """Return the state with the values of the chosen event."""
        new = []
        for i in self._assigned:
            value = y[i]
            for number, targets in enumerate(self._targets):
                if i in targets:
                    value = jnp.where(chosen[number], values[number, targets.index(i)], value)
            new.append(value)
        order = np.arange(self._states) + len(new)
        order[self._assigned] = np.arange(len(new))
        return jnp.concatenate([jnp.stack(new), y])[order] if new else y

    def _values(self, event: Event, t: jax.Array, state: State, dtype: DTypeLike) -> jax.Array:
        values = [jnp.asarray(value, dtype) for value in event.assign(t, state).values()]
        return jnp.stack([*values, *[jnp.zeros((), dtype)] * (self._width - len(values))])

    def _unpack(self, memory: jax.Array) -> _Memory:
        E, Q = self._events, self._pending
        count, was_true, waits, until, values = jnp.split(memory, np.cumsum([1, E, E * Q, E * Q]))
        return _Memory(count[0], was_true, waits.reshape(E, Q), until.reshape(E, Q), values.reshape(E, Q, self._width))

    def _pack(self, record: _Memory) -> jax.Array:
        return jnp.concatenate([column.ravel() for column in record])


def event_system(model: AbstractModel, start: State, near: Near) -> EventSystem | None:
    """Return the events of a model, and the times its vector field compares with; None if it has neither.

    Raises:
        ValueError: If an event assigns a state that the model does not have.
    """
    system = EventSystem(model, jax.tree.map(as_parameter, start), near)
    return system if system.gaps or system.size else None


def follow_cause(
    system: EventSystem,
    model: AbstractModel,
    rate: jax.Array,
    t: jax.Array,
    y: jax.Array,
    memory: jax.Array,
    cause: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Return time and state at a change as functions of what determines its time; their values do not change.

    $$ dt^* = -dg / (g_t + g_y f), \\quad dy^* = dy + f dt^* $$

    with the slope f just before it, so that whatever follows, a jump of the state or of the slope, starts at a time
    that has a derivative. Two steps of Newton's method on a parabola along the solution make second derivatives exact.

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

    gap = jnp.where(cause > system.gaps, cause - system.gaps - 1, jnp.clip(cause, 0, system.gaps - 1))
    located = (cause >= 0) & (cause != system.gaps)
    before = t - inset(t) if system.squeezed else t
    slope, bend = jax.jvp(field, (before, y), (jnp.ones_like(t), field(before, y)))
    gaps, rates = system.rates(model, t, y, memory, slope)
    pace = jnp.where(located & (rates[gap] != 0.0), rates[gap], 1.0)

    def extrapolated(shift: jax.Array) -> tuple[jax.Array, jax.Array]:
        return t + shift, y + shift * slope + 0.5 * shift * shift * bend

    def offset(gap: jax.Array) -> jax.Array:
        return jnp.where(located, (gap - jax.lax.stop_gradient(gap)) / pace, 0.0)

    shift = -offset(gaps[gap])
    shift = shift - offset(system.triggers(model, *extrapolated(shift), memory).gaps[gap])
    return extrapolated(shift)


def repeat_change(
    system: EventSystem,
    model: AbstractModel,
    rate: jax.Array,
    t: jax.Array,
    y: jax.Array,
    memory: jax.Array,
    cause: jax.Array,
    span: jax.Array,
    *,
    loop: Loop = bounded,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return time, state and memory after a recorded change, by `follow_cause` and `EventSystem.act`.

    The state of a repeated solve at the event differs from the recorded one by rounding error, which must not decide
    whether a trigger holds: triggers are evaluated a little later, by 1e-10 of `span`.
    """
    time, state = follow_cause(system, model, rate, t, y, memory, cause)
    located = (cause >= 0) & (cause < system.gaps)
    delta = jnp.where(located, 1e-10 * span, 0.0)
    later = jax.lax.stop_gradient((t + delta, y + delta * system.equations.field(model, t, y, rate)))
    after, remembered, _ = system.act(model, time, state, memory, loop=loop, later=later)
    moves, acts = cause >= 0, (cause >= 0) & (cause <= system.gaps)
    after = jnp.where(acts, after, state)
    return jnp.where(moves, time, t), jnp.where(moves, after, y), jnp.where(acts, remembered, memory)


def inset(t: jax.Array) -> jax.Array:
    """Return the distance that steps keep from a time at which the vector field jumps."""
    return 4.0 * jnp.finfo(t.dtype).eps * jnp.abs(t)


def _draw(count: jax.Array, events: int) -> jax.Array:
    """Return a number in (0, 1] for each event: ties of priority are broken at random, the same way in every run."""
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
