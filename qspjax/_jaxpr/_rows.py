"""Rows of an array: written or added at indices, picked from them, summed; the rows may have lanes at the end.

Loops where XLA on a CPU has a library or a scatter, which it leaves out of loops compiled as a whole (see
`solve.kernel._fusion`), and transposes that store nothing: adding rows has a gather, and picking them another pick.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float


def put(target: jax.Array, slot: jax.Array, rows: jax.Array, *, add: bool = False) -> jax.Array:
    """Write rows to, or add them to, the indices `slot` of a target; a row whose slot is out of range is dropped.

    On a CPU the scatter is a loop: XLA has none in a loop that it compiles as a whole (see `_fusion`).
    """
    if jax.default_backend() != "cpu":
        at = target.at[slot]
        return (at.add if add else at.set)(rows, mode="drop", unique_indices=not add, wrap_negative_indices=False)
    return _add_p.bind(target, rows, slot) if add else _put_each(target, rows, slot, add=False)


def _put_each(target: jax.Array, rows: jax.Array, slot: jax.Array, *, add: bool) -> jax.Array:
    last = target.shape[0] - 1

    def update(i: jax.Array, target: jax.Array) -> jax.Array:
        index = jnp.clip(slot[i], 0, last)
        old = jax.lax.dynamic_index_in_dim(target, index, 0, keepdims=False)
        new = jnp.where(slot[i] == index, old + rows[i] if add else rows[i], old)
        return jax.lax.dynamic_update_index_in_dim(target, new, index, 0)

    return jax.lax.fori_loop(0, slot.shape[0], update, target)


def pick(rows: jax.Array, index: jax.Array, back: jax.Array) -> jax.Array:
    """Return the rows at different indices, 0 where one is out of range.

    Args:
        rows: The rows, along the first axis.
        index: For each row of the result, where it is found.
        back: For each of `rows`, where it is in the result, or an index out of range.
    """
    return _pick_p.bind(rows, index, back)


def total(rows: Float[Array, "rows *lanes"] | tuple[Float[Array, " *lanes"], ...]) -> jax.Array:
    """Return the sum of rows: one after the other, so that it is the same for any number of lanes."""
    if isinstance(rows, tuple):
        result, *others = rows
        for row in others:
            result = result + row
        return result

    def add(i: jax.Array, so_far: jax.Array) -> jax.Array:
        return so_far + jax.lax.dynamic_index_in_dim(rows, i, 0, keepdims=False)

    return jax.lax.fori_loop(1, rows.shape[0], add, rows[0])


# ---- the sum of rows into a target: linear, with a gather as its transpose, so that no target is kept for each row

_add_p = Primitive("qspjax_add_rows")
"""Add rows to the indices of a target: operands target, rows, slot."""


def _add_each(target: jax.Array, rows: jax.Array, slot: jax.Array) -> jax.Array:
    return _put_each(target, rows, slot, add=True)


def _add_jvp(primals: Sequence[jax.Array], tangents: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    target, rows, slot = primals
    moved = [ad.instantiate_zeros(tangent) for tangent in tangents[:2]]
    return _add_p.bind(target, rows, slot), _add_p.bind(*moved, slot)


def _add_transpose(
    cotangent: jax.Array, target: jax.Array, rows: jax.Array, slot: jax.Array
) -> tuple[jax.Array | ad.Zero | None, ...]:
    if isinstance(cotangent, ad.Zero):
        return tuple(ad.Zero(x.aval) if ad.is_undefined_primal(x) else None for x in (target, rows, slot))
    gathered = None
    if ad.is_undefined_primal(rows):
        gathered = cotangent.at[slot].get(mode="fill", fill_value=0.0, wrap_negative_indices=False)
    return cotangent if ad.is_undefined_primal(target) else None, gathered, None


def _add_batch(operands: Sequence[jax.Array], axes: Sequence[int | None]) -> tuple[jax.Array, int]:
    (target, rows), (slot,) = _moved(operands, axes, arrays=2)
    if axes[2] is None:
        return _add_p.bind(target, rows, slot), target.ndim - 1
    return _add_p.bind(_flat(target), _flat(rows), _end_to_end(slot, target.shape[1])).reshape(target.shape), 0


_add_p.def_impl(jax.jit(_add_each))
_add_p.def_abstract_eval(lambda target, *_: target)
mlir.register_lowering(_add_p, mlir.lower_fun(_add_each, multiple_results=False))
ad.primitive_jvps[_add_p] = _add_jvp
ad.primitive_transposes[_add_p] = _add_transpose
batching.primitive_batchers[_add_p] = _add_batch

# ---- rows picked

_pick_p = Primitive("qspjax_pick_rows")
"""Pick rows: operands rows, index, back."""


def _pick(rows: jax.Array, index: jax.Array, back: jax.Array) -> jax.Array:
    del back
    return rows.at[index].get(mode="fill", fill_value=0, unique_indices=True, wrap_negative_indices=False)


def _pick_jvp(primals: Sequence[jax.Array], tangents: Sequence[jax.Array | ad.Zero]) -> tuple[jax.Array, jax.Array]:
    rows, index, back = primals
    return _pick_p.bind(rows, index, back), _pick_p.bind(ad.instantiate_zeros(tangents[0]), index, back)


def _pick_transpose(
    cotangent: jax.Array | ad.Zero, rows: jax.Array, index: jax.Array, back: jax.Array
) -> tuple[jax.Array | ad.Zero, None, None]:
    if isinstance(cotangent, ad.Zero):
        return ad.Zero(rows.aval), None, None
    return _pick_p.bind(cotangent, back, index), None, None


def _pick_batch(operands: Sequence[jax.Array], axes: Sequence[int | None]) -> tuple[jax.Array, int]:
    (rows,), (index, back) = _moved(operands, axes, arrays=1)
    if axes[1] is None and axes[2] is None:
        return _pick_p.bind(rows, index, back), rows.ndim - 1
    size, n = index.shape
    picked = _pick_p.bind(_flat(rows), _end_to_end(index, rows.shape[1]), _end_to_end(back, n))
    return picked.reshape(size, n, *picked.shape[1:]), 0


_pick_p.def_impl(jax.jit(_pick))
_pick_p.def_abstract_eval(lambda rows, index, _: ShapedArray((*index.shape, *rows.shape[1:]), rows.dtype))
mlir.register_lowering(_pick_p, mlir.lower_fun(_pick, multiple_results=False))
ad.primitive_jvps[_pick_p] = _pick_jvp
ad.primitive_transposes[_pick_p] = _pick_transpose
batching.primitive_batchers[_pick_p] = _pick_batch

# ---- many of them


def _moved(
    operands: Sequence[jax.Array], axes: Sequence[int | None], arrays: int
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Return arrays and indices with the new axis: last in the arrays alone, or first in all where indices have it."""
    size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
    shared = all(axis is None for axis in axes[arrays:])

    def moved(x: jax.Array, axis: int | None) -> jax.Array:
        if axis is not None:
            return jnp.moveaxis(x, axis, -1 if shared else 0)
        return jnp.broadcast_to(x[..., None], (*x.shape, size)) if shared else jnp.broadcast_to(x, (size, *x.shape))

    pairs = list(zip(operands, axes, strict=True))
    indices = operands[arrays:] if shared else [moved(*pair) for pair in pairs[arrays:]]
    return [moved(*pair) for pair in pairs[:arrays]], list(indices)


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(-1, *x.shape[2:])


def _end_to_end(index: jax.Array, n: int) -> jax.Array:
    """Return the indices, shape (size, rows), of arrays of n rows that lie one after the other."""
    size = len(index)
    first = n * jnp.arange(size, dtype=index.dtype)[:, None]
    return jnp.where((index >= 0) & (index < n), index + first, size * n).ravel()
