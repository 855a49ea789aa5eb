"""A bijection between points within bounds and points of the whole line, on which samplers move.

    lower < x < upper    x = lower + w / (1 + exp(-4 z / w)),  w = upper - lower
    lower < x            x = lower + exp(z)
    x < upper            x = upper - exp(-z)

Between two bounds a step of 1 in z is a step of 1 in x at the middle, so that wide bounds have little effect.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


class Line:
    """The bijection between points within bounds and points of the line.

    Args:
        lower: The least point, shape (names,), -inf for none.
        upper: The greatest point.
    """

    def __init__(self, lower: np.ndarray, upper: np.ndarray) -> None:
        low, high = np.isfinite(lower), np.isfinite(upper)
        self._both, self._above, self._below = low & high, low & ~high, high & ~low
        self._low, self._high = np.where(low, lower, 0.0), np.where(high, upper, 0.0)
        self._width = np.where(self._both, self._high - self._low, 1.0)

    def point(self, z: Array) -> Array:
        """Return x, shape (names,)."""
        share = jax.nn.sigmoid(4.0 * z / self._width)
        two_sided = jnp.where(self._both, self._low + self._width * share, z)
        one_sided = self._above | self._below
        distance = jnp.exp(jnp.where(one_sided, jnp.where(self._above, z, -z), 0.0))
        return jnp.where(one_sided, jnp.where(self._above, self._low + distance, self._high - distance), two_sided)

    def log_slope(self, z: Array) -> Array:
        """Return log |dx / dz| of each, shape (names,)."""
        s = 4.0 * z / self._width
        both = np.log(4.0) + jax.nn.log_sigmoid(s) + jax.nn.log_sigmoid(-s)
        return jnp.where(self._both, both, jnp.where(self._above, z, jnp.where(self._below, -z, 0.0)))

    def from_point(self, x: Array) -> Array:
        """Return z, shape (names,); a point on a bound, where z is infinite, is first moved slightly inside."""
        share = jnp.clip((x - self._low) / self._width, 1e-9, 1.0 - 1e-9)
        both = 0.25 * self._width * (jnp.log(share) - jnp.log1p(-share))
        distance = jnp.where(self._above, x - self._low, jnp.where(self._below, self._high - x, 1.0))
        log_distance = jnp.log(jnp.maximum(distance, 1e-12))
        return jnp.where(
            self._both, both, jnp.where(self._above, log_distance, jnp.where(self._below, -log_distance, x))
        )
