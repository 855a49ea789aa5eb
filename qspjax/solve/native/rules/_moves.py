"""What only moves numbers: indexing of nodes, which leaves no code behind, and elements at computed indices."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import numpy as np
from jax.extend.core import JaxprEqn

from qspjax._jaxpr._known import filling, places
from qspjax._jaxpr._walk import dtype_of, shape_of
from qspjax.solve.native._dense import Outer
from qspjax.solve.native._rows import Pending
from qspjax.solve.native._translate import MOVES, RULES, SELECTED, Rule, Translator, rule
from qspjax.solve.native._values import AbstractNodes, Nodes, UnsupportedError, Value

UPDATED = 64
"""Up to this many rows, those at a traced index are updated."""
MOVED = 100_000
"""Up to this many elements, all slices are laid out of which one is taken at a traced index."""
Move: TypeAlias = Callable[[JaxprEqn, np.ndarray], np.ndarray | list[np.ndarray]]
"""From an equation and its operand to its results, of elements or of nodes alike."""
_KEEPS = ("reshape", "squeeze", "expand_dims", "broadcast_in_dim")
"""Those that keep the order of elements where they keep their number."""


def _move(*names: str) -> Callable[[Move], Move]:
    """Register a primitive that moves elements: see `Move`."""

    def register(function: Move) -> Move:
        def translate(_: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
            (x,) = operands
            shape = shape_of(eqn.outvars[0])
            outer = _moved_outer(x, eqn, shape) if isinstance(x, Outer) else None
            if outer is not None:
                return [outer]
            if isinstance(x, Pending) and int(np.prod(shape)) == x.count and eqn.primitive.name in _KEEPS:
                return [x.reshaped(shape)]
            moved = function(eqn, x.ids if isinstance(x, AbstractNodes) else x)
            parts = moved if isinstance(moved, list) else [moved]
            return [Nodes(part, x.dtype) if isinstance(x, AbstractNodes) else part for part in parts]

        RULES.update(dict.fromkeys(names, translate))
        MOVES.update(names)
        return function

    return register


def _moved_outer(x: Outer, eqn: JaxprEqn, shape: tuple[int, ...]) -> Outer | None:
    """Return a matrix that is not written in another shape, or transposed; None where it has to be written."""
    if eqn.primitive.name == "transpose":
        return x.transposed(eqn.params["permutation"])
    kept = eqn.primitive.name in _KEEPS and int(np.prod(shape)) == int(np.prod(x.shape))
    return x.reshaped(shape) if kept else None


@_move("slice")
def _slice(eqn: JaxprEqn, x: np.ndarray) -> np.ndarray:
    params = eqn.params
    strides = params["strides"] or [1] * x.ndim
    return x[tuple(map(slice, params["start_indices"], params["limit_indices"], strides))]


@_move("broadcast_in_dim")
def _broadcast(eqn: JaxprEqn, x: np.ndarray) -> np.ndarray:
    shape = [1] * len(eqn.params["shape"])
    for axis, size in zip(eqn.params["broadcast_dimensions"], x.shape, strict=True):
        shape[axis] = size
    return np.broadcast_to(x.reshape(shape), eqn.params["shape"])


@_move("reshape", "squeeze", "expand_dims")
def _reshape(eqn: JaxprEqn, x: np.ndarray) -> np.ndarray:
    return x.reshape(shape_of(eqn.outvars[0]))


@_move("transpose")
def _transpose(eqn: JaxprEqn, x: np.ndarray) -> np.ndarray:
    return x.transpose(eqn.params["permutation"])


@_move("rev")
def _reverse(eqn: JaxprEqn, x: np.ndarray) -> np.ndarray:
    return np.flip(x, eqn.params["dimensions"])


@_move("split")
def _split(eqn: JaxprEqn, x: np.ndarray) -> list[np.ndarray]:
    return np.split(x, np.cumsum(eqn.params["sizes"])[:-1], eqn.params["axis"])


@rule("copy", "copy_p", "stop_gradient", "optimization_barrier", "reduce_precision", "pvary")
def _same(_: Translator, __: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    return operands


@rule("concatenate")
def _concatenate(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    return [Nodes(np.concatenate([self.ids(x) for x in operands], eqn.params["dimension"]), operands[0].dtype)]


@rule("stack")
def _stack(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    return [Nodes(np.stack([self.ids(x) for x in operands], eqn.params["axis"]), operands[0].dtype)]


@_move("unstack")
def _unstack(eqn: JaxprEqn, x: np.ndarray) -> list[np.ndarray]:
    return list(np.moveaxis(x, eqn.params["axis"], 0))


@rule("pad")
def _pad(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    x, filling = self.ids(operands[0]), self.ids(operands[1])
    out = np.full(shape_of(eqn.outvars[0]), filling.item(), np.int64)
    config = eqn.params["padding_config"]
    if any(low < 0 or high < 0 for low, high, _ in config):
        raise UnsupportedError("negative padding")
    out[
        tuple(
            slice(low, low + (n - 1) * (1 + inner) + 1 if n else low, 1 + inner)
            for (low, _, inner), n in zip(config, x.shape, strict=True)
        )
    ] = x
    return [Nodes(out, dtype_of(eqn.outvars[0]))]


@rule("gather")
def _gather(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    operand, indices = operands
    x = self.ids(operand)
    if isinstance(indices, AbstractNodes):
        return [_rows_at(self, eqn, x, indices, operand.dtype)]
    where = places(eqn, x.shape, indices)
    return [Nodes(np.where(where < 0, _filling(self, eqn, operand.dtype), x.ravel()[where]), operand.dtype)]


def _filling(self: Translator, eqn: JaxprEqn, dtype: np.dtype) -> int:
    """Return the node of what a gather gives outside of its operand."""
    return self.graph.const(np.asarray(filling(eqn, dtype), dtype).item())


def _rows_at(self: Translator, eqn: JaxprEqn, x: np.ndarray, indices: AbstractNodes, dtype: np.dtype) -> Nodes:
    """Return a gather of elements along some axes, at traced indices, and of all along the others."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    along, collapsed = tuple(numbers.start_index_map), set(numbers.collapsed_slice_dims)
    others = [axis for axis in range(x.ndim) if axis not in along]
    if (
        not collapsed <= set(along)
        or numbers.operand_batching_dims
        or any(sizes[axis] != (1 if axis in along else x.shape[axis]) for axis in range(x.ndim))
    ):
        raise UnsupportedError("a gather at indices that are computed")
    fills = eqn.params["mode"] is jax.lax.GatherScatterMode.FILL_OR_DROP
    filling, rows = _filling(self, eqn, dtype) if fills else None, x.transpose(*along, *others)
    kept = tuple(1 if axis in along else x.shape[axis] for axis in range(x.ndim) if axis not in collapsed)
    out = np.empty((*indices.ids.shape[:-1], *kept), np.int64)
    for place in np.ndindex(indices.ids.shape[:-1]):
        out[place] = _element_at(self, rows, indices.ids[place].tolist(), filling).reshape(kept)
    batch = [axis for axis in range(out.ndim) if axis not in numbers.offset_dims]
    order = np.argsort([*batch, *numbers.offset_dims])
    return Nodes(out.transpose(order), dtype)


