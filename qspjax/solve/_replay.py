"""Repeat recorded steps as a differentiable program: the discrete trajectory, its jumps and its moving boundaries.

The adaptive loop is not differentiated. Its accepted steps are repeated instead, in blocks under `scan`: a step that
landed on a boundary goes to the boundary's time, which carries a derivative; all other step sizes are constants. This
is ordinary JAX code, so forward, reverse and mixed derivatives of any order work, alone and under `vmap`. A block keeps
only its start for the reverse pass and is computed again there; blocks past the last step are skipped.
"""

from typing import Any, NamedTuple

import equinox.internal as eqxi
import jax
import jax.numpy as jnp

from qspjax.solve._adaptive import Stepper, after_boundary
from qspjax.solve.dosing._boundary import NONE
from qspjax.solve.dosing._timeline import Timeline
from qspjax.solve.events._locate import NO_EVENT
from qspjax.solve.events._monitor import Begun, watch_one

BLOCK = 32


class Record(NamedTuple):
    """What a solve recorded of its accepted steps.

    Attributes:
        steps: Their sizes, shape (max_steps,), inf where a step landed on a boundary.
        causes: What caused the event after each, see `Verdict`; None if there are no events.
        accepted: Number of steps.
    """

    steps: jax.Array
    causes: jax.Array | None
    accepted: jax.Array


def replay(
    stepper: Stepper,
    model: Any,
    timeline: Timeline,
    y0: jax.Array,
    t0: jax.Array,
    *,
    record: Record,
    outputs: int,
    events: Begun | None,
) -> jax.Array:
    """Return the states at the outputs, shape (outputs, states), NaN where the recorded solve did not arrive.

    Args:
        stepper: One step of the method.
        model: The model, differentiated.
        timeline: Boundaries, differentiated.
        y0: Initial state, differentiated.
        t0: Initial time.
        record: What the solve recorded.
        outputs: Number of outputs.
        events: The events, differentiated; None if there are none.
    """
    accepted, watch, span = record.accepted, watch_one(events, model), timeline.span
    blocks = -(-record.steps.shape[0] // BLOCK)
    spare = blocks * BLOCK - record.steps.shape[0]
    columns = [jnp.arange(blocks * BLOCK), jnp.pad(record.steps, (0, spare))]
    if events is not None:
        columns.append(jnp.pad(record.causes, (0, spare)))
    steps = tuple(column.reshape(blocks, BLOCK) for column in columns)

    def step(now: tuple, recorded: tuple) -> tuple:
        number, h = recorded[:2]
        live, lands = number < accepted, (number < accepted) & jnp.isinf(h)
        t, y, rate, boundary, memory = now
        # after the last step, where there is a slope: at the state at which a patient failed there may be none
        t, y = jnp.where(live, t, t0), jnp.where(live, y, y0)
        index = jnp.minimum(boundary, timeline.size - 1)
        time, output = timeline.boundaries.time[index], timeline.boundaries.output[index]
        t1 = jnp.where(lands, jnp.where(jnp.isfinite(time), time, t), t + jnp.where(live & ~lands, h, 0.0))
        y1, _, _ = stepper(model, *((t, t1) if watch is None else watch.within(t, t1)), y, rate)
        y1, new_rate = after_boundary(timeline, index, lands, jnp.where(live, y1, y), rate)
        if watch is not None:
            cause = jnp.where(live, recorded[2], NO_EVENT)
            cause = jnp.where(lands & (output == NONE), events.hybrid.gaps, cause)
            t1, y1, memory = watch.repeat(rate, t1, y1, memory, cause, span)
        slot = jnp.where(lands & (output != NONE), output, outputs)
        after = (t1, y1, new_rate, boundary + lands, memory)
        return jax.tree.map(lambda new, old: jnp.where(live, new, old), after, now), (slot, y1)

    @jax.checkpoint
    def block(now: tuple, recorded: tuple) -> tuple:
        return jax.lax.scan(step, now, recorded)

    def skip(now: tuple, recorded: tuple) -> tuple:
        del recorded
        return now, (jnp.full((BLOCK,), outputs), jnp.zeros((BLOCK, y0.size), y0.dtype))

    def advance(carry: tuple, recorded: tuple) -> tuple:
        now, kept = carry
        any_left = eqxi.unvmap_any(recorded[0][0] < accepted)
        now, (slots, values) = jax.lax.cond(any_left, block, skip, now, recorded)
        return (now, kept.at[slots].set(values, mode="drop")), None

    memory = None if events is None else events.memory
    start = (t0, y0, jnp.zeros_like(y0), jnp.zeros((), dtype=int), memory)
    empty = jnp.full((outputs, y0.size), jnp.nan, y0.dtype)
    (_, kept), _ = jax.lax.scan(advance, (start, empty), steps)
    return kept
