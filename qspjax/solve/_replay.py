"""Repeat recorded steps as a differentiable program: the discrete trajectory, its jumps and its moving boundaries.

The adaptive loop is not differentiated. Its accepted steps are repeated instead, in blocks under `scan`: a step that
landed on a boundary goes to the boundary's time, which carries a derivative; all other step sizes are constants. This
is ordinary JAX code, so forward, reverse and mixed derivatives of any order work, alone and under `vmap`. A block keeps
only its start for the reverse pass and is computed again there; blocks past the last step are skipped.
"""

from typing import Any

import equinox.internal as eqxi
import jax
import jax.numpy as jnp

from qspjax.solve._adaptive import Stepper, arrive
from qspjax.solve._timeline import Timeline

BLOCK = 32


def replay(
    stepper: Stepper,
    model: Any,
    timeline: Timeline,
    y0: jax.Array,
    t0: jax.Array,
    *,
    record: jax.Array,
    accepted: jax.Array,
    outputs: int,
) -> jax.Array:
    """Return the states at the outputs, shape (outputs, states), NaN where the recorded solve did not arrive.

    Args:
        stepper: One step of the method.
        model: The model, differentiated.
        timeline: Boundaries, differentiated.
        y0: Initial state, differentiated.
        t0: Initial time.
        record: Accepted step sizes, shape (max_steps,), inf where a step landed on a boundary.
        accepted: Number of recorded steps.
        outputs: Number of outputs.
    """
    boundaries = timeline.time.shape[0]
    blocks = -(-record.shape[0] // BLOCK)
    padded = jnp.concatenate([record, jnp.zeros((blocks * BLOCK - record.shape[0],), record.dtype)])
    steps = (jnp.arange(blocks * BLOCK).reshape(blocks, BLOCK), padded.reshape(blocks, BLOCK))

    def step(now: tuple, recorded: tuple) -> tuple:
        t, y, rate, running, boundary = now
        number, h = recorded
        live, lands = number < accepted, (number < accepted) & jnp.isinf(h)
        here = jnp.minimum(boundary, boundaries - 1)
        time = timeline.time[here]
        t1 = jnp.where(lands, jnp.where(jnp.isfinite(time), time, t), t + jnp.where(live & ~lands, h, 0.0))
        y1, _, _ = stepper(model, t, t1, y, rate)
        dosed, new_rate, new_running = arrive(timeline, here, y1, rate, running)
        y1 = jnp.where(lands, dosed, jnp.where(live, y1, y))
        slot = jnp.where(lands, timeline.output[here], outputs)
        later = (t1, y1, jnp.where(lands, new_rate, rate), jnp.where(lands, new_running, running), boundary + lands)
        return later, (slot, y1)

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

    start = (t0, y0, jnp.zeros_like(y0), jnp.zeros(y0.shape, dtype=int), jnp.zeros((), dtype=int))
    empty = jnp.full((outputs, y0.size), jnp.nan, y0.dtype)
    (_, kept), _ = jax.lax.scan(advance, (start, empty), steps)
    return kept
