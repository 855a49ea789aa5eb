"""The events as a solver's loop uses them, for one patient or for lanes of patients alike."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from qspjax._model import AbstractModel
from qspjax._types import Scalar, State
from qspjax.solve._consistent import Equations
from qspjax.solve._control import Judgement, Proposal
from qspjax.solve._near import Near
from qspjax.solve.events._locate import (
    BRIEF,
    INSIDE,
    Bracket,
    StepHorizon,
    StepOutcome,
    classify_step,
    horizon_of,
    narrowed,
    open_bracket,
    resolved,
)
from qspjax.solve.events._system import (
    EventSystem,
    NextSwitch,
    TriggerState,
    event_system,
    inset,
    repeat_change,
    unbounded,
)

T = TypeVar("T")


class EventMonitor(NamedTuple):
    """The events of the current patients; times have shape (...), states (states, ...), memories (numbers, ...).

    Attributes:
        system: What is static about the events.
        triggers: `(t, y, memory) -> TriggerState`.
        next_switch: `(t, y, memory, slope) -> NextSwitch`.
        act: `(t, y, memory) -> (y, memory, whether all events settled)`.
        redo: `(rate, t, y, memory, cause, span) -> (t, y, memory)` after a recorded change, to be differentiated.
    """

    system: EventSystem
    triggers: Callable[..., TriggerState]
    next_switch: Callable[..., NextSwitch]
    act: Callable[..., tuple[jax.Array, jax.Array, jax.Array]]
    redo: Callable[..., tuple[jax.Array, jax.Array, jax.Array]]

    def ahead(self, now: "Awaited", t: jax.Array, y: jax.Array, remaining: jax.Array, slope: jax.Array) -> "StepAhead":
        """Return what is known ahead of a step from `t`; `remaining` is the time to the next boundary."""
        state = self.triggers(t, y, now.memory)
        if self.system.timed.any():
            switch = self.next_switch(t, y, now.memory, slope)
        else:
            never = jnp.full_like(t, jnp.inf)
            switch = NextSwitch(never, jnp.zeros(t.shape, bool), never, jnp.zeros(t.shape, int))
        return StepAhead(self, now, horizon_of(state.gaps, state.sizes, switch, now.bracket, t, remaining))

    def apply(
        self, active: jax.Array, t: jax.Array, y: jax.Array, memory: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Apply the changes that are due where `active`; return state, memory and whether all events settled."""

        def act(t: jax.Array, y: jax.Array, memory: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            new, remembered, settled = self.act(t, y, memory)
            return jnp.where(active, new, y), jnp.where(active, remembered, memory), settled | ~active

        def skip(_: jax.Array, y: jax.Array, memory: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            return y, memory, jnp.ones_like(active)

        return jax.lax.cond(eqxi.unvmap_any(active), act, skip, t, y, memory)

    def repeat(
        self, rate: jax.Array, t: jax.Array, y: jax.Array, memory: jax.Array, cause: jax.Array, span: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return time, state and memory after a recorded step that ended with the change of a `cause`."""
        memory = self.triggers(t, y, memory).memory

        def skip(_: jax.Array, t: jax.Array, y: jax.Array, memory: jax.Array, *__: jax.Array) -> tuple:
            return t, y, memory

        operands = (rate, t, y, memory, cause, span)
        return jax.lax.cond(eqxi.unvmap_any(cause >= 0), self.redo, skip, *operands)

    def within(self, t0: jax.Array, t1: jax.Array, horizon: StepHorizon | None = None) -> tuple[jax.Array, jax.Array]:
        """Return the ends of a step, moved inwards by rounding error where the vector field jumps there.

        The difference of the ends has the derivative of that of the times, however short the step is.
        """
        if not self.system.squeezed:
            return t0, t1
        start = end = inset(jnp.maximum(jnp.abs(t0), jnp.abs(t1)))
        if horizon is not None:
            start = jnp.where(horizon.leaves, start, 0.0)
            end = jnp.where(horizon.scheduled <= t1 - t0 + horizon.precise, end, 0.0)
        start, end = jax.lax.stop_gradient((start, jnp.minimum(end, t1 - t0 - start)))
        return t0 + start, t1 - end


class Awaited(NamedTuple):
    """What is known of events between two steps: their memory, and the bracket of the change ahead."""

    memory: jax.Array
    bracket: Bracket


class StepAhead(NamedTuple):
    """A step that is attempted, as events see it."""

    monitor: EventMonitor
    now: Awaited
    horizon: StepHorizon

    def judged(self, judgement: Judgement, proposal: Proposal, t: jax.Array, y: jax.Array) -> Judgement:
        """Return the judgement of a step that ended at `t` and `y`: too long if it does not resolve a trigger in time.

        The state is held; what it does within a step is what the error control sees.
        """
        system = self.monitor.system
        if not system.curved.any():
            return judgement
        times = [t - (1.0 - float(share)) * proposal.h for share in INSIDE]
        points = [self.monitor.triggers(time, y, self.now.memory) for time in times]
        curved = np.flatnonzero(system.curved)
        values = jnp.stack([point.gaps[curved] for point in points])
        fine, factor = resolved(self.horizon.gaps[curved], values, points[-1].sizes[curved])
        brief = proposal.h <= BRIEF * proposal.remaining
        following = jnp.where(brief, judgement.following, jnp.minimum(judgement.following, factor * proposal.h))
        return judgement._replace(fits=judgement.fits & (fine | brief), following=following)

    def classify(self, h: jax.Array, t: jax.Array, y: jax.Array, good: jax.Array) -> "StepEvents":
        """Return what happened in a step of length `h` that ended at `t` and `y`; `good` is whether its error fits."""
        system, triggers, memory = self.monitor.system, self.monitor.triggers, self.now.memory
        now = triggers(t, y, memory)
        before = jnp.ones_like(now.fires)
        if system.timed.any():
            just_before = t - 2.0 * self.horizon.precise - 64.0 * jnp.finfo(t.dtype).eps * jnp.abs(t)
            before = triggers(just_before, y, memory).fires
        outcome = classify_step(
            self.horizon, h, now.gaps, n_triggers=system.n_triggers, good=good, fires=now.fires, before=before
        )
        return StepEvents(self, h, now, outcome)


class StepEvents(NamedTuple):
    """The events of an attempted step.

    Attributes:
        ahead: What was known ahead of it.
        h: Its length.
        triggers: The triggers at its end.
        outcome: What happened in it.
    """

    ahead: StepAhead
    h: jax.Array
    triggers: TriggerState
    outcome: StepOutcome

    @property
    def bracketing(self) -> jax.Array:
        """Whether the step may be as short as it is, because it brackets an event."""
        return self.outcome.happens | jnp.isfinite(self.ahead.now.bracket.upper)

    def apply(
        self, jumps: jax.Array, t: jax.Array, y: jax.Array, good: jax.Array
    ) -> tuple[jax.Array, Awaited, jax.Array]:
        """Apply the changes due where the state `jumps`; return state, what is known, and whether events settled."""
        now = self.ahead.now
        bracket = narrowed(now.bracket, self.h, self.triggers.gaps, met=self.outcome.met, passed=good, over=jumps)
        memory = jnp.where(good, self.triggers.memory, now.memory)
        y, memory, settled = self.ahead.monitor.apply(jumps, t, y, memory)
        return y, Awaited(memory, bracket), settled


class EventStart(NamedTuple):
    """The events of one patient at the start of a solve.

    Attributes:
        system: What is static about them.
        memory: Their memory.
        settled: Whether those that fire at the start have settled.
    """

    system: EventSystem
    memory: jax.Array
    settled: jax.Array


def start_events(
    model: AbstractModel, start: State, t0: Scalar, near: Near
) -> tuple[jax.Array, EventStart | None, jax.Array]:
    """Return the flat state with which a solve begins, all events, None if there are none, and whether it may begin.

    It may not where the algebraic states cannot satisfy their equations; events that fire at the start have acted.
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
        redo: `(leaves, ...) -> (t, y, memory)`, the `redo` of a monitor of a single lane; None for `repeat_change`.
    """

    system: EventSystem
    model: Callable[[Sequence[jax.Array]], AbstractModel]
    redo: Callable[..., tuple[jax.Array, jax.Array, jax.Array]] | None = None


def events_over_leaves(system: EventSystem, model: AbstractModel) -> Events:
    """Return the events of a model over its leaves, in the order of `jax.tree.leaves`."""
    arrays, static = eqx.partition(model, eqx.is_array)
    structure = jax.tree.structure(arrays)
    return Events(system, lambda leaves: eqx.combine(jax.tree.unflatten(structure, leaves), static))


def awaited(system: EventSystem, memory: jax.Array, t: jax.Array) -> Awaited:
    """Return what is known at the start of a solve."""
    return Awaited(memory, open_bracket(t, system.gaps))


def monitor_lanes(
    events: Events, leaves: Sequence[jax.Array], batched: Sequence[bool], *, single: bool = False
) -> EventMonitor:
    """Return the monitor of the events of the patients in lanes; a leaf has its lanes last where `batched`.

    Where there is a `single` lane, in everything, no operation has an axis for it.
    """
    system = events.system
    axes = [-1 if has_lanes else None for has_lanes in batched]

    def over_lanes(function: Callable[..., T]) -> Callable[..., T]:
        if single:
            return lambda *operands: jax.tree.map(
                lambda x: x[..., None],
                function(events.model([x[..., 0] for x in leaves]), *(x[..., 0] for x in operands)),
            )

        def batched_function(*operands: jax.Array) -> T:
            mapped = jax.vmap(
                lambda leaves, *at: function(events.model(leaves), *at),
                in_axes=(axes, *[-1] * len(operands)),
                out_axes=-1,
            )
            return mapped(list(leaves), *operands)

        return batched_function

    redo = over_lanes(partial(repeat_change, system)) if events.redo is None else partial(events.redo, leaves)
    return EventMonitor(
        system,
        triggers=over_lanes(system.triggers),
        next_switch=over_lanes(system.next_switch),
        act=over_lanes(partial(system.act, loop=unbounded)),
        redo=redo,
    )


def monitor_one(events: EventStart | None, model: AbstractModel) -> EventMonitor | None:
    """Return the monitor of the events of one patient, None if there are none."""
    if events is None:
        return None
    system = events.system

    return EventMonitor(
        system,
        triggers=partial(system.triggers, model),
        next_switch=partial(system.next_switch, model),
        act=partial(system.act, model, loop=unbounded),
        redo=partial(repeat_change, system, model),
    )
