"""One step of a Rosenbrock method in lanes: a sparse Jacobian, one factorisation, one linear solve a stage.

The linear solves are declared as such (`custom_linear_solve`), so a derivative of the step solves with the factors at
hand, or with their transpose, and never differentiates the elimination.

References: `solve.tableaux`; Sandu and Sander, Atmos Chem Phys 2006;6:187, doi:10.5194/acp-6-187-2006 (sparse
Rosenbrock methods side by side).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qspjax.solve.kernel._jacobian import coloured_jacobian, columns_jacobian
from qspjax.solve.kernel._layout import UNROLLED, Rows, System
from qspjax.solve.tableaux._contract import AbstractRosenbrockTableau


class Lanes(NamedTuple):
    """What a step needs beside the state: the constants of the patients in the lanes, and which of them have lanes."""

    constants: list[jax.Array]
    laned: tuple[bool, ...]


def slope_of(system: System, lanes: Lanes, rate: Rows | None) -> Callable[[jax.Array, Rows], Rows]:
    """Return dy/dt as a function of time and state, running infusions included."""

    def slope(t: jax.Array, y: Rows) -> Rows:
        moved = system.field(lanes.constants, lanes.laned, t, y)
        return moved if rate is None else jax.tree.map(jnp.add, moved, rate)

    return slope


def rosenbrock_step(
    tableau: AbstractRosenbrockTableau,
    system: System,
    lanes: Lanes,
    t: jax.Array,
    h: jax.Array,
    y: Rows,
    rate: Rows | None,
    moved: Rows,
) -> tuple[Rows, Rows, None]:
    """Return the state after a step, the error estimate, and None: stability never holds the step size down.

    Args:
        tableau: The method.
        system: The vector field.
        lanes: The patients in the lanes.
        t: Times, shape (lanes,).
        h: Step sizes, shape (lanes,).
        y: States.
        rate: Running infusions, or None.
        moved: dy/dt at t and y, the slope of the first stage.
    """
    slope = slope_of(system, lanes, rate)
    pace = _pace(system, h)
    solve = _solver(tableau.gamma, system, lanes, functools.partial(slope, t), t, y, pace)
    in_time = None
    if not system.autonomous:
        in_time = jax.jvp(lambda t: slope(t, y), (t,), (jnp.ones_like(t),))[1]
    mass = system.mass
    differential = bool(mass.all())

    def right(moved: Rows, rise: Any) -> Rows:
        side = jax.tree.map(jnp.multiply, pace, moved)
        if in_time is None:
            return side
        return jax.tree.map(lambda r, p, f: r + (p * h * rise) * f, side, pace, in_time)

    def stage(advanced: Rows, carried: Rows, time: Any, rise: Any) -> Rows:
        here = jax.tree.map(jnp.add, y, advanced)
        if not system.written:
            here, carried = jax.lax.optimization_barrier((here, carried))
        moved = slope(t + time * h, here)
        if not differential:
            carried = _scaled(system, carried)
        return solve(_tied(system, jax.tree.map(jnp.add, right(moved, rise), carried), y))

    first = solve(_tied(system, right(moved, float(tableau.slopes[0])), y))
    if system.written and system.size <= UNROLLED:
        advanced, last, error = _unrolled(tableau, stage, first)
    else:
        advanced, last, error = _looped(tableau, system, stage, first)
    return jax.tree.map(lambda y, a, u: y + a + u, y, advanced, last), error, None


def _unrolled(tableau: AbstractRosenbrockTableau, stage: Callable[..., Rows], first: Rows) -> tuple[Rows, Rows, Rows]:
    """Compute the stages after the first one by one; return sum_j a_sj u_j, u_s and the error estimate."""
    u, advanced = [first], first
    times, slopes = tableau.times.tolist(), tableau.slopes.tolist()
    for i in range(1, tableau.stages):
        advanced = _combined(tableau.a[i], u)
        u.append(stage(advanced, _combined(tableau.c[i], u), times[i], slopes[i]))
    return advanced, u[-1], _combined(tableau.error, u)


def _combined(weights: Sequence[float], vectors: Sequence[Rows]) -> Rows:
    total = None
    for weight, vector in zip(weights, vectors, strict=False):
        if weight != 0.0:
            part = jax.tree.map(lambda row, weight=weight: weight * row, vector)
            total = part if total is None else jax.tree.map(jnp.add, total, part)
    return jax.tree.map(jnp.zeros_like, vectors[0]) if total is None else total


def _looped(
    tableau: AbstractRosenbrockTableau, system: System, stage: Callable[..., Rows], first: Rows
) -> tuple[Rows, Rows, Rows]:
    """Compute the stages after the first in a loop; return sum_j a_sj u_j, u_s and the error estimate."""
    like = system.join(first)

    def combined(weights: jax.Array, u: jax.Array) -> Rows:
        # written as a sum: a dot product of eight terms would be a library call
        return system.split(sum(weights[j] * u[j] for j in range(tableau.stages)))

    def advance(u: jax.Array, row: tuple) -> tuple:
        i, a, c, time, rise = row
        new = system.join(stage(combined(a, u), combined(c, u), time, rise))
        return jax.lax.dynamic_update_index_in_dim(u, new, i, 0), None

    coefficients = (jnp.asarray(x[1:], like.dtype) for x in (tableau.A, tableau.C, tableau.times, tableau.slopes))
    u = jnp.zeros((tableau.stages, *like.shape), like.dtype).at[0].set(like)
    u, _ = jax.lax.scan(advance, u, (jnp.arange(1, tableau.stages), *coefficients))
    advanced = combined(jnp.asarray(tableau.A[-1], like.dtype), u)
    error = functools.reduce(jnp.add, [weight * u[j] for j, weight in enumerate(tableau.error) if weight != 0.0])
    return advanced, system.split(u[-1]), system.split(error)


def _scaled(system: System, rows: Rows) -> Rows:
    """Multiply by the mass matrix."""
    if system.written:
        return tuple(row if m else jnp.zeros_like(row) for m, row in zip(system.mass, rows, strict=True))
    return rows * system.mass.astype(rows.dtype)[:, None]


def _tied(system: System, b: Rows, y: Rows) -> Rows:
    """Let rows that depend on no state depend on their own, zero times: jax transposes no solve with a constant row."""
    if not system.written:
        return b
    alone = ~system.pattern.any(axis=1)
    return tuple(row + 0.0 * own if tie else row for row, own, tie in zip(b, y, alone, strict=True))


def _pace(system: System, h: jax.Array) -> Rows:
    """Return what multiplies each row: the step size, or 1 for an algebraic equation, so that a step of 0 solves it."""
    if system.written:
        return tuple(h if m else jnp.ones_like(h) for m in system.mass)
    return h if system.mass.all() else jnp.where(system.mass[:, None] == 0.0, 1.0, h)


def _solver(
    gamma: float,
    system: System,
    lanes: Lanes,
    field: Callable[[Rows], Rows],
    t: jax.Array,
    y: Rows,
    pace: Rows,
) -> Callable[[Rows], Rows]:
    """Return the solver of (M/gamma - h J) x = b, factorised once."""
    lu = system.elimination
    shift = system.mass / gamma
    given = list(zip(lu.rows[: lu.given].tolist(), lu.cols[: lu.given].tolist(), strict=True))
    if system.written:
        jacobian = columns_jacobian(field, y, system.pattern)
        entries: Any = [_shifted(jacobian.get((i, j)), pace[i], shift[i] if i == j else 0.0) for i, j in given]
        by_row = [[(k, j) for k, (row, j) in enumerate(given) if row == i] for i in range(system.size)]

        def product(x: Rows) -> Rows:
            return tuple(functools.reduce(jnp.add, [entries[k] * x[j] for k, j in row]) for row in by_row)

        factors: Any = lu.factorise(jax.lax.stop_gradient(entries))
        solve, transposed = lu.solve, lu.solve_transposed
    else:
        rows, cols = lu.rows[: lu.given], lu.cols[: lu.given]
        if system.rates_jacobian is None:
            jacobian = coloured_jacobian(field, y, rows, cols, system.colours)
        else:
            jacobian = system.rates_jacobian(functools.partial(system.rates, lanes.constants, lanes.laned, t), y)
        entries = -(pace if pace.ndim == 1 else pace[rows]) * jacobian
        entries = entries + jnp.asarray(np.where(rows == cols, shift[rows], 0.0), entries.dtype)[:, None]

        def product(x: Rows) -> Rows:
            return jnp.zeros_like(x).at[rows].add(entries * x[cols])

        factors = lu.factorise_rows(jax.lax.stop_gradient(entries))
        solve, transposed = lu.solve_rows, lu.solve_rows_transposed

    def solved(b: Rows) -> Rows:
        return jax.lax.custom_linear_solve(
            product, b, lambda _, b: _like(solve(factors, b), b), lambda _, b: _like(transposed(factors, b), b)
        )

    return solved


def _shifted(derivative: jax.Array | None, h: jax.Array, shift: float) -> jax.Array:
    """Return an entry of M/gamma - h J."""
    if derivative is None:
        return jnp.full_like(h, shift)
    return float(shift) - h * derivative if shift else -h * derivative


def _like(x: Any, b: Rows) -> Rows:
    return tuple(x) if isinstance(b, tuple) else x
