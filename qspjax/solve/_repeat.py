"""Recorded steps, repeated as a differentiable program: ordinary JAX code in loops of fixed length.

An adaptive loop is not differentiated. Its accepted steps are repeated instead: a step that landed on a boundary goes
to the boundary's time, which carries a derivative; all other step sizes are constants. So forward, reverse and mixed
derivatives of any order work, alone and under `vmap`. A stretch of steps keeps only its start for the reverse pass and
is computed again there. Stretches past the last step are skipped, many at once, so that a derivative costs what the
steps cost, and not `max_steps`.
"""

from collections.abc import Callable
from typing import TypeVar

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qspjax.solve.events._locate import NO_EVENT

STRETCH = 32
"""Number of steps between two checkpoints."""
BLOCK = 32
"""Number of stretches that are skipped at once."""

Carry = TypeVar("Carry")
Step = tuple[Float[Array, "..."], Int[Array, "..."] | None]
"""The size of a step, inf where it landed on a boundary and NaN after the last; and what caused the event after it."""
Output = tuple[Int[Array, "..."], Float[Array, "..."]]
"""The index of an output, or the number of outputs where none is due, and the states."""


def repeat(
    step: Callable[[Carry, Step], tuple[Carry, Output]],
    start: Carry,
    steps: Float[Array, "max_steps ..."],
    causes: Int[Array, "max_steps ..."] | None,
    states: Float[Array, "*outputs states"],
    write: Callable[[Array, Array, Array], Array],
    outputs: int,
) -> Float[Array, "*outputs states"]:
    """Return the states at the outputs.

    Args:
        step: Repeats one step.
        start: What it starts from.
        steps: The sizes of the accepted steps.
        causes: What caused the event after each, None without events.
        states: What the states are written into.
        write: `(states, indices, values) -> states`, for the steps of a stretch.
        outputs: The number of outputs.
    """
    # what a patient who fails does after his last boundary leads to no output, and may end where there is no slope
    leads = jax.lax.cummax(jnp.isinf(steps).astype(int), axis=0, reverse=True) > 0
    steps = jnp.where(leads, steps, jnp.nan)
    together = min(BLOCK, -(-steps.shape[0] // STRETCH))
    spare = [(0, -steps.shape[0] % (together * STRETCH))] + [(0, 0)] * (steps.ndim - 1)

    def blocks(column: Array, padding: float) -> Array:
        padded = jnp.pad(column, spare, constant_values=padding)
        return padded.reshape(-1, together, STRETCH, *column.shape[1:])

    def going(recorded: Step) -> Array:
        return eqxi.unvmap_any(~jnp.isnan(recorded[0]).all())

    @jax.checkpoint
    def stretch(now: Carry, recorded: Step) -> tuple[Carry, Output]:
        return jax.lax.scan(step, now, recorded)

    def skip(now: Carry, recorded: Step) -> tuple[Carry, Output]:
        _, (slots, values) = jax.eval_shape(stretch, now, recorded)
        return now, (jnp.full(slots.shape, outputs, slots.dtype), jnp.zeros(values.shape, values.dtype))

    def advance(carry: tuple[Carry, Array], recorded: Step) -> tuple[tuple[Carry, Array], None]:
        now, states = carry
        now, (slots, values) = jax.lax.cond(going(recorded), stretch, skip, now, recorded)
        return (now, write(states, slots, values)), None

    def block(carry: tuple[Carry, Array], recorded: Step) -> tuple[tuple[Carry, Array], None]:
        def run(carry: tuple[Carry, Array]) -> tuple[Carry, Array]:
            return jax.lax.scan(advance, carry, recorded)[0]

        return jax.lax.cond(going(recorded), run, lambda carry: carry, carry), None

    recorded = (blocks(steps, jnp.nan), None if causes is None else blocks(causes, NO_EVENT))
    (_, states), _ = jax.lax.scan(block, (start, states), recorded)
    return states
