"""One step of a Rosenbrock method in lanes: a sparse Jacobian, one factorisation, one linear solve per stage.

The linear solves are declared as such (`custom_linear_solve`), so a derivative of the step solves with the factors at
hand, or with their transpose, and never differentiates the elimination.

References: `solve.tableaux`; Sandu and Sander, Atmos Chem Phys 2006;6:187, doi:10.5194/acp-6-187-2006 (sparse
Rosenbrock methods side by side).
"""

import functools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qspjax._types import Scalar
from qspjax.solve.kernel._jacobian import coloured_jacobian, columns_jacobian
from qspjax.solve.kernel._layout import AbstractSystem, Lanes, Rows, TracedSystem
from qspjax.solve.tableaux._contract import AbstractRosenbrockTableau

Stage: TypeAlias = Callable[[Rows, Rows, Scalar, Scalar], Rows]
"""`(sum_j a_ij u_j, sum_j C_ij u_j, c_i, d_i) -> u_i`."""


def slope_of(system: AbstractSystem, lanes: Lanes, rate: Rows | None) -> Callable[[jax.Array, Rows], Rows]:
    """Return dy/dt as a function of time and state, running infusions included."""

    def slope(t: jax.Array, y: Rows) -> Rows:
        dydt = system.field(lanes.constants, lanes.batched, t, y)
        return dydt if rate is None else jax.tree.map(jnp.add, dydt, rate)

    return slope


def rosenbrock_step(
    tableau: AbstractRosenbrockTableau,
    system: AbstractSystem,
    lanes: Lanes,
    t: Float[Array, " lanes"],
    h: Float[Array, " lanes"],
    y: Rows,
    rate: Rows | None,
    dydt: Rows,
) -> tuple[Rows, Rows, None]:
    """Return the state after a step, the error estimate, and None: stability never holds the step size down.

    Args:
        tableau: The method.
        system: The vector field.
        lanes: The patients in the lanes.
        t: Times.
        h: Step sizes.
        y: States.
        rate: Running infusions, or None.
        dydt: dy/dt at t and y, the slope of the first stage.
    """
    slope = slope_of(system, lanes, rate)
    scale = _row_scale(system, h)
    if system.linear is None:
        assert isinstance(system, TracedSystem)  # any other has a solver of its own
        solve = _solver(tableau.gamma, system, lanes, functools.partial(slope, t), t, y, scale)
    else:
        solve = system.linear(tableau.gamma, lanes, t, y, scale)
    f_t = None
    if not system.autonomous:
        f_t = jax.jvp(lambda t: slope(t, y), (t,), (jnp.ones_like(t),))[1]
    differential = bool(system.mass.all())

    def right(dydt: Rows, d: Scalar) -> Rows:
        side = jax.tree.map(jnp.multiply, scale, dydt)
        if f_t is None:
            return side
        return jax.tree.map(lambda r, p, f: r + (p * h * d) * f, side, scale, f_t)

    def stage(advanced: Rows, carried: Rows, c: Scalar, d: Scalar) -> Rows:
        state = jax.tree.map(jnp.add, y, advanced)
        if not system.unrolled:
            state, carried = jax.lax.optimization_barrier((state, carried))
        dydt = slope(t + c * h, state)
        if not differential:
            carried = _times_mass(system, carried)
        return solve(_tied(system, jax.tree.map(jnp.add, right(dydt, d), carried), y))

    first = solve(_tied(system, right(dydt, float(tableau.slopes[0])), y))
    if system.unrolled_stages:
        advanced, last, error = _unrolled(tableau, stage, first)
    else:
        advanced, last, error = _looped(tableau, system, stage, first)
    return jax.tree.map(lambda y, a, u: y + a + u, y, advanced, last), error, None


def _unrolled(tableau: AbstractRosenbrockTableau, stage: Stage, first: Rows) -> tuple[Rows, Rows, Rows]:
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
            term = jax.tree.map(lambda row, weight=weight: weight * row, vector)
            total = term if total is None else jax.tree.map(jnp.add, total, term)
    return jax.tree.map(jnp.zeros_like, vectors[0]) if total is None else total


