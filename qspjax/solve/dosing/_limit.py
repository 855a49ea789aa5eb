"""Where a linear map leads that is applied again and again, and so whether doses without end lead to a steady state.

The states y <- M y + c settle where the powers of M settle. Where these vanish, all is forgotten and y = (I - M)^-1 c.
An eigenvalue 1 belongs to an amount that the model keeps (the total of a receptor without turnover): the powers then
settle at a projector Pi, and y keeps Pi y0, as long as c gives nothing to it (Pi c = 0); else it grows without end. All
other maps lead nowhere: they grow, or turn indefinitely.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

DOUBLINGS = 32
"""How often a power is squared: what takes more than 1e9 intervals to settle does not."""
SETTLED, ENOUGH = 1e-9, 1e-5
"""A power has settled where it changes by so small a part of the greatest it has been; enough, at the last doubling."""
GIVEN = 1e-9
"""So small a part of what enters, given to what is kept, is rounding."""
STRETCH = 1e3
"""The step of the map of a slope is this much longer than the shortest time scale."""


class Limit(NamedTuple):
    """Where the powers of a matrix lead.

    Attributes:
        kept: Their limit, the projector on what is kept: zero if all is forgotten. A constant of every derivative.
        exists: Whether there is one.
    """

    kept: jax.Array
    exists: jax.Array

    @property
    def forgets(self) -> jax.Array:
        """Whether nothing is kept."""
        return self.exists & (jnp.trace(self.kept) < 0.5)


def limit_of(matrix: jax.Array) -> Limit:
    """Return where the powers of a matrix lead."""
    matrix = jax.lax.stop_gradient(matrix)

    def change(new: jax.Array, old: jax.Array, greatest: jax.Array) -> jax.Array:
        part = jnp.abs(new - old) / jnp.where(greatest > 0, greatest, 1.0)
        return jnp.where(jnp.isfinite(new).all(), jnp.max(part), jnp.inf)

    def moves(now: tuple) -> jax.Array:
        _, _, moved, count = now
        return (moved > SETTLED) & (count < DOUBLINGS) & (jnp.isfinite(moved) | (count == 0))

    def doubled(now: tuple) -> tuple:
        power, greatest, _, count = now
        new = power @ power
        return new, jnp.maximum(greatest, jnp.abs(new)), change(new, power, greatest), count + 1

    start = (matrix, jnp.abs(matrix), jnp.full((), jnp.inf), jnp.zeros((), int))
    kept, greatest, moved, _ = jax.lax.while_loop(moves, doubled, start)
    exists = moved <= ENOUGH
    kept = jnp.where(exists, kept, 0.0)
    for _ in range(2):  # what is nearly a projector becomes one: 1 and 0 attract
        square = kept @ kept
        kept = 3.0 * square - 2.0 * square @ kept
    return Limit(jnp.where(jnp.abs(kept) > SETTLED * greatest, kept, 0.0), exists)


def map_of(slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return a map with the fate of y' = A y, (I - A h / 2)^-1 (I + A h / 2), and its step h.

    A mode grows, stays or fades under one as under the other (Cayley's transform).
    """
    slope = jax.lax.stop_gradient(slope)
    size = jnp.abs(slope)
    for _ in range(3):
        size = size @ size
    fastest = jnp.trace(size) ** 0.125  # whatever the units of the states
    h = jnp.where((fastest > 0) & jnp.isfinite(fastest), STRETCH / jnp.where(fastest > 0, fastest, 1.0), 1.0)
    one, half = jnp.eye(slope.shape[0]), 0.5 * h * slope
    return jnp.linalg.solve(one - half, one + half), h


def keeper(kept: jax.Array, slope: jax.Array) -> jax.Array:
    """Return what picks out of the states what they keep, as a function of A: the rows of `kept`, kept by A.

    $$ L = \\Pi (\\Pi - A)^{-1}, \\quad L A = 0 $$

    which is Pi at the A that Pi was found for, and follows where A moves.
    """
    return jnp.linalg.solve((kept - slope).T, kept.T).T


def given_to_kept(kept: jax.Array, entering: jax.Array) -> jax.Array:
    """Return what enters of what is kept, zero if only by rounding; shape (states,)."""
    given = jnp.abs(kept @ entering)
    return jnp.where(given > GIVEN * (jnp.abs(kept) @ jnp.abs(entering)), given, 0.0)
