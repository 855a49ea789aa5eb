"""What every layer is: weights and arguments, applied as PyTorch applies them."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from qspjax._checks import check_number, check_whole, refuse
from qspjax._types import Key

Sizes: TypeAlias = tuple[int, ...]


class AbstractLayer(eqx.Module):
    """A layer of a network.

    Its arguments are named as those of PyTorch; its weights are the arrays, also named as there.

    It is called with its inputs, which have the axes of PyTorch (batch where there is one, channels, space), and a
    `key` that drops numbers at random in layers that do so in training; without a key they do nothing.
    """

    __call__: eqx.AbstractVar[Callable[..., Array]]


def check_dimension(argument: str, x: Array, dimensions: Sequence[int], expected: int | None = None) -> None:
    """Check that an input has one of several numbers of axes, and as many channels as expected."""
    if x.ndim not in dimensions:
        refuse(argument, f"have {' or '.join(map(str, dimensions))} axes", f"of shape {x.shape}")
    if expected is not None and x.shape[x.ndim - dimensions[-1] + 1] != expected:
        refuse(argument, f"have {expected} channels", f"of shape {x.shape}")


def check_flag(argument: str, value: object) -> None:
    """Check that an argument is true or false."""
    if not isinstance(value, bool):
        refuse(argument, "be true or false", value)


def check_probability(argument: str, value: object) -> None:
    """Check that an argument is a number from 0 to 1."""
    check_number(argument, value)
    if not 0.0 <= float(value) <= 1.0:  # pyright: ignore[reportArgumentType]
        refuse(argument, "be a probability from 0 to 1", value)


def check_false(argument: str, value: object) -> None:
    """Refuse an argument that is true, which is not supported."""
    if value is not False:
        refuse(argument, "be false, as anything else is not supported", value)


def sizes(argument: str, value: int | Sequence[int], axes: int, minimum: int = 1) -> Sizes:
    """Return a whole number for each axis, from one for all or a list."""
    several = tuple(value) if isinstance(value, Sequence) else (value,) * axes
    if len(several) != axes:
        refuse(argument, f"be one number or {axes}", value)
    for size in several:
        check_whole(argument, size, minimum)
    return several


def uniform(key: Key, shape: Sizes, inputs: int) -> Array:
    """Return weights as PyTorch draws them: uniform within 1 / sqrt(inputs) of zero."""
    bound = 1.0 / math.sqrt(inputs) if inputs else 0.0
    return jax.random.uniform(key, shape, float, -bound, bound)


def product(numbers: Sequence[Any]) -> Any:
    """Return the product of numbers."""
    return math.prod(numbers)


def along(values: Array, axis: int, dimensions: int) -> Array:
    """Return a vector with its only axis in place of one of several."""
    return jnp.reshape(values, tuple(-1 if i == axis else 1 for i in range(dimensions)))
