"""Algebraic states that satisfy their equations: at the start, and after every jump of the other states.

    0 = g(t, x, z)

is solved for z by Newton's method from the previous value of z, so that of several solutions the nearest is found. A
step is damped until it stays close to the Newton path, on which g shrinks in proportion (the natural monotonicity test,
whatever the units of the equations), and a state that was not negative is kept from becoming negative as long as there
is such a solution: below zero most equations of this field have another one, on the far side of a pole.

The derivative is that of the implicit function, z - B g(t, x, z) with B the inverse Jacobian as a constant: each such
correction of the solution makes derivatives of one more order exact.

Reference: Deuflhard, Newton Methods for Nonlinear Problems, 2004, 3.3, doi:10.1007/978-3-642-23899-4.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from qspjax._declared import mass_of
from qspjax._jaxpr._regular import regular
from qspjax._model import AbstractModel
from qspjax._names import state_names
from qspjax._types import State
from qspjax.solve._constant import constant
from qspjax.solve._dense import inverse
from qspjax.solve._near import Near

Inputs = TypeVar("Inputs")

ORDERS = 3
"""Up to this order derivatives are exact."""
TRIALS = 40
"""The maximum number of steps with the signs kept, and that many more without."""
CLOSE = 1e-3
"""A step is the last where the remainder is below this fraction of the tolerance of the method."""
DEVIATION = 0.5
"""How far a step may lead off the Newton path, as a fraction of it."""
LEFT = 0.1
"""The smallest fraction of a state that is not negative that a step leaves."""


class Equations:
    """The vector field of one structure of model over flat states, and its algebraic equations.

    Attributes:
        algebraic: The indices of the algebraic states.
    """

    def __init__(self, model: AbstractModel, start: State, near: Near) -> None:
        self._unravel, self._near = ravel_pytree(start)[1], near
        self.algebraic = np.flatnonzero(mass_of(model, state_names(start)) == 0)

    def slope(self, inputs: tuple[AbstractModel, jax.Array], y: jax.Array) -> jax.Array:
        """Return the vector field of a model at a time: dy/dt, and the residuals of algebraic states."""
        model, t = inputs
        state = self._unravel(y)
        dydt = regular(model.vector_field)(t, state)
        slope = jax.tree.map(lambda row, leaf: jnp.broadcast_to(row, leaf.shape), dydt, state)
        return ravel_pytree(slope)[0]

    def solved(self, model: AbstractModel, t: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the state with algebraic states that satisfy their equations, and whether these were found."""
        if not self.algebraic.size:
            return y, jnp.ones((), bool)
        return consistent(self.slope, (model, t), y, self.algebraic, self._near)

    def field(
        self, model: AbstractModel, t: jax.Array, y: jax.Array, rate: float | Float[Array, " states"] = 0.0
    ) -> jax.Array:
        """Return dy/dt, running infusions included; algebraic states move as their equations require."""
        slope = self.slope((model, t), y) + rate
        if not self.algebraic.size:
            return slope
        slope = slope.at[self.algebraic].set(0.0)

        def residual(t: jax.Array, y: jax.Array) -> jax.Array:
            return self.slope((model, t), y)[self.algebraic]

        drift = jax.jvp(residual, (t, y), (jnp.ones_like(t), slope))[1]
        jacobian = jax.jacfwd(lambda z: residual(t, y.at[self.algebraic].set(z)))(y[self.algebraic])
        return slope.at[self.algebraic].set(-inverse(jacobian) @ drift)


class _Search(NamedTuple):
    z: jax.Array
    share: jax.Array
    signs: jax.Array
    iterations: jax.Array
    converged: jax.Array
    ended: jax.Array


