"""Traced programs in parts: what can be computed before a solve, and what a step computes."""

from collections.abc import Callable, Sequence
from typing import Any

from jax.extend.core import Jaxpr, JaxprEqn, Literal


def parted(jaxpr: Jaxpr, leaves: Sequence) -> tuple[list, list, list]:
    """Part the equations: those of numbers alone, those of the leaves of the model, and the rest."""
    numbers, known = set(jaxpr.constvars), set(leaves)
    fixed, own, rest = [], [], []
    for eqn in jaxpr.eqns:
        atoms = [atom for atom in eqn.invars if not isinstance(atom, Literal)]
        if not eqn.effects and all(atom in numbers for atom in atoms):
            fixed.append(eqn)
            numbers.update(eqn.outvars)
        elif not eqn.effects and all(atom in numbers or atom in known for atom in atoms):
            own.append(eqn)
            known.update(eqn.outvars)
        else:
            rest.append(eqn)
    return fixed, own, rest


def variables_in(eqns: Sequence, outvars: Sequence) -> set:
    """Return the variables that equations read, and those among `outvars`."""
    atoms = [*(atom for eqn in eqns for atom in eqn.invars), *outvars]
    return {atom for atom in atoms if not isinstance(atom, Literal)}


def as_it_is(eqn: JaxprEqn, operands: Sequence[Any]) -> Any:
    """Return what an equation computes."""
    return eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))


def evaluated(
    variables: Sequence, values: Sequence, eqns: Sequence, wanted: Sequence, apply: Callable[..., Any] = as_it_is
) -> list:
    """Evaluate equations of a traced program, each by `apply(equation, operands)`."""
    known = dict(zip(variables, values, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else known[atom]

    for eqn in eqns:
        out = apply(eqn, [read(atom) for atom in eqn.invars])
        known.update(zip(eqn.outvars, out if eqn.primitive.multiple_results else [out], strict=True))
    return [read(atom) for atom in wanted]
