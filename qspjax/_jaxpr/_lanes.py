"""A traced program of one patient, evaluated for many: every array keeps its axes and gets an axis of lanes at the end.

`vmap` may put the new axis where it likes, and puts it first where a gather or a scatter is concerned: two transposed
copies of all states for each. With the lanes last, indexing moves whole rows of them, which are contiguous in memory.
Primitives that are not listed here go through `vmap`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Var
from jax.typing import ArrayLike

from qspjax._jaxpr._regular import bound
from qspjax._jaxpr._rows import put
from qspjax._jaxpr._walk import Atom, shape_of, walk


class _Value(NamedTuple):
    """A value, and whether it has an axis of lanes at the end."""

    array: ArrayLike
    batched: bool


Rule = Callable[[JaxprEqn, Sequence[_Value], int], Sequence[ArrayLike]]
"""From an equation, its operands and the number of lanes to its results with lanes."""


def evaluate(
    variables: Sequence[Var],
    values: Sequence[ArrayLike],
    batched: Sequence[bool],
    eqns: Sequence[JaxprEqn],
    outputs: Sequence[Atom],
) -> list[jax.Array]:
    """Return the outputs of a program, each with an axis of lanes at the end.

    Args:
        variables: The inputs.
        values: Their values.
        batched: Which values have an axis of lanes at the end; at least one.
        eqns: The program.
        outputs: Variables or literals.
    """
    lanes = next(np.shape(value)[-1] for value, has_lanes in zip(values, batched, strict=True) if has_lanes)

    def apply(eqn: JaxprEqn, operands: Sequence[_Value]) -> list[_Value]:
        has_lanes = any(value.batched for value in operands)
        rule = _RULES.get(eqn.primitive.name, _mapped) if has_lanes else _shared
        return [_Value(x, has_lanes) for x in rule(eqn, operands, lanes)]

    inputs = [_Value(*pair) for pair in zip(values, batched, strict=True)]
    results = walk(variables, inputs, eqns, outputs, apply, lambda value: _Value(value, batched=False))
    return [_widened(value, shape_of(atom), lanes) for value, atom in zip(results, outputs, strict=True)]


def _bind(eqn: JaxprEqn, arrays: Sequence[ArrayLike], **changed: object) -> list[jax.Array]:
    out = eqn.primitive.bind(*arrays, **eqn.params | changed)
    return list(out) if eqn.primitive.multiple_results else [out]


def _widened(value: _Value, shape: tuple[int, ...], lanes: int) -> jax.Array:
    """Return a value of this shape with an axis of lanes at the end."""
    array = jnp.asarray(value.array)
    if not value.batched:
        array = array[..., None]
    elif array.ndim == 1:
        array = array.reshape(*[1] * len(shape), lanes)
    return jnp.broadcast_to(array, (*shape, lanes))


def _shared(eqn: JaxprEqn, operands: Sequence[_Value], _: int) -> Sequence[ArrayLike]:
    """Apply any primitive to values without lanes."""
    return bound(eqn, [value.array for value in operands])


def _mapped(eqn: JaxprEqn, operands: Sequence[_Value], _: int) -> Sequence[ArrayLike]:
    """Apply any primitive, through `vmap`."""
    axes = tuple(-1 if value.batched else None for value in operands)
    return jax.vmap(lambda *arrays: bound(eqn, arrays), in_axes=axes, out_axes=-1)(*(value.array for value in operands))


def _elementwise(eqn: JaxprEqn, operands: Sequence[_Value], lanes: int) -> Sequence[ArrayLike]:
    shape = shape_of(eqn.outvars[0])
    arrays = [
        value.array if not value.batched and jnp.ndim(value.array) == 0 else _widened(value, shape, lanes)
        for value in operands
    ]
    return bound(eqn, arrays)


def _selected(eqn: JaxprEqn, operands: Sequence[_Value], lanes: int) -> list[jax.Array]:
    """Select between cases, which must have one shape; the selector may be one number for all lanes."""
    shape = shape_of(eqn.outvars[0])
    selector, *cases = operands
    is_scalar = not selector.batched and jnp.ndim(selector.array) == 0
    chosen = selector.array if is_scalar else _widened(selector, shape, lanes)
    return _bind(eqn, [chosen, *(_widened(case, shape, lanes) for case in cases)])


def _same(eqn: JaxprEqn, operands: Sequence[_Value], lanes: int) -> list[jax.Array]:
    """Apply a primitive whose axes are counted from the front."""
    arrays = [_widened(value, shape_of(atom), lanes) for value, atom in zip(operands, eqn.invars, strict=True)]
    return _bind(eqn, arrays)


def _changed(change: Callable[[dict, int], dict]) -> Rule:
    """Return the rule of a primitive of one operand that has a parameter for every axis."""

    def rule(eqn: JaxprEqn, operands: Sequence[_Value], lanes: int) -> Sequence[ArrayLike]:
        if len(operands) > 1:
            return _mapped(eqn, operands, lanes)
        return _bind(eqn, [operands[0].array], **change(eqn.params, lanes))

    return rule


def _sliced(params: dict, lanes: int) -> dict:
    strides = params["strides"]
    return {
        "start_indices": (*params["start_indices"], 0),
        "limit_indices": (*params["limit_indices"], lanes),
        "strides": None if strides is None else (*strides, 1),
    }


def _broadcast(params: dict, lanes: int) -> dict:
    shape = params["shape"]
    return {"shape": (*shape, lanes), "broadcast_dimensions": (*params["broadcast_dimensions"], len(shape))}


def _reshaped(params: dict, lanes: int) -> dict:
    return {"new_sizes": (*params["new_sizes"], lanes)}


def _transposed(params: dict, _: int) -> dict:
    return {"permutation": (*params["permutation"], len(params["permutation"]))}


def _gathered(eqn: JaxprEqn, operands: Sequence[_Value], lanes: int) -> Sequence[ArrayLike]:
    operand, indices = operands
    if indices.batched:
        return _mapped(eqn, operands, lanes)
    numbers = eqn.params["dimension_numbers"]
    numbers = numbers._replace(offset_dims=(*numbers.offset_dims, len(shape_of(eqn.outvars[0]))))
    changed = {"dimension_numbers": numbers, "slice_sizes": (*eqn.params["slice_sizes"], lanes)}
    return _bind(eqn, [operand.array, indices.array], **changed)


def _scattered_sum(eqn: JaxprEqn, operands: Sequence[_Value], lanes: int) -> Sequence[ArrayLike]:
    target, indices, updates = operands
    shapes = [shape_of(atom) for atom in eqn.invars]
    plain = len(shapes[0]) == len(shapes[2]) == 1 and eqn.params["mode"] is not jax.lax.GatherScatterMode.CLIP
    if indices.batched or not plain or shapes[1] != (*shapes[2], 1):
        return _mapped(eqn, operands, lanes)
    rows = _widened(updates, shapes[2], lanes)
    return [put(_widened(target, shapes[0], lanes), jnp.asarray(indices.array)[:, 0], rows, add=True)]


_ELEMENTWISE = (
    *("add", "add_any", "sub", "mul", "div", "rem", "neg", "abs", "sign", "max", "min", "pow", "integer_pow", "square"),
    *("sqrt", "rsqrt", "cbrt", "exp", "exp2", "log", "log1p", "expm1", "logistic", "tanh", "sinh", "cosh", "asinh"),
    *("acosh", "atanh", "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "erf", "erfc", "erf_inv", "lgamma"),
    *("digamma", "floor", "ceil", "round", "is_finite", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "xor", "not"),
    *("clamp", "convert_element_type", "stop_gradient", "copy", "copy_p", "nextafter", "log2", "one_minus_square"),
)

_RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(("concatenate", "stack", "split", "squeeze", "rev", "cumsum", "cumprod"), _same),
    **dict.fromkeys(("reduce_sum", "reduce_prod", "reduce_max", "reduce_min"), _same),
    "select_n": _selected,
    "slice": _changed(_sliced),
    "broadcast_in_dim": _changed(_broadcast),
    "reshape": _changed(_reshaped),
    "transpose": _changed(_transposed),
    "gather": _gathered,
    "scatter-add": _scattered_sum,
    "scatter_add": _scattered_sum,
}