def consistent(
    slope: Callable[[Inputs, jax.Array], jax.Array],
    inputs: Inputs,
    y: jax.Array,
    algebraic: np.ndarray,
    near: Near,
    active: bool | Bool[Array, ""] = True,
) -> tuple[jax.Array, jax.Array]:
    """Return a state whose algebraic part satisfies its equations, and whether one was found.

    Args:
        slope: `(inputs, y) -> dy/dt`, in which the rows of algebraic states are residuals.
        inputs: Everything else that is differentiated.
        y: The state, shape (states,).
        algebraic: The indices of the algebraic states.
        near: When two states are the same.
        active: Where false, the state stays as it is.
    """
    atol = jnp.broadcast_to(jnp.asarray(near.atol, y.dtype), y.shape)[algebraic]

    def residual(inputs: Inputs, y: jax.Array, z: jax.Array) -> jax.Array:
        return slope(inputs, y.at[algebraic].set(z))[algebraic]

    fixed = constant((inputs, y))
    guess = fixed[1][algebraic]
    solution, solved = _solved(lambda z: residual(*fixed, z), guess, near._replace(atol=atol), active)
    inverse_jacobian = inverse(jax.jacfwd(lambda z: residual(*fixed, z))(solution))
    corrected = solved & active & jnp.isfinite(inverse_jacobian).all()
    inverse_jacobian = jnp.where(corrected, inverse_jacobian, 0.0)
    z = solution
    for _ in range(ORDERS):
        z = z - inverse_jacobian @ residual(inputs, y, z)
    return jnp.where(active, y.at[algebraic].set(jnp.where(corrected, z, solution)), y), solved | ~jnp.asarray(active)


def _solved(
    residual: Callable[[jax.Array], jax.Array], guess: jax.Array, near: Near, active: bool | Bool[Array, ""]
) -> tuple[jax.Array, jax.Array]:
    """Return a root, and whether it is one; an equation that is not finite at the guess is left to the solver."""

    def advance(now: _Search) -> _Search:
        z, share = now.z, now.share
        jacobian, value = jax.jacfwd(lambda z: (residual(z),) * 2, has_aux=True)(z)
        inverse_jacobian = inverse(jacobian)
        step = -inverse_jacobian @ value

        def size(change: jax.Array) -> jax.Array:
            return near.size(change, z)

        lowers = now.signs & (guess >= 0) & (step < 0) & (size(step) > CLOSE)
        room = jnp.min(jnp.where(lowers, (1.0 - LEFT) * z / jnp.where(lowers, -step, 1.0), jnp.inf))
        share = jnp.minimum(share, room)
        trial = z + share * step
        remainder = -inverse_jacobian @ residual(trial)
        fits = size(remainder - (1.0 - share) * step) <= jnp.maximum(DEVIATION * share * size(step), CLOSE)
        solves = (value == 0.0).all()
        # within the tolerance and no longer closer: the remainder is rounding error
        rounding = ~fits & (size(step) <= 1.0)
        arrives = fits & (share == 1.0) & (size(remainder) <= CLOSE)
        blocked = (now.iterations == TRIALS) | ~jnp.isfinite(size(step)) | (room <= 0.0) | (share < 1e-12)
        restarts = now.signs & blocked & ~(solves | rounding | arrives)
        converged = solves | rounding | arrives
        z = jnp.where(solves | rounding, z, jnp.where(arrives, trial + remainder, jnp.where(fits, trial, z)))
        return _Search(
            z=jnp.where(restarts, guess, z),
            share=jnp.where(restarts, 1.0, jnp.where(fits, jnp.minimum(1.0, 2.0 * share), 0.5 * share)),
            signs=now.signs & ~restarts,
            iterations=now.iterations + 1,
            converged=converged,
            ended=converged | (~now.signs & blocked) | (now.iterations >= 2 * TRIALS),
        )

    false = jnp.zeros((), bool)
    finite = jnp.isfinite(residual(guess)).all()
    start = _Search(guess, jnp.ones(()), ~false, jnp.zeros((), int), false, ~(finite & active))
    end = jax.lax.while_loop(lambda now: ~now.ended, advance, start)
    return jnp.where(end.converged, end.z, guess), end.converged | ~finite
