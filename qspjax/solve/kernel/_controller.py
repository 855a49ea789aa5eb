"""Error control of a step, for every lane on its own.

A step is accepted where the root mean square of error / (atol + rtol |y|) over the states is at most 1. The elementary
controller, without memory: steps are clipped at outputs and restarted at doses, so the error of the step before says
little about the next. Its two powers are taken in float32: a step size needs no more digits.

Reference: Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, II.4, doi:10.1007/978-3-540-78862-1.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qspjax._jaxpr._lanes import total
from qspjax.solve.kernel._layout import Rows

SAFETY, SHRINK, GROW = 0.9, 0.2, 8.0


class Control(NamedTuple):
    """Tolerances, and the order of the method; the absolute one is the same for all states, or one for each."""

    rtol: float
    atol: float | tuple[float, ...]
    order: int

    def squared_ratio(self, error: Rows, y0: Rows, y1: Rows) -> jax.Array:
        """Return the mean over the states of (error / tolerance)^2, NaN where y1 is not finite, shape (lanes,)."""

        def ratio(atol: Any, error: jax.Array, y0: jax.Array, y1: jax.Array) -> jax.Array:
            return error / (atol + self.rtol * jnp.maximum(jnp.abs(y0), jnp.abs(y1)))

        mean = _mean_square(jax.tree.map(ratio, self._absolute(y0), error, y0, y1))
        return jnp.where(jnp.isfinite(total(jax.tree.map(jnp.abs, y1))), jnp.minimum(mean, 1e30), jnp.nan)

    def first_step(self, y: Rows, slope: Rows) -> jax.Array:
        """Return a safe step after a jump: 1 % of the time in which the state would change by itself."""
        scale = jax.tree.map(lambda atol, y: 1.0 / (atol + self.rtol * jnp.abs(y)), self._absolute(y), y)
        size = _mean_square(jax.tree.map(jnp.multiply, y, scale))
        speed = _mean_square(jax.tree.map(jnp.multiply, slope, scale))
        return jnp.where((size < 1e-10) | ~(speed >= 1e-10), 1e-6, 0.01 * jnp.sqrt(size / speed))

    def _absolute(self, rows: Rows) -> Any:
        """Return the absolute tolerances, for rows as they are."""
        if not isinstance(self.atol, tuple):
            return jax.tree.map(lambda _: self.atol, rows)
        return self.atol if isinstance(rows, tuple) else np.array(self.atol)[:, None]

    def factor(self, squared_ratio: jax.Array) -> jax.Array:
        """Return the factor for the next step, after an accepted step (ratio <= 1) or a rejected one."""
        small = jnp.clip(squared_ratio, 1e-20, 1e20).astype(jnp.float32)
        power = SAFETY * jnp.exp(jnp.log(small) * (-0.5 / self.order))
        factor = jnp.clip(power, SHRINK, GROW).astype(squared_ratio.dtype)
        return jnp.where(jnp.isfinite(squared_ratio), factor, SHRINK)


def _mean_square(rows: Rows) -> jax.Array:
    size = len(rows) if isinstance(rows, tuple) else rows.shape[0]
    return total(jax.tree.map(jnp.square, rows)) / size
