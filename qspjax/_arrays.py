"""The index of an element of an array, without `jnp.argmax`.

XLA's fusions of several results on CPU cannot contain a reduction to a value and its index at once: such a program is
compiled without them and runs slower (see `solve.kernel._fusion`). Two plain reductions do the same.
"""

import jax
import jax.numpy as jnp


def first_true(mask: jax.Array, axis: int = -1) -> jax.Array:
    """Return the index of the first true along an axis, 0 if there is none."""
    axis, size = axis % mask.ndim, mask.shape[axis]
    indices = jax.lax.broadcasted_iota(int, mask.shape, axis)
    return jnp.min(jnp.where(mask, indices, size), axis=axis, initial=size) % max(size, 1)


def argmax_first(values: jax.Array, axis: int = -1) -> jax.Array:
    """Return the index of the first NaN, else of the first greatest value, along an axis."""
    greatest = jnp.max(values, axis=axis, keepdims=True)
    return first_true((values == greatest) | jnp.isnan(values), axis)
