"""The comparisons a function makes, read from its traced program: where they change, the function may jump.

A condition such as `(y.tumour > 20.0) & (t < 5.0)` is a Boolean, which does not say how far away its change is. But its
program compares numbers, and their differences, here called gaps, do: the condition can change only where a gap passes
through zero. `floor` and `ceil` jump where their operand passes through an integer, so they have a gap too.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from qspjax._jaxpr._walk import bind, called, walk_all
from qspjax._types import Scalar, State

Out = TypeVar("Out")

_COMPARED = {"gt", "ge", "lt", "le"}
_EQUAL = {"eq", "ne"}
"""Watched only where they depend on the time: a time is passed, whereas a state equals a number only for an instant."""
_KEPT = {"add", "sub", "add_any", "neg", "max", "min", "reduce_sum", "concatenate", "convert_element_type", "copy"} | {
    *("broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "slice"),
}
"""Operations on straight lines in time whose results are straight lines, or pieces of them."""
_PIECEWISE = _COMPARED | _EQUAL | {"floor", "ceil", "and", "or", "not"}
"""Operations whose results are constant between gaps of their own."""

STEADY, STRAIGHT, CURVED = range(3)
"""How a value depends on the time other than through the state: not at all, on straight lines, or in another way."""


@dataclasses.dataclass(frozen=True)
class Watched(Generic[Out]):
    """What a function returns, and its gaps.

    Attributes:
        value: What the function returns.
        gaps: The differences, shape (gaps,).
        sizes: The sum of the absolute values that are subtracted, to which rounding error is proportional, shape
            (gaps,).
        timed: Which gaps depend on the time other than through the state.
        curved: Which of them are not straight lines in time, such as `cos(t) - 0.4`: they may change twice in a step.
    """

    value: Out
    gaps: Float[Array, " gaps"]
    sizes: Float[Array, " gaps"]
    timed: Bool[np.ndarray, " gaps"]
    curved: Bool[np.ndarray, " gaps"]


def watched(
    function: Callable[[Scalar, State], Out], t: Scalar, y: State, *, within: Scalar | None = None
) -> Watched[Out]:
    """Call `function(t, y)`, and return the gaps of its comparisons as well; those within loops are not seen.

    Args:
        function: The function.
        t: The time.
        y: The state.
        within: How near the time must be to what it is compared with to count as equal to it; None for never.
    """
    t = jnp.asarray(t, float)
    leaves, structure = jax.tree.flatten(y)
    leaves = [jnp.asarray(leaf) for leaf in leaves]

    def flat(t: Scalar, *leaves: jax.Array) -> Out:
        return function(t, jax.tree.unflatten(structure, leaves))

    traced, shape = jax.make_jaxpr(flat, return_shape=True)(t, *leaves)
    collected: list[_Gap] = []
    inputs = [_Value(t, STRAIGHT), *map(_constant, leaves)]
    out = walk_all(traced, inputs, _reader(collected, within), _constant)
    value = jax.tree.unflatten(jax.tree.structure(shape), [result.array for result in out])
    empty = jnp.zeros((0,), t.dtype)
    gaps, sizes = (jnp.concatenate([empty, *(gap[k] for gap in collected)]) for k in range(2))
    course = np.concatenate([np.zeros(0, int), *(np.full(gap.gaps.size, gap.course) for gap in collected)])
    return Watched(value, gaps, sizes, course != STEADY, course == CURVED)


class _Gap(NamedTuple):
    gaps: jax.Array
    sizes: jax.Array
    course: int


class _Value(NamedTuple):
    """A value, and how it depends on the time other than through the state."""

    array: ArrayLike
    course: int


def _reader(collected: list[_Gap], within: Scalar | None) -> Callable[[JaxprEqn, Sequence[_Value]], list[_Value]]:
    """Return a function that computes an equation and collects its gaps."""

    def apply(eqn: JaxprEqn, values: Sequence[_Value]) -> list[_Value]:
        name, operands = eqn.primitive.name, [value.array for value in values]
        course = max((value.course for value in values), default=STEADY)
        timed = course != STEADY
        if within is not None and name in _COMPARED and timed:
            a, b = map(jnp.asarray, operands)
            operands = [a, jnp.where(jnp.abs(a - b) <= within, a, b)]
        out = bind(eqn, operands)
        inner = called(eqn, derivatives=False)
        if inner is not None:
            results = walk_all(inner, values, apply, _constant)
            return results if within is not None else [_Value(x, r.course) for x, r in zip(out, results, strict=True)]
        itself = len(eqn.invars) == 2 and eqn.invars[0] is eqn.invars[1]  # whether it is a number does not change
        if name in _COMPARED or (name in _EQUAL and timed and not itself):
            if jnp.issubdtype(jnp.result_type(operands[0]), jnp.inexact):
                collected.append(_gap(operands[0], operands[1], course))
        elif name in ("floor", "ceil"):
            collected.append(_gap(operands[0], out[0] + 1.0 if name == "floor" else out[0], course))
        return [_Value(x, _course(name, [value.course for value in values])) for x in out]

    return apply


def _course(name: str, courses: Sequence[int]) -> int:
    """Return how the results of an operation depend on the time."""
    course = max(courses, default=STEADY)
    if course == STEADY or name in _KEPT:
        return course
    if name in _PIECEWISE:
        return STRAIGHT
    if name == "select_n":
        return max(STRAIGHT, *courses[1:])
    factors = name == "mul" and min(courses) == STEADY
    return course if factors or (name == "div" and courses[1] == STEADY) else CURVED


def _constant(value: ArrayLike) -> _Value:
    return _Value(value, STEADY)


def _gap(a: ArrayLike, b: ArrayLike, course: int) -> _Gap:
    a, b = jnp.asarray(a, float), jnp.asarray(b, float)
    return _Gap(jnp.ravel(a - b), jnp.ravel(jnp.abs(a) + jnp.abs(b)), course)
