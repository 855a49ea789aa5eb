"""What a lane does with a patient of a linear model: from boundary to boundary, by matrix exponentials."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import mlir
from jaxtyping import PyTree

from qspjax.solve._control import NONFINITE, SUCCESS
from qspjax.solve._march import March, for_xla, march_p
from qspjax.solve._passage import Motion, Pace, Plan, System, advanced, culprit_of, first_motion, first_pace, paced
from qspjax.solve.dosing._boundary import effect, rate_after
from qspjax.solve.kernel._lanes import Landing, Patients
from qspjax.solve.native import _call, _engine
from qspjax.solve.native._lane import Attempted, Frame, Start, Traced, like
from qspjax.solve.native._values import UnsupportedError

PRODUCTS = 600
"""Matrices whose product takes more products of numbers would be too much code."""


class Progress(NamedTuple):
    """The progress of a patient; see `kernel._lanes.Clock`.

    Attributes:
        t: The time of the last boundary before anything was not finite; the last one, if everything is at the end.
        boundary: The index of the next boundary.
        due: Its time, inf after the last.
        code: The status code.
        accepted: The number of boundaries until `t`.
        rejected: The number of boundaries before a state was not finite, zero while all are.
    """

    t: jax.Array
    boundary: jax.Array
    due: jax.Array
    code: jax.Array
    accepted: jax.Array
    rejected: jax.Array


class Lane(NamedTuple):
    """The patient in a lane.

    Attributes:
        patient: His number.
        clock: His progress.
        y: His state, NaN where one of its numbers is not finite: what outputs show.
        motion: His state and his matrices.
        pace: Which interval these are of.
        rate: The rates that run, None without infusions.
        sound: Whether everything has been finite so far.
        before: If not, the last state that was.
        wrong: If not, the first state that was not.
    """

    patient: jax.Array
    clock: Progress
    y: jax.Array
    motion: Motion
    pace: Pace
    rate: jax.Array | None
    sound: jax.Array
    before: jax.Array
    wrong: jax.Array


def system_of(march: March, constants: Sequence[jax.Array], y0: jax.Array) -> System:
    """Return the system of a patient, entry by entry."""
    a, b, _, structure = march.system_of(constants, y0)
    if not isinstance(a, dict):
        a = {(int(i), int(j)): a[i, j] for i, j in zip(*structure.pattern.nonzero(), strict=True)}
    return System(a, apart(b), apart(y0), structure)


def apart(vector: PyTree) -> tuple[jax.Array, ...]:
    """Return the numbers of a vector."""
    return tuple(vector[i] for i in range(len(vector)))


def begin(march: March, patient: jax.Array, start: Start, constants: Sequence[jax.Array], *, infused: bool) -> Lane:
    """Return a lane at the start of a patient; of his constants, only the shapes are used."""
    system = system_of(march, [jnp.zeros(x.shape, x.dtype) for x in constants], start.y)
    code = jnp.asarray(SUCCESS, jnp.int32) if start.ended is None else start.ended
    lost = (code == SUCCESS) & ~jnp.isfinite(start.due) & ~jnp.isfinite(start.y).all()
    zero = jnp.zeros_like(patient)
    return Lane(
        patient,
        Progress(start.t, zero, start.due, jnp.where(lost, NONFINITE, code).astype(jnp.int32), zero, zero),
        start.y,
        first_motion(system, driven=march.affine or infused),
        first_pace(start.t),
        jnp.zeros_like(start.y) if infused else None,
        jnp.asarray(True),
        start.y,
        start.y,
    )


def attempt(march: March, constants: Sequence[jax.Array], now: Lane, landing: Landing) -> Lane:
    """Return a lane after the next boundary."""
    boundary, states, before = landing.boundary, jnp.arange(march.size), jnp.stack(now.motion.y)
    turns = jnp.asarray(False) if boundary.rate_change is None else boundary.rate_change != 0.0
    pace, fresh, still = paced(now.pace, jnp.asarray(True), turns, boundary.time)
    keep, add = effect(boundary, states, states >= march.size - march.protected, landing.vector)
    rate = None if now.rate is None else apart(now.rate)
    row = Plan(boundary.time, pace.used, fresh, still, None if keep is None else apart(keep), apart(add), rate)
    motion = advanced(system_of(march, constants, before), now.motion, row)
    y, clock, last = jnp.stack(motion.y), now.clock, ~jnp.isfinite(landing.following)
    finite = jnp.isfinite(y).all()
    good, spoilt = finite & (now.sound | last), now.sound & ~finite
    index, t = clock.boundary + 1, jnp.where(good, boundary.time, clock.t)
    after = Progress(
        t,
        index,
        landing.following,
        jnp.where(last & ~finite, NONFINITE, clock.code).astype(jnp.int32),
        jnp.where(good, index, clock.accepted + (boundary.time <= t)),
        jnp.where(spoilt, clock.boundary, clock.rejected),
    )
    return Lane(
        now.patient,
        after,
        jnp.where(finite, y, jnp.nan),
        motion,
        pace,
        None if now.rate is None else rate_after(now.rate, boundary, states),
        now.sound & finite,
        jnp.where(spoilt, before, now.before),
        jnp.where(spoilt, y, now.wrong),
    )


def trace(march: March, patients: Patients) -> Traced:
    """Trace the programs of one lane.

    Args:
        march: What is solved.
        patients: The shapes of the patients.
    """
    batched: Patients = march.of(march.batched)

    def one(leaf: jax.ShapeDtypeStruct, each: bool) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape[each:], leaf.dtype)

    constants, y0, ended = (
        jax.tree.map(one, getattr(patients, name), getattr(batched, name)) for name in ("constants", "y0", "ended")
    )
    number, index = like((), y0.dtype), like((), jnp.int32)
    column = patients.boundaries.map(lambda leaf: None if leaf is None else like((), leaf.dtype))
    vector = None if patients.vectors is None or patients.boundaries.vector is None else y0
    at_start, infused = Start(number, y0, number, ended, None), patients.infused

    def start(patient: jax.Array, start: Start) -> tuple[Lane, jax.Array]:
        lane = begin(march, patient, start, constants, infused=infused)
        return lane, (lane.clock.code != SUCCESS) | ~jnp.isfinite(lane.clock.due)

    def step(constants: list, leaves: tuple, landing: Landing, lane: Lane) -> tuple[Lane, Attempted]:
        del leaves
        return attempt(march, constants, lane, landing), Attempted(lane.clock.boundary, jnp.asarray(True))

    def failing(constants: list, lane: Lane, span: jax.Array) -> jax.Array:
        del span
        return culprit_of(system_of(march, constants, lane.before), lane.before, ~jnp.isfinite(lane.wrong))

    lane, _ = jax.eval_shape(start, index, at_start)
    frame = Frame(constants, (), Landing(column, vector, number), lane, at_start, number)
    return Traced.of(frame, step=step, start=start, failing=failing)


def lanes_of(march: March) -> int:
    """Return how many lanes solve some patients.

    Raises:
        UnsupportedError: If they are not to be solved here.
    """
    _call.check_backend()
    pattern = np.array(march.pattern, int)
    if (pattern @ pattern)[pattern > 0].sum() > PRODUCTS:
        raise UnsupportedError("products of matrices so large that compiling them takes long")
    few = march.patients <= _engine.widest()  # they need no second vector, which would take its time to compile
    return _engine.widest() if few else _engine.lanes(march.size)


def _target(march: March, patients: Patients) -> str:
    lanes, batched = lanes_of(march), march.of(march.batched)
    return _call.registered(trace(march, patients), patients, batched, lanes, columns=march.size)


def _lower(ctx: mlir.LoweringRuleContext, *operands: mlir.ir.Value, march: March) -> Sequence:
    return _call.lower(
        ctx,
        operands,
        march.size,
        lambda shapes: _target(march, march.of(shapes)),
        lambda: for_xla(ctx, *operands, march=march),
    )


mlir.register_lowering(march_p, _lower, platform="cpu")
