"""The comparisons a function makes, read from its traced program: where they change, the function may jump.

A condition such as `(y.tumour > 20.0) & (t < 5.0)` is a Boolean, which tells nothing of how far away its change is. Its
program compares numbers, and their differences, here called gaps, do: the condition can change only where a gap
passes through zero. `floor` and `ceil` jump where their operand passes through an integer, so they have a gap too.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

_COMPARED = {"gt", "ge", "lt", "le"}
_EQUAL = {"eq", "ne"}
"""Compared with the time only: a moment is met, where a state is equal to a number for no time."""
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_LOOPS = {"cond", "while", "scan"}


class Watched(NamedTuple):
    """What a function returns, and its gaps.

    Attributes:
        value: What the function returns.
        gaps: The differences, shape (gaps,).
        sizes: What is subtracted, in absolute value: rounding error of a gap is in proportion, shape (gaps,).
        timed: Which gaps depend on the time other than through the state, a numpy array of shape (gaps,).
    """

    value: Any
    gaps: jax.Array
    sizes: jax.Array
    timed: np.ndarray


def watched(function: Callable[[Any, Any], Any], t: Any, y: Any, *, within: Any = None) -> Watched:
    """Call `function(t, y)`, and return the gaps of its comparisons as well; those within loops are not seen.

    Args:
        function: The function.
        t: The time.
        y: The state.
        within: How near the time must be to what it is compared with to be taken as equal to it; None for not at all.
    """
    t = jnp.asarray(t, float)
    leaves, structure = jax.tree.flatten(y)
    leaves = [jnp.asarray(leaf) for leaf in leaves]

    def flat(t: Any, *leaves: Any) -> Any:
        return function(t, jax.tree.unflatten(structure, leaves))

    traced, shape = jax.make_jaxpr(flat, return_shape=True)(t, *leaves)
    found: list[_Gap] = []
    out, _ = _walk(traced.jaxpr, traced.consts, [t, *leaves], [True, *[False] * len(leaves)], found, within)
    value = jax.tree.unflatten(jax.tree.structure(shape), out)
    empty = jnp.zeros((0,), t.dtype)
    gaps, sizes = (jnp.concatenate([empty, *(gap[k] for gap in found)]) for k in range(2))
    timed = np.concatenate([np.zeros(0, bool), *(np.full(gap.gaps.size, gap.timed) for gap in found)])
    return Watched(value, gaps, sizes, timed)


class _Gap(NamedTuple):
    gaps: jax.Array
    sizes: jax.Array
    timed: bool


def _walk(
    jaxpr: Jaxpr, consts: Sequence, values: Sequence, timed: Sequence[bool], found: list[_Gap], within: Any = None
) -> tuple[list, list[bool]]:
    """Evaluate a program, collecting gaps; return its results and which of them depend on the time."""
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values], strict=True))
    on_time = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*[False] * len(consts), *timed], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else known[atom]

    def depends(atom: Any) -> bool:
        return not isinstance(atom, Literal) and on_time[atom]

    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        here = [depends(atom) for atom in eqn.invars]
        name = eqn.primitive.name
        out_timed = [any(here)] * len(eqn.outvars)
        if within is not None and name in _COMPARED and any(here):
            a, b = operands
            operands = [a, jnp.where(jnp.abs(a - b) <= within, a, b)]
        out = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
        out = list(out) if eqn.primitive.multiple_results else [out]
        body = next((eqn.params[key] for key in _BODIES if key in eqn.params), None)
        if body is not None and name not in _LOOPS:
            inner, inner_consts = (body.jaxpr, body.consts) if isinstance(body, ClosedJaxpr) else (body, [])
            inner_out, out_timed = _walk(inner, inner_consts, operands, here, found, within)
            out = out if within is None else inner_out
        elif (name in _COMPARED or (name in _EQUAL and any(here))) and jnp.issubdtype(
            jnp.result_type(operands[0]), jnp.inexact
        ):
            found.append(_gap(operands[0], operands[1], any(here)))
        elif name == "floor":
            found.append(_gap(operands[0], out[0] + 1.0, here[0]))
        elif name == "ceil":
            found.append(_gap(operands[0], out[0], here[0]))
        known.update(zip(eqn.outvars, out, strict=True))
        on_time.update(zip(eqn.outvars, out_timed, strict=True))
    return [read(atom) for atom in jaxpr.outvars], [depends(atom) for atom in jaxpr.outvars]


def _gap(a: Any, b: Any, timed: bool) -> _Gap:
    a, b = jnp.asarray(a, float), jnp.asarray(b, float)
    return _Gap(jnp.ravel(a - b), jnp.ravel(jnp.abs(a) + jnp.abs(b)), timed)
