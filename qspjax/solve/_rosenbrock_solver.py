"""Rosenbrock methods as solvers of diffrax: the independent path of every tableau.

One factorisation per step, one linear solve per stage, no Newton iteration. The equations are those of
`solve.tableaux`; the matrix is dense.
"""

import functools
from collections.abc import Callable, Sequence
from typing import ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree, Real

from qspjax._types import Scalar
from qspjax.solve._dense import UNROLLED, factorise
from qspjax.solve.tableaux._contract import AbstractRosenbrockTableau

Vector = Float[Array, " states"]
Vectors = Float[Array, "stages states"]
Time = Real[Array, ""] | Real[np.ndarray, ""] | float | int
Stage = Callable[[Vector, Vector, Scalar, Scalar], Vector]
"""`(sum_j a_ij u_j, sum_j C_ij u_j, c_i, d_i) -> u_i`."""


class RosenbrockSolver(diffrax.AbstractAdaptiveSolver):
    """A Rosenbrock method for `diffrax.diffeqsolve`; `Diffrax(Rodas5P())` makes its own.

    Args:
        tableau: The method, such as `Rodas5P()`.
        unrolled: Whether to unroll the stages, or to loop over them (less to compile; used for derivatives).

    Example:
        >>> import diffrax, jax.numpy as jnp, qspjax as qsp
        >>> term, solver = diffrax.ODETerm(lambda t, y, args: -y), qsp.solve.RosenbrockSolver(qsp.solve.Rodas4())
        >>> solution = diffrax.diffeqsolve(term, solver, 0.0, 1.0, 0.1, jnp.ones(1))
        >>> solution.ys.round(4)
        Array([[0.3679]], dtype=float64)
    """

    tableau: AbstractRosenbrockTableau
    unrolled: bool = eqx.field(default=True, static=True)

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar[Callable[..., diffrax.AbstractLocalInterpolation]] = (
        diffrax.ThirdOrderHermitePolynomialInterpolation.from_k
    )

    def order(self, terms: object) -> int:
        """Return the order of the method."""
        return self.tableau.order

    def init(self, terms: object, t0: Time, t1: Time, y0: PyTree, args: PyTree) -> None:
        """Carry nothing from step to step."""

    def func(self, terms: diffrax.AbstractTerm, t0: Time, y0: PyTree, args: PyTree) -> PyTree:
        """Evaluate the vector field."""
        return terms.vf(t0, y0, args)

    def step(
        self,
        terms: diffrax.AbstractTerm,
        t0: Time,
        t1: Time,
        y0: PyTree,
        args: PyTree,
        solver_state: None,
        made_jump: object,
    ) -> tuple[PyTree, PyTree, dict[str, PyTree], None, diffrax.RESULTS]:
        """Make one step from t0 to t1."""
        del solver_state, made_jump
        h = terms.contr(t0, t1)
        y, unravel = ravel_pytree(y0)

        def f(t: Time, y: Vector) -> Vector:
            return ravel_pytree(terms.vf(t, unravel(y), args))[0]

        f_t = jax.jvp(lambda t: f(t, y), (t0,), (jnp.ones_like(t0),))[1]
        solve = factorise(_shifted_columns(self.tableau.gamma, lambda y: f(t0, y), y, h))

        def stage(advanced: Vector, carried: Vector, time: Scalar, slope: Scalar) -> Vector:
            return solve(h * f(t0 + time * h, y + advanced) + carried + (h * h * slope) * f_t)

        advanced, u = (_unrolled if self.unrolled else _looped)(self.tableau, stage, y)
        y1 = unravel(y + advanced + u[-1])
        slopes = [jax.tree.map(lambda leaf: h * leaf, terms.vf(t, y, args)) for t, y in ((t0, y0), (t1, y1))]
        dense = {"y0": y0, "y1": y1, "k": jax.tree.map(lambda k0, k1: jnp.stack([k0, k1]), *slopes)}
        weights = self.tableau.error
        error = functools.reduce(jnp.add, [weight * u[j] for j, weight in enumerate(weights) if weight != 0.0])
        return y1, unravel(error), dense, None, diffrax.RESULTS.successful


def _unrolled(tableau: AbstractRosenbrockTableau, stage: Stage, y: Vector) -> tuple[Vector, Sequence[Vector]]:
    """Compute the stages one by one; return sum_j a_sj u_j and all u_j."""
    u: list[Vector] = []
    combined = jnp.zeros_like(y)
    for a, c, time, slope in zip(tableau.A, tableau.C, tableau.times, tableau.slopes, strict=True):
        combined = _combined(a, u, y)
        u.append(stage(combined, _combined(c, u, y), time, slope))
    return combined, u


def _looped(
    tableau: AbstractRosenbrockTableau, stage: Stage, y: Vector
) -> tuple[Vector, Float[Array, "stages states"]]:
    """Compute the stages in a loop; return sum_j a_sj u_j and all u_j."""

    def advance(u: Vectors, row: tuple) -> tuple[Vectors, None]:
        i, a, c, time, slope = row
        return u.at[i].set(stage(a @ u, c @ u, time, slope)), None

    stages = tableau.stages
    coefficients = (jnp.asarray(x, y.dtype) for x in (tableau.A, tableau.C, tableau.times, tableau.slopes))
    u, _ = jax.lax.scan(advance, jnp.zeros((stages, y.size), y.dtype), (jnp.arange(stages), *coefficients))
    return jnp.asarray(tableau.A[-1], y.dtype) @ u, u


def _combined(weights: Float[np.ndarray, " stages"], vectors: Sequence[Vector], like: Vector) -> Vector:
    total = jnp.zeros_like(like)
    for weight, vector in zip(weights.tolist(), vectors, strict=False):
        total = total + weight * vector
    return total


def _shifted_columns(gamma: float, f: Callable[[Vector], Vector], y: Vector, h: Time) -> list[Vector]:
    """Return the columns of I/gamma - h J, one Jacobian-vector product per column for small systems."""
    n = y.size
    unit = np.eye(n, dtype=y.dtype)
    if n > UNROLLED:
        return list((unit / gamma - h * jax.jacfwd(f)(y)).T)
    return [unit[j] / gamma - h * jax.jvp(f, (y,), (unit[j],))[1] for j in range(n)]
