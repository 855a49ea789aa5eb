"""Derivatives of the way of a linear patient from boundary to boundary: forwards, and backwards over a record of it.

All boundaries that share an interval share its matrices; their cotangents lambda y' are summed, and one transposed
derivative of an exponential serves them all (see `_driven`). The slope at the end of an interval is its derivative with
respect to its length.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from qspjax.solve._driven import Entries, Inputs, Layout, Motion, motion, pulled
from qspjax.solve._passage import Pace, first_pace, multiplied, paced
from qspjax.solve._refreshed import once
from qspjax.solve.dosing._boundary import NONE, Boundary, effect, rate_after


class Equations(NamedTuple):
    """y' = A y + b of one patient.

    Attributes:
        a: The entries of A.
        b: The vector b.
        layout: Where the entries are.
        affine: Whether b can differ from zero.
        protected: The number of last states that resets and steady states do not touch.
    """

    a: Entries
    b: Float[Array, " states"]
    layout: Layout
    affine: bool
    protected: int

    @property
    def size(self) -> int:
        """The number of states."""
        return self.layout.size


class Place(NamedTuple):
    """Where a patient is: his state, the motion over the interval that his pace is of, and the rates that run."""

    y: Float[Array, " states"]
    motion: Motion
    pace: Pace
    rate: Float[Array, " states"] | None


class Passed(NamedTuple):
    """What is recorded of a boundary: what was before, and what happened.

    Attributes:
        y: The state before.
        rate: The rates that ran, None without infusions.
        used: The interval of the matrices.
        fresh: Whether they were new.
        still: Whether the interval was empty.
        live: Whether the boundary was reached.
        shown: Whether all numbers after it were finite, so that an output shows them.
    """

    y: Float[Array, " states"]
    rate: Float[Array, " states"] | None
    used: Float[Array, ""]
    fresh: Bool[Array, ""]
    still: Bool[Array, ""]
    live: Bool[Array, ""]
    shown: Bool[Array, ""]


class Stop(NamedTuple):
    """A boundary.

    Attributes:
        boundary: What happens.
        vector: Its vector, None if there are none.
        number: Its number.
        reached: The number of boundaries that the patient reaches.
    """

    boundary: Boundary
    vector: Float[Array, " states"] | None
    number: Int[Array, ""]
    reached: Int[Array, ""]


class Back(NamedTuple):
    """Cotangents on the way back: of A and b so far, of state and rate, of the motion so far, of the time before."""

    a: Entries
    b: Float[Array, " states"]
    y: Float[Array, " states"]
    rate: Float[Array, " states"] | None
    motion: Motion
    before: Float[Array, ""]


class OfStop(NamedTuple):
    """The cotangents of a boundary and of its vector; None for what has none."""

    boundary: Boundary
    vector: Float[Array, " states"] | None


def first_place(equations: Equations, y0: Float[Array, " states"], t0: Float[Array, ""], *, infused: bool) -> Place:
    """Return where a patient starts; of his equations, only the shapes are used."""
    zero, driven = jnp.zeros_like(y0), infused or equations.affine
    moves = Motion(jnp.zeros_like(equations.a), zero if driven else None)
    return Place(y0, moves, first_pace(t0), zero if infused else None)


def first_back(equations: Equations, place: Place) -> Back:
    """Return the cotangents at the end."""
    y, moves, pace, rate = jax.tree.map(jnp.zeros_like, place)
    return Back(jnp.zeros_like(equations.a), jnp.zeros_like(equations.b), y, rate, moves, pace.t)


# ---- one boundary


def passed(equations: Equations, now: Place, stop: Stop, before: Float[Array, ""] | None) -> tuple[Place, Passed]:
    """Return where a patient is after a boundary, and what is recorded of it; differentiable in forward mode.

    Args:
        equations: His equations.
        now: Where he was.
        stop: The boundary.
        before: The time of the boundary before, or where he started; only its derivative counts, None for
            none.
    """
    boundary, n = stop.boundary, equations.size
    live = (stop.number < stop.reached) & jnp.isfinite(boundary.time)
    still_now = jax.lax.stop_gradient(now.pace)
    pace, fresh, still = paced(still_now, live, _turns(boundary), jax.lax.stop_gradient(boundary.time))
    inputs = _inputs(equations, now.rate, now.motion)
    moves = once(fresh, lambda: motion(inputs, pace.used, equations.layout), now.motion)
    y1 = jnp.where(still, now.y, _moved(equations, moves, now.y))
    if before is not None:
        slope, time = _finite(_slope(equations, now.rate, y1)), jnp.where(live, boundary.time - before, 0.0)
        y1 = y1 + (time - jax.lax.stop_gradient(time)) * jax.lax.stop_gradient(slope)
    y = _landed(y1, boundary, stop.vector, equations, live)
    rate = None if now.rate is None else rate_after(now.rate, boundary, jnp.arange(n), live)
    shown = live & jnp.isfinite(y).all()
    return Place(y, moves, pace, rate), Passed(now.y, now.rate, pace.used, fresh, still, live, shown)


def retraced(
    equations: Equations, record: Passed, moves: Motion, stop: Stop, after: Back, due: Float[Array, " states"]
) -> tuple[Back, OfStop]:
    """Return the cotangents before a boundary, and those of the boundary.

    Args:
        equations: The equations of the patient.
        record: What was recorded.
        moves: The motion over the interval before the boundary.
        stop: The boundary.
        after: The cotangents after it.
        due: The cotangent of the output that is due.
    """
    boundary, n, live = stop.boundary, equations.size, record.live
    y1 = jnp.where(record.still, record.y, _moved(equations, moves, record.y))
    lost = ~(jnp.isfinite(record.y).all() & jnp.isfinite(y1).all())  # what is not finite is a constant

    def land(y1: jax.Array, keep: jax.Array | None, added: jax.Array, vector: jax.Array | None) -> jax.Array:
        return _landed(y1, boundary._replace(keep=keep, add=added), vector, equations, live)

    _, pull = jax.vjp(land, y1, boundary.keep, boundary.add, stop.vector)
    of_y, of_keep, of_added, of_vector = pull(after.y + jnp.where(record.shown, due, 0.0))
    of_y = jnp.where(lost, 0.0, of_y)
    of_rate, of_change = after.rate, None
    if record.rate is not None:
        _, pull = jax.vjp(
            lambda rate, change: rate_after(rate, boundary._replace(rate_change=change), jnp.arange(n), live),
            record.rate,
            boundary.rate_change,
        )
        of_rate, of_change = pull(after.rate)
    of_interval = jnp.where(live, of_y @ _finite(_slope(equations, record.rate, y1)), 0.0)
    before, so_far = _before(equations, record, moves, after.motion, of_y, lost)
    inputs = _inputs(equations, record.rate, moves)
    nothing = Inputs(jnp.zeros_like(after.a), None if moves.push is None else jnp.zeros_like(after.b))
    found = once(record.fresh, lambda: pulled(inputs, record.used, equations.layout, so_far), nothing)
    a, u = jax.tree.map(_finite, found)
    of_rate = None if of_rate is None else of_rate + u
    rest = jax.tree.map(lambda x: jnp.where(record.fresh, 0.0, x), so_far)
    of_boundary = Boundary(of_interval + after.before, None, of_keep, of_added, None, of_change, None)  # pyright: ignore[reportArgumentType]
    back = Back(after.a + a, after.b if u is None else after.b + u, before, of_rate, rest, -of_interval)
    return back, OfStop(of_boundary, of_vector)


def _before(
    equations: Equations,
    record: Passed,
    moves: Motion,
    so_far: Motion,
    of_y: Float[Array, " states"],
    lost: Bool[Array, ""],
) -> tuple[Float[Array, " states"], Motion]:
    """Return the cotangent of the state before an interval, and that of its motion with all intervals so far."""
    layout, passes = equations.layout, ~record.still & ~lost
    back = jnp.where(lost, 0.0, of_y @ layout.whole(moves.power))
    power = jnp.where(passes, so_far.power + of_y[layout.rows] * record.y[layout.columns], so_far.power)
    push = None if so_far.push is None else jnp.where(passes, so_far.push + of_y, so_far.push)
    return jnp.where(record.still, of_y, back), Motion(power, push)


def _turns(boundary: Boundary) -> Bool[Array, ""]:
    """Return whether a rate may change at a boundary, one that is zero and has a derivative included."""
    if boundary.rate_change is None:
        return jnp.asarray(False)
    return (boundary.rate_change != 0.0) | ((boundary.state != NONE) & (boundary.add == 0.0))


def _inputs(equations: Equations, rate: Float[Array, " states"] | None, moves: Motion) -> Inputs:
    u = equations.b if rate is None else equations.b + rate
    return Inputs(equations.a, None if moves.push is None else u)


def _moved(equations: Equations, moves: Motion, y: Float[Array, " states"]) -> Float[Array, " states"]:
    moved = equations.layout.whole(moves.power) @ y
    return moved if moves.push is None else moved + moves.push


def _slope(
    equations: Equations, rate: Float[Array, " states"] | None, y: Float[Array, " states"]
) -> Float[Array, " states"]:
    slope = equations.layout.whole(equations.a) @ y + equations.b
    return slope if rate is None else slope + rate


def _landed(
    y: jax.Array, boundary: Boundary, vector: jax.Array | None, equations: Equations, live: Bool[Array, ""]
) -> jax.Array:
    """Return the state after a boundary."""
    states = jnp.arange(equations.size)
    keep, added = effect(boundary, states, states >= equations.size - equations.protected, vector, live)
    return (y if keep is None else multiplied(keep, y)) + added


def _finite(x: jax.Array) -> jax.Array:
    return jnp.where(jnp.isfinite(x), x, 0.0)
