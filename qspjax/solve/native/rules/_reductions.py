"""Sums, products, extremes and what is made of them, one element after the other."""

from collections.abc import Callable, Sequence

import numpy as np
from jax.extend.core import JaxprEqn
from jax.typing import ArrayLike

from qspjax.solve.native._translate import RULES, Rule, Translator, rule
from qspjax.solve.native._values import AbstractNodes, Nodes, Value, kind_of


def _reduction(op: str) -> Rule:
    def translate(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
        x, axes = operands[0], tuple(eqn.params["axes"])
        ids, dtype = self.ids(x), x.dtype
        rest = [axis for axis in range(ids.ndim) if axis not in axes]
        count = int(np.prod([ids.shape[axis] for axis in axes]))
        rows = ids.transpose(*axes, *rest).reshape(count, *(ids.shape[axis] for axis in rest))
        if not len(rows):
            return [np.full(rows.shape[1:], _EMPTY[op](dtype), dtype)]
        total: AbstractNodes = Nodes(rows[0], dtype)
        for row in rows[1:]:
            total = self.each(op, dtype, total, Nodes(row, dtype))
        return [total]

    return translate


_EMPTY: dict[str, Callable[[np.dtype], ArrayLike]] = {
    "add": lambda _: 0,
    "mul": lambda _: 1,
    "and": lambda _: True,
    "or": lambda _: False,
    "max": lambda dtype: -np.inf if kind_of(dtype) == "float" else np.iinfo(dtype).min,
    "min": lambda dtype: np.inf if kind_of(dtype) == "float" else np.iinfo(dtype).max,
}
for _name, _op in (*(("sum", "add"), ("prod", "mul"), ("max", "max"), ("min", "min"), ("and", "and"), ("or", "or")),):
    RULES[f"reduce_{_name}"] = _reduction(_op)


@rule("unvmap_any", "unvmap_all", "unvmap_max")
def _over_lanes(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    """Reduce over everything: the branch or loop that asks for it is taken lane by lane."""
    op = {"unvmap_any": "or", "unvmap_all": "and", "unvmap_max": "max"}[eqn.primitive.name]
    flat = self.ids(operands[0]).ravel()
    total: AbstractNodes = Nodes(flat[0], operands[0].dtype)
    for i in flat[1:]:
        total = self.each(op, operands[0].dtype, total, Nodes(i, operands[0].dtype))
    return [Nodes(np.asarray(total.ids), total.dtype)]


def _cumulative(op: str) -> Rule:
    def translate(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
        x, axis = operands[0], eqn.params["axis"]
        rows = np.moveaxis(self.ids(x), axis, 0)
        rows = rows[::-1] if eqn.params["reverse"] else rows
        out: list[AbstractNodes] = [Nodes(rows[0], x.dtype)] if len(rows) else []
        for row in rows[1:]:
            out.append(self.each(op, x.dtype, out[-1], Nodes(row, x.dtype)))
        out = out[::-1] if eqn.params["reverse"] else out
        stacked = np.stack([row.ids for row in out]) if out else rows
        return [Nodes(np.moveaxis(stacked, 0, axis), x.dtype)]

    return translate


RULES.update(
    {
        "cumsum": _cumulative("add"),
        "cumprod": _cumulative("mul"),
        "cummax": _cumulative("max"),
        "cummin": _cumulative("min"),
    }
)


@rule("argmax", "argmin")
def _argmax(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    x, (axis,) = operands[0], eqn.params["axes"]
    dtype = np.dtype(eqn.params["index_dtype"])
    rows = np.moveaxis(self.ids(x), axis, 0)
    best, at = Nodes(rows[0], x.dtype), Nodes(np.full(rows[0].shape, self.graph.const(0)), dtype)
    boolean, better = np.dtype(bool), "gt" if eqn.primitive.name == "argmax" else "lt"
    for k, row in enumerate(rows[1:], 1):
        row = Nodes(row, x.dtype)
        beats = self.each(better, boolean, row, best)
        if kind_of(x.dtype) == "float":  # the first NaN wins
            known = self.each("eq", boolean, best, best)
            beats = self.each(
                "and", boolean, known, self.each("or", boolean, beats, self.each("ne", boolean, row, row))
            )
        best = self.each("select", x.dtype, beats, row, best)
        at = self.each("select", dtype, beats, np.asarray(k, dtype), at)
    return [at]
