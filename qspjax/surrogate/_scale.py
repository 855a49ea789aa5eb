"""The scale on which outputs are emulated: that of logarithms where all are positive, in units of their spread.

    s = (g(y) - m) / w,   g(y) = log y or y

Where an output has bounds, m is their middle and w half their width, and values far outside are brought closer,
s' = a asinh(s / a): it matters little how far outside they are.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

_STRAIGHT = 4.0
"""Up to about so many half widths from the middle of the bounds, distances are kept."""
_TINY = 1e-6
"""On the scale of logarithms, a value below this part of its lower bound counts as this part of it."""


class OutputScale(eqx.Module):
    """The scale of each output.

    Args:
        logarithmic: Whether logarithms are taken, shape (outputs,).
        centre: m.
        size: w.
        bent: Whether values far outside are brought closer.
        least: On the scale of logarithms, smaller values count as this one.

    Example:
        >>> scale = OutputScale.of(np.exp(np.array([[-1.0], [1.0]])))
        >>> scale.forward(jnp.array([[1.0]])).round(3), scale.inverse(jnp.array([[0.0]])).round(3)
        (Array([[0.]], dtype=float64), Array([[1.]], dtype=float64))
    """

    logarithmic: np.ndarray
    centre: np.ndarray
    size: np.ndarray
    bent: np.ndarray
    least: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, low: np.ndarray | None = None, high: np.ndarray | None = None) -> "OutputScale":
        """Choose the scale of each output.

        Args:
            values: Simulated outputs, shape (points, outputs).
            low: Lower bounds, shape (outputs,), -inf where there is none.
            high: Upper bounds.
        """
        count = values.shape[1]
        low = np.full(count, -np.inf) if low is None else low
        high = np.full(count, np.inf) if high is None else high
        ends = np.stack([low, high])
        finite = np.isfinite(ends)
        bent = np.asarray(finite.any(axis=0))
        logarithmic = np.where(bent, low > 0, (values > 0).all(axis=0))
        least = np.where(bent, np.where(logarithmic, low, 1.0) * _TINY, np.finfo(float).tiny)
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = np.where(logarithmic, np.log(np.maximum(values, least)), values)
            edges = np.where(finite, np.where(logarithmic, np.log(np.maximum(ends, least)), ends), np.nan)
        width = np.maximum(scaled.std(axis=0), 1e-9 * np.maximum(np.abs(scaled).max(axis=0), 1.0))
        only = np.where(finite[0], edges[0], edges[1])
        both = finite.all(axis=0)
        half = np.where(logarithmic, 1.0, np.where(np.abs(only) > 0, np.abs(only), 1.0))
        centre = np.where(bent, np.where(both, 0.5 * edges.sum(axis=0), only), scaled.mean(axis=0))
        size = np.where(bent, np.where(both, 0.5 * (edges[1] - edges[0]), half), width)
        return cls(logarithmic, centre, size, bent, least)

    def forward(self, values: PyTree) -> PyTree:
        """Return outputs on the scale, shape (..., outputs)."""
        xp = jnp if isinstance(values, jax.Array) else np
        logarithms = xp.log(xp.where(self.logarithmic, xp.maximum(values, self.least), 1.0))
        scaled = (xp.where(self.logarithmic, logarithms, values) - self.centre) / self.size
        return xp.where(self.bent, _STRAIGHT * xp.arcsinh(scaled / _STRAIGHT), scaled)

    def inverse(self, scaled: Array) -> Array:
        """Return outputs in their own units, shape (..., outputs)."""
        bent = _STRAIGHT * jnp.sinh(jnp.where(self.bent, scaled, 0.0) / _STRAIGHT)
        values = self.centre + self.size * jnp.where(self.bent, bent, scaled)
        return jnp.where(self.logarithmic, jnp.exp(jnp.where(self.logarithmic, values, 0.0)), values)
