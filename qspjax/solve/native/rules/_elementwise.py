"""Operations on every element alone."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.extend.core import JaxprEqn

from qspjax._jaxpr._walk import dtype_of
from qspjax.solve.native._graph import Kind
from qspjax.solve.native._translate import RULES, Rule, Translator, rule
from qspjax.solve.native._values import AbstractNodes, Nodes, UnsupportedError, Value, kind_of


def _elementwise(op: str) -> Rule:
    def translate(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
        return [self.each(op, dtype_of(eqn.outvars[0]), *operands)]

    return translate


_SAME_NAME = (
    *("add", "sub", "mul", "neg", "abs", "sign", "max", "min", "pow", "sqrt", "cbrt", "exp", "exp2", "expm1"),
    *("log", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "asinh", "acosh"),
    *("atanh", "floor", "ceil", "erf", "erfc", "lgamma", "lt", "le", "gt", "ge", "eq", "ne", "and", "or", "xor"),
    *("is_finite", "nextafter"),
)
RULES.update({name: _elementwise(name) for name in _SAME_NAME})
RULES["add_any"] = _elementwise("add")


@rule("lt_to", "le_to", "eq_to")
def _in_total_order(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    """Compare as sorting does: -0 is less than 0, and NaN the greatest."""
    op, whole = eqn.primitive.name.removesuffix("_to"), np.dtype(np.int64)

    def order(x: Value) -> Value:
        if kind_of(x.dtype) != "float":
            return x
        ids = [self.graph.node("order", (i,), None, "int") for i in self.ids(x).ravel().tolist()]
        return Nodes(np.array(ids, np.int64).reshape(x.shape), whole)

    return [self.each(op, np.dtype(bool), *map(order, operands))]


@rule("div")
def _div(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    dtype = dtype_of(eqn.outvars[0])
    return [self.each("div" if kind_of(dtype) == "float" else "quotient", dtype, *operands)]


@rule("rem")
def _rem(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    dtype = dtype_of(eqn.outvars[0])
    return [self.each("fmod" if kind_of(dtype) == "float" else "remainder", dtype, *operands)]


@rule("shift_left", "shift_right_logical", "shift_right_arithmetic")
def _shift(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    by, dtype = operands[1], dtype_of(eqn.outvars[0])
    bits = 8 * dtype.itemsize
    if isinstance(by, AbstractNodes) or not 0 <= by.min() <= by.max() < bits:
        raise UnsupportedError("a shift of bits by what is computed")
    op = {"shift_left": "shl", "shift_right_logical": "lshr", "shift_right_arithmetic": "ashr"}[eqn.primitive.name]
    x = operands[0]
    if op == "lshr" and bits < 64 and np.issubdtype(dtype, np.signedinteger):
        x = self.each("and", dtype, x, np.asarray((1 << bits) - 1, np.int64))
    return [self.each(op, dtype, x, by)]


@rule("not")
def _not(self: Translator, _: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    if operands[0].dtype != bool:
        return [self.each("xor", operands[0].dtype, operands[0], np.asarray(-1, operands[0].dtype))]
    return [self.each("not", np.dtype(bool), operands[0])]


@rule("integer_pow")
def _integer_pow(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    x = self.ids(operands[0])
    if kind_of(operands[0].dtype) != "float":
        raise UnsupportedError("a power of integers")
    powers = np.array([self.graph.power(i, eqn.params["y"]) for i in x.ravel().tolist()], np.int64)
    return [self.rounded(Nodes(powers.reshape(x.shape), operands[0].dtype), "mul")]


@rule("square")
def _square(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    return [self.each("mul", dtype_of(eqn.outvars[0]), operands[0], operands[0])]


@rule("one_minus_square")  # of jax 0.12 on, as are `log2` and `polynomial`
def _one_minus_square(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    dtype, (x,) = dtype_of(eqn.outvars[0]), operands
    one = np.ones((), dtype)
    return [self.each("mul", dtype, self.each("add", dtype, one, x), self.each("sub", dtype, one, x))]


@rule("log2")
def _log2(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    dtype = dtype_of(eqn.outvars[0])
    return [self.each("mul", dtype, self.each("log", dtype, operands[0]), np.asarray(1.4426950408889634, dtype))]


@rule("polynomial")
def _polynomial(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    dtype, (x, *coefficients) = dtype_of(eqn.outvars[0]), operands
    total = coefficients.pop()
    for c in coefficients[::-1]:
        total = self.each("add", dtype, self.each("mul", dtype, total, x), c)
    return [total]


@rule("logistic")
def _logistic(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    dtype = dtype_of(eqn.outvars[0])
    one = np.ones((), dtype)
    return [
        self.each(
            "div",
            dtype,
            one,
            self.each("add", dtype, one, self.each("exp", dtype, self.each("neg", dtype, operands[0]))),
        )
    ]


@rule("rsqrt")
def _rsqrt(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    dtype = dtype_of(eqn.outvars[0])
    return [self.each("div", dtype, np.ones((), dtype), self.each("sqrt", dtype, operands[0]))]


@rule("clamp")
def _clamp(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    dtype = dtype_of(eqn.outvars[0])
    return [self.each("min", dtype, self.each("max", dtype, operands[1], operands[0]), operands[2])]


@rule("round")
def _round(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    if eqn.params["rounding_method"] != jax.lax.RoundingMethod.TO_NEAREST_EVEN:
        return [self.each("round", dtype_of(eqn.outvars[0]), operands[0])]
    return [self.each("rint", dtype_of(eqn.outvars[0]), operands[0])]


@rule("select_n")
def _select_n(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    which, *cases = operands
    dtype = dtype_of(eqn.outvars[0])
    if which.dtype == bool:
        return [self.each("select", dtype, which, *cases[::-1])]
    out: Value = cases[0]
    for k, case in enumerate(cases[1:], 1):
        here = self.each("ge", np.dtype(bool), which, np.asarray(k, which.dtype))
        out = self.each("select", dtype, here, case, out)
    return [out]


@rule("convert_element_type")
def _convert(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    (x,) = operands
    new = np.dtype(eqn.params["new_dtype"])
    before, after = kind_of(x.dtype), kind_of(new)
    if before == after:
        return (
            [self.rounded(Nodes(self.ids(x), new), "convert")]
            if new.itemsize < x.dtype.itemsize
            else [Nodes(self.ids(x), new)]
        )
    if before == "bool":
        yes, no = (np.asarray(k, new) for k in (1, 0))
        return [self.each("select", new, x, yes, no)]
    if after == "bool":
        return [self.each("ne", new, x, np.zeros((), x.dtype))]
    op, kind = ("float", "float") if after == "float" else ("int", "int")
    ids = np.array([_converted(self, op, i, kind) for i in self.ids(x).ravel().tolist()], np.int64).reshape(x.shape)
    return [self.rounded(Nodes(ids, new), "convert")]


@rule("bitcast_convert_type")
def _bits(self: Translator, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
    """Read the bits of a float as an integer of its size, or the other way round."""
    (x,), new = operands, np.dtype(eqn.params["new_dtype"])
    if new.itemsize != x.dtype.itemsize or {kind_of(x.dtype), kind_of(new)} != {"float", "int"}:
        raise UnsupportedError(f"the bits of {x.dtype} as {new}")
    op, kind = ("bits", "int") if new.kind in "iu" else ("from_bits", "float")
    ids = [self.graph.node(op, (i,), 8 * new.itemsize, kind) for i in self.ids(x).ravel().tolist()]
    return [Nodes(np.array(ids, np.int64).reshape(x.shape), new)]


def _converted(self: Translator, op: str, index: int, kind: Kind) -> int:
    value = self.graph.value(index)
    if value is not None and value == value and abs(value) < 2**53:
        return self.graph.const(float(value) if kind == "float" else int(value))
    return self.graph.node(op, (index,), None, kind)
