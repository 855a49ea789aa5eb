"""When two states count as the same for a method."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Near(NamedTuple):
    """What counts as the same state: a change below atol + rtol |y|, with `atol` one number or one per state."""

    rtol: float
    atol: float | Float[np.ndarray, "#states"] | Float[Array, "#states"]

    def size(self, change: jax.Array, y: jax.Array) -> jax.Array:
        """Return the largest change in units of the tolerance, inf if it is not finite."""
        size = jnp.max(jnp.abs(change) / self.scale(y))
        return jnp.where(jnp.isfinite(size), size, jnp.inf)

    def scale(self, y: jax.Array) -> jax.Array:
        """Return the tolerance of each state."""
        return jnp.asarray(self.atol) + self.rtol * jnp.abs(y)
