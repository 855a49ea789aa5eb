"""Values that count as constants in derivatives: all of a tree, or where something failed."""

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

T = TypeVar("T")


def constant(tree: T) -> T:
    """Return the same values as constants."""
    return jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, tree)


def stop_gradient_where(mask: Bool[Array, ""], tree: T) -> T:
    """Return the same values, as constants where a mask is true."""
    return jax.tree.map(lambda x: jnp.where(mask, jax.lax.stop_gradient(x), x) if eqx.is_inexact_array(x) else x, tree)


def zero_where(mask: Bool[Array, "..."], tree: T) -> T:
    """Return a tree of arrays, zero where a mask is true."""
    return jax.tree.map(lambda x: jnp.where(mask, jnp.zeros_like(x), x), tree)
