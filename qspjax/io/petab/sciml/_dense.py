"""Dense layers, and one that flattens axes."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qspjax._checks import check_whole, refuse
from qspjax._types import Key
from qspjax.io.petab.sciml._layer import AbstractLayer, check_flag, uniform


class Linear(AbstractLayer):
    """A dense layer.

    $$ y = x W^T + b $$
    """

    weight: Float[Array, "out_features in_features"]
    bias: Float[Array, " out_features"] | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, key: Key) -> None:
        """Draw weights at random, as PyTorch does."""
        check_whole("in_features", in_features, 1)
        check_whole("out_features", out_features, 1)
        check_flag("bias", bias)
        first, second = jax.random.split(key)
        self.weight = uniform(first, (out_features, in_features), in_features)
        self.bias = uniform(second, (out_features,), in_features) if bias else None

    def __call__(self, x: Array, *, key: Key | None = None) -> Array:
        if x.ndim < 1 or x.shape[-1] != self.weight.shape[1]:
            refuse("input", f"have {self.weight.shape[1]} elements along its last axis", f"of shape {x.shape}")
        y = self.weight @ x if x.ndim == 1 else x @ self.weight.T
        return y if self.bias is None else y + self.bias


class Bilinear(AbstractLayer):
    """A layer of two inputs.

    $$ y_k = x_1^T W_k x_2 + b_k $$
    """

    weight: Float[Array, "out_features in1_features in2_features"]
    bias: Float[Array, " out_features"] | None

    def __init__(self, in1_features: int, in2_features: int, out_features: int, bias: bool = True, *, key: Key) -> None:
        """Draw weights at random, as PyTorch does."""
        for name, value in (("in1_features", in1_features), ("in2_features", in2_features)):
            check_whole(name, value, 1)
        check_whole("out_features", out_features, 1)
        check_flag("bias", bias)
        first, second = jax.random.split(key)
        self.weight = uniform(first, (out_features, in1_features, in2_features), in1_features)
        self.bias = uniform(second, (out_features,), in1_features) if bias else None

    def __call__(self, x1: Array, x2: Array, *, key: Key | None = None) -> Array:
        for name, x, size in (("first input", x1, self.weight.shape[1]), ("second input", x2, self.weight.shape[2])):
            if x.ndim < 1 or x.shape[-1] != size:
                refuse(name, f"have {size} elements along its last axis", f"of shape {x.shape}")
        y = jnp.einsum("...i,kij,...j->...k", x1, self.weight, x2)
        return y if self.bias is None else y + self.bias


class Flatten(AbstractLayer):
    """Several axes as one, in row-major order; the first one stays, unless `start_dim` is 0."""

    start_dim: int = eqx.field(static=True)
    end_dim: int = eqx.field(static=True)

    def __init__(self, start_dim: int = 1, end_dim: int = -1, *, key: Key | None = None) -> None:
        """Check the axes."""
        for name, value in (("start_dim", start_dim), ("end_dim", end_dim)):
            check_whole(name, value, -100)
        self.start_dim, self.end_dim = start_dim, end_dim

    def __call__(self, x: Array, *, key: Key | None = None) -> Array:
        return flattened(x, self.start_dim, self.end_dim)


class Identity(AbstractLayer):
    """A layer that does nothing."""

    def __init__(self, *, key: Key | None = None) -> None:
        """Take no argument."""

    def __call__(self, x: Array, *, key: Key | None = None) -> Array:
        return x


def flattened(x: Array, start_dim: int = 0, end_dim: int = -1) -> Array:
    """Return an array with the axes from `start_dim` to `end_dim` as one, in row-major order."""
    if x.ndim == 0:
        return x.reshape(1)
    for name, axis in (("start_dim", start_dim), ("end_dim", end_dim)):
        if not -x.ndim <= axis < x.ndim:
            refuse(name, f"be one of {x.ndim} axes", axis)
    start, end = start_dim % x.ndim, end_dim % x.ndim
    if start > end:
        refuse("start_dim", f"be at most end_dim, which is {end}", start)
    return x.reshape(*x.shape[:start], -1, *x.shape[end + 1 :])
