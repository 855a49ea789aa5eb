"""The steady state of periodic dosing, and of a constant infusion: found exactly, and differentiated implicitly.

Between two doses of an endless series the states repeat: y = P(y) with P the solution over one interval. For a linear
model P(y) = M y + c, so y = (I - M)^-1 c, one linear solve. For any other, Newton's method on P(y) - y: the exact
derivative of P once, then Broyden's updates; where no step leads downhill, another interval is simulated instead. The
derivative of the result is that of the equation, whatever the iterations were, in both modes and of every order.

A state on which nothing depends (an area under a curve, what was excreted) has no steady state; it stays at its initial
value.

Reference: Keller, Numerical Methods for Two-Point Boundary-Value Problems, 1968 (shooting on the period map).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from qspjax._model import AbstractModel, as_state
from qspjax._names import state_names
from qspjax._regimen import Extent
from qspjax.solve._exponential import MatrixExponential
from qspjax.solve._method import AbstractMethod, absolute
from qspjax.solve._schedule import Pattern, Schedule
from qspjax.solve.kernel._layout import system_of

Residual = Callable[[jax.Array], jax.Array]

PERIODS = 1
"""Intervals that are simulated before the first Newton step."""
ITERATIONS = 60
"""Most steps, of Newton or of simulation, until a steady state is given up."""
LEAST = 0.05
"""Where not even so small a part of a Newton step leads downhill, an interval is simulated instead."""
DECADES, POLISH = 12, 4
"""For a constant infusion: how often the time simulated grows tenfold, and the Newton steps that follow."""
CLOSE = 1e-3
"""The search has arrived where a step is this part of the tolerance of the method."""


def steady_state(
    method: AbstractMethod, extent: Extent, model: AbstractModel, pattern: Pattern
) -> tuple[jax.Array, jax.Array]:
    """Return the state at the beginning of a pattern of doses, before what is given then, and whether it was found.

    Args:
        method: How to solve.
        extent: What there may be: infusions, an interval, or none (a constant infusion).
        model: The patient.
        pattern: The doses of one interval.
    """
    start = as_state(model, None)
    y0, unravel = ravel_pytree(start)
    system, _ = system_of(model, start)
    matters = np.asarray(system.pattern).any(axis=0)  # a column of zeros: nothing depends on this state
    free = np.flatnonzero(matters)
    wanted = jnp.isfinite(pattern.shift).any()
    repeats, runs = wanted & (pattern.interval > 0), wanted & (pattern.interval == 0)
    if not free.size:
        return y0, jnp.ones((), bool)

    def whole(part: jax.Array) -> jax.Array:
        return y0.at[free].set(part)

    def slope(part: jax.Array) -> jax.Array:
        rates = jnp.zeros_like(y0).at[pattern.entry].add(jnp.where(jnp.isfinite(pattern.shift), pattern.rate, 0.0))
        moved = model.vector_field(pattern.begins, unravel(whole(part)))
        moved = jax.tree.map(lambda own, leaf: jnp.broadcast_to(own, leaf.shape), moved, start)
        return jnp.where(runs, (ravel_pytree(moved)[0] + rates)[free], y0[free] - part)

    def after(span: jax.Array, part: jax.Array, doses: Schedule, goes: jax.Array) -> jax.Array:
        ends = jnp.where(goes & jnp.isfinite(part).all(), pattern.begins + span, jnp.inf)[None]
        states, _, _ = method.solve(model, doses, ends, unravel(whole(part)), pattern.begins)
        return ravel_pytree(jax.tree.map(lambda leaf: leaf[0], states))[0][free]

    exact = isinstance(method, MatrixExponential)
    near = None
    if not exact:
        atol = np.broadcast_to(absolute(method.atol, model, state_names(start)), y0.shape)
        near = Near(method.rtol, atol[free])
    found = []
    interval = jnp.where(repeats, pattern.interval, 1.0)
    size = jnp.max(jnp.abs(pattern.jump) + jnp.abs(pattern.rate) * interval)
    if extent.periodic:
        doses = one_period(pattern, interval, infuses=extent.infuses)

        def gained(part: jax.Array) -> jax.Array:
            # where there is no such pattern the state stays, and so do its derivatives
            return jnp.where(repeats, after(interval, part, doses, repeats), y0[free]) - part

        found.append(_affine(gained, size, free.size) if exact else _implicit(gained, y0[free], partial(_shoot, near)))
    if extent.constant:
        on = partial(after, doses=constantly(pattern), goes=runs)
        found.append(
            _affine(slope, size, free.size) if exact else _implicit(slope, y0[free], partial(_relax, near, on))
        )
    part, fine = found[0]
    if len(found) > 1:
        steady, balanced = found[1]
        part = jnp.where(runs, steady, part)
        fine = jnp.where(runs, balanced, fine)
    return whole(part), fine & jnp.isfinite(part).all()


class Near(NamedTuple):
    """What counts as the same state."""

    rtol: float
    atol: Any

    def size(self, change: jax.Array, y: jax.Array) -> jax.Array:
        """Return the largest change in units of the tolerance, inf if it is not finite."""
        size = jnp.max(jnp.abs(change) / self.scale(y))
        return jnp.where(jnp.isfinite(size), size, jnp.inf)

    def scale(self, y: jax.Array) -> jax.Array:
        """Return the tolerance of each state."""
        return self.atol + self.rtol * jnp.abs(y)


def one_period(pattern: Pattern, interval: jax.Array, *, infuses: bool) -> Schedule:
    """Return what enters during one interval of an endless series of doses.

    An infusion longer than the interval runs several times over: as many whole intervals as it lasts at all times, and
    the rest of it once more, which may go on into the next interval.
    """
    live = jnp.isfinite(pattern.shift)
    shift = jnp.where(live, pattern.shift, 0.0)
    phase = jnp.mod(shift, interval)
    phase = jnp.where(interval - phase <= 1e-12 * interval, 0.0, phase)
    begins, enters = pattern.begins, pattern.begins + phase
    unused = jnp.full_like(shift, jnp.inf)
    given = jnp.where(live, enters, unused)
    if not infuses:
        return Schedule(start=given, entry=pattern.entry, jump=pattern.jump)
    times = jnp.floor(pattern.lasts / interval)
    rest = pattern.lasts - times * interval
    over = phase + rest - interval
    runs = live & pattern.infused
    always = jnp.where(runs, begins, unused)
    wraps = runs & (over > 0)
    nothing = jnp.zeros_like(shift)
    return Schedule(
        start=jnp.concatenate([given, always, jnp.where(wraps, begins, unused)]),
        stop=jnp.concatenate([jnp.where(runs, enters + rest, unused), unused, jnp.where(wraps, begins + over, unused)]),
        infused=jnp.concatenate([runs, runs, wraps]),
        entry=jnp.tile(pattern.entry, 3),
        jump=jnp.concatenate([pattern.jump, nothing, nothing]),
        rate=jnp.concatenate([pattern.rate, times * pattern.rate, pattern.rate]),
    )


def constantly(pattern: Pattern) -> Schedule:
    """Return infusions that run all the time."""
    live = jnp.isfinite(pattern.shift)
    return Schedule(
        start=jnp.where(live, pattern.begins, jnp.inf),
        stop=jnp.full_like(pattern.shift, jnp.inf),
        infused=live,
        entry=pattern.entry,
        jump=jnp.zeros_like(pattern.jump),
        rate=pattern.rate,
    )


def _affine(residual: Residual, size: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    """Return the root of an affine function of n states, differentiated as it is computed; `size` is that of states."""
    size = jax.lax.stop_gradient(jnp.where((size > 0) & jnp.isfinite(size), size, 1.0))
    points = jnp.concatenate([jnp.zeros((1, n)), size * jnp.eye(n)])
    values = jax.vmap(residual)(points)
    origin, columns = values[0], (values[1:] - values[0]) / size
    matrix, fine = _solvable(columns.T)
    root = -jnp.linalg.solve(matrix, jnp.where(fine, origin, 0.0))
    return root, fine


def _solvable(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return a matrix and whether it can be solved; else one that can: a failure must not come back as NaN."""
    trial = jnp.linalg.solve(jax.lax.stop_gradient(matrix), jnp.ones(matrix.shape[:1]))
    fine = jnp.isfinite(trial).all()
    return jnp.where(fine, matrix, jnp.eye(matrix.shape[0])), fine