def _element_at(self: Translator, x: np.ndarray, index: list[int], filling: int | None) -> np.ndarray:
    """Return what is at a traced index along each of the first axes, clamped; or `filling`, where that is given."""
    make, const = self.graph.make, self.graph.const
    lengths, flat, inside = x.shape[: len(index)], const(0), const(True)
    for k, length in zip(index, lengths, strict=True):
        clamped = k if len(index) == 1 else make("min", make("max", k, const(0)), const(length - 1))
        flat = make("add", make("mul", flat, const(length)), clamped) if len(index) > 1 else clamped
        inside = make("and", inside, make("and", make("ge", k, const(0)), make("lt", k, const(length))))
    row = select_row(self, x.reshape(-1, *x.shape[len(index) :]), flat)
    if filling is None:
        return row
    return np.array([make("select", inside, i, filling) for i in row.ravel().tolist()], np.int64).reshape(row.shape)


def select_row(self: Translator, x: np.ndarray, index: int) -> np.ndarray:
    """Return the row of an array at a traced index, clamped."""
    make, const = self.graph.make, self.graph.const
    known = self.graph.value(index)
    if known is not None:
        return x[int(np.clip(known, 0, len(x) - 1))]
    if len(x) > SELECTED:
        clamped = make("min", make("max", index, const(0)), const(len(x) - 1))
        columns = x.reshape(len(x), -1).T.tolist()
        row = [self.graph.lookup(clamped, column) for column in columns]
        return np.array(row, np.int64).reshape(x.shape[1:])
    row = x[0]
    for k in range(1, len(x)):
        here = make("ge", index, const(k))
        pairs = zip(x[k].ravel().tolist(), row.ravel().tolist(), strict=True)
        row = np.array([make("select", here, new, old) for new, old in pairs], np.int64).reshape(row.shape)
    return row


