"""Lists of leaves of which some are marked."""

from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")
S = TypeVar("S")


def select(values: Sequence[T], marks: Sequence[bool]) -> list[T]:
    """Return the values that are marked."""
    return [value for value, marked in zip(values, marks, strict=True) if marked]


def replace(values: Sequence[T], marks: Sequence[bool], new: Sequence[S]) -> list[T | S]:
    """Return the values, with those that are marked replaced in order."""
    remaining = iter(new)
    return [next(remaining) if marked else value for value, marked in zip(values, marks, strict=True)]


def widen(x: jax.Array, size: int, axis: int = 0) -> jax.Array:
    """Repeat along a new axis."""
    return jnp.repeat(jnp.expand_dims(x, axis), size, axis=axis)
