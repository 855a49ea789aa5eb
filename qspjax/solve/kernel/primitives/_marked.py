"""Lists of leaves of which some are marked, as those are that have a tangent."""

from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.interpreters import ad

Tangent = jax.Array | ad.Zero
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


def nonzero(tangents: Sequence[Tangent]) -> tuple[bool, ...]:
    """Return which tangents can differ from zero."""
    return tuple(type(tangent) is not ad.Zero for tangent in tangents)


def instantiated(tangents: Sequence[Tangent]) -> list[jax.Array]:
    """Return tangents as arrays."""
    return [ad.instantiate_zeros(tangent) for tangent in tangents]
