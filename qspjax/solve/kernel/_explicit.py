"""One step of an explicit Runge-Kutta pair in lanes, and a test for stiffness.

References: Tsitouras, Comput Math Appl 2011;62:770, doi:10.1016/j.camwa.2011.06.002 (Tsit5); Hairer and Wanner, Solving
Ordinary Differential Equations II, IV.2, doi:10.1007/978-3-642-05221-7 (stiffness detection).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from qspjax._jaxpr._rows import total
from qspjax.solve.kernel._layout import AbstractSystem, Rows
from qspjax.solve.kernel._rosenbrock import Lanes, slope_of

if TYPE_CHECKING:
    import diffrax

STIFF_BEYOND = 2.0
"""The stability region of Tsit5 ends at about -3.3 on the real axis."""


def explicit_step(
    tableau: "diffrax.ButcherTableau",
    system: AbstractSystem,
    lanes: Lanes,
    t: Float[Array, " lanes"],
    h: Float[Array, " lanes"],
    y: Rows,
    rate: Rows | None,
    dydt: Rows,
) -> tuple[Rows, Rows, Bool[Array, " lanes"]]:
    """Return the state after a step, the error estimate, and whether the step size is held down by stability.

    With the last two stages at t + h, the second of them at y1, |k_s - k_(s-1)| / |y_s - y_(s-1)| estimates the
    largest eigenvalue.

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
    k = [dydt]
    states = [y]
    for c, row in zip(tableau.c, tableau.a_lower, strict=True):
        states.append(_advanced(y, h, row, k))
        k.append(slope(t + float(c) * h, states[-1]))
    y1 = states[-1] if tableau.ssal else _advanced(y, h, tableau.b_sol, k)
    error = jax.tree.map(jnp.subtract, _advanced(y, h, tableau.b_error, k), y)
    slopes = _square(jax.tree.map(jnp.subtract, k[-1], k[-2]))
    distance = _square(jax.tree.map(jnp.subtract, states[-1], states[-2]))
    return y1, error, h * h * slopes > STIFF_BEYOND**2 * distance


def _advanced(y: Rows, h: jax.Array, weights: Float[np.ndarray, " stages"], k: Sequence[Rows]) -> Rows:
    """Return y + h sum_j w_j k_j."""

    def advance(y: jax.Array, *k: jax.Array) -> jax.Array:
        total = 0.0
        for weight, slope in zip(weights, k, strict=False):
            if weight != 0.0:
                total = total + float(weight) * slope
        return y + h * total

    return jax.tree.map(advance, y, *k)


def _square(rows: Rows) -> Float[Array, " lanes"]:
    return total(jax.tree.map(jnp.square, rows))
