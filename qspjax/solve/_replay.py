"""The recorded steps of a patient, repeated: the discrete trajectory, its jumps and its moving boundaries."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qspjax._model import AbstractModel
from qspjax.solve._adaptive import Path, States, Stepper, after_boundary
from qspjax.solve._repeat import Output, Step, repeat
from qspjax.solve.dosing._boundary import NONE
from qspjax.solve.dosing._timeline import Timeline
from qspjax.solve.events._locate import NO_EVENT
from qspjax.solve.events._monitor import EventStart, monitor_one

Carry = tuple[Float[Array, ""], States, States, Int[Array, ""], Float[Array, " numbers"] | None]
"""Time, states, rates of infusion, the index of the next boundary, and the memory of events."""


def replay(
    stepper: Stepper,
    model: AbstractModel,
    timeline: Timeline,
    y0: States,
    t0: Float[Array, ""],
    *,
    path: Path,
    events: EventStart | None,
) -> Float[Array, "outputs states"]:
    """Return the states at the outputs, NaN where the recorded solve did not arrive.

    Args:
        stepper: One step of the method.
        model: The model, differentiated.
        timeline: Boundaries, differentiated.
        y0: Initial state, differentiated.
        t0: Initial time.
        path: What the solve recorded.
        events: The events, differentiated; None if there are none.
    """
    outputs, monitor, span = path.outputs.shape[0], monitor_one(events, model), timeline.span

    def step(now: Carry, recorded: Step) -> tuple[Carry, Output]:
        (t, y, rate, boundary, memory), (h, cause) = now, recorded
        lands, over = jnp.isinf(h), jnp.isnan(h)
        # after the last step, continue from the start: at the state at which a patient failed there may be no slope
        t, y = jnp.where(over, t0, t), jnp.where(over, y0, y)
        index = jnp.minimum(boundary, timeline.size - 1)
        time, output = timeline.boundaries.time[index], timeline.boundaries.output[index]
        t1 = jnp.where(lands, jnp.where(jnp.isfinite(time), time, t), t + jnp.where(jnp.isfinite(h), h, 0.0))
        y1, _ = stepper(model, *((t, t1) if monitor is None else monitor.within(t, t1)), y, rate)
        y1, running = after_boundary(timeline, index, lands, jnp.where(over, y, y1), rate)
        if monitor is not None and cause is not None and memory is not None:
            cause = jnp.where(over, NO_EVENT, cause)
            cause = jnp.where(lands & (output == NONE), monitor.system.gaps, cause)
            t1, y1, memory = monitor.repeat(rate, t1, y1, memory, cause, span)
        after = (t1, y1, running, boundary + lands, memory)
        after = jax.tree.map(lambda new, old: jnp.where(over, old, new), after, now)
        return after, (jnp.where(lands & (output != NONE), output, outputs), y1)

    def write(states: Array, slots: Array, values: Array) -> Array:
        return states.at[slots].set(values, mode="drop")

    memory = None if events is None else events.memory
    start = (t0, y0, jnp.zeros_like(y0), jnp.zeros((), dtype=int), memory)
    empty = jnp.full((outputs, y0.size), jnp.nan, y0.dtype)
    return repeat(step, start, path.steps, path.causes, empty, write, outputs)