def _implicit(residual: Residual, guess: jax.Array, search: Any) -> tuple[jax.Array, jax.Array]:
    """Return a root of a function, differentiated by the implicit function theorem; and whether it is one."""

    def tangent_solve(linear: Residual, right: jax.Array) -> jax.Array:
        return jnp.linalg.solve(_solvable(jax.jacfwd(linear)(jnp.zeros_like(right)))[0], right)

    def found(residual: Residual, guess: jax.Array) -> tuple[jax.Array, jax.Array]:
        root, distance = search(residual, guess)
        return jnp.where(jnp.isfinite(root).all(), root, guess), distance

    root, distance = jax.lax.custom_root(residual, guess, found, tangent_solve, has_aux=True)
    return root, jax.lax.stop_gradient(distance) <= 1.0


def _linearised(residual: Residual, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the value of a function and its Jacobian."""
    # not `linearize`: in jax 0.12 its linear part is a call of its own, and a record of the kernel changes its shape
    # under `vmap` without being mapped, which no call allows
    jacobian, value = jax.jacfwd(lambda y: (residual(y),) * 2, has_aux=True)(y)
    return value, jacobian


class _Search(NamedTuple):
    """Where the search for a root stands: after `jacobian`, of an earlier point unless `fresh`, `step` goes next."""

    y: jax.Array
    value: jax.Array
    jacobian: jax.Array
    step: jax.Array
    share: jax.Array
    fresh: jax.Array
    stale: jax.Array
    stuck: jax.Array
    count: jax.Array


def _shoot(near: Near, residual: Residual, guess: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Find the root of P(y) - y; return it and the size of the last step in units of the tolerance.

    The Jacobian is computed once and then updated (Broyden); again where a step does not lead downhill. Patients
    who are done have a start that is NaN, and are not solved.
    """

    def unfinished(now: _Search) -> jax.Array:
        alive = jnp.isfinite(near.size(now.value, now.y)) & (now.count < ITERATIONS) & ~now.stuck
        return (now.count <= PERIODS) | (alive & (now.stale | (near.size(now.step, now.y) > CLOSE)))

    def advance(now: _Search) -> _Search:
        live, warm = unfinished(now), now.count <= PERIODS
        renews = now.stale & ~warm
        simulates = warm | (~renews & (now.share < LEAST))
        way = jnp.where(simulates, now.value, now.share * now.step)
        trial = now.y + jnp.where(renews, 0.0, way)
        value = _for_some(residual, live & ~renews, trial)
        again, exact = _for_some(partial(_linearised, residual), live & renews, trial)
        value = jnp.where(renews, again, value)
        jacobian = jnp.where(renews, exact, _updated(now.jacobian, way, value - now.value, near.scale(now.y)))

        better = warm | renews | simulates | (near.size(value, trial) < near.size(now.value, now.y))
        y, value = (jnp.where(better, new, old) for new, old in ((trial, now.y), (value, now.value)))
        jacobian = jnp.where(better | ~now.fresh, jacobian, now.jacobian)
        return _Search(
            y=y,
            value=value,
            jacobian=jacobian,
            step=-jnp.linalg.solve(jacobian, value),
            share=jnp.where(better | ~now.fresh, 1.0, 0.25 * now.share),
            fresh=renews | (now.fresh & ~better),
            stale=warm | (simulates & ~renews) | (~better & ~now.fresh),
            # within the tolerance and no longer downhill: what is left is the error of the solve
            stuck=~better & now.fresh & (near.size(now.step, now.y) <= 1.0),
            count=now.count + 1,
        )

    zero, no, size = jnp.zeros_like(guess), jnp.zeros((), bool), guess.size
    start = _Search(guess, zero, -jnp.eye(size), zero, jnp.ones(()), no, ~no, no, jnp.zeros((), int))
    end = jax.lax.while_loop(unfinished, advance, start)
    return end.y + jnp.where(end.stuck, 0.0, end.step), near.size(end.step, end.y)


def _for_some(function: Callable[[jax.Array], Any], wanted: jax.Array, y: jax.Array) -> Any:
    """Evaluate a function where it is wanted, and not at all where no patient wants it."""
    shapes = jax.eval_shape(function, y)

    def nothing(_: jax.Array) -> Any:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    return jax.lax.cond(eqxi.unvmap_any(wanted), function, nothing, jnp.where(wanted, y, jnp.nan))


def _updated(jacobian: jax.Array, moved: jax.Array, change: jax.Array, scale: jax.Array) -> jax.Array:
    """Return Broyden's update of a Jacobian, with the states in units of their tolerances."""
    weighed = moved / scale**2
    norm = jnp.dot(weighed, moved)
    update = jnp.outer(change - jacobian @ moved, weighed) / jnp.where(norm > 0, norm, 1.0)
    return jacobian + jnp.where(jnp.isfinite(update).all(), update, 0.0)


def _step(residual: Residual, y: jax.Array) -> jax.Array:
    """Return the Newton step."""
    value, jacobian = _linearised(residual, y)
    return -jnp.linalg.solve(jacobian, value)


def _relax(near: Near, after: Any, residual: Residual, guess: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Find the root of a slope: simulate ten times as long until Newton's step is short, then let it arrive."""
    rates = jax.jacfwd(residual)(guess)
    span = 1.0 / jnp.maximum(jnp.max(jnp.abs(rates)), 1e-12)
    short = Near(1e-2, near.atol)

    def unfinished(now: tuple) -> jax.Array:
        y, step, _, count = now
        return (short.size(step, y) > 1.0) & (count < DECADES) & jnp.isfinite(y).all()

    def longer(now: tuple) -> tuple:
        y, _, span, count = now
        y = after(span, y)
        return y, _step(residual, y), 10.0 * span, count + 1

    first = (guess, _step(residual, guess), span, jnp.zeros((), int))
    y, step, _, _ = jax.lax.while_loop(unfinished, longer, first)

    def arrive(_: Any, now: tuple) -> tuple:
        y = now[0] + now[1]
        return y, _step(residual, y)

    arrived, last = jax.lax.fori_loop(0, POLISH, arrive, (y, step))
    return arrived, jnp.where(short.size(step, y) <= 1.0, near.size(last, arrived), jnp.inf)
