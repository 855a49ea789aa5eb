"""Whether a function is linear in some of its arguments, determined from its traced program without any number.

Operations are analysed in order: for each intermediate value, on which states its elements depend, and whether a part
depends on none. Sums, products with constants and rearrangements of states are linear. The analysis is conservative:
an unknown operation is not linear, and where a rearrangement is not followed, each element depends on all its states.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn
from jax.typing import ArrayLike
from jaxtyping import Bool

from qspjax._jaxpr._walk import called, shape_of, walk


class Structure(NamedTuple):
    """Which entries of exp(A) can differ from zero, and whether b can."""

    pattern: Bool[np.ndarray, "states states"]
    affine: bool


class _Form(NamedTuple):
    """What is known of an intermediate value: it depends on these states, linearly, and on constants.

    Attributes:
        on: Which states each element depends on, shape (*shape, states).
        offset: Whether it may have a part that depends on no state.
    """

    on: Bool[np.ndarray, "*shape states"]
    offset: bool


def linear_structure(closed: ClosedJaxpr, states: Sequence[int]) -> Structure | None:
    """Return the structure of dy/dt = A y + b, or None for a program that is not linear in y or depends on the time.

    Args:
        closed: The program of the slopes of all states, whose arguments are the time, the states, and constants.
        states: Which of its arguments are states, in order.
    """
    jaxpr = closed.jaxpr
    sizes = [int(np.prod(shape_of(jaxpr.invars[k]), dtype=int)) for k in states]
    n = sum(sizes)
    unit, start = np.eye(n, dtype=bool), 0
    forms: list[_Form | None] = [_constant(shape_of(var), n) for var in jaxpr.invars]
    forms[0] = None
    for k, size in zip(states, sizes, strict=True):
        forms[k] = _Form(unit[start : start + size].reshape(*shape_of(jaxpr.invars[k]), n), offset=False)
        start += size
    slopes = [form for form in _forms_of(closed, forms, n) if form is not None]
    if len(slopes) < len(jaxpr.outvars):
        return None
    reach = np.concatenate([form.on.reshape(-1, n) for form in slopes]) | unit
    for k in range(n):
        reach |= reach[:, k : k + 1] & reach[k]
    return Structure(reach, any(form.offset for form in slopes))


def _constant(shape: tuple[int, ...], n: int, *, offset: bool = True) -> _Form:
    return _Form(np.zeros((*shape, n), dtype=bool), offset)


def _forms_of(program: ClosedJaxpr, inputs: Sequence[_Form | None], n: int) -> list[_Form | None]:
    """Return the form of each output; None for what is not linear or not understood."""
    jaxpr = program.jaxpr
    constants = [_constant(shape_of(var), n) for var in jaxpr.constvars]

    def literal(value: ArrayLike) -> _Form:
        return _constant(np.shape(value), n, offset=bool(np.any(np.asarray(value) != 0)))

    def apply(eqn: JaxprEqn, forms: list[_Form | None]) -> Sequence[_Form | None]:
        return _apply(eqn, forms, n)

    return walk([*jaxpr.constvars, *jaxpr.invars], [*constants, *inputs], jaxpr.eqns, jaxpr.outvars, apply, literal)


def _apply(eqn: JaxprEqn, operands: list[_Form | None], n: int) -> Sequence[_Form | None]:
    """Return the forms that one operation gives."""
    name, shapes = eqn.primitive.name, [shape_of(var) for var in eqn.outvars]
    forms = [form for form in operands if form is not None]
    if len(forms) < len(operands):
        return [None] * len(shapes)
    linear = [bool(form.on.any()) for form in forms]
    inner = called(eqn)
    if inner is not None and (any(linear) or not all(form.offset for form in forms)):
        return _forms_of(inner, forms, n)
    if not any(linear):
        zero = name in _REARRANGED + _CONCATENATED + _SUMMED and not any(form.offset for form in forms)
        return [_constant(shape, n, offset=not zero) for shape in shapes]
    if name in _REARRANGED and linear[0] and not any(linear[1:]):
        return [_Form(_rearranged(eqn, forms[0].on, shapes[0]), forms[0].offset)]
    if name in _SUMMED or (name == "select_n" and not linear[0]):
        terms = forms[1:] if name == "select_n" else forms
        on = np.zeros((*shapes[0], n), dtype=bool)
        for term in terms:
            on |= term.on
        return [_Form(on, any(term.offset for term in terms))]
    if name in ("concatenate", "stack"):
        join, axis = (np.stack, "axis") if name == "stack" else (np.concatenate, "dimension")
        on = join([form.on for form in forms], axis=eqn.params[axis])
        return [_Form(on, any(form.offset for form in forms))]
    if name == "unstack":
        slices = np.moveaxis(forms[0].on, eqn.params["axis"], 0)
        return [_Form(on, forms[0].offset) for on in slices]
    if name in _CONCATENATED:
        return [_Form(_anywhere(forms, shapes[0], n), any(form.offset for form in forms))]
    if (name == "mul" and sum(linear) == 1) or (name == "div" and not linear[1]):
        factor = forms[linear.index(True)]
        return [_Form(np.broadcast_to(factor.on, (*shapes[0], n)).copy(), factor.offset)]
    if name == "dot_general" and sum(linear) == 1:
        factor = forms[linear.index(True)]
        return [_Form(_anywhere([factor], shapes[0], n), factor.offset)]
    return [None] * len(shapes)


_REARRANGED = (
    *("neg", "copy", "copy_p", "reshape", "squeeze", "expand_dims", "broadcast_in_dim", "transpose", "slice", "rev"),
    *("dynamic_slice", "gather", "reduce_sum", "cumsum"),
)
_SUMMED = ("add", "sub", "add_any")
_CONCATENATED = ("concatenate", "stack", "pad", "dynamic_update_slice")


def _rearranged(eqn: JaxprEqn, on: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return which states each element depends on after a rearrangement; all where that is not followed."""
    name, n = eqn.primitive.name, on.shape[-1]
    if name in ("neg", "copy", "copy_p"):
        return on
    if name in ("reshape", "squeeze", "expand_dims"):
        return on.reshape(*shape, n)
    if name == "slice":
        starts, stops = eqn.params["start_indices"], eqn.params["limit_indices"]
        strides = eqn.params["strides"] or (1,) * len(starts)
        return on[tuple(slice(*item) for item in zip(starts, stops, strides, strict=True))]
    if name == "broadcast_in_dim":
        axes = eqn.params["broadcast_dimensions"]
        inner = [1] * len(shape)
        for axis, size in zip(axes, on.shape[:-1], strict=True):
            inner[axis] = size
        return np.broadcast_to(on.reshape(*inner, n), (*shape, n)).copy()
    return _anywhere([_Form(on, False)], shape, n)


def _anywhere(forms: Sequence[_Form], shape: tuple[int, ...], n: int) -> np.ndarray:
    union = np.any([form.on.reshape(-1, n).any(axis=0) for form in forms], axis=0)
    return np.broadcast_to(union, (*shape, n)).copy()
