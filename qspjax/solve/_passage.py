"""One patient of a linear model on his way through his boundaries, by the matrices of the intervals between them.

The matrices are kept while the interval stays the same within the rounding of times, as it does for outputs on a grid.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float, PyTree

from qspjax._arrays import first_true
from qspjax._jaxpr._linearity import Structure
from qspjax._jaxpr._rows import pick
from qspjax.solve._phi import Matrix, Vector, add, dot, exponential, split
from qspjax.solve._refreshed import once, refreshed
from qspjax.solve.dosing._boundary import NONE, Boundary, rate_after
from qspjax.solve.dosing._timeline import Timeline
from qspjax.solve.kernel._fusion import fused


class Plan(NamedTuple):
    """What happens between boundaries and at each of them, each of shape (boundaries, ...).

    Attributes:
        h: The interval before the boundary, with its derivative.
        used: The interval of the matrices: `h` within the rounding of times, or another one if `still`.
        fresh: Whether `used` or the rates are new.
        still: Whether the interval is empty.
        keep: The factor of the states at the boundary, None if always 1.
        add: What is then added to them.
        rate: The rates that run before the boundary, None without infusions.
    """

    h: jax.Array
    used: jax.Array
    fresh: jax.Array
    still: jax.Array
    keep: Vector | None
    add: Vector
    rate: Vector | None


class Pace(NamedTuple):
    """Where a patient is, as far as matrices are concerned.

    Attributes:
        t: The time, within rounding.
        used: The interval of the matrices.
        stale: Whether rates have changed since they were computed, or they never were.
    """

    t: Float[Array, ""]
    used: Float[Array, ""]
    stale: Bool[Array, ""]


def first_pace(t0: Float[Array, ""]) -> Pace:
    """Return the pace at the start."""
    return Pace(t0, jnp.zeros_like(t0), jnp.asarray(True))


def paced(
    now: Pace, live: Bool[Array, ""], turns: Bool[Array, ""], time: Float[Array, ""]
) -> tuple[Pace, Bool[Array, ""], Bool[Array, ""]]:
    """Return the pace after a boundary, whether matrices are new in the interval before it, and whether that is empty.

    Args:
        now: The pace before.
        live: Whether there is such a boundary.
        turns: Whether a rate changes there.
        time: Its time.
    """
    gap, slack = time - now.t, 64 * jnp.finfo(time.dtype).eps * jnp.abs(time)
    still = ~live | (gap <= slack)
    fresh = ~still & (now.stale | ~(jnp.abs(gap - now.used) <= slack))
    reached = jnp.where(still, now.t, jnp.where(fresh, time, now.t + now.used))
    return Pace(reached, jnp.where(fresh, gap, now.used), (now.stale & ~fresh) | turns), fresh, still


def _plan(lines: Timeline, t0: jax.Array, n: int) -> Plan:
    boundaries = lines.boundaries
    live = jnp.isfinite(boundaries.time)
    stop = jnp.where(live, boundaries.time, 0.0)
    before = jnp.concatenate([t0[None], stop[:-1]])
    turns = jnp.zeros(live.size, bool) if boundaries.rate_change is None else boundaries.rate_change != 0.0

    def pace(now: Pace, boundary: tuple) -> tuple[Pace, tuple]:
        after, fresh, still = paced(now, *boundary)
        return after, (after.used, fresh, still)

    def infuse(rate: jax.Array, boundary: Boundary) -> tuple[jax.Array, jax.Array]:
        return rate_after(rate, boundary, jnp.arange(n)), rate

    t0, zero = jax.lax.stop_gradient(t0), jnp.zeros(n, stop.dtype)
    _, (used, fresh, still) = jax.lax.scan(pace, first_pace(t0), (live, turns, jax.lax.stop_gradient(stop)))
    keep, add = jax.vmap(lambda boundary: lines.effect(boundary, n))(boundaries)
    rate = None
    if boundaries.rate_change is not None:
        _, rate = jax.lax.scan(infuse, zero, boundaries)
    return Plan(
        jnp.where(live, stop - before, 0.0),
        jax.lax.stop_gradient(used),
        fresh,
        still,
        None if keep is None else split(jnp.where(live[:, None], keep, 1.0)),
        split(jnp.where(live[:, None], add, 0.0)),
        None if rate is None else split(rate),
    )


class End(NamedTuple):
    """How the solve of one patient went: `reached` is the number of boundaries before anything was not finite."""

    succeeded: jax.Array
    reached: jax.Array
    steps: jax.Array
    last_time: jax.Array
    culprit: jax.Array


class System(NamedTuple):
    """y' = A y + b from y0."""

    a: Matrix
    b: Vector
    y0: Vector
    structure: Structure


def _slope(y: Vector, system: tuple[Matrix, Vector]) -> Vector:
    return add(dot(system[0], y), system[1])


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _with_slope(slope: Callable[[PyTree, PyTree], PyTree], y: PyTree, system: PyTree, h: jax.Array) -> PyTree:
    """Return y, the state after an interval h, with `slope(y, system)` as its derivative with respect to h.

    The matrices are constants of the interval; this gives y its derivatives with respect to it of every order, and
    costs nothing where the interval has none. Any other derivative of y has its own slope, that of the pair.
    """
    del slope, system, h
    return y


