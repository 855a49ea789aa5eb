"""Layers that give numbers mean 0 and variance 1: over a batch, over space, over features."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from qspjax._checks import check_number, check_whole, refuse
from qspjax._types import Key
from qspjax.io.petab.sciml._layer import AbstractLayer, Sizes, along, check_dimension, check_flag


class BatchNorm(AbstractLayer):
    """Each channel with mean 0 and variance 1 over its batch and space, as in training, then scaled and shifted.

    The moving averages that PyTorch keeps for predictions are no part of PEtab SciML.
    """

    weight: Float[Array, " num_features"] | None
    bias: Float[Array, " num_features"] | None
    axes: int = eqx.field(static=True)
    num_features: int = eqx.field(static=True)
    eps: float = eqx.field(static=True)

    def __init__(
        self,
        axes: int,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        bias: bool = True,
        *,
        key: Key | None = None,
    ) -> None:
        """Check the arguments."""
        self.axes, self.num_features, self.eps = axes, num_features, eps
        self.weight, self.bias = _affine(num_features, eps, momentum, affine, track_running_stats, bias)

    def __call__(self, x: Array, *, key: Key | None = None) -> Array:
        dimensions = (2, 3) if self.axes == 1 else (self.axes + 2,)
        check_dimension("input", x, dimensions)
        if x.shape[1] != self.num_features:
            refuse("input", f"have {self.num_features} channels", f"of shape {x.shape}")
        return _scaled(_standardised(x, (0, *range(2, x.ndim)), self.eps), self.weight, self.bias, 1)


class InstanceNorm(AbstractLayer):
    """Each channel of each instance with mean 0 and variance 1 over space, then scaled and shifted."""

    weight: Float[Array, " num_features"] | None
    bias: Float[Array, " num_features"] | None
    axes: int = eqx.field(static=True)
    num_features: int = eqx.field(static=True)
    eps: float = eqx.field(static=True)

    def __init__(
        self,
        axes: int,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        bias: bool = True,
        *,
        key: Key | None = None,
    ) -> None:
        """Check the arguments."""
        self.axes, self.num_features, self.eps = axes, num_features, eps
        self.weight, self.bias = _affine(num_features, eps, momentum, affine, track_running_stats, bias)

    def __call__(self, x: Array, *, key: Key | None = None) -> Array:
        check_dimension("input", x, (self.axes + 1, self.axes + 2))
        channel = x.ndim - self.axes - 1
        if self.weight is not None and x.shape[channel] != self.num_features:
            refuse("input", f"have {self.num_features} channels", f"of shape {x.shape}")
        return _scaled(_standardised(x, tuple(range(channel + 1, x.ndim)), self.eps), self.weight, self.bias, channel)


class LayerNorm(AbstractLayer):
    """The numbers along the last axes with mean 0 and variance 1, then scaled and shifted."""

    weight: Float[Array, "..."] | None
    bias: Float[Array, "..."] | None
    normalized_shape: Sizes = eqx.field(static=True)
    eps: float = eqx.field(static=True)

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        key: Key | None = None,
    ) -> None:
        """Check the arguments."""
        shape = tuple(normalized_shape) if isinstance(normalized_shape, Sequence) else (normalized_shape,)
        if not shape:
            refuse("normalized_shape", "have at least one axis", "empty")
        for size in shape:
            check_whole("normalized_shape", size, 1)
        check_number("eps", eps)
        check_flag("elementwise_affine", elementwise_affine)
        check_flag("bias", bias)
        self.normalized_shape, self.eps = shape, eps
        self.weight = jnp.ones(shape) if elementwise_affine else None
        self.bias = jnp.zeros(shape) if elementwise_affine and bias else None

    def __call__(self, x: Array, *, key: Key | None = None) -> Array:
        axes = len(self.normalized_shape)
        if x.shape[-axes:] != self.normalized_shape:
            refuse("input", f"end in the axes {self.normalized_shape}", f"of shape {x.shape}")
        y = _standardised(x, tuple(range(x.ndim - axes, x.ndim)), self.eps)
        y = y if self.weight is None else y * self.weight
        return y if self.bias is None else y + self.bias


def _affine(
    num_features: object, eps: object, momentum: object, affine: object, track_running_stats: object, bias: object
) -> tuple[Array | None, Array | None]:
    """Check arguments that two layers share; return the scale and the shift of each channel."""
    check_whole("num_features", num_features, 1)
    check_number("eps", eps)
    if momentum is not None:
        check_number("momentum", momentum)
    for name, value in (("affine", affine), ("track_running_stats", track_running_stats), ("bias", bias)):
        check_flag(name, value)
    shape = (num_features,)
    return jnp.ones(shape) if affine else None, jnp.zeros(shape) if affine and bias else None  # pyright: ignore


def _standardised(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    deviation = x - x.mean(axes, keepdims=True)
    return deviation / jnp.sqrt((deviation**2).mean(axes, keepdims=True) + eps)


def _scaled(y: Array, weight: Array | None, bias: Array | None, channel: int) -> Array:
    y = y if weight is None else y * along(weight, channel, y.ndim)
    return y if bias is None else y + along(bias, channel, y.ndim)
