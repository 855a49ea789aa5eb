"""The steady state of periodic dosing, and of a constant infusion: found exactly, and differentiated implicitly.

Between two doses of an endless series the states repeat: y = P(y) with P the solution over one interval. For a linear
model P(y) = M y + c, so y = (I - M)^-1 c, one linear solve; any other is searched for (`_shooting`). The
derivative of the result is that of the equation, in both modes and of every order.

A state on which nothing depends (an area under a curve, an excreted amount) has no steady state; it stays at its
initial value. What a model conserves (the total of a receptor without turnover) is that of the start, if no dose adds
to it. A steady state is one that the doses lead to: where more is given than can be eliminated, there is none, even if
the equation has a root (`_limit`).
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
from qspjax.solve.dosing._limit import added_to_conserved, keeper, limit_of, map_of
from qspjax.solve.dosing._schedule import Pattern, Schedule, not_below_zero
from qspjax.solve.dosing._shooting import Residual, Sought, after_a_while, by_periods, root_of
from qspjax.solve.kernel._layout import system_of

MOMENTS = 9
"""The number of times in an interval at which it is checked whether a state can fall below zero."""
AROUND = 1e-3
"""What a model conserves is determined at states that are all larger than zero, by this fraction of their size."""


class _Tolerances(Protocol):
    """The tolerances of a method."""

    rtol: float
    atol: float


def _has_tolerances(method: AbstractMethod) -> TypeGuard[_Tolerances]:
    return not isinstance(method, MatrixExponential)


def steady_state(
    method: AbstractMethod, shape: RegimenShape, model: AbstractModel, pattern: Pattern
) -> tuple[jax.Array, jax.Array]:
    """Return the state at the beginning of a pattern of doses, before its first dose, and whether it was found.

    Where it was not, the state at fault is NaN.

    Args:
        method: How to solve.
        shape: Whether there may be infusions, an interval, or none (a constant infusion).
        model: The patient.
        pattern: The doses of one interval.
    """
    start = as_state(model, None)
    y0, unravel = ravel_pytree(start)
    system, _ = system_of(model, start)
    matters = np.asarray(system.pattern).any(axis=0)  # a column of zeros: nothing depends on this state
    free = np.flatnonzero(matters)
    live = jnp.isfinite(pattern.shift)
    present = live.any()
    repeats, runs = present & (pattern.interval > 0), present & (pattern.interval == 0)
    if not free.size:
        return y0, jnp.ones((), bool)
    initial = y0[free]
    interval = jnp.where(repeats, pattern.interval, 1.0)

    def entering(amounts: jax.Array) -> jax.Array:
        return jnp.zeros_like(y0).at[pattern.state].add(jnp.where(live, amounts, 0.0))[free]

    def embedded(x: jax.Array) -> jax.Array:
        return y0.at[free].set(x)

    def field(t: jax.Array, x: jax.Array) -> jax.Array:
        dydt = model.vector_field(t, unravel(embedded(x)))
        dydt = jax.tree.map(lambda row, leaf: jnp.broadcast_to(row, leaf.shape), dydt, start)
        return ravel_pytree(dydt)[0][free]

    def slope(x: jax.Array) -> jax.Array:
        return jnp.where(runs, field(pattern.begins, x) + entering(pattern.rate), initial - x)

    def after(span: jax.Array, x: jax.Array, doses: Schedule, goes: jax.Array) -> jax.Array:
        ends = jnp.where(goes & jnp.isfinite(x).all(), pattern.begins + span, jnp.inf)[None]
        states, _, _ = method.solve(model, doses, ends, unravel(embedded(x)), pattern.begins)
        return ravel_pytree(jax.tree.map(lambda leaf: leaf[0], states))[0][free]

    def gained(x: jax.Array) -> jax.Array:
        # where there is no such pattern the state stays, and so do its derivatives
        doses = one_period(pattern, interval, infuses=shape.infuses)
        return jnp.where(repeats, after(interval, x, doses, repeats), initial) - x

    sought = None
    if _has_tolerances(method):
        names = state_names(start)
        atol = np.broadcast_to(absolute(method.atol, model, names), y0.shape)
        sizes = sizes_of(model, names)
        entering_amounts = entering(jnp.abs(pattern.add) + jnp.abs(pattern.rate) * interval)
        removed = entering(jnp.minimum(pattern.add, 0.0) + jnp.minimum(pattern.rate, 0.0))
        sought = Sought(
            start=initial,
            near=Near(method.rtol, atol[free]),
            differential=np.flatnonzero(mass_of(model, names)[free]),
            slope=partial(field, pattern.begins),
            typical=jnp.abs(initial) + entering_amounts + AROUND * (1.0 if sizes is None else sizes[free]),
            slopes=jax.vmap(field, in_axes=(0, None)),
            moments=pattern.begins + interval * jnp.linspace(0.0, 1.0, MOMENTS),
            positive=(initial >= 0) & (removed == 0),
        )
    size = jnp.max(jnp.abs(pattern.add) + jnp.abs(pattern.rate) * interval)
    results = []
    if shape.periodic:
        results.append(_affine(gained, size, initial) if sought is None else root_of(gained, sought, by_periods))
    if shape.constant:
        on = partial(after, doses=constantly(pattern), goes=runs)
        relaxed = partial(after_a_while, on)
        results.append(
            _affine(slope, size, initial, slopes=True) if sought is None else root_of(slope, sought, relaxed)
        )
    x, wrong = results[0]
    if len(results) > 1:
        x, wrong = (jnp.where(runs, steady, repeated) for steady, repeated in zip(results[1], results[0], strict=True))
    wrong = jnp.where(jnp.isfinite(x), wrong, jnp.inf)
    succeeded = (wrong == 0.0).all()
    x = jnp.where(~succeeded & (jnp.arange(free.size) == argmax_first(wrong)), jnp.nan, x)
    return embedded(x), succeeded


def one_period(pattern: Pattern, interval: jax.Array, *, infuses: bool) -> Schedule:
    """Return what enters during one interval of an endless series of doses.

    An infusion longer than the interval overlaps with itself: its rate counts at all times once for each whole interval
    that it outlasts, and once more during the remainder, which may continue into the next interval. Where one ends as
    the next begins it ends with the interval: a derivative with respect to its duration is that from below.
    """
    live, near = jnp.isfinite(pattern.shift), pattern.near
    shift = jnp.where(live, pattern.shift, 0.0)
    phase = not_below_zero(shift - jnp.floor((shift + near) / interval) * interval)
    begins, enters = pattern.begins, pattern.begins + phase
    unused = jnp.full_like(shift, jnp.inf)
    starts = jnp.where(live, enters, unused)
    if not infuses:
        return Schedule(start=starts, state=pattern.state, add=pattern.add)
    times = jnp.maximum(jnp.ceil((pattern.lasts - near) / interval) - 1.0, 0.0)
    remainder = pattern.lasts - times * interval
    over = phase + remainder - interval
    runs = live & pattern.infused
    always = jnp.where(runs, begins, unused)
    wraps = runs & (over > near)
    nothing = jnp.zeros_like(shift)
    return Schedule(
        start=jnp.concatenate([starts, always, jnp.where(wraps, begins, unused)]),
        stop=jnp.concatenate(
            [jnp.where(runs, enters + remainder, unused), unused, jnp.where(wraps, begins + over, unused)]
        ),
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
        size: The size of states.
        start: The state that the doses begin with.
        slopes: Whether the residual is a slope.
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
    projector, exists = limit_of(map)
    wrong = jnp.where(exists, added_to_conserved(projector, origin), 1.0 + jnp.abs(origin))
    succeeded = (wrong == 0.0).all()
    # a failure must not come back as NaN
    matrix, origin = jnp.where(succeeded, matrix, -jnp.eye(n)), jnp.where(succeeded, origin, 0.0)
    extract = keeper(projector, matrix)
    return jnp.linalg.solve(extract - matrix, origin + extract @ start), wrong