def _with_slope_jvp(
    slope: Callable[[PyTree, PyTree], PyTree], primals: tuple, tangents: tuple
) -> tuple[PyTree, PyTree]:
    (y, system, h), dy, (*_, dh) = (
        primals,
        [_full(*pair) for pair in zip(primals, tangents, strict=True)],
        tangents,
    )

    def pair(ys: tuple, systems: tuple) -> tuple:
        return jax.jvp(slope, (ys[0], systems[0]), (ys[1], systems[1]))

    y1, dy = _with_slope(slope, y, system, h), _with_slope(pair, (y, dy[0]), (system, dy[1]), h)[1]
    if isinstance(dh, SymbolicZero):
        return y1, dy
    # a patient who failed has no slope
    shift = jax.tree.map(lambda s: dh * jnp.where(jnp.isfinite(s), s, 0.0), slope(y1, system))
    return y1, add(dy, shift)


_with_slope.defjvp(_with_slope_jvp, symbolic_zeros=True)


def _full(primal: PyTree, tangent: PyTree) -> PyTree:
    return jax.tree.map(lambda x, t: jnp.zeros_like(x) if isinstance(t, SymbolicZero) else t, primal, tangent)


class Motion(NamedTuple):
    """The state of a patient, and the motion over the interval: y(t + h) = power y(t) + push; `push` may be None."""

    y: Vector
    power: Matrix
    push: Vector | None


def first_motion(system: System, *, driven: bool) -> Motion:
    """Return the motion at the start, of which there are no matrices yet."""
    zeros = jax.tree.map(jnp.zeros_like, (system.a, system.y0))
    return Motion(system.y0, zeros[0], zeros[1] if driven else None)


def advanced(system: System, now: Motion, row: Plan) -> Motion:
    """Return the motion after a boundary."""
    u = system.b if row.rate is None else add(system.b, row.rate)
    driven = now.push is not None

    def compute() -> tuple[Matrix, Vector | None]:
        flow = exponential(system.a, row.used, system.structure.pattern, driven=driven)
        return flow.power, dot(flow.input, u) if driven else None

    power, push = once(eqxi.unvmap_any(row.fresh), compute, (now.power, now.push))
    y1 = dot(power, now.y) if push is None else add(dot(power, now.y), push)
    y = _landed(row, jax.tree.map(lambda new, before: jnp.where(row.still, before, new), y1, now.y))
    return Motion(y, power, push)


def _run(system: System, plan: Plan, reached: jax.Array | None) -> tuple[Vector, Vector]:
    """Return the states after every boundary, and the last; differentiated where `reached` says how far they go."""
    limit = plan.h.size if reached is None else reached
    pattern, driven = system.structure.pattern, system.structure.affine or plan.rate is not None
    zero = jax.tree.map(jnp.zeros_like, system.a)

    def repeat(now: tuple, numbered: tuple[jax.Array, Plan]) -> tuple:
        """Nothing happens after what was reached: a state that is infinite has no slope."""
        (y, *old), (number, row) = now, numbered
        live = number < limit
        fresh, used = eqxi.unvmap_any(row.fresh), jnp.where(live, row.used, 0.0)
        power, inputs = refreshed(fresh, used, system.a, pattern, (old[0], old[1]))
        u = system.b
        if row.rate is not None:
            u = add(u, jax.tree.map(lambda rate: jnp.where(live, rate, 0.0), row.rate))
        y1 = dot(power, y) if inputs is None else add(dot(power, y), dot(inputs, u))
        y1 = jax.tree.map(lambda new, before: jnp.where(row.still | ~live, before, new), y1, y)
        y1 = _with_slope(_slope, y1, (system.a, u), jnp.where(live, row.h, 0.0))
        keep = None if row.keep is None else jax.tree.map(lambda keep: jnp.where(live, keep, 1.0), row.keep)
        y = _landed(row._replace(keep=keep, add=jax.tree.map(lambda x: jnp.where(live, x, 0.0), row.add)), y1)
        return (y, power, inputs), y

    def pass_one(now: Motion, row: Plan) -> tuple[Motion, Vector]:
        after = advanced(system, now, row)
        return after, after.y

    if reached is None:
        (last, *_), rows = jax.lax.scan(pass_one, first_motion(system, driven=driven), plan)
    else:
        begin = (system.y0, zero, zero if driven else None)
        (last, *_), rows = _in_blocks(repeat, begin, plan)
    return rows, last


def _in_blocks(advance: Callable[[tuple, tuple], tuple], begin: tuple, plan: Plan) -> tuple[tuple, Vector]:
    """Scan over numbered boundaries; a reverse sweep keeps what it needs for one block, and the start of each."""
    size = plan.h.size
    block = math.isqrt(size)
    blocks = -(-size // block)

    def folded(x: jax.Array) -> jax.Array:
        """Return rows in blocks, the last of which is filled up with rows that come after all that is reached."""
        filler = jnp.broadcast_to(x[-1:], (blocks * block - size, *x.shape[1:]))
        return jnp.concatenate([x, filler]).reshape(blocks, block, *x.shape[1:])

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def pass_block(now: tuple, rows: tuple) -> tuple:
        return jax.lax.scan(advance, now, rows)

    number = jnp.arange(blocks * block).reshape(blocks, block)
    rows = jax.tree.map(folded, plan)
    rows = rows._replace(fresh=rows.fresh & (number < size))
    last, states = jax.lax.scan(pass_block, begin, (number, rows))
    return last, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), states)


