"""Products of matrices: written out if they are small, else loops over rows in memory."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import JaxprEqn, Primitive

from qspjax._jaxpr._products import WIDE
from qspjax._jaxpr._walk import dtype_of, shape_of
from qspjax.solve.native._dense import TERMS, Outer, Product, matrix_of
from qspjax.solve.native._graph import ZERO
from qspjax.solve.native._translate import Translator, rule
from qspjax.solve.native._values import AbstractNodes, Nodes, UnsupportedError, Value, kind_of

WRITTEN_OUT = 640
"""A product of matrices with more multiply-adds is too much code, if it is written out."""


@rule("dot_general")
def _dot_general(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    a, b = (self.ids(x) for x in operands)
    dtype = dtype_of(eqn.outvars[0])
    free_a = [i for i in range(a.ndim) if i not in (*left, *left_batch)]
    free_b = [i for i in range(b.ndim) if i not in (*right, *right_batch)]
    shape = shape_of(eqn.outvars[0])
    inner = int(np.prod([a.shape[i] for i in left], dtype=int))
    batch = int(np.prod([a.shape[i] for i in left_batch], dtype=int))
    a = a.transpose(*left_batch, *free_a, *left).reshape(batch, -1, inner)
    b = b.transpose(*right_batch, *free_b, *right).reshape(batch, -1, inner)
    total: AbstractNodes = Nodes(np.full((batch, a.shape[1], b.shape[1]), ZERO), dtype)
    absent = {i for i in {*a.ravel().tolist(), *b.ravel().tolist()} if self.graph.value(i) == 0.0}
    if absent and kind_of(dtype) == "float":  # a zero of a matrix stays one
        a, b = (np.where(np.isin(x, list(absent)), ZERO, x) for x in (a, b))
    count = min(int((a != ZERO).sum()) * b.shape[1], int((b != ZERO).sum()) * a.shape[1])
    if count >= WIDE and dtype == np.float64:
        looped = _looped(self, a, b, shape)
        if looped is not None:
            return [looped]
    if count > WRITTEN_OUT:
        raise UnsupportedError(f"a product of matrices with {count} multiply-adds")
    for k in range(inner):
        term = self.each("mul", dtype, Nodes(a[:, :, None, k], dtype), Nodes(b[:, None, :, k], dtype))
        total = self.each("add", dtype, total, term)
    return [Nodes(total.ids.reshape(shape), dtype)]


def _looped(self: Translator, a: np.ndarray, b: np.ndarray, shape: tuple[int, ...]) -> Value | None:
    """Return the products of matrices, of shapes (batch, rows, inner) and (batch, columns, inner), in loops."""
    dtype = np.dtype(np.float64)
    if len(a) == 1 and a.shape[2] <= TERMS and min(a.shape[1], b.shape[1]) >= a.shape[2]:
        terms = [(Nodes(a[0, :, k], dtype), Nodes(b[0, :, k], dtype)) for k in range(a.shape[2])]
        return Outer(self.graph, terms, shape, dtype)
    products = [_product(self, *pair) for pair in zip(a, b, strict=True)]
    if any(x is None for x in products):
        return None
    return Nodes(np.stack([x for x in products if x is not None]).reshape(shape), dtype)


def _product(self: Translator, a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """Return the nodes of a product of matrices of shapes (rows, inner) and (columns, inner); None if it is no loop."""
    for matrix, others in ((a, b), (b, a)):
        found = matrix_of(self.graph, matrix)
        if found is None or (len(matrix) == 1 and len(others) > 1):
            continue
        there = [k for k, column in enumerate(others) if (column != ZERO).any()]
        product = Product(found[0], len(there))
        args = (*found[1], *(i for k in there for i in others[k].tolist()))
        out = np.full((len(others), len(matrix)), ZERO, np.int64)
        if there:
            node = self.graph.node("routine", args, product)
            results = [self.graph.node("result", (node,), k) for k in range(product.rows)]
            out[there] = np.array(results, np.int64).reshape(len(there), -1)
        return out.T if matrix is a else out
    return None


accumulate_p = Primitive("lane_accumulate")
"""The total of what is gained in each step, from that so far and the gain, in lanes that are not still.

Natively a total is rows of the frame, to which a matrix that is not written is added in place.
"""
accumulate_p.def_abstract_eval(lambda total, *_: ShapedArray(total.shape, total.dtype))


def accumulated(total: jax.Array, gain: jax.Array, still: jax.Array) -> jax.Array:
    """Return a total after a step, in a program that is translated."""
    return accumulate_p.bind(total, jnp.broadcast_to(gain, total.shape), still)


@rule("lane_accumulate")
def _accumulated(self: Translator, _: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    total, gain, still = operands
    dtype = total.dtype
    first = self.graph.nodes[int(self.ids(total).ravel()[0])]
    if isinstance(gain, Outer) and first.op == "in":
        where = self.each("select", dtype, still, np.ones((), dtype), np.zeros((), dtype))
        self.effects.append(gain.added_to(first.attr_as(int), int(where.ids.ravel()[0])))
        return [total]
    return [self.each("select", dtype, still, total, self.each("add", dtype, total, gain))]