def _looped(
    tableau: AbstractRosenbrockTableau, system: AbstractSystem, stage: Stage, first: Rows
) -> tuple[Rows, Rows, Rows]:
    """Compute the stages after the first in a loop; return sum_j a_sj u_j, u_s and the error estimate."""
    like = system.join(first)

    def combined(weights: jax.Array, u: jax.Array) -> Rows:
        # a sum: a dot product of eight terms would be a library call
        total: Rows = sum(weights[j] * u[j] for j in range(tableau.stages))
        return system.split(total)

    def advance(u: jax.Array, row: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        i, a, c, time, slope = row
        new = system.join(stage(combined(a, u), combined(c, u), time, slope))
        return jax.lax.dynamic_update_index_in_dim(u, new, i, 0), None

    coefficients = (jnp.asarray(x[1:], like.dtype) for x in (tableau.A, tableau.C, tableau.times, tableau.slopes))
    u = jnp.zeros((tableau.stages, *like.shape), like.dtype).at[0].set(like)
    u, _ = jax.lax.scan(advance, u, (jnp.arange(1, tableau.stages), *coefficients))
    advanced = combined(jnp.asarray(tableau.A[-1], like.dtype), u)
    error = functools.reduce(jnp.add, [weight * u[j] for j, weight in enumerate(tableau.error) if weight != 0.0])
    return advanced, system.split(u[-1]), system.split(error)


def _times_mass(system: AbstractSystem, rows: Rows) -> Rows:
    """Multiply by the mass matrix."""
    if system.unrolled:
        return tuple(row if m else jnp.zeros_like(row) for m, row in zip(system.mass, rows, strict=True))
    return rows * system.mass.astype(rows.dtype)[:, None]


def _tied(system: AbstractSystem, b: Rows, y: Rows) -> Rows:
    """Let rows that depend on no state depend on their own, times zero: jax transposes no solve with a constant row."""
    if not system.unrolled:
        return b
    constant = ~np.any(system.pattern, axis=1)
    return tuple(row + 0.0 * state if tie else row for row, state, tie in zip(b, y, constant.tolist(), strict=True))


def _row_scale(system: AbstractSystem, h: jax.Array) -> Rows:
    """Return the factor of each row: the step size, or 1 for an algebraic equation, so that a step of 0 solves it."""
    if system.unrolled:
        return tuple(h if m else jnp.ones_like(h) for m in system.mass)
    return h if system.mass.all() else jnp.where(system.mass[:, None] == 0.0, 1.0, h)


def _solver(
    gamma: float,
    system: TracedSystem,
    lanes: Lanes,
    field: Callable[[Rows], Rows],
    t: jax.Array,
    y: Rows,
    scale: Rows,
) -> Callable[[Rows], Rows]:
    """Return the solver of (M/gamma - h J) x = b, factorised once."""
    lu = system.elimination
    shift: Float[np.ndarray, " states"] = system.mass / gamma
    rows, cols = lu.rows[: lu.originals], lu.cols[: lu.originals]
    if system.unrolled:
        positions = list(zip(rows.tolist(), cols.tolist(), strict=True))
        by_position = columns_jacobian(field, y, system.pattern)
        entries = [
            _shifted(by_position.get((i, j)), scale[i], float(shift[i]) if i == j else 0.0) for i, j in positions
        ]
        by_row = [[(k, j) for k, (row, j) in enumerate(positions) if row == i] for i in range(system.size)]

        def product(x: Rows) -> Rows:
            return tuple(functools.reduce(jnp.add, [entries[k] * x[j] for k, j in row]) for row in by_row)

        factors = lu.factorise(jax.lax.stop_gradient(entries))
        solve, transposed = functools.partial(lu.solve, factors), functools.partial(lu.solve_transposed, factors)
    else:
        if system.rates_jacobian is None:
            jacobian = coloured_jacobian(field, y, rows, cols, system.colours)
        else:
            jacobian = system.rates_jacobian(functools.partial(system.rates, lanes.constants, lanes.batched, t), y)
        stored = -(scale if scale.ndim == 1 else scale[rows]) * jacobian
        stored = stored + jnp.asarray(np.where(rows == cols, shift[rows], 0.0), stored.dtype)[:, None]

        def product(x: Rows) -> Rows:
            return jnp.zeros_like(x).at[rows].add(stored * x[cols])

        factor_rows = lu.factorise_rows(jax.lax.stop_gradient(stored))
        solve = functools.partial(lu.solve_rows, factor_rows)
        transposed = functools.partial(lu.solve_rows_transposed, factor_rows)

    def solved(b: Rows) -> Rows:
        return jax.lax.custom_linear_solve(
            product, b, lambda _, b: _like(solve(b), b), lambda _, b: _like(transposed(b), b)
        )

    return solved


def _shifted(derivative: jax.Array | None, h: jax.Array, shift: float) -> jax.Array:
    """Return an entry of M/gamma - h J."""
    if derivative is None:
        return jnp.full_like(h, shift)
    return shift - h * derivative if shift else -h * derivative


def _like(x: Rows, b: Rows) -> Rows:
    return tuple(x) if isinstance(b, tuple) else x
