"""The steady state of periodic dosing, and of a constant infusion: found exactly, and differentiated implicitly.

Between two doses of an endless series the states repeat: y = P(y) with P the solution over one interval. For a linear
model P(y) = M y + c, so y = (I - M)^-1 c, one linear solve; any other is searched for (`_shooting`). The
derivative of the result is that of the equation, in both modes and of every order.

A state on which nothing depends (an area under a curve, what was excreted) has no steady state; it stays at its initial
value. What a model keeps (the total of a receptor without turnover) is that of the start, if no dose adds to it. And a
steady state is one that the doses lead to: where more is given than can leave, there is none, though an equation may
have a root (`_limit`).
"""

from functools import partial
from typing import Protocol, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from qspjax._arrays import argmax_first
from qspjax._declared import mass_of, sizes_of
from qspjax._dosing._regimen import RegimenShape
from qspjax._model import AbstractModel, as_state
from qspjax._names import state_names
from qspjax.solve._exponential import MatrixExponential
from qspjax.solve._method import AbstractMethod, absolute
from qspjax.solve._near import Near
from qspjax.solve.dosing._limit import given_to_kept, keeper, limit_of, map_of
from qspjax.solve.dosing._schedule import Pattern, Schedule, not_below_zero
from qspjax.solve.dosing._shooting import Residual, Sought, after_a_while, by_periods, root_of
from qspjax.solve.kernel._layout import system_of

MOMENTS = 9
"""The number of times of an interval at which it is asked whether a state can fall below zero."""
AROUND = 1e-3
"""What a model keeps is looked up at states that are all larger than zero, by this part of their size."""


class _Tolerances(Protocol):
    """The tolerances of a method."""

    rtol: float
    atol: float


def _has_tolerances(method: AbstractMethod) -> TypeGuard[_Tolerances]:
    return not isinstance(method, MatrixExponential)


def steady_state(
    method: AbstractMethod, shape: RegimenShape, model: AbstractModel, pattern: Pattern
) -> tuple[jax.Array, jax.Array]:
    """Return the state at the beginning of a pattern of doses, before what is given then, and whether it was found.

    Where it was not, the state to blame is NaN.

    Args:
        method: How to solve.
        shape: What there may be: infusions, an interval, or none (a constant infusion).
        model: The patient.
        pattern: The doses of one interval.
    """
    start = as_state(model, None)
    y0, unravel = ravel_pytree(start)
    system, _ = system_of(model, start)
    matters = np.asarray(system.pattern).any(axis=0)  # a column of zeros: nothing depends on this state
    free = np.flatnonzero(matters)
    live = jnp.isfinite(pattern.shift)
    wanted = live.any()
    repeats, runs = wanted & (pattern.interval > 0), wanted & (pattern.interval == 0)
    if not free.size:
        return y0, jnp.ones((), bool)
    own = y0[free]
    interval = jnp.where(repeats, pattern.interval, 1.0)

    def entering(amounts: jax.Array) -> jax.Array:
        return jnp.zeros_like(y0).at[pattern.state].add(jnp.where(live, amounts, 0.0))[free]

    def whole(part: jax.Array) -> jax.Array:
        return y0.at[free].set(part)

    def field(t: jax.Array, part: jax.Array) -> jax.Array:
        moved = model.vector_field(t, unravel(whole(part)))
        moved = jax.tree.map(lambda own, leaf: jnp.broadcast_to(own, leaf.shape), moved, start)
        return ravel_pytree(moved)[0][free]

    def slope(part: jax.Array) -> jax.Array:
        return jnp.where(runs, field(pattern.begins, part) + entering(pattern.rate), own - part)

    def after(span: jax.Array, part: jax.Array, doses: Schedule, goes: jax.Array) -> jax.Array:
        ends = jnp.where(goes & jnp.isfinite(part).all(), pattern.begins + span, jnp.inf)[None]
        states, _, _ = method.solve(model, doses, ends, unravel(whole(part)), pattern.begins)
        return ravel_pytree(jax.tree.map(lambda leaf: leaf[0], states))[0][free]

    def gained(part: jax.Array) -> jax.Array:
        # where there is no such pattern the state stays, and so do its derivatives
        doses = one_period(pattern, interval, infuses=shape.infuses)
        return jnp.where(repeats, after(interval, part, doses, repeats), own) - part

    sought = None
    if _has_tolerances(method):
        names = state_names(start)
        atol = np.broadcast_to(absolute(method.atol, model, names), y0.shape)
        sizes = sizes_of(model, names)
        given = entering(jnp.abs(pattern.add) + jnp.abs(pattern.rate) * interval)
        taken = entering(jnp.minimum(pattern.add, 0.0) + jnp.minimum(pattern.rate, 0.0))
        sought = Sought(
            start=own,
            near=Near(method.rtol, atol[free]),
            differential=np.flatnonzero(mass_of(model, names)[free]),
            slope=partial(field, pattern.begins),
            typical=jnp.abs(own) + given + AROUND * (1.0 if sizes is None else sizes[free]),
            slopes=jax.vmap(field, in_axes=(0, None)),
            moments=pattern.begins + interval * jnp.linspace(0.0, 1.0, MOMENTS),
            positive=(own >= 0) & (taken == 0),
        )
    size = jnp.max(jnp.abs(pattern.add) + jnp.abs(pattern.rate) * interval)
    found = []
    if shape.periodic:
        found.append(_affine(gained, size, own) if sought is None else root_of(gained, sought, by_periods))
    if shape.constant:
        on = partial(after, doses=constantly(pattern), goes=runs)
        relaxed = partial(after_a_while, on)
        found.append(_affine(slope, size, own, slopes=True) if sought is None else root_of(slope, sought, relaxed))
    part, wrong = found[0]
    if len(found) > 1:
        part, wrong = (jnp.where(runs, steady, repeated) for steady, repeated in zip(found[1], found[0], strict=True))
    wrong = jnp.where(jnp.isfinite(part), wrong, jnp.inf)
    fine = (wrong == 0.0).all()
    part = jnp.where(~fine & (jnp.arange(free.size) == argmax_first(wrong)), jnp.nan, part)
    return whole(part), fine


