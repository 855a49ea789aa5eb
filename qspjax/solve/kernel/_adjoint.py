"""Derivatives of a solve: the recorded iterations, repeated forwards with tangents or backwards with cotangents.

The backward pass is the discrete adjoint: each step is computed again from the recorded state and its transpose
applied (one factorisation per step, used transposed), so nothing inside a step is stored. Memory is the log:
(states + 3) numbers per iteration and lane, at most `capacity` blocks; a longer run is computed again, segment by
segment. Outputs that a patient did not reach have a derivative of zero, the others their own, even if it failed later.

Whatever is differentiated has an axis of patients, except arrays of constants that all patients share (the weights of
a network): their derivative is a sum over lanes in every step.

Reference: Zhang and Sandu, SIAM J Sci Comput 2014;36:C504, doi:10.1137/130912335.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from qspjax._jaxpr._rows import put
from qspjax.solve.dosing._boundary import NONE
from qspjax.solve.kernel._lanes import (
    BLOCK,
    Buffers,
    Log,
    Patients,
    Program,
    Record,
    boundaries_at,
    lanes_of,
    refill,
    run_block,
    take,
    vector_of,
)
from qspjax.solve.kernel._layout import Rows
from qspjax.solve.kernel._replay import Inputs, Recorded, look_up, move
from qspjax.solve.kernel._rosenbrock import Lanes

T = TypeVar("T")


def push_forward(
    program: Program, patients: Patients, record: Record, accepted: jax.Array, directions: Sequence[Patients]
) -> jax.Array:
    """Return the derivative of the states at outputs along k directions, d^k y / dw_1 ... dw_k.

    Args:
        program: The solve.
        patients: Where it was recorded.
        record: What it recorded.
        accepted: How many steps each patient took.
        directions: Tangents of the patients along each, None where zero; all have the same fields.

    Returns:
        The derivative, shape (patients, outputs, states).
    """
    system, outputs = program.system, program.outputs
    parts = range(1, 2 ** len(directions))  # part 2^i is the derivative along direction i, 2^i + 2^j along both
    moves = moving(program, directions[0])

    def start(patient: jax.Array, tangents: Patients | None) -> Inputs:
        """Return the part of a derivative at the start: tangents of the patients, or zero if None."""
        like = jnp.zeros((system.size, patient.size), patients.y0.dtype)
        y = like if tangents is None or tangents.y0 is None else take(program, tangents, "y0", patient)
        t = like[0] if tangents is None or tangents.t0 is None else take(program, tangents, "t0", patient)
        rate = system.split(like) if patients.infused else None
        nothing = [None] * len(patients.constants)
        return Inputs(nothing, system.split(y), rate, t if moves else None)

    def starts(patient: jax.Array) -> list[Inputs]:
        return [start(patient, _direction_of(directions, part)) for part in parts]

    def inputs_of(step: Recorded, patient: jax.Array, tangents: Patients, partial: Inputs) -> Inputs:
        """Return the tangents of the inputs of a step: those of its state so far, and those of the patients."""
        boundary = boundaries_at(program, tangents.boundaries, patient, jnp.maximum(step.landed, 0))
        if moves and boundary.time is None:
            boundary = boundary._replace(time=jnp.zeros_like(step.t))
        vector = vector_of(program, tangents, patient, step.boundary)
        constants = take(program, tangents, "constants", patient)
        return Inputs(constants, partial.y, partial.rate, partial.t, boundary, vector)

    def block(carry: tuple, log: Log, number: jax.Array) -> tuple:
        before, partials, states = carry
        patient = log.patient[number]
        partials = jax.tree.map(lambda new, old: jnp.where(patient != before, new, old), starts(patient), partials)
        idle = _idle_state(program, patients, accepted, patient)

        def advance(i: jax.Array, carry: tuple) -> tuple:
            partials, states = carry
            step, y, rate, still = _iteration(program, patients, log, number, i, patient, idle)
            inputs = [_free(program, step, Inputs([], y, rate), directions[0])]
            for part, partial in zip(parts, partials, strict=True):
                tangents = _direction_of(directions, part)
                if tangents is not None:
                    inputs.append(inputs_of(step, patient, tangents, partial))
                else:  # a mixed derivative of the patients is zero
                    nothing = jax.tree.map(jnp.zeros_like, inputs[1])
                    inputs.append(nothing._replace(y=partial.y, rate=partial.rate, t=partial.t))
            after = _composed(lambda free: move(program, step, free), inputs)[1:]
            after = jax.tree.map(lambda new, old: jnp.where(still, old, new), after, partials)
            is_output = (step.landed >= 0) & (step.boundary.output != NONE)
            slot = jnp.where(is_output, patient * outputs + step.boundary.output, program.patients * outputs)
            return after, put(states, slot, system.join(after[-1].y).T)

        partials, states = jax.lax.fori_loop(0, BLOCK, advance, (partials, states))
        return patient, partials, states

    nobody = jnp.full((program.lanes,), -1, jnp.int32)
    states = jnp.zeros((program.patients * outputs, system.size), patients.y0.dtype)
    _, _, states = _walk(program, patients, record, block, (nobody, starts(nobody), states), backwards=False)
    return states.reshape(program.patients, outputs, system.size)


def _direction_of(directions: Sequence[Patients], part: int) -> Patients | None:
    """Return the direction of a part that is a first derivative, None for a mixed one."""
    return directions[part.bit_length() - 1] if part.bit_count() == 1 else None


def _composed(function: Callable[[T], T], parts: list[T]) -> list[T]:
    """Return value and mixed derivatives of f(g) from those of g, in the order of `push_forward`."""
    if len(parts) == 1:
        return [function(parts[0])]
    half = len(parts) // 2
    values, tangents = jax.jvp(lambda parts: _composed(function, parts), (parts[:half],), (parts[half:],))
    return [*values, *tangents]


def pull_back(
    program: Program,
    patients: Patients,
    record: Record,
    accepted: jax.Array,
    marks: PyTree[bool],
    cotangents: jax.Array,
) -> Patients:
    """Return the cotangents of the patients, None where not requested.

    Args:
        program: The solve.
        patients: Where it was recorded.
        record: What it recorded.
        accepted: How many steps each patient took.
        marks: Which cotangents are requested, true or None.
        cotangents: Those of the states at outputs, shape (patients, outputs, states).
    """
    N, system, outputs, dtype = program.patients, program.system, program.outputs, patients.y0.dtype
    cotangents = cotangents.reshape(N * outputs, system.size)
    boundaries = patients.boundaries.time.shape[-1]
    vectors = 0 if patients.vectors is None else patients.vectors.shape[-2]
    each = [bool(mark) and batched for mark, batched in zip(marks.constants, program.batched.constants, strict=True)]
    shared = [
        bool(mark) and not batched for mark, batched in zip(marks.constants, program.batched.constants, strict=True)
    ]

    def start(patient: jax.Array) -> Inputs:
        rows = system.split(jnp.zeros((system.size, patient.size), dtype))
        constants = [jnp.zeros_like(value) for value in _chosen(lanes_of(program, patients, patient).constants, each)]
        t = jnp.zeros(patient.shape, dtype) if moving(program, marks) else None
        return Inputs(constants, rows, rows if patients.infused else None, t)

    def hand_in(total: Patients, patient: jax.Array, leaves: jax.Array, back: Inputs) -> Patients:
        """Store what has been gathered for the patients who leave their lanes."""
        slot = jnp.where(leaves, patient, N)

        def handed(total: jax.Array | None, values: jax.Array | None) -> jax.Array | None:
            if total is None or values is None:
                return None
            return put(total, slot, jnp.moveaxis(values, -1, 0))

        constants = [handed(all, gathered) for all, gathered in zip(total.constants, back.constants, strict=True)]
        y0, t0 = handed(total.y0, system.join(back.y)), handed(total.t0, back.t)
        return total._replace(constants=constants, y0=y0, t0=t0)

    def block(carry: tuple, log: Log, number: jax.Array) -> tuple:
        after, back, sums, total = carry
        patient = log.patient[number]
        leaves = patient != after
        total = hand_in(total, after, leaves & (after >= 0), back)
        back = jax.tree.map(lambda gathered: jnp.where(leaves, 0.0, gathered), back)
        idle = _idle_state(program, patients, accepted, patient)

        def retreat(i: jax.Array, carry: tuple) -> tuple:
            back, sums, total = carry
            step, y, rate, still = _iteration(program, patients, log, number, BLOCK - 1 - i, patient, idle)
            arrives = step.landed >= 0
            output = step.boundary.output
            slot = jnp.where(arrives & (output != NONE), patient * outputs + output, N * outputs)
            due = system.split(cotangents.at[slot].get(mode="fill", fill_value=0.0).T)
            cotangent = jax.tree.map(jnp.add, back.y, due)
            after = Inputs([None] * len(each), cotangent, back.rate, back.t)
            masked = jax.tree.map(lambda cotangent: jnp.where(still, 0.0, cotangent), after)
            before = pulled(program, step, Inputs([], y, rate), marks, masked)
            y, rate, t = jax.tree.map(lambda new, old: jnp.where(still, old, new), before[1:4], after[1:4])
            slot = jnp.where(arrives, patient * boundaries + step.landed, N * boundaries)

            def add(total: jax.Array | None, new: jax.Array | None) -> jax.Array | None:
                return None if total is None or new is None else put(total, slot, new, add=True)

            total = total._replace(boundaries=total.boundaries.map(add, before.boundary))
            total = _add_vector(program, patients, step, patient, before.vector, total)
            gains = [None if new is None else jnp.where(still, 0.0, new) for new in _chosen(before.constants, each)]
            gathered = jax.tree.map(jnp.add, back.constants, gains)
            sums = jax.tree.map(jnp.add, sums, _chosen(before.constants, shared))
            return Inputs(gathered, y, rate, t), sums, total

        back, sums, total = jax.lax.fori_loop(0, BLOCK, retreat, (back, sums, total))
        return patient, back, sums, total

    nobody = jnp.full((program.lanes,), -1, jnp.int32)
    total = marks._replace(
        constants=[jnp.zeros_like(value) for value in _chosen(patients.constants, each)],
        y0=jnp.zeros((N, system.size), dtype) if marks.y0 else None,
        t0=jnp.zeros((N,), dtype) if marks.t0 else None,
        boundaries=jax.tree.map(lambda _: jnp.zeros((N * boundaries,), dtype), marks.boundaries),
        vectors=None if not marks.vectors else jnp.zeros((N * vectors, system.size), dtype),
    )
    sums = [jnp.zeros_like(value) for value in _chosen(patients.constants, shared)]
    carry = (nobody, start(nobody), sums, total)
    patient, back, sums, total = _walk(program, patients, record, block, carry, backwards=True)
    total = hand_in(total, patient, patient >= 0, back)
    constants = _merged(total.constants, each, sums, shared)
    return _by_patient(program, patients, total)._replace(constants=constants)


def pulled(program: Program, step: Recorded, before: Inputs, marks: Patients, after: Inputs) -> Inputs:
    """Return the cotangents of what a recorded step is a function of, from those of state, rate and time after it.

    Args:
        program: The solve.
        step: The step.
        before: State, running infusions and memory before it.
        marks: What is differentiated, true or None.
        after: The cotangents.
    """
    _, pull = jax.vjp(lambda free: move(program, step, free), _free(program, step, before, marks))
    return pull(after)[0]


def pushed(program: Program, step: Recorded, before: Inputs, marks: Patients, parts: Sequence[Inputs]) -> list[Inputs]:
    """Return the derivatives of state, rate and time after a step, from those of what it is a function of.

    Args:
        program: The solve.
        step: The step.
        before: State, running infusions and memory before it.
        marks: What is differentiated, true or None.
        parts: The derivatives along each direction and the mixed ones, in the order of `push_forward`.
    """
    return _composed(lambda free: move(program, step, free), [_free(program, step, before, marks), *parts])[1:]


def _by_patient(program: Program, patients: Patients, total: Patients) -> Patients:
    """Return the cotangents with tables that have an axis of patients."""

    def unfolded(total: jax.Array | None, table: jax.Array | None, batched: bool | None) -> jax.Array | None:
        if total is None or table is None:
            return None
        return total.reshape(program.patients, *(table.shape[1:] if batched else table.shape))

    tables = [(tree.boundaries, tree.vectors) for tree in (total, patients, program.batched)]
    boundaries, vectors = jax.tree.map(unfolded, *tables, is_leaf=lambda x: x is None)
    return total._replace(boundaries=boundaries, vectors=vectors)


def _add_vector(
    program: Program, patients: Patients, step: Recorded, patient: jax.Array, vector: jax.Array | None, total: Patients
) -> Patients:
    """Add the cotangent of the vector at a boundary to those of the vectors."""
    index = step.boundary.vector
    if vector is None or index is None or patients.vectors is None or total.vectors is None:
        return total
    count = patients.vectors.shape[-2]
    is_vector = (step.landed >= 0) & (index != NONE)
    slot = jnp.where(is_vector, patient * count + index, program.patients * count)
    return total._replace(vectors=put(total.vectors, slot, vector.T, add=True))


def _merged(gathered: list, each: Sequence[bool], sums: list, shared: Sequence[bool]) -> list:
    """Return the cotangents of all constants in order, None where not requested."""
    next_gathered, next_sum = iter(gathered), iter(sums)
    return [
        next(next_gathered) if is_own else next(next_sum) if is_shared else None
        for is_own, is_shared in zip(each, shared, strict=True)
    ]


def moving(program: Program, differentiated: Patients) -> bool:
    """Whether boundaries, events or the start move, so that times are differentiated."""
    moved = differentiated.boundaries.time, differentiated.t0, program.events
    return any(x is not None for x in moved)


def _chosen(values: Sequence[T], chosen: Sequence[bool]) -> list[T]:
    return [value for value, is_chosen in zip(values, chosen, strict=True) if is_chosen]


def _free(program: Program, step: Recorded, before: Inputs, differentiated: Patients) -> Inputs:
    """Return the inputs of a step that are differentiated, of which `before` are those that a lane carries."""
    moves = moving(program, differentiated)
    constants, leaves = (
        [None if marked is None else value for marked, value in zip(marks, values, strict=True)]
        for marks, values in (
            (differentiated.constants, step.lanes.constants),
            (differentiated.leaves if step.leaves else (), step.leaves),
        )
    )
    boundary = differentiated.boundaries.map(lambda marked, value: None if marked is None else value, step.boundary)
    if moves:
        boundary = boundary._replace(time=step.boundary.time)
    vector = None if differentiated.vectors is None else step.vector
    t = step.t if moves else None
    return Inputs(constants, before.y, before.rate, t, boundary, vector, before.memory, tuple(leaves))


class _Idle(NamedTuple):
    """The patients in the lanes, and the state at which steps that are not taken are evaluated.

    It is that of their first step, y0 and t0, where the slope has a derivative; at the state at which a patient failed
    it may have none, and zero times that is not zero. Where no step was taken all numbers are 1.
    """

    lanes: Lanes
    started: jax.Array
    y: jax.Array
    t: jax.Array


def _idle_state(program: Program, patients: Patients, accepted: jax.Array, patient: jax.Array) -> _Idle:
    present = (patient >= 0) & (patient < program.patients)
    started = present & (accepted.at[patient].get(mode="clip") > 0)
    lanes = lanes_of(program, patients, patient)
    constants = [
        jnp.where(started, value, 1.0) if has_lanes else value
        for value, has_lanes in zip(lanes.constants, lanes.batched, strict=True)
    ]
    y0, t0 = (take(program, patients, name, patient) for name in ("y0", "t0"))
    y0 = y0 if program.batched.y0 else y0[:, None]
    y0, t0 = (jnp.where(started, x, 1.0) for x in (y0, t0))
    return _Idle(lanes._replace(constants=constants), started, y0, t0)


def _iteration(
    program: Program, patients: Patients, log: Log, block: jax.Array, i: jax.Array, patient: jax.Array, idle: _Idle
) -> tuple[Recorded, Rows, Rows | None, jax.Array]:
    """Return a recorded iteration with its state and rate, and where it took no step."""
    size, split = program.system.size, program.system.split
    rows, landed = log.rows[block, i], log.landed[block, i]
    still = ~idle.started | ((rows[-1] == 0.0) & (landed < 0))
    h, landed = jnp.where(still, 0.0, rows[-1]), jnp.where(still, -1, landed)
    y, t = jnp.where(still, idle.y, rows[:size]), jnp.where(still, idle.t, rows[-2])
    step = look_up(program, patients, idle.lanes, patient, t, h, landed)
    rate = split(jnp.where(still, 0.0, rows[size : 2 * size])) if patients.infused else None
    return step, split(y), rate, still


def _walk(
    program: Program,
    patients: Patients,
    record: Record,
    block: Callable[[T, Log, jax.Array], T],
    carry: T,
    *,
    backwards: bool,
) -> T:
    """Pass every recorded block in turn, forwards or backwards, computing the logs of earlier segments again."""
    once = program.segments == 1

    def recomputed(segment: jax.Array, log: Log) -> Log:
        """Compute the log of a segment, unless it is at hand: that of the last one is, in a backward pass."""
        now, waiting = jax.tree.map(lambda all: all[segment], record.starts)

        def advance(number: jax.Array, carry: tuple) -> tuple:
            now, waiting, log = carry
            now, buffers = run_block(program, patients, now, Buffers(None, log, None), number)
            now, waiting, _ = refill(program, patients, now, waiting, None)
            return now, waiting, buffers.log

        at_hand = backwards & (segment == record.segments - 1)
        return jax.lax.fori_loop(0, jnp.where(at_hand, 0, program.capacity), advance, (now, waiting, log))[-1]

    def pass_segment(i: jax.Array, carry: tuple) -> tuple:
        log, carry = carry
        segment = record.segments - 1 - i if backwards else i
        log = log if once else recomputed(segment, log)
        blocks = jnp.where(segment == record.segments - 1, record.blocks, program.capacity)

        def pass_block(j: jax.Array, carry: T) -> T:
            return block(carry, log, blocks - 1 - j if backwards else j)

        return log, jax.lax.fori_loop(0, blocks, pass_block, carry)

    if once:
        return pass_segment(jnp.zeros((), jnp.int32), (record.log, carry))[1]
    return jax.lax.fori_loop(0, record.segments, pass_segment, (record.log, carry))[1]