@rule("dynamic_slice")
def _dynamic_slice(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    operand, *starts = operands
    x, sizes = self.ids(operand), eqn.params["slice_sizes"]
    for axis, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        if not isinstance(start, AbstractNodes):
            first = int(np.clip(start, 0, x.shape[axis] - size))
            x = np.take(x, range(first, first + size), axis)
        elif size != x.shape[axis]:
            rows = np.moveaxis(x, axis, 0)
            if size * x.size > MOVED:
                raise UnsupportedError("a slice at an index that is computed")
            windows = np.stack([rows[k : k + size] for k in range(len(rows) - size + 1)])
            x = np.moveaxis(select_row(self, windows, int(start.ids)), 0, axis)
    return [Nodes(x, operand.dtype) if isinstance(operand, AbstractNodes) or isinstance(x, np.ndarray) else x]


@rule("dynamic_update_slice")
def _dynamic_update_slice(self: Translator, _: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    operand, update, *starts = operands
    x, new = self.ids(operand).copy(), self.ids(update)
    traced = [
        axis
        for axis, start in enumerate(starts)
        if isinstance(start, AbstractNodes) and new.shape[axis] != x.shape[axis]
    ]
    if len(traced) > 1 or any(x.shape[axis] > UPDATED for axis in traced):
        raise UnsupportedError("an update at indices that are computed")

    def window(axis: int, start: int) -> slice:
        first = int(np.clip(start, 0, x.shape[axis] - new.shape[axis]))
        return slice(first, first + new.shape[axis])

    at = [window(axis, 0 if isinstance(start, AbstractNodes) else int(start)) for axis, start in enumerate(starts)]
    if not traced:
        x[tuple(at)] = new
        return [Nodes(x, operand.dtype)]
    (axis,) = traced
    index, last = int(self.ids(starts[axis])), x.shape[axis] - new.shape[axis]
    result = x.copy()
    for first in range(last + 1):
        at[axis] = window(axis, first)
        # clamped at both ends
        here = [self.graph.make("ge", index, self.graph.const(first))] if first == last else []
        here += [self.graph.make("le", index, self.graph.const(first))] if first == 0 else []
        here = here or [self.graph.make("eq", index, self.graph.const(first))]
        if len(here) == 2:
            result[tuple(at)] = new
            break
        updated = result[tuple(at)]
        result[tuple(at)] = self.each(
            "select",
            operand.dtype,
            Nodes(np.array(here[0]), np.dtype(bool)),
            Nodes(new, operand.dtype),
            Nodes(updated, operand.dtype),
        ).ids
    return [Nodes(result, operand.dtype)]


def _scatter_rule(op: str | None) -> Rule:
    def scatter(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
        target, indices, updates = operands
        x, new = self.ids(target).copy(), self.ids(updates)
        if isinstance(indices, AbstractNodes):
            flat = _scattered_at(self, eqn, x, indices.ids, new, op)
            return (self.rounded(Nodes(flat, target.dtype), op or "select"),)
        # the scatter of jax itself, of the number of each update, says where they go
        places = _scattered(eqn, x.shape, indices, new.shape)
        flat = x.ravel()
        for place, update in zip(places.ravel().tolist(), new.ravel().tolist(), strict=True):
            if place >= 0:
                flat[place] = update if op is None else self.graph.make(op, int(flat[place]), update)
        return (self.rounded(Nodes(flat.reshape(x.shape), target.dtype), op or "select"),)

    return scatter


def _scattered_at(
    self: Translator, eqn: JaxprEqn, x: np.ndarray, indices: np.ndarray, new: np.ndarray, op: str | None
) -> np.ndarray:
    """Return a scatter of elements along some axes, at traced indices, and of all along the others."""
    numbers, make, const = eqn.params["dimension_numbers"], self.graph.make, self.graph.const
    along, inserted = tuple(numbers.scatter_dims_to_operand_dims), set(numbers.inserted_window_dims)
    others = [axis for axis in range(x.ndim) if axis not in along]
    window = tuple(1 if axis in along else x.shape[axis] for axis in range(x.ndim) if axis not in inserted)
    batch = [axis for axis in range(new.ndim) if axis not in numbers.update_window_dims]
    new = new.transpose(*batch, *numbers.update_window_dims)
    if (
        not inserted <= set(along)
        or numbers.operand_batching_dims
        or new.shape[len(batch) :] != window
        or x.size * max(1, indices[..., 0].size) > MOVED
    ):
        raise UnsupportedError("a scatter at indices that are computed")
    rows = x.transpose(*along, *others).copy()
    clips = eqn.params["mode"] is jax.lax.GatherScatterMode.CLIP
    for place in np.ndindex(indices.shape[:-1]):
        update = new[place].reshape([x.shape[axis] for axis in others])
        for at in np.ndindex(*rows.shape[: len(along)]):
            here = const(True)
            for index, k, length in zip(indices[place].tolist(), at, rows.shape, strict=False):
                if clips:
                    index = make("min", make("max", index, const(0)), const(length - 1))  # noqa: PLW2901
                here = make("and", here, make("eq", index, const(k)))
            olds = rows[at].ravel().tolist() if others else [int(rows[at])]
            pairs = zip(olds, update.ravel().tolist(), strict=True)
            put = [make("select", here, u if op is None else make(op, old, u), old) for old, u in pairs]
            rows[at] = np.array(put, np.int64).reshape(update.shape)
    return rows.transpose(np.argsort([*along, *others]))


RULES.update({"scatter": _scatter_rule(None), "scatter-add": _scatter_rule("add"), "scatter_add": _scatter_rule("add")})
RULES.update({"scatter-mul": _scatter_rule("mul"), "scatter_mul": _scatter_rule("mul")})


def _scattered(eqn: JaxprEqn, shape: tuple[int, ...], indices: np.ndarray, updates: tuple[int, ...]) -> np.ndarray:
    """Return the place, in the flat target, of each update, -1 where it is dropped."""
    numbers = eqn.params["dimension_numbers"]
    window = list(numbers.update_window_dims)
    batch = [axis for axis in range(len(updates)) if axis not in window]
    inserted = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    if numbers.operand_batching_dims:
        raise UnsupportedError("a scatter with batched axes")
    spread = [axis for axis in range(len(shape)) if axis not in inserted]
    places = np.full(updates, -1, np.int64)
    clip = eqn.params["mode"] is jax.lax.GatherScatterMode.CLIP
    sizes = [1 if axis in inserted else updates[window[spread.index(axis)]] for axis in range(len(shape))]
    for place in np.ndindex(*updates):
        start = np.zeros(len(shape), int)
        start[list(numbers.scatter_dims_to_operand_dims)] = indices[tuple(place[axis] for axis in batch)]
        if clip:
            start = np.clip(start, 0, np.array(shape) - sizes)
        elif (start < 0).any() or (start + sizes > shape).any():
            continue
        start[spread] += np.array([place[axis] for axis in window], int)
        places[place] = np.ravel_multi_index(tuple(start), shape)
    return places