def one_period(pattern: Pattern, interval: jax.Array, *, infuses: bool) -> Schedule:
    """Return what enters during one interval of an endless series of doses.

    An infusion longer than the interval runs several times over: as many whole intervals as it outlasts at all times,
    and the rest of it once more, which may go on into the next interval. Where one ends as the next begins it ends with
    the interval: a derivative with respect to its duration is that from below.
    """
    live, near = jnp.isfinite(pattern.shift), pattern.near
    shift = jnp.where(live, pattern.shift, 0.0)
    phase = not_below_zero(shift - jnp.floor((shift + near) / interval) * interval)
    begins, enters = pattern.begins, pattern.begins + phase
    unused = jnp.full_like(shift, jnp.inf)
    given = jnp.where(live, enters, unused)
    if not infuses:
        return Schedule(start=given, state=pattern.state, add=pattern.add)
    times = jnp.maximum(jnp.ceil((pattern.lasts - near) / interval) - 1.0, 0.0)
    rest = pattern.lasts - times * interval
    over = phase + rest - interval
    runs = live & pattern.infused
    always = jnp.where(runs, begins, unused)
    wraps = runs & (over > near)
    nothing = jnp.zeros_like(shift)
    return Schedule(
        start=jnp.concatenate([given, always, jnp.where(wraps, begins, unused)]),
        stop=jnp.concatenate([jnp.where(runs, enters + rest, unused), unused, jnp.where(wraps, begins + over, unused)]),
        infused=jnp.concatenate([runs, runs, wraps]),
        state=jnp.tile(pattern.state, 3),
        add=jnp.concatenate([pattern.add, nothing, nothing]),
        rate=jnp.concatenate([pattern.rate, times * pattern.rate, pattern.rate]),
    )


def constantly(pattern: Pattern) -> Schedule:
    """Return infusions that run all the time."""
    live = jnp.isfinite(pattern.shift)
    return Schedule(
        start=jnp.where(live, pattern.begins, jnp.inf),
        stop=jnp.full_like(pattern.shift, jnp.inf),
        infused=live,
        state=pattern.state,
        add=jnp.zeros_like(pattern.add),
        rate=pattern.rate,
    )


def _affine(
    residual: Residual, size: jax.Array, start: jax.Array, *, slopes: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Return the root of an affine function of n states, differentiated as it is computed, and what is wrong with it.

    Args:
        residual: What a state gains in an interval, or its slope.
        size: That of states.
        start: The state that the doses begin with.
        slopes: Whether it is a slope.
    """
    size, n = jax.lax.stop_gradient(jnp.where((size > 0) & jnp.isfinite(size), size, 1.0)), start.size
    points = jnp.concatenate([jnp.zeros((1, n)), size * jnp.eye(n)])
    values = jax.vmap(residual)(points)
    origin, matrix = values[0], (values[1:] - values[0]).T / size
    if slopes:
        map, h = map_of(matrix)
        origin, matrix = h * origin, h * matrix
    else:
        map = jnp.eye(n) + matrix
    kept, exists = limit_of(map)
    wrong = jnp.where(exists, given_to_kept(kept, origin), 1.0 + jnp.abs(origin))
    fine = (wrong == 0.0).all()
    # a failure must not come back as NaN
    matrix, origin = jnp.where(fine, matrix, -jnp.eye(n)), jnp.where(fine, origin, 0.0)
    keeps = keeper(kept, matrix)
    return jnp.linalg.solve(keeps - matrix, origin + keeps @ start), wrong
