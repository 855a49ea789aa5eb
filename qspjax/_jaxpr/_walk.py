"""A walk through a traced program, and a table of the equations that call another program.

Every analysis of a program, and every way to compute it, is a function `apply`: from an equation and what is known of
its operands to what is known of its results.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jax.typing import ArrayLike

Atom = Var | Literal
Value = TypeVar("Value")
"""What is known of a variable: an array, the inputs that it depends on, ..."""

_CALLS = ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2")
"""Primitives that call a program and do nothing else."""
_WITH_DERIVATIVES = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
"""Primitives that call a program with derivatives of its own: only the values are those of its equations."""
_HIGH = "call_hi_primitive"
"""The primitive of operations that JAX (0.12 or later) expands to others when it lowers them."""
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")
"""Where an equation keeps the program that it calls."""


def called(eqn: JaxprEqn, *, derivatives: bool = True) -> ClosedJaxpr | None:
    """Return the program that an equation calls once, with its operands as they are; None for any other equation.

    Args:
        eqn: The equation.
        derivatives: Whether derivatives matter: then a call with derivatives of its own does not count as a call.
    """
    name = eqn.primitive.name
    if name == _HIGH and not derivatives:
        operands = (jax.ShapeDtypeStruct(shape_of(atom), dtype_of(atom)) for atom in eqn.invars)
        return jax.make_jaxpr(lambda *x: eqn.primitive.to_lojax(*x, **eqn.params))(*operands)  # pyright: ignore[reportAttributeAccessIssue]
    if name not in _CALLS and (derivatives or name not in _WITH_DERIVATIVES):
        return None
    body = next(eqn.params[key] for key in _BODIES if key in eqn.params)
    return body if isinstance(body, ClosedJaxpr) else ClosedJaxpr(body, [])


def equations(program: Jaxpr) -> Iterator[JaxprEqn]:
    """Yield the equations of a program, with each call replaced by the equations of the program it calls."""
    for eqn in program.eqns:
        inner = called(eqn)
        if inner is None:
            yield eqn
        else:
            yield from equations(inner.jaxpr)


def shape_of(atom: Atom) -> tuple[int, ...]:
    """Return the shape of a variable or a literal."""
    return tuple(np.shape(cast("jax.ShapeDtypeStruct", atom.aval)))


def dtype_of(atom: Atom) -> np.dtype:
    """Return the type of the elements of a variable or a literal."""
    return cast("jax.ShapeDtypeStruct", atom.aval).dtype


def bind(eqn: JaxprEqn, operands: Sequence[ArrayLike]) -> list[jax.Array]:
    """Return what an equation computes."""
    out = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return list(out) if eqn.primitive.multiple_results else [out]


def walk(
    variables: Sequence[Var],
    values: Sequence[Value],
    eqns: Sequence[JaxprEqn],
    outputs: Sequence[Atom],
    apply: Callable[[JaxprEqn, list[Value]], Sequence[Value]],
    literal: Callable[[ArrayLike], Value],
) -> list[Value]:
    """Walk through equations in their order; return what is known of the outputs.

    Args:
        variables: The variables that are known beforehand: constants and inputs.
        values: What is known of them.
        eqns: The equations.
        outputs: Variables or literals.
        apply: From an equation and what is known of its operands to what is known of each of its results.
        literal: From the value of a literal to what is known of it.
    """
    known = dict(zip(variables, values, strict=True))

    def read(atom: Atom) -> Value:
        return literal(atom.val) if isinstance(atom, Literal) else known[atom]

    for eqn in eqns:
        known.update(zip(eqn.outvars, apply(eqn, [read(atom) for atom in eqn.invars]), strict=True))
    return [read(atom) for atom in outputs]


def walk_all(
    program: ClosedJaxpr,
    values: Sequence[Value],
    apply: Callable[[JaxprEqn, list[Value]], Sequence[Value]],
    literal: Callable[[ArrayLike], Value],
) -> list[Value]:
    """Walk through a complete program from what is known of its inputs; constants are read like literals."""
    jaxpr = program.jaxpr
    constants = [literal(value) for value in program.consts]
    return walk([*jaxpr.constvars, *jaxpr.invars], [*constants, *values], jaxpr.eqns, jaxpr.outvars, apply, literal)


Compute = Callable[[JaxprEqn, Sequence[ArrayLike]], Sequence[ArrayLike]]
"""Computes the results of an equation from its operands."""


def compute(
    variables: Sequence[Var],
    values: Sequence[ArrayLike],
    eqns: Sequence[JaxprEqn],
    outputs: Sequence[Atom],
    apply: Compute = bind,
) -> list[ArrayLike]:
    """Compute equations; return the outputs. Arguments as in `walk`."""
    return walk(variables, values, eqns, outputs, apply, _itself)


def compute_all(program: ClosedJaxpr, values: Sequence[ArrayLike], apply: Compute = bind) -> list[ArrayLike]:
    """Compute a complete program from its inputs."""
    return walk_all(program, values, apply, _itself)


def _itself(value: ArrayLike) -> ArrayLike:
    return value


def scan_counts(parameters: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many operands of a scan are constants, and how many are carried."""
    if "num_consts" in parameters:
        return parameters["num_consts"], parameters["num_carry"]
    constants, carry, _ = parameters["ft_in"].unpack()  # from jax 0.12 on
    return len(constants.vals), len(carry.vals)
