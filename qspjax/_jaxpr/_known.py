"""What equations compute from numbers that are known, in numpy: JAX would compile a program for each of them."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn
from jax.typing import ArrayLike

from qspjax._jaxpr._walk import bind, dtype_of, shape_of


def computed(eqn: JaxprEqn, operands: Sequence[ArrayLike]) -> Sequence[ArrayLike]:
    """Return what an equation computes; what numpy does not compute in the same way goes to JAX."""
    name = eqn.primitive.name
    if any(jnp.issubdtype(dtype_of(atom), jax.dtypes.extended) for atom in (*eqn.invars, *eqn.outvars)):
        with jax.ensure_compile_time_eval():
            return bind(eqn, operands)  # arrays of keys are none of numpy
    arrays = [np.asarray(x) for x in operands]
    shape, dtype = shape_of(eqn.outvars[0]), dtype_of(eqn.outvars[0])
    if name == "convert_element_type" and (arrays[0].dtype.kind in "iub" or dtype.kind == "f"):
        return [arrays[0].astype(dtype)]
    moved = _MOVES.get(name)
    if moved is not None:
        return [np.asarray(moved(eqn, *arrays), dtype).reshape(shape)]
    function = _NUMPY.get(name)
    if function is not None:
        with np.errstate(all="ignore"):
            out = function(*arrays)
        return [np.asarray(out, dtype).reshape(shape)]
    with jax.ensure_compile_time_eval():
        return [np.asarray(x) for x in bind(eqn, arrays)]


def places(eqn: JaxprEqn, shape: tuple[int, ...], indices: np.ndarray) -> np.ndarray:
    """Return the place, in a flat operand, of each element that a gather with known indices returns, -1 if outside."""
    numbers, sizes = eqn.params["dimension_numbers"], np.array(eqn.params["slice_sizes"], int)
    grid = np.indices(shape_of(eqn.outvars[0]))
    batch = [axis for axis in range(len(grid)) if axis not in numbers.offset_dims]
    starts = indices[tuple(grid[axis] for axis in batch)].astype(np.int64)
    at = np.zeros((*grid.shape[1:], len(shape)), np.int64)
    at[..., list(numbers.start_index_map)] = starts
    last = np.array(shape, int) - sizes
    outside = np.any((at < 0) | (at > last), axis=-1)
    if eqn.params["mode"] is not jax.lax.GatherScatterMode.FILL_OR_DROP:
        at, outside = np.clip(at, 0, last), np.zeros_like(outside)
    fixed = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    for axis, offset in zip((k for k in range(len(shape)) if k not in fixed), numbers.offset_dims, strict=True):
        at[..., axis] += grid[offset]
    for axis, among in zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True):
        at[..., axis] = grid[batch[among]]
    at = np.where(outside[..., None], 0, at)
    flat = np.ravel_multi_index(tuple(np.moveaxis(at, -1, 0)), shape) if shape else np.zeros(outside.shape, int)
    return np.where(outside, -1, flat)


def filling(eqn: JaxprEqn, dtype: np.dtype) -> ArrayLike:
    """Return what a gather gives outside of its operand."""
    value = eqn.params.get("fill_value")
    if value is not None or dtype.kind not in "iu":
        return (np.nan if dtype.kind in "fc" else True) if value is None else value
    limits = np.iinfo(dtype)
    return limits.min if limits.min else limits.max


def _gathered(eqn: JaxprEqn, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    where = places(eqn, x.shape, indices)
    if not x.size:
        return np.full(where.shape, filling(eqn, x.dtype), x.dtype)
    return np.where(where < 0, np.asarray(filling(eqn, x.dtype), x.dtype), x.ravel()[where])


def _broadcast(eqn: JaxprEqn, x: np.ndarray) -> np.ndarray:
    shape = [1] * len(eqn.params["shape"])
    for axis, size in zip(eqn.params["broadcast_dimensions"], x.shape, strict=True):
        shape[axis] = size
    return np.broadcast_to(x.reshape(shape), eqn.params["shape"])


def _sliced(eqn: JaxprEqn, x: np.ndarray) -> np.ndarray:
    params = eqn.params
    strides = params["strides"] or [1] * x.ndim
    return x[tuple(map(slice, params["start_indices"], params["limit_indices"], strides))]


def _counted(eqn: JaxprEqn) -> np.ndarray:
    shape, along = shape_of(eqn.outvars[0]), eqn.params["dimension"]
    numbers = np.arange(shape[along], dtype=dtype_of(eqn.outvars[0]))
    return np.broadcast_to(numbers.reshape([-1 if k == along else 1 for k in range(len(shape))]), shape)


_MOVES: dict[str, Callable[..., np.ndarray]] = {
    "iota": _counted,
    "gather": _gathered,
    "broadcast_in_dim": _broadcast,
    "slice": _sliced,
    "concatenate": lambda eqn, *parts: np.concatenate(parts, eqn.params["dimension"]),
    "stack": lambda eqn, *parts: np.stack(parts, eqn.params["axis"]),
    "transpose": lambda eqn, x: x.transpose(eqn.params["permutation"]),
    "rev": lambda eqn, x: np.flip(x, eqn.params["dimensions"]),
    **dict.fromkeys(("reshape", "squeeze", "expand_dims"), lambda eqn, x: x.reshape(shape_of(eqn.outvars[0]))),
}

_NUMPY: dict[str, Callable[..., np.ndarray]] = {
    **{"add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply, "neg": np.negative, "abs": np.abs},
    **{
        "lt": np.less,
        "le": np.less_equal,
        "gt": np.greater,
        "ge": np.greater_equal,
        "eq": np.equal,
        "ne": np.not_equal,
    },
    **{"max": np.maximum, "min": np.minimum, "sqrt": np.sqrt, "square": np.square, "sign": np.sign, "floor": np.floor},
    **{"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert, "is_finite": np.isfinite},
    **{"stop_gradient": np.asarray, "copy": np.asarray, "optimization_barrier": np.asarray},
    **{"exp": np.exp, "log": np.log},
    "select_n": lambda which, *cases: (
        np.choose(which.astype(int), cases) if len(cases) > 2 else np.where(which, *cases[::-1])
    ),
}
