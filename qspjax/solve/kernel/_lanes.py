"""The adaptive loop over lanes: each lane integrates one patient, and takes the next one when it is done.

An iteration attempts one step in every lane; a lane has its own time, step size, error control and position among the
boundaries (doses, ends of infusions, outputs) of its patient, on each of which it lands exactly. Every `BLOCK`
iterations, outside the loop over steps, lanes that are done store the results of their patient and are refilled. Lanes
never read each other, so the numbers of a patient do not depend on who else is in the cohort, or in which lane it runs.

With a log, every iteration also records state, time and step size, contiguous in memory: the derivative runs the same
schedule again, forwards or backwards. The log holds `capacity` blocks; where a run is longer, the lanes are stored at
the start of every segment of that many blocks, and a derivative computes the steps of a segment again.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from qspjax._jaxpr._rows import put
from qspjax.solve._control import (
    INCONSISTENT,
    NONFINITE,
    STIFF,
    SUCCESS,
    UNSETTLED,
    Clock,
    Control,
    advance,
    judge,
    propose,
    start_clock,
)
from qspjax.solve.dosing._boundary import NONE, Boundary, changed, effect, rate_after
from qspjax.solve.events._locate import NO_EVENT
from qspjax.solve.events._monitor import Awaited, EventMonitor, Events, awaited, monitor_lanes
from qspjax.solve.kernel._algebraic import settled
from qspjax.solve.kernel._layout import AbstractSystem, Rows
from qspjax.solve.kernel._rosenbrock import Lanes, slope_of

BLOCK = 16
STIFF_STEPS, FREE_STEPS = 15, 6
"""A patient is stiff after 15 steps that stability kept short; a step that it did not subtracts a sixth of one."""


class Patients(NamedTuple):
    """What differs between patients, or is shared by all; with an axis of patients first, or without.

    Attributes:
        constants: Constants of the vector field.
        y0: Initial state.
        t0: Initial time.
        boundaries: In the order of time, columns of shape (*patients, boundaries); unused ones have time = inf.
        vectors: What resets and steady states add, or None.
        span: The latest time of interest, in absolute value.
        memory: What events remember at t0, None without events.
        ended: The code of the events and the algebraic states at t0, None without any.
        leaves: The leaves of the model, for its events.
        looser: The factor by which tolerances are greater than those of the error control, None for 1.
    """

    constants: list[Shaped[Array, "..."]]
    y0: Float[Array, "*patients states"]
    t0: Float[Array, "*patients"]
    boundaries: Boundary
    vectors: Float[Array, "*patients vectors states"] | None
    span: Float[Array, "*patients"]
    memory: Float[Array, "*patients memory"] | None = None
    ended: Int[Array, "*patients"] | None = None
    leaves: Sequence[Shaped[Array, "..."]] = ()
    looser: Float[Array, "*patients"] | None = None

    @property
    def infused(self) -> bool:
        """Whether there may be infusions."""
        return self.boundaries.rate_change is not None


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """Everything static about a solve.

    Attributes:
        system: The vector field.
        step: One step of the method, `(system, lanes, t, h, y, rate, dydt) -> (y1, error, stiff)`, with the slope
            `dydt` at its start; `stiff` is whether stability holds the step size down, or None.
        control: Error control.
        outputs: Number of outputs of a patient.
        max_steps: Maximum number of steps per patient, rejected ones included.
        gives_up: Whether a patient that is stiff is given up, with the code `STIFF`.
        protected: The number of last states that resets and steady states do not touch.
        batched: For each leaf of `Patients`, whether it has an axis of patients.
        patients: Number of patients.
        memory: Maximum number of bytes of a log.
        events: The events over the leaves of the model, or None.
        expected: Steps that a patient may need, for the length of a log; where it needs more, they are computed again.
        lanes: Number of lanes.
        capacity: Number of blocks in a log.
    """

    system: AbstractSystem
    step: Callable[..., tuple[Rows, Rows, jax.Array | None]]
    control: Control
    outputs: int
    max_steps: int
    gives_up: bool
    protected: int
    batched: PyTree[bool]
    patients: int
    memory: int
    expected: int
    events: Events | None = None
    lanes: int = 0
    capacity: int = 0

    @property
    def segments(self) -> int:
        """The number of segments of `capacity` blocks that a run can need at most."""
        rounds = -(-self.patients // self.lanes) + 1
        return -(-rounds * (self.max_steps // BLOCK + 2) // self.capacity)


class Lane(NamedTuple):
    """The progress of the patient in each lane; a lane without one has patient = patients."""

    patient: Int[Array, " lanes"]
    clock: Clock
    y: Rows
    rate: Rows | None
    stiff: Int[Array, " lanes"] | None
    events: Awaited | None
    looser: Float[Array, " lanes"] | None = None


class Landing(NamedTuple):
    """What the patient in each lane lands on next.

    Attributes:
        boundary: The boundary.
        vector: Its vector, None if there are none.
        following: The time of the boundary after it, inf after the last.
    """

    boundary: Boundary
    vector: Float[Array, "states lanes"] | None
    following: Float[Array, " lanes"]


class End(NamedTuple):
    """How each patient ended."""

    t: Float[Array, " patients"]
    y: Float[Array, "patients states"]
    code: Int[Array, " patients"]
    accepted: Int[Array, " patients"]
    rejected: Int[Array, " patients"]


class Log(NamedTuple):
    """What the iterations of one segment record, in blocks.

    Attributes:
        rows: Before each step the states, the running rates if there are infusions, and the time; then the step size,
            0 where no step was accepted.
        landed: The boundary that was landed on, else -1.
        patient: The patient in each lane.
    """

    rows: Float[Array, "blocks block rows lanes"]
    landed: Int[Array, "blocks block lanes"]
    patient: Int[Array, "blocks lanes"]


class Record(NamedTuple):
    """What a derivative needs: the log of the last segment, where each segment began, and how many there are.

    `blocks` is the number of blocks in the last segment.
    """

    log: Log
    starts: tuple[Lane, Int[Array, " segments"]]
    segments: Int[Array, ""]
    blocks: Int[Array, ""]


class Attempt(NamedTuple):
    """What an iteration did.

    Attributes:
        h: Its step size, 0 where none was accepted.
        landed: The boundary landed on, else -1.
        cause: What caused the event at its end, see `StepOutcome`; None without events.
        width: The step size that was tried.
        lands: Whether it was to land.
    """

    h: Float[Array, " lanes"]
    landed: Int[Array, " lanes"]
    cause: Int[Array, " lanes"] | None
    width: Float[Array, " lanes"]
    lands: Bool[Array, " lanes"]


class Buffers(NamedTuple):
    """What is written during a solve, None where not needed; the states are those at outputs."""

    states: Float[Array, "patients*outputs states"] | None
    log: Log | None
    steps: Float[Array, " max_steps*patients"] | None
    causes: Int[Array, " max_steps*patients"] | None = None


class Solved(NamedTuple):
    """What a solve returns.

    Attributes:
        states: States at outputs, NaN where the solve did not arrive.
        end: How each patient ended.
        record: What first derivatives need, if recorded.
        steps: Accepted step sizes, inf where a step landed and NaN after the last.
        causes: What caused the event at the end of each, None without events.
    """

    states: Float[Array, "patients outputs states"] | None
    end: End
    record: Record | None
    steps: Float[Array, "max_steps patients"] | None
    causes: Int[Array, "max_steps patients"] | None = None


def take(program: Program, patients: Patients, name: str, patient: jax.Array) -> PyTree:
    """Return a field of the patients in the lanes, the lanes last; a shared one, or None, unchanged."""

    def pick(leaf: jax.Array | None, batched: bool | None) -> jax.Array | None:
        return jnp.moveaxis(leaf.at[patient].get(mode="clip"), 0, -1) if batched and leaf is not None else leaf

    return jax.tree.map(pick, getattr(patients, name), getattr(program.batched, name), is_leaf=lambda x: x is None)


def lanes_of(program: Program, patients: Patients, patient: jax.Array) -> Lanes:
    """Return the constants of the patients in the lanes."""
    return Lanes(take(program, patients, "constants", patient), tuple(program.batched.constants))


def monitor_of(program: Program, patients: Patients, patient: jax.Array) -> EventMonitor | None:
    """Return the events of the patients in the lanes, None without events."""
    if program.events is None:
        return None
    return monitor_lanes(program.events, take(program, patients, "leaves", patient), program.batched.leaves)


def boundaries_at(program: Program, boundaries: Boundary, patient: jax.Array, index: jax.Array) -> Boundary:
    """Return a boundary of the patient in each lane from columns of boundaries, or of their tangents."""

    def pick(column: jax.Array | None, batched: bool | None) -> jax.Array | None:
        if column is None:
            return None
        size = column.shape[-1]
        if batched:
            flat = jnp.minimum(patient, program.patients - 1) * size + jnp.minimum(index, size - 1)
            return column.reshape(-1).at[flat].get(mode="promise_in_bounds")
        return column.at[jnp.minimum(index, size - 1)].get(mode="promise_in_bounds")

    return boundaries.map(pick, program.batched.boundaries)


def due(program: Program, patients: Patients, patient: jax.Array, boundary: jax.Array) -> jax.Array:
    """Return the time of the next boundary, inf after the last."""
    time = boundaries_at(program, patients.boundaries, patient, boundary).time
    return jnp.where(boundary < patients.boundaries.time.shape[-1], time, jnp.inf)


def vector_of(program: Program, patients: Patients, patient: jax.Array, boundary: Boundary) -> jax.Array | None:
    """Return the vector of a boundary in every lane, shape (states, lanes); None if there are none."""
    vectors = patients.vectors
    if vectors is None or boundary.vector is None:
        return None
    index = jnp.maximum(boundary.vector, 0)
    if program.batched.vectors:
        index = index + jnp.minimum(patient, program.patients - 1) * vectors.shape[-2]
    return vectors.reshape(-1, program.system.size).at[index].get(mode="promise_in_bounds").T


def next_landing(program: Program, patients: Patients, now: Lane) -> Landing:
    """Return what the patients in the lanes land on next."""
    boundary = boundaries_at(program, patients.boundaries, now.patient, now.clock.boundary)
    vector = vector_of(program, patients, now.patient, boundary)
    return Landing(boundary, vector, due(program, patients, now.patient, now.clock.boundary + 1))


def after_boundary(
    program: Program, boundary: Boundary, landed: jax.Array, vector: jax.Array | None, y: Rows, rate: Rows | None
) -> tuple[Rows, Rows | None]:
    """Return state and rate after the boundary that a lane landed on; unchanged where it did not."""
    size = program.system.size
    free = size - program.protected
    if not program.system.unrolled:
        states = jnp.arange(size, dtype=boundary.state.dtype)[:, None]
        y = changed(y, *effect(boundary, states, states >= free, vector, landed))
        return y, None if rate is None else rate_after(rate, boundary, states, landed)
    rows = tuple(
        changed(row, *effect(boundary, i, i >= free, None if vector is None else vector[i], landed))
        for i, row in enumerate(y)
    )
    if rate is not None:
        rate = tuple(rate_after(row, boundary, i, landed) for i, row in enumerate(rate))
    return rows, rate


def attempt(
    program: Program, lanes: Lanes, monitor: EventMonitor | None, now: Lane, landing: Landing
) -> tuple[Lane, Attempt]:
    """Attempt one step in every lane."""
    control, system, clock = program.control, program.system, now.clock
    live = clock.live
    dydt = slope_of(system, lanes, now.rate)(clock.t, now.y)
    proposal = propose(clock, control.first_step(now.y, dydt))
    start, width, ahead = clock.t, proposal.h, None
    if monitor is not None and now.events is not None:
        y0, slope = system.join(now.y), system.join(dydt) * system.mass.astype(width.dtype)[:, None]
        ahead = monitor.ahead(now.events, clock.t, y0, proposal.remaining, slope)
        proposal = proposal.limited(ahead.horizon.limit, ahead.horizon.precise)
        start, end = monitor.within(clock.t, clock.t + proposal.h, ahead.horizon)
        width = jnp.where(proposal.h == 0.0, 0.0, end - start) if monitor.system.squeezed else proposal.h
        dydt = slope_of(system, lanes, now.rate)(start, now.y) if monitor.system.squeezed else dydt
    y1, error, bounded = program.step(system, lanes, start, width, now.y, now.rate, dydt)
    judgement = judge(control, clock, proposal, error, now.y, y1, now.looser)
    h, lands = proposal.h, proposal.lands
    end, cause, happens, switches = clock.t + h, None, jnp.zeros_like(live), jnp.zeros_like(live)
    step_events = None
    if ahead is not None:
        end = jnp.where(lands & live, clock.due, end)
        judgement = ahead.judged(judgement, proposal, end, system.join(y1))
    good = judgement.fits
    if ahead is not None:
        step_events = ahead.classify(h, end, system.join(y1), good)
        met, happens, switches, cause = step_events.outcome
        good, lands = good & ~met, lands & ~happens & ~switches

    landed = good & lands
    jumps = happens | (landed & (landing.boundary.output == NONE))
    y, rate = after_boundary(program, landing.boundary, landed, landing.vector, y1, now.rate)
    events, ended, bracketing = now.events, None, False
    if step_events is not None:
        bracketing = step_events.bracketing
        joined, events, ended = step_events.apply(jumps, end, system.join(y), good)
        y = system.split(joined)
    solved_at = clock.due if step_events is None else end
    y, solved = settled(system, control, lanes, solved_at, y, jumps | (good & switches))
    after = advance(
        clock,
        proposal,
        judgement,
        good=good,
        landed=landed,
        jumps=jumps,
        end=end,
        due=jnp.where(landed, landing.following, clock.due),
        max_steps=program.max_steps,
        bracketing=bracketing,
    )
    if not system.mass.all():
        after = after.failed(~solved, INCONSISTENT)
    if ended is not None:
        after = after.failed(~ended, UNSETTLED)
    stiff = now.stiff
    if stiff is not None and bounded is not None:
        stiff = jnp.where(good, jnp.where(bounded, stiff + FREE_STEPS, jnp.maximum(stiff - 1, 0)), stiff)
        after = after.failed(live & (after.code == SUCCESS) & (stiff >= STIFF_STEPS * FREE_STEPS), STIFF)
    y = jax.tree.map(lambda new, old: jnp.where(good, new, old), y, now.y)
    lane = Lane(now.patient, after, y, rate, stiff, events, now.looser)
    number = jnp.where(landed, clock.boundary, -1).astype(jnp.int32)
    return lane, Attempt(jnp.where(good, h, 0.0), number, cause, h, lands)


def load(program: Program, patients: Patients, patient: jax.Array) -> Lane:
    """Return lanes at the start of their patients."""
    zero = jnp.zeros_like(patient)
    t0 = take(program, patients, "t0", patient)
    y0 = take(program, patients, "y0", patient)
    t = jnp.broadcast_to(t0, patient.shape)
    y = jnp.broadcast_to(y0 if program.batched.y0 else y0[:, None], (program.system.size, patient.size))
    present = patient < program.patients
    soon = due(program, patients, patient, zero)
    ended = take(program, patients, "ended", patient)
    memory = take(program, patients, "memory", patient)
    if memory is not None and not program.batched.memory:
        memory = jnp.broadcast_to(memory[:, None], (memory.size, patient.size))
    ended = None if ended is None else jnp.where(present, ended, SUCCESS)
    soon = jnp.where(present, soon, jnp.inf)
    looser = take(program, patients, "looser", patient)
    looser = None if looser is None else jnp.broadcast_to(looser, patient.shape)
    return begin(program, patient, t, y, soon, ended, memory, looser, infused=patients.infused)


def begin(
    program: Program,
    patient: jax.Array,
    t: jax.Array,
    y: jax.Array,
    due: jax.Array,
    ended: jax.Array | None,
    memory: jax.Array | None,
    looser: jax.Array | None = None,
    *,
    infused: bool,
) -> Lane:
    """Return lanes at the start of their patients, from what is known of them there; `due` is the first boundary."""
    zero = jnp.zeros_like(patient)
    code = jnp.where(jnp.isnan(due), NONFINITE, SUCCESS if ended is None else ended).astype(jnp.int32)
    return Lane(
        patient=patient,
        clock=start_clock(t, due, code, zero),
        y=program.system.split(y),
        rate=program.system.split(jnp.zeros_like(y)) if infused else None,
        stiff=zero if program.gives_up else None,
        events=None if memory is None or program.events is None else awaited(program.events.system, memory, t),
        looser=looser,
    )


def refill(program: Program, patients: Patients, now: Lane, waiting: jax.Array, end: End | None) -> tuple:
    """Store the results of patients who are done; let their lanes take the next patients."""
    clock = now.clock
    finished = (now.patient < program.patients) & ~clock.live
    slot = jnp.where(finished, now.patient, program.patients)
    final = End(clock.t, program.system.join(now.y).T, clock.code, clock.accepted, clock.rejected)
    if end is not None:
        end = jax.tree.map(lambda all, values: put(all, slot, values), end, final)
    number = waiting + jnp.cumsum(finished, dtype=jnp.int32) - 1
    following = jnp.where(finished, jnp.minimum(number, program.patients), now.patient).astype(jnp.int32)
    loaded = load(program, patients, following)
    lane = jax.tree.map(lambda new, old: jnp.where(finished, new, old), loaded, now)
    return lane, waiting + finished.sum(dtype=jnp.int32), end


def run_block(
    program: Program, patients: Patients, now: Lane, buffers: Buffers, block: jax.Array
) -> tuple[Lane, Buffers]:
    """Attempt `BLOCK` steps in every lane; write what is recorded of them."""
    lanes = lanes_of(program, patients, now.patient)
    monitor = monitor_of(program, patients, now.patient)
    full_log, patient = buffers.log, now.patient
    if full_log is not None:
        # the log of this block alone, small enough to stay in the nearest cache
        buffers = buffers._replace(log=jax.tree.map(lambda all: jnp.zeros(all.shape[1:], all.dtype), full_log))

    def advance(i: jax.Array, carry: tuple[Lane, Buffers]) -> tuple[Lane, Buffers]:
        now, buffers = carry
        landing = next_landing(program, patients, now)
        after, tried = attempt(program, lanes, monitor, now, landing)
        return after, write(program, now, landing, after, tried, buffers, i)

    now, buffers = jax.lax.fori_loop(0, BLOCK, advance, (now, buffers))
    if full_log is not None and buffers.log is not None:
        block_log = buffers.log._replace(patient=patient)
        buffers = buffers._replace(
            log=jax.tree.map(
                lambda all, values: jax.lax.dynamic_update_index_in_dim(all, values, block, 0), full_log, block_log
            )
        )
    return now, buffers


def write(
    program: Program, now: Lane, landing: Landing, after: Lane, tried: Attempt, buffers: Buffers, iteration: jax.Array
) -> Buffers:
    """Write what is recorded of an iteration into the buffers."""
    join = program.system.join
    states, log, steps, causes = buffers
    if states is not None:
        output = landing.boundary.output
        is_output = (tried.landed >= 0) & (output != NONE)
        slot = jnp.where(is_output, now.patient * program.outputs + output, program.patients * program.outputs)
        states = put(states, slot, join(after.y).T)
    if log is not None:
        rows = [join(now.y), *([] if now.rate is None else [join(now.rate)]), now.clock.t[None], tried.h[None]]
        log = log._replace(
            rows=jax.lax.dynamic_update_index_in_dim(log.rows, jnp.concatenate(rows), iteration, 0),
            landed=jax.lax.dynamic_update_index_in_dim(log.landed, tried.landed, iteration, 0),
        )
    if steps is not None:
        row = jnp.where(after.clock.accepted > now.clock.accepted, now.clock.accepted, program.max_steps)
        position = row * program.patients + now.patient
        steps = put(steps, position, jnp.where(tried.landed >= 0, jnp.inf, tried.h))
        if causes is not None and tried.cause is not None:
            causes = put(causes, position, tried.cause)
    return Buffers(states, log, steps, causes)


def unwritten(program: Program, patients: Patients) -> Log:
    """Return a log to be written to."""
    rows = program.system.size * (2 if patients.infused else 1) + 2
    blocks, lanes = program.capacity, program.lanes
    return Log(
        rows=jax.lax.empty((blocks, BLOCK, rows, lanes), patients.y0.dtype),
        landed=jax.lax.empty((blocks, BLOCK, lanes), jnp.int32),
        patient=jax.lax.empty((blocks, lanes), jnp.int32),
    )


def blank(program: Program, patients: Patients) -> Record:
    """Return a record to be written to."""
    now = load(program, patients, jnp.zeros((program.lanes,), jnp.int32))
    zero = jnp.zeros((), jnp.int32)
    starts = jax.tree.map(lambda x: jax.lax.empty((program.segments, *x.shape), x.dtype), (now, zero))
    return Record(unwritten(program, patients), starts, zero, zero)


def solve(program: Program, patients: Patients, *, record: bool = False, steps: bool = False) -> Solved:
    """Solve all patients; with `record` or `steps`, keep what derivatives need."""
    N, size, dtype = program.patients, program.system.size, patients.y0.dtype
    now = load(program, patients, jnp.minimum(jnp.arange(program.lanes, dtype=jnp.int32), N))
    count = jnp.zeros((N,), jnp.int32)
    end = End(jnp.zeros((N,), dtype), jnp.zeros((N, size), dtype), count, count, count)
    new_record = blank(program, patients) if record else None
    buffers = Buffers(
        None if steps else jnp.full((N * program.outputs, size), jnp.nan, dtype),
        None if new_record is None else new_record.log,
        jnp.full((program.max_steps * N,), jnp.nan, dtype) if steps else None,
        jnp.full((program.max_steps * N,), NO_EVENT, jnp.int32) if steps and program.events is not None else None,
    )
    # patients with nothing to do are stored before the first step
    now, waiting, end = refill(program, patients, now, jnp.asarray(program.lanes, jnp.int32), end)

    def busy(now: Lane) -> jax.Array:
        return jnp.any(now.patient < N)

    def advance(carry: tuple) -> tuple:
        now, waiting, end, buffers, block = carry
        now, buffers = run_block(program, patients, now, buffers, block)
        now, waiting, end = refill(program, patients, now, waiting, end)
        return now, waiting, end, buffers, block + 1

    def segment(carry: tuple) -> tuple:
        now, waiting, end, buffers, starts, number, _ = carry
        starts = jax.tree.map(lambda all, x: all.at[number].set(x), starts, (now, waiting))
        now, waiting, end, buffers, blocks = jax.lax.while_loop(
            lambda carry: busy(carry[0]) & (carry[-1] < program.capacity), advance, (now, waiting, end, buffers, zero)
        )
        return now, waiting, end, buffers, starts, number + 1, blocks

    zero = jnp.zeros((), jnp.int32)
    if new_record is not None:
        carry = (now, waiting, end, buffers, new_record.starts, zero, zero)
        _, _, end, buffers, starts, segments, blocks = jax.lax.while_loop(lambda carry: busy(carry[0]), segment, carry)
        new_record = Record(new_record.log if buffers.log is None else buffers.log, starts, segments, blocks)
    else:
        carry = (now, waiting, end, buffers, zero)
        _, _, end, buffers, _ = jax.lax.while_loop(lambda carry: busy(carry[0]), advance, carry)
    states = None if buffers.states is None else buffers.states.reshape(N, program.outputs, size)
    by_step = [None if x is None else x.reshape(program.max_steps, N) for x in (buffers.steps, buffers.causes)]
    return Solved(states, end, new_record, *by_step)
