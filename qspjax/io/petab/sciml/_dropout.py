"""Layers that drop numbers at random in training: without a key they do nothing."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from qspjax._types import Key
from qspjax.io.petab.sciml._layer import AbstractLayer, Sizes, check_probability

_SATURATED = -1.0507009873554805 * 1.6732632423543772
"""What selu tends to for very negative numbers."""


class Dropout(AbstractLayer):
    """Drops numbers, or whole channels, with a probability; what is left is scaled to the same mean."""

    p: float = eqx.field(static=True)
    axes: int = eqx.field(static=True)

    def __init__(self, axes: int, p: float = 0.5, *, key: Key | None = None) -> None:
        """Check the arguments; with `axes` of space 0, single numbers are dropped."""
        check_probability("p", p)
        self.p, self.axes = float(p), axes

    def __call__(self, x: Array, *, key: Key | None = None) -> Array:
        if key is None or self.p == 0.0:
            return x
        return jnp.where(_kept(key, self.p, _masked(x, self.axes)), x / max(1.0 - self.p, 1e-300), 0.0)


class AlphaDropout(AbstractLayer):
    """Sets numbers, or whole channels, to the value at which selu saturates; mean 0 and variance 1 stay as they are.

    Reference: Klambauer et al. 2017, arXiv:1706.02515.
    """

    p: float = eqx.field(static=True)
    by_channel: bool = eqx.field(static=True)

    def __init__(self, by_channel: bool, p: float = 0.5, *, key: Key | None = None) -> None:
        """Check the arguments."""
        check_probability("p", p)
        self.p, self.by_channel = float(p), by_channel

    def __call__(self, x: Array, *, key: Key | None = None) -> Array:
        if key is None or self.p == 0.0:
            return x
        if self.p == 1.0:
            return jnp.zeros_like(x)
        scale = ((1.0 - self.p) * (1.0 + self.p * _SATURATED**2)) ** -0.5
        kept = _kept(key, self.p, _masked(x, x.ndim - 2 if self.by_channel else 0))
        return scale * (jnp.where(kept, x, _SATURATED) - self.p * _SATURATED)


def _masked(x: Array, axes: int) -> Sizes:
    """Return the shape of a mask that is the same along the axes of space, if there are any."""
    return x.shape[: x.ndim - axes] + (1,) * axes if 0 < axes < x.ndim else x.shape


def _kept(key: Key, p: float, shape: Sizes) -> Bool[Array, "..."]:
    return jax.random.bernoulli(key, 1.0 - p, shape)
