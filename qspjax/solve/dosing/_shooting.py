"""The search for a steady state of a model that is not linear, and its derivative.

For a period map P, Newton's method on P(y) - y: the exact derivative of P once, then Broyden's updates; where no step
leads downhill, another interval is simulated instead. For a constant infusion, simulation over ever longer spans, then
Newton's method on the slope. The derivative of the result is that of the equation (the implicit function theorem),
whatever the iterations were, in both modes and of every order.

A root is not a steady state if the doses do not lead to it: if states near it move away or stay away (`_limit`), or if
it lies below zero where the states cannot go.

Reference: Keller, Numerical Methods for Two-Point Boundary-Value Problems, 1968 (shooting on the period map).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np

from qspjax.solve._near import Near
from qspjax.solve.dosing._limit import keeper, limit_of, map_of

T = TypeVar("T")
Residual = Callable[[jax.Array], jax.Array]

PERIODS = 1
"""Number of intervals that are simulated before the first Newton step."""
ITERATIONS = 60
"""The maximum number of steps, of Newton or of simulation, until a steady state is given up."""
LEAST = 0.05
"""Where not even this small a fraction of a Newton step leads downhill, an interval is simulated instead."""
DECADES, POLISH = 12, 4
"""For a constant infusion: how often the simulated time grows tenfold, and the Newton steps that follow."""
CLOSE = 1e-3
"""The search has converged where a step is below this fraction of the tolerance of the method."""
BELOW = 100.0
"""A state counts as below zero if it is so by this many tolerances."""


class Sought(NamedTuple):
    """What is known of a steady state besides its equation; n states.

    Attributes:
        start: The state that the doses begin with.
        near: What counts as the same state.
        differential: The indices of the states that are not algebraic.
        slope: The vector field, at the beginning of an interval.
        typical: States that are all larger than zero.
        slopes: The vector field at several times, `(times, state) -> (times, n)`.
        moments: Times of an interval.
        positive: Which states begin at zero or above, and have nothing taken away.
    """

    start: jax.Array
    near: Near
    differential: np.ndarray
    slope: Residual
    typical: jax.Array
    slopes: Callable[[jax.Array, jax.Array], jax.Array]
    moments: jax.Array
    positive: jax.Array

    def keeper(self) -> jax.Array:
        """Return the matrix that extracts from the states what the model conserves, see `_limit`; shape (n, n)."""
        slopes = jax.jacfwd(self.slope)(self.typical)
        slopes = reduced(jnp.where(jnp.isfinite(slopes).all(), slopes, -jnp.eye(self.start.size)), self.differential)
        map, h = map_of(slopes)
        projector = limit_of(map).projector
        block = np.ix_(self.differential, self.differential)
        return jnp.zeros((self.start.size,) * 2).at[block].set(keeper(projector, h * slopes))

    def unreachable(self, y: jax.Array) -> jax.Array:
        """Return which states lie below zero, if none of these can fall below it; shape (n,).

        Beyond the pole of a saturable elimination, at -Km, there is a root of the equation that no patient reaches.
        """
        below = self.positive & (y < -BELOW * self.near.scale(y))
        slopes = self.slopes(self.moments, jnp.where(below, 0.0, y))
        return below & jnp.where(below, (slopes >= 0).all(axis=0), True).all()


def reduced(jacobian: jax.Array, differential: np.ndarray) -> jax.Array:
    """Return the Jacobian of the differential states, with the algebraic states a function of them."""
    n = jacobian.shape[0]
    if differential.size == n:
        return jacobian
    algebraic = np.setdiff1d(np.arange(n), differential)
    j_dd, j_da, j_ad, j_aa = (
        jacobian[np.ix_(rows, columns)] for rows in (differential, algebraic) for columns in (differential, algebraic)
    )
    return j_dd - j_da @ jnp.linalg.solve(j_aa, j_ad)


def root_of(residual: Residual, sought: Sought, search: Callable[..., tuple]) -> tuple[jax.Array, jax.Array]:
    """Return a steady state, and what is wrong with it, by state, zero if nothing; shape (n,) each.

    Args:
        residual: The function that is zero there: what a state gains in an interval, or its slope.
        sought: What else is known of it.
        search: `(sought, residual, guess) -> (root, wrong)`.
    """
    extract, start = sought.keeper(), sought.start

    def augmented(y: jax.Array) -> jax.Array:
        """Return the residual, such that what the model conserves is that of the start."""
        return residual(y) + extract @ (start - y)

    def tangent_solve(linear: Residual, right: jax.Array) -> jax.Array:
        matrix = jax.jacfwd(linear)(jnp.zeros_like(right))
        solvable = jnp.isfinite(jnp.linalg.solve(jax.lax.stop_gradient(matrix), jnp.ones_like(right))).all()
        return jnp.linalg.solve(jnp.where(solvable, matrix, jnp.eye(right.size)), right)

    def solved(residual: Residual, guess: jax.Array) -> tuple[jax.Array, jax.Array]:
        root, wrong = search(sought, residual, guess)
        return jnp.where(jnp.isfinite(root).all(), root, guess), wrong

    root, wrong = jax.lax.custom_root(augmented, start, solved, tangent_solve, has_aux=True)
    value, deviation = jax.lax.stop_gradient((root, extract @ (start - root)))
    # if doses add to what is conserved, the root shows how much
    wrong = jnp.maximum(wrong, jnp.where(jnp.abs(deviation) > sought.near.scale(value), jnp.abs(deviation), 0.0))
    return root, jax.lax.stop_gradient(jnp.where(sought.unreachable(value), jnp.inf, wrong))


def _linearised(residual: Residual, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the value of a function and its Jacobian."""
    # not `linearize`: in jax 0.12 its linear part is a call of its own, and a record of the kernel changes its shape
    # under `vmap` without being mapped, which no call allows
    jacobian, value = jax.jacfwd(lambda y: (residual(y),) * 2, has_aux=True)(y)
    return value, jacobian