def _landed(row: Plan, y: Vector) -> Vector:
    """Return the state after a boundary."""
    return add(y if row.keep is None else jax.tree.map(multiplied, row.keep, y), row.add)


def multiplied(keep: jax.Array, y: jax.Array) -> jax.Array:
    """Return a state times its factor: zero where a value is set, even if the state is infinite."""
    return keep * jnp.where((keep == 0.0) & ~jnp.isfinite(y), 0.0, y)


def columns_of(rows: Vector) -> list[jax.Array]:
    """Return the columns of states, one row each."""
    return [rows[:, i] for i in range(rows.shape[1])] if isinstance(rows, jax.Array) else list(rows)


def _outputs(rows: Vector, lines: Timeline, outputs: int, limit: jax.Array | None) -> list[jax.Array]:
    """Return the columns of states at the outputs, NaN where there is none, and from the boundary `limit` on."""
    output = lines.boundaries.output
    slot = (
        jnp.full(jax.tree.leaves(rows)[0].shape[0], outputs)
        .at[: output.size]
        .set(jnp.where(output == NONE, outputs, output))
    )
    position = jnp.zeros(outputs, dtype=int).at[slot].set(jnp.arange(slot.size), mode="drop")
    columns = columns_of(jax.tree.map(lambda x: pick(x, position, slot), rows))
    reached = jnp.isfinite(lines.boundaries.time)[position]
    if limit is not None:
        reached &= position < limit
    for column in columns:
        reached &= jnp.isfinite(column)
    return [jnp.where(reached, column, jnp.nan) for column in columns]


def _marched(
    system: System, lines: Timeline, t0: jax.Array, outputs: int, reached: jax.Array | None
) -> tuple[list[jax.Array], Vector, Vector]:
    """Return columns of the states at the outputs, the states after every boundary, and the last."""
    plan = _plan(lines, t0, len(system.structure.pattern))

    def run(a: Matrix, b: Vector, y0: Vector, plan: Plan, reached: jax.Array | None) -> tuple[Vector, Vector]:
        return _run(System(a, b, y0, system.structure), plan, reached)

    rows, last = fused(run, unrolled=False)(system.a, system.b, system.y0, plan, reached)
    return _outputs(rows, lines, outputs, reached), rows, last


def marched_again(system: System, lines: Timeline, t0: jax.Array, outputs: int, reached: jax.Array) -> list[jax.Array]:
    """Return columns of the states at the outputs, to be differentiated; how many boundaries are reached is known."""
    return _marched(system, lines, t0, outputs, reached)[0]


def marched(
    system: System, lines: Timeline, t0: jax.Array, outputs: int, certain: jax.Array
) -> tuple[list[jax.Array], End]:
    """Return columns of the states at the outputs, and how it went; nothing does where a dose is not `certain`."""
    columns, rows, last = _marched(system, lines, t0, outputs, None)
    time = lines.boundaries.time
    live = jnp.isfinite(time)
    columns = [jnp.where(certain, column, jnp.nan) for column in columns]
    finite = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(last)]).all()
    latest = jnp.max(jnp.where(live, time, t0), initial=t0)

    def locate_failure() -> tuple[jax.Array, jax.Array, jax.Array]:
        values = jnp.stack(columns_of(rows), axis=1)
        bad = ~jnp.isfinite(values)
        first = first_true(bad.any(axis=1))
        good = (first > 0) & certain
        y = jnp.where(good, values[first - 1], jnp.stack(list(system.y0)))
        where = jnp.where(certain, culprit_of(system, y, bad[first]), 0)
        return jnp.where(good, time[first - 1], t0), where, jnp.where(certain, first, 0)

    succeeded = finite & certain
    best = (latest, jnp.zeros((), dtype=int), jnp.full((), live.size))
    worst = jax.lax.cond(eqxi.unvmap_any(~succeeded), locate_failure, lambda: best)
    last_time, culprit, reached = (jnp.where(succeeded, *pair) for pair in zip(best, worst, strict=True))
    steps = jnp.sum(live & (time <= last_time))
    return columns, End(succeeded, reached, steps, last_time, culprit)


def culprit_of(system: System, y: jax.Array, bad: jax.Array) -> jax.Array:
    """Return the number of the state for which a patient failed.

    Args:
        system: His system.
        y: His last state that was finite, or the first.
        bad: Which states were not finite after it.
    """
    slope = jnp.stack(list(_slope(split(y), (system.a, system.b))))
    culprit = bad
    for vector in (~jnp.isfinite(slope), ~jnp.isfinite(y)):
        culprit = jnp.where(vector.any(), vector, culprit)
    return first_true(culprit)
