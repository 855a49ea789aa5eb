"""The scale on which statistics are compared with their bounds, and the distance outside them."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

_TINY = 1e-6
"""On the scale of logarithms, a value below this part of its lower bound counts as this part of it."""
_STRAIGHT = 4.0
"""Up to about so many half widths from the middle of the bounds, distances are kept by `compressed`."""


class Scale:
    """Logarithms where the lower bound is positive, else parts of the width between the bounds.

    With s_k and the bounds on this scale, the flat-bottomed score is

        S = sum_k max(l_k - s_k, s_k - h_k, 0)^2

    Args:
        low: Lower bounds, shape (bounds,); -inf where there is none.
        high: Upper bounds.

    Example:
        >>> scale = Scale(np.array([1.0, -np.inf]), np.array([np.e, 2.0]))
        >>> scale.score(np.array([[np.e**3, 1.0], [1.0, 4.0]])).round(6)
        array([4., 1.])
    """

    def __init__(self, low: np.ndarray, high: np.ndarray) -> None:
        """Choose the scale of each bound."""
        self._logarithmic = low > 0
        ends = np.stack([low, high])
        size = np.max(np.abs(np.where(np.isfinite(ends), ends, 0.0)), axis=0)
        with np.errstate(invalid="ignore"):
            self._width = np.where(np.isfinite(ends).all(axis=0), high - low, np.where(size > 0, size, 1.0))
        self._least = np.where(self._logarithmic, low * _TINY, 1.0)
        self.low, self.high = self(low), self(high)
        both = np.isfinite(self.low) & np.isfinite(self.high)
        self._half = np.where(both, 0.5 * (self.high - self.low), 1.0)
        self._middle = np.where(np.isfinite(self.low), self.low, self.high)
        self._middle = np.where(both, 0.5 * (self.low + self.high), self._middle)

    def __call__(self, values: PyTree) -> PyTree:
        """Return statistics on this scale, shape (..., bounds), from those in their own units."""
        xp = jnp if isinstance(values, jax.Array) else np
        logarithms = xp.log(xp.where(self._logarithmic, xp.maximum(values, self._least), 1.0))
        return xp.where(self._logarithmic, logarithms, values / self._width)

    def compressed(self, scaled: np.ndarray) -> np.ndarray:
        """Return statistics in half widths w from the middle m of their bounds, far ones closer.

            a asinh((s - m) / (a w))

        On this scale an emulator learns them: where a statistic is far outside, it matters little how far.
        """
        return _STRAIGHT * np.arcsinh((scaled - self._middle) / (_STRAIGHT * self._half))

    def score(self, values: PyTree) -> PyTree:
        """Return the flat-bottomed score, shape (...,); NaN where a statistic is not defined."""
        xp = jnp if isinstance(values, jax.Array) else np
        scaled = self(values)
        return xp.sum(xp.maximum(xp.maximum(self.low - scaled, scaled - self.high), 0.0) ** 2, axis=-1)
