"""A recorded step, repeated as a differentiable function; and a complete solve from its recorded step sizes.

Step sizes are constants of a derivative, except where a step lands on a boundary, whose time may move. `replay` is what
derivatives of second and higher order use, unless all are taken forwards.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from qspjax.solve._repeat import Output, Step, repeat
from qspjax.solve.dosing._boundary import NONE, Boundary
from qspjax.solve.events._monitor import EventMonitor, monitor_lanes
from qspjax.solve.kernel._algebraic import settled
from qspjax.solve.kernel._lanes import (
    Patients,
    Program,
    after_boundary,
    boundaries_at,
    lanes_of,
    load,
    take,
    vector_of,
)
from qspjax.solve.kernel._layout import Rows
from qspjax.solve.kernel._rosenbrock import Lanes, slope_of


class Inputs(NamedTuple):
    """Everything that a recorded step is a function of; None where it is a constant, or absent."""

    constants: Sequence[jax.Array | None]
    y: Rows
    rate: Rows | None = None
    t: jax.Array | None = None
    boundary: Boundary | None = None
    vector: jax.Array | None = None
    memory: jax.Array | None = None
    leaves: Sequence[jax.Array | None] = ()


class Recorded(NamedTuple):
    """One recorded iteration in every lane; `landed` is the boundary that was landed on, else -1.

    Where none was, the time of `boundary` is that of the step. With events there are also what caused the one at its
    end, the span of the patient and the leaves of his model, which of these have lanes, and whether there is one lane.
    """

    lanes: Lanes
    t: jax.Array
    h: jax.Array
    landed: jax.Array
    boundary: Boundary
    vector: jax.Array | None
    cause: jax.Array | None = None
    span: jax.Array | None = None
    leaves: Sequence[jax.Array] = ()
    batched: Sequence[bool] = ()
    single: bool = False


def look_up(
    program: Program,
    patients: Patients,
    lanes: Lanes,
    patient: jax.Array,
    t: jax.Array,
    h: jax.Array,
    landed: jax.Array,
) -> Recorded:
    """Look up what an iteration was, from the patients and the log."""
    boundary = boundaries_at(program, patients.boundaries, patient, jnp.maximum(landed, 0))
    vector = vector_of(program, patients, patient, boundary)
    return Recorded(lanes, t, h, landed, boundary._replace(time=jnp.where(landed >= 0, boundary.time, t)), vector)


def move(program: Program, step: Recorded, inputs: Inputs) -> Inputs:
    """Return state, rate, time and memory after a recorded step and what happens at its end, as a function of `inputs`.

    With events, time is among the inputs.
    """
    if program.events is None or step.cause is None:
        return _moved(program, step, inputs, None)
    changed = inputs.leaves or [None] * len(step.leaves)
    leaves = [old if new is None else new for old, new in zip(step.leaves, changed, strict=True)]
    monitor = monitor_lanes(program.events, leaves, step.batched, single=step.single)
    after = _moved(program, step, inputs, monitor)
    arrives = step.landed >= 0
    cause = jnp.where(arrives & (step.boundary.output == NONE), monitor.system.gaps, step.cause)
    y = program.system.join(after.y)
    running = jnp.zeros_like(y) if after.rate is None else program.system.join(after.rate)
    assert after.t is not None
    assert inputs.memory is not None
    assert step.span is not None
    t, y, memory = monitor.repeat(running, after.t, y, inputs.memory, cause, step.span)
    constants = [old if new is None else new for old, new in zip(step.lanes.constants, inputs.constants, strict=True)]
    lanes = Lanes(constants, step.lanes.batched)
    rows, _ = settled(program.system, program.control, lanes, t, program.system.split(y), cause >= 0)
    return after._replace(t=t, y=rows, memory=memory)


def _moved(program: Program, step: Recorded, inputs: Inputs, monitor: EventMonitor | None) -> Inputs:
    """Return state, rate and time after a recorded step and the dose at its end."""
    constants = [old if new is None else new for old, new in zip(step.lanes.constants, inputs.constants, strict=True)]
    moving = inputs.t is not None
    boundary = step.boundary.merged(inputs.boundary)
    t, due = step.t if inputs.t is None else inputs.t, boundary.time
    vector = step.vector if inputs.vector is None else inputs.vector
    arrives = step.landed >= 0
    h = _width(step.h, t, due, arrives) if moving else step.h
    lanes = Lanes(constants, step.lanes.batched)
    start, width = t, h
    if monitor is not None and monitor.system.squeezed:
        start, end = monitor.within(t, t + h)
        width = jnp.where(h == 0.0, h, end - start)
    dydt = slope_of(program.system, lanes, inputs.rate)(start, inputs.y)
    y, _, _ = program.step(program.system, lanes, start, width, inputs.y, inputs.rate, dydt)
    y, rate = after_boundary(program, boundary, arrives, vector, y, inputs.rate)
    jumps = arrives & (boundary.output == NONE)
    y, _ = settled(program.system, program.control, lanes, jnp.where(arrives, due, t), y, jumps)
    after = jnp.where(arrives, due, t + h) if moving else None
    return Inputs([None] * len(constants), y, rate, after)


@jax.custom_jvp
def _width(h: jax.Array, t: jax.Array, due: jax.Array, arrives: jax.Array) -> jax.Array:
    """Return the size of a step, which is due - t where it arrives at a boundary: so it moves with both."""
    del t, due, arrives
    return h


@_width.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    _, t, due, _ = tangents
    return _width(*primals), jnp.where(primals[3], due - t, 0.0)  # the width again, which moves in further derivatives


def replay(
    program: Program, patients: Patients, steps: jax.Array, accepted: jax.Array, causes: jax.Array | None = None
) -> jax.Array:
    """Return the states at outputs, shape (patients, outputs, states), zero where the solve did not arrive.

    Args:
        program: The solve.
        patients: The patients, differentiated.
        steps: Accepted step sizes, shape (max_steps, patients), inf where a step landed, NaN after the last.
        accepted: How many steps each patient took.
        causes: What caused the event at the end of each step, None without events.
    """
    everyone = jnp.arange(program.patients, dtype=jnp.int32)
    started = accepted > 0
    start = load(program, patients, everyone)
    # steps that are not taken are evaluated where there is a slope, see `_adjoint`: else a reverse pass gives 0 NaN
    start = start._replace(y=jax.tree.map(lambda row: jnp.where(started, row, 1.0), start.y))
    lanes = lanes_of(program, patients, everyone)
    lanes = lanes._replace(
        constants=[
            jnp.where(started if has_lanes else started.any(), value, jnp.ones_like(value))
            for value, has_lanes in zip(lanes.constants, lanes.batched, strict=True)
        ]
    )
    t0 = jnp.where(started, take(program, patients, "t0", everyone), 0.0)
    leaves = [] if causes is None else take(program, patients, "leaves", everyone)
    time = patients.boundaries.time
    span = jnp.max(jnp.where(jnp.isfinite(time), jnp.abs(time), 0.0), axis=-1)
    span = jnp.broadcast_to(span, (program.patients,))

    def step(carry: tuple, recorded: Step) -> tuple[tuple, Output]:
        (boundary, *before), (h, cause) = carry, recorded
        lands, over = jnp.isinf(h), jnp.isnan(h)
        t, y, rate, memory = before
        t, y = jax.tree.map(lambda x, at_start: jnp.where(over, at_start, x), (t, y), (t0, start.y))
        landed = jnp.where(lands, boundary, -1)
        h = jnp.where(jnp.isfinite(h), h, 0.0)
        iteration = look_up(program, patients, lanes, everyone, t, h, landed)
        due = jnp.where(lands & jnp.isfinite(iteration.boundary.time), iteration.boundary.time, t)
        iteration = iteration._replace(h=jnp.where(lands, due - t, h))
        free = Inputs(
            lanes.constants, y, rate, t, iteration.boundary._replace(time=due), iteration.vector, memory, leaves
        )
        if cause is not None:
            iteration = iteration._replace(cause=cause, span=span, leaves=leaves, batched=program.batched.leaves)
        after = move(program, iteration, free)
        t, y = t if after.t is None else after.t, program.system.join(after.y)
        memory = memory if after.memory is None else after.memory
        slot = jnp.where(lands & (iteration.boundary.output != NONE), iteration.boundary.output, program.outputs)
        now = t, program.system.split(y), after.rate, memory
        now = jax.tree.map(lambda new, old: jnp.where(over, old, new), now, tuple(before))
        return (boundary + lands, *now), (slot, y.T)

    def write(states: jax.Array, slots: jax.Array, values: jax.Array) -> jax.Array:
        return states.at[everyone, slots].set(values, mode="drop")

    states = jnp.zeros((program.patients, program.outputs, program.system.size), patients.y0.dtype)
    now = (jnp.zeros_like(everyone), t0, start.y, start.rate, None if start.events is None else start.events.memory)
    return repeat(step, now, steps, causes, states, write, program.outputs)
