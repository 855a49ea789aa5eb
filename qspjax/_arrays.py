"""Arrays: numpy where numbers are at hand, and the index of an element without `jnp.argmax`.

XLA's fusions of several results on CPU cannot contain a reduction to a value and its index at once: such a program is
compiled without them and runs slower (see `solve.kernel._fusion`). Two plain reductions do the same.
"""

import functools
from collections.abc import Hashable
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.array import ArrayImpl
from jax._src.core import trace_state_clean
from jax._src.interpreters.pxla import batched_device_put
from jax.core import ShapedArray, Tracer
from jax.sharding import SingleDeviceSharding
from jax.typing import ArrayLike
from jaxtyping import PyTree

from qspjax._checks import check_no_unit

_AT_HAND = (float, int, np.ndarray, ArrayImpl)
"""Types of numbers that no tracer has."""


def namespace(*values: PyTree) -> ModuleType:
    """Return numpy if all values are at hand, and jax.numpy if one is traced.

    What is at hand is computed in numpy, since jax compiles a program for each operation and each shape.
    """
    for value in values:
        if not isinstance(value, _AT_HAND) and any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value)):
            return jnp
    return np


def floats(values: PyTree) -> jax.Array | np.ndarray:
    """Return numbers, lists of them, or an array as floats, in numpy if they are at hand."""
    check_no_unit("value", values)
    return namespace(values).asarray(values, dtype=float)


SMALL = 2048
"""Up to this many bytes, an array that was put on the device before is found again: that takes a tenth of the time."""
MAX_FOUND = 1024
"""The number of arrays that are found again, the latest ones."""
_found: dict[Hashable, jax.Array] = {}


def on_device(tree: PyTree) -> PyTree:
    """Return a tree with arrays of jax in place of those of numpy, which takes no program."""
    if type(tree) is dict:
        return {name: on_device(value) for name, value in tree.items()}
    if isinstance(tree, (np.ndarray, np.generic)):
        return _put(tree)
    return jax.tree.map(lambda x: _put(x) if isinstance(x, (np.ndarray, np.generic)) else x, tree)


def _put(x: np.ndarray | np.generic) -> jax.Array:
    """Return an array of jax with the same numbers, which is traced inside `jit`."""
    if x.nbytes > SMALL or not trace_state_clean():
        return jax.device_put(x)
    content = x.tobytes()
    settings = jax.config.jax_enable_x64, jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    key = (x.dtype, x.shape, content, settings)
    there = _found.get(key)
    if there is not None and not there.is_deleted():
        return there
    there = put(np.frombuffer(content, x.dtype).reshape(x.shape))
    _found[key] = there
    while len(_found) > MAX_FOUND:
        _found.pop(next(iter(_found)), None)
    return there


_PLAIN = frozenset(np.dtype(kind) for kind in (float, int, bool))
"""Types of numbers that jax keeps as they are."""


def put(x: np.ndarray) -> jax.Array:
    """Return what `jax.device_put` does with an array that nobody changes; plain numbers in a tenth of its time."""
    settings = jax.config.jax_enable_x64, jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if settings != (True, None) or x.dtype not in _PLAIN or jax.default_backend() != "cpu" or not trace_state_clean():
        return jax.device_put(x)
    aval, sharding, device = _on_cpu(x.shape, x.dtype)
    return batched_device_put(aval, sharding, [x], [device], committed=False)


@functools.lru_cache(maxsize=256)
def _on_cpu(shape: tuple[int, ...], dtype: np.dtype) -> tuple[ShapedArray, SingleDeviceSharding, jax.Device]:  # pyright: ignore[reportInvalidTypeForm] (it is a class)
    """Return what says where an array is put by default."""
    (device, *_) = jax.local_devices()
    return ShapedArray(shape, dtype), SingleDeviceSharding(device), device


def device_floats(values: PyTree) -> jax.Array:
    """Return numbers, lists of them, or an array as an array of strong floats for jax."""
    if not isinstance(values, jax.Array):
        values = floats(values)
    elif values.dtype == np.float64 and not values.weak_type:
        return values
    return _put(values) if isinstance(values, np.ndarray) else jnp.asarray(values, dtype=float)


def taken(leaf: jax.Array, index: ArrayLike) -> jax.Array:
    """Return some elements of an array; without a program where both are at hand on a CPU."""
    if namespace(leaf, index) is np and jax.default_backend() == "cpu":
        return put(np.asarray(np.asarray(leaf)[np.asarray(index)]))
    return leaf[index]


def first_true(mask: jax.Array, axis: int = -1) -> jax.Array:
    """Return the index of the first true along an axis, 0 if there is none."""
    axis, size = axis % mask.ndim, mask.shape[axis]
    indices = jax.lax.broadcasted_iota(int, mask.shape, axis)
    return jnp.min(jnp.where(mask, indices, size), axis=axis, initial=size) % max(size, 1)


def argmax_first(values: jax.Array, axis: int = -1) -> jax.Array:
    """Return the index of the first NaN, else of the first greatest value, along an axis."""
    greatest = jnp.max(values, axis=axis, keepdims=True)
    return first_true((values == greatest) | jnp.isnan(values), axis)
