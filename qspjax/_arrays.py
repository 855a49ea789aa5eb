"""Where in an array something is, without `jnp.argmax`.

A reduction to a value and its place at once is one that XLA's fusions of several results on CPU cannot hold: such a
program is compiled without them, and runs slower (see `solve.kernel._fusion`). Two plain reductions do the same.
"""

import jax
import jax.numpy as jnp


def first_true(mask: jax.Array, axis: int = -1) -> jax.Array:
    """Return the place of the first true along an axis, 0 if there is none."""
    axis, size = axis % mask.ndim, mask.shape[axis]
    place = jax.lax.broadcasted_iota(int, mask.shape, axis)
    return jnp.min(jnp.where(mask, place, size), axis=axis, initial=size) % max(size, 1)


def place_of_greatest(values: jax.Array, axis: int = -1) -> jax.Array:
    """Return the place of the first NaN, else of the first greatest value, along an axis."""
    greatest = jnp.max(values, axis=axis, keepdims=True)
    return first_true((values == greatest) | jnp.isnan(values), axis)