class _Search(NamedTuple):
    """The state of the search for a root; `step` is next, by a `jacobian` of an earlier point unless it is `fresh`."""

    y: jax.Array
    value: jax.Array
    jacobian: jax.Array
    step: jax.Array
    share: jax.Array
    fresh: jax.Array
    stale: jax.Array
    stuck: jax.Array
    iterations: jax.Array


def by_periods(sought: Sought, residual: Residual, guess: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Find the root of P(y) - y; return it, and what is wrong with it.

    The Jacobian is computed once and then updated (Broyden); again where a step does not lead downhill, or where it
    would not lead back to the root. Patients who are done have a start that is NaN, and are not solved.
    """
    near, identity = sought.near, jnp.eye(guess.size)

    def arrived(now: _Search) -> jax.Array:
        return ~now.stale & (now.stuck | (near.size(now.step, now.y) <= CLOSE))

    def unfinished(now: _Search) -> jax.Array:
        alive = jnp.isfinite(near.size(now.value, now.y)) & (now.iterations < ITERATIONS)
        return (now.iterations <= PERIODS) | (alive & ~arrived(now))

    def advance(now: _Search) -> _Search:
        live, warm = unfinished(now), now.iterations <= PERIODS
        renews = now.stale & ~warm
        simulates = warm | (~renews & (now.share < LEAST))
        displacement = jnp.where(simulates, now.value, now.share * now.step)
        trial = now.y + jnp.where(renews, 0.0, displacement)
        value = _for_some(residual, live & ~renews, trial)
        renewed, exact = _for_some(partial(_linearised, residual), live & renews, trial)
        value = jnp.where(renews, renewed, value)
        jacobian = jnp.where(renews, exact, _updated(now.jacobian, displacement, value - now.value, near.scale(now.y)))

        better = warm | renews | simulates | (near.size(value, trial) < near.size(now.value, now.y))
        y, value = (jnp.where(better, new, old) for new, old in ((trial, now.y), (value, now.value)))
        jacobian = jnp.where(better | ~now.fresh, jacobian, now.jacobian)
        after = _Search(
            y=y,
            value=value,
            jacobian=jacobian,
            step=-jnp.linalg.solve(jacobian, value),
            share=jnp.where(better | ~now.fresh, 1.0, 0.25 * now.share),
            fresh=renews | (now.fresh & ~better),
            stale=warm | (simulates & ~renews) | (~better & ~now.fresh),
            # within the tolerance and no longer downhill: the rest is the error of the solve
            stuck=~better & now.fresh & (near.size(now.step, now.y) <= 1.0),
            iterations=now.iterations + 1,
        )
        doubtful = live & arrived(after) & ~after.fresh
        leads = jax.lax.cond(
            eqxi.unvmap_any(doubtful), lambda m: limit_of(m).forgets, lambda _: jnp.ones((), bool), identity + jacobian
        )
        return after._replace(stale=after.stale | (doubtful & ~leads))

    zero, no = jnp.zeros_like(guess), jnp.zeros((), bool)
    start = _Search(guess, zero, -identity, zero, jnp.ones(()), no, ~no, no, jnp.zeros((), int))
    end = jax.lax.while_loop(unfinished, advance, start)
    is_root = (near.size(end.step, end.y) <= 1.0) & limit_of(identity + end.jacobian).forgets
    root = end.y + jnp.where(end.stuck, 0.0, end.step)
    return root, jnp.where(is_root, 0.0, 1.0 + jnp.abs(end.value) / near.scale(end.y))


def _for_some(function: Callable[[jax.Array], T], active: jax.Array, y: jax.Array) -> T:
    """Evaluate a function where `active`, and not at all where no patient is."""
    shapes = jax.eval_shape(function, y)

    def nothing(_: jax.Array) -> T:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    return jax.lax.cond(eqxi.unvmap_any(active), function, nothing, jnp.where(active, y, jnp.nan))


def _updated(jacobian: jax.Array, displacement: jax.Array, change: jax.Array, scale: jax.Array) -> jax.Array:
    """Return Broyden's update of a Jacobian, with the states in units of their tolerances."""
    weighed = displacement / scale**2
    norm = jnp.dot(weighed, displacement)
    update = jnp.outer(change - jacobian @ displacement, weighed) / jnp.where(norm > 0, norm, 1.0)
    return jacobian + jnp.where(jnp.isfinite(update).all(), update, 0.0)


def _step(residual: Residual, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the Newton step, and the Jacobian."""
    value, jacobian = _linearised(residual, y)
    return -jnp.linalg.solve(jacobian, value), jacobian


def after_a_while(
    after: Callable[[jax.Array, jax.Array], jax.Array], sought: Sought, residual: Residual, guess: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Find the root of a slope; return it, and what is wrong with it.

    The simulated time grows tenfold until Newton's step is short; then Newton's method finishes the search.

    Args:
        after: `(span, state) -> state` after that time.
        sought: What is known of the root.
        residual: The slope.
        guess: Where to start.
    """
    near, differential = sought.near, sought.differential
    rates = jax.jacfwd(residual)(guess)
    span = 1.0 / jnp.maximum(jnp.max(jnp.abs(rates)), 1e-12)
    short = Near(1e-2, near.atol)

    def unfinished(now: tuple) -> jax.Array:
        y, step, _, count = now
        return (short.size(step, y) > 1.0) & (count < DECADES) & jnp.isfinite(y).all()

    def longer(now: tuple) -> tuple:
        y, _, span, count = now
        y = after(span, y)
        return y, _step(residual, y)[0], 10.0 * span, count + 1

    start = (guess, _step(residual, guess)[0], span, jnp.zeros((), int))
    y, step, _, _ = jax.lax.while_loop(unfinished, longer, start)

    def polish(_: jax.Array, now: tuple) -> tuple:
        y = now[0] + now[1]
        return y, *_step(residual, y)

    begin = (y, step, jnp.zeros_like(rates))
    arrived, last_step, jacobian = jax.lax.fori_loop(0, POLISH, polish, begin)
    leads = limit_of(map_of(reduced(jacobian, differential))[0]).forgets
    is_root = (short.size(step, y) <= 1.0) & (near.size(last_step, arrived) <= 1.0) & leads
    return arrived, jnp.where(is_root, 0.0, 1.0 + jnp.abs(step) / near.scale(y))
