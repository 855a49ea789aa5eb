"""The limit of a linear map that is applied repeatedly, and so whether endless doses lead to a steady state.

The states y <- M y + c settle where the powers of M settle. Where these vanish, the start is forgotten and
y = (I - M)^-1 c. An eigenvalue 1 belongs to an amount that the model conserves (the total of a receptor without
turnover): the powers then settle at a projector Pi, and y keeps Pi y0, as long as c adds nothing to it (Pi c = 0); else
it grows without bound. All other maps have no limit: they grow, or oscillate indefinitely.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

DOUBLINGS = 32
"""How often a power is squared: what takes more than 1e9 intervals to settle counts as unsettled."""
SETTLED, ENOUGH = 1e-9, 1e-5
"""A power has settled where it changes by this fraction of its greatest value so far; enough, at the last doubling."""
NEGLIGIBLE = 1e-9
"""If no more than this fraction of what enters adds to what is conserved, it is rounding error."""
STRETCH = 1e3
"""The step of the map of a slope is this many times the shortest time scale."""


class Limit(NamedTuple):
    """The limit of the powers of a matrix.

    Attributes:
        projector: Their limit, the projector on what is conserved: zero if nothing is. A constant of every derivative.
        exists: Whether there is a limit.
    """

    projector: jax.Array
    exists: jax.Array

    @property
    def forgets(self) -> jax.Array:
        """Whether nothing is conserved."""
        return self.exists & (jnp.trace(self.projector) < 0.5)


def limit_of(matrix: jax.Array) -> Limit:
    """Return the limit of the powers of a matrix."""
    matrix = jax.lax.stop_gradient(matrix)

    def change(new: jax.Array, old: jax.Array, greatest: jax.Array) -> jax.Array:
        fraction = jnp.abs(new - old) / jnp.where(greatest > 0, greatest, 1.0)
        return jnp.where(jnp.isfinite(new).all(), jnp.max(fraction), jnp.inf)

    def moves(now: tuple) -> jax.Array:
        _, _, delta, count = now
        return (delta > SETTLED) & (count < DOUBLINGS) & (jnp.isfinite(delta) | (count == 0))

    def doubled(now: tuple) -> tuple:
        power, greatest, _, count = now
        new = power @ power
        return new, jnp.maximum(greatest, jnp.abs(new)), change(new, power, greatest), count + 1

    start = (matrix, jnp.abs(matrix), jnp.full((), jnp.inf), jnp.zeros((), int))
    projector, greatest, delta, _ = jax.lax.while_loop(moves, doubled, start)
    exists = delta <= ENOUGH
    projector = jnp.where(exists, projector, 0.0)
    for _ in range(2):  # what is nearly a projector becomes one: 1 and 0 attract
        square = projector @ projector
        projector = 3.0 * square - 2.0 * square @ projector
    return Limit(jnp.where(jnp.abs(projector) > SETTLED * greatest, projector, 0.0), exists)


def map_of(slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return a map with the fate of y' = A y, (I - A h / 2)^-1 (I + A h / 2), and its step h.

    A mode grows, stays or decays under the map as it does under the equation (Cayley's transform).
    """
    slope = jax.lax.stop_gradient(slope)
    size = jnp.abs(slope)
    for _ in range(3):
        size = size @ size
    fastest = jnp.trace(size) ** 0.125  # whatever the units of the states
    h = jnp.where((fastest > 0) & jnp.isfinite(fastest), STRETCH / jnp.where(fastest > 0, fastest, 1.0), 1.0)
    identity, half = jnp.eye(slope.shape[0]), 0.5 * h * slope
    return jnp.linalg.solve(identity - half, identity + half), h


def keeper(projector: jax.Array, slope: jax.Array) -> jax.Array:
    """Return the matrix that extracts from the states what is conserved, as a function of A: rows conserved by A.

    $$ L = \\Pi (\\Pi - A)^{-1}, \\quad L A = 0 $$

    which is Pi at the A for which Pi was found, and follows A in derivatives.
    """
    return jnp.linalg.solve((projector - slope).T, projector.T).T


def added_to_conserved(projector: jax.Array, entering: jax.Array) -> jax.Array:
    """Return how much of what is conserved enters, zero if only by rounding; shape (states,)."""
    added = jnp.abs(projector @ entering)
    return jnp.where(added > NEGLIGIBLE * (jnp.abs(projector) @ jnp.abs(entering)), added, 0.0)
