"""Rodas5P: a stiffly accurate Rosenbrock method of order 5, as a diffrax solver.

One factorisation a step, eight linear solves, no Newton iteration, L-stable. With W = I/gamma - h J:

    W u_i = h f(t + c_i h, y + sum_j a_ij u_j) + sum_j C_ij u_j + h^2 d_i f_t,   y_1 = y + sum_j a_8j u_j + u_8

and u_8 is the error estimate (embedded order 4). In this form a step of length zero is exact, and so is its derivative.

Reference: Steinebach, BIT Numer Math 2023;63:27, doi:10.1007/s10543-023-00967-x.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from qspjax.solve._dense import UNROLLED, factorise
from qspjax.solve.kernel._tableau import RODAS5P

A, C, GAMMA, STAGES = RODAS5P.A, RODAS5P.C, RODAS5P.gamma, RODAS5P.stages
TIMES, SLOPES = RODAS5P.times, RODAS5P.slopes


class Rodas5P(diffrax.AbstractAdaptiveSolver):
    """Rodas5P for `Diffrax(Rodas5P())`, or for `diffrax.diffeqsolve` directly.

    Args:
        unrolled: Write the eight stages out, or loop over them (less to compile; what derivatives use).

    Reference: Steinebach, BIT Numer Math 2023;63:27, doi:10.1007/s10543-023-00967-x.

    Example:
        >>> import qspjax as qsp
        >>> qsp.solve.Diffrax(qsp.solve.Rodas5P(), rtol=1e-8).describe()
        'Rodas5P at rtol 1e-08, atol 1e-09'
    """

    unrolled: bool = eqx.field(default=True, static=True)

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar[Callable[..., diffrax.AbstractLocalInterpolation]] = (
        diffrax.ThirdOrderHermitePolynomialInterpolation.from_k
    )

    def order(self, terms: Any) -> int:
        """Return the order of the method, 5."""
        return 5

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> None:
        """Carry nothing from step to step."""

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        """Evaluate the vector field."""
        return terms.vf(t0, y0, args)

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: None, made_jump: Any
    ) -> tuple[Any, Any, dict, None, Any]:
        """Make one step from t0 to t1."""
        del solver_state, made_jump
        h = terms.contr(t0, t1)
        y, unravel = ravel_pytree(y0)

        def f(t: Any, y: jax.Array) -> jax.Array:
            return ravel_pytree(terms.vf(t, unravel(y), args))[0]

        in_time = jax.jvp(lambda t: f(t, y), (t0,), (jnp.ones_like(t0),))[1]
        solve = factorise(_shifted_columns(lambda y: f(t0, y), y, h))

        def stage(state_weights: Any, carried: Any, time: Any, slope: Any) -> jax.Array:
            return solve(h * f(t0 + time * h, y + state_weights) + carried + (h * h * slope) * in_time)

        advanced, last = (_unrolled if self.unrolled else _looped)(stage, y)
        y1 = y + advanced + last
        slopes = [jax.tree.map(lambda leaf: h * leaf, terms.vf(t, y, args)) for t, y in ((t0, y0), (t1, unravel(y1)))]
        dense = {"y0": y0, "y1": unravel(y1), "k": jax.tree.map(lambda k0, k1: jnp.stack([k0, k1]), *slopes)}
        return unravel(y1), unravel(last), dense, None, diffrax.RESULTS.successful


def _unrolled(stage: Callable[..., jax.Array], y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Compute the stages one by one; return sum_j a_8j u_j and u_8."""
    u: list[jax.Array] = []
    combined = jnp.zeros_like(y)
    for i in range(STAGES):
        combined = _combine(A[i], u, y)
        u.append(stage(combined, _combine(C[i], u, y), TIMES[i], SLOPES[i]))
    return combined, u[-1]


def _looped(stage: Callable[..., jax.Array], y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Compute the stages in a loop; return sum_j a_8j u_j and u_8."""

    def advance(u: jax.Array, row: tuple) -> tuple:
        i, a, c, time, slope = row
        new = stage(a @ u, c @ u, time, slope)
        return u.at[i].set(new), None

    coefficients = (jnp.asarray(x, y.dtype) for x in (A, C, TIMES, SLOPES))
    u, _ = jax.lax.scan(advance, jnp.zeros((STAGES, y.size), y.dtype), (jnp.arange(STAGES), *coefficients))
    return jnp.asarray(A[-1], y.dtype) @ u, u[-1]


def _combine(weights: np.ndarray, vectors: list[jax.Array], like: jax.Array) -> jax.Array:
    total = jnp.zeros_like(like)
    for weight, vector in zip(weights.tolist(), vectors, strict=False):
        total = total + weight * vector
    return total


def _shifted_columns(f: Callable[[jax.Array], jax.Array], y: jax.Array, h: Any) -> list[jax.Array]:
    """Return the columns of I/gamma - h J, one Jacobian-vector product a column for small systems."""
    n = y.size
    unit = np.eye(n, dtype=y.dtype)
    if n > UNROLLED:
        return list((unit / GAMMA - h * jax.jacfwd(f)(y)).T)
    return [unit[j] / GAMMA - h * jax.jvp(f, (y,), (unit[j],))[1] for j in range(n)]
