"""Traced programs partitioned into what can be computed before a solve and what a step computes."""

from collections.abc import Sequence
from typing import NamedTuple

from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from qspjax._jaxpr._walk import Atom


class Partition(NamedTuple):
    """The equations of a program, by what they depend on.

    Attributes:
        numbers: Those that depend on numbers alone.
        parameters: Those that depend on leaves of the model as well.
        moving: All others.
    """

    numbers: list[JaxprEqn]
    parameters: list[JaxprEqn]
    moving: list[JaxprEqn]


def partition_equations(jaxpr: Jaxpr, leaves: Sequence[Var]) -> Partition:
    """Partition the equations of a program by what they depend on: numbers, the leaves of the model, or more."""
    numbers, parameters = set(jaxpr.constvars), set(leaves)
    partition = Partition([], [], [])
    for eqn in jaxpr.eqns:
        variables = [atom for atom in eqn.invars if not isinstance(atom, Literal)]
        if not eqn.effects and all(var in numbers for var in variables):
            partition.numbers.append(eqn)
            numbers.update(eqn.outvars)
        elif not eqn.effects and all(var in numbers or var in parameters for var in variables):
            partition.parameters.append(eqn)
            parameters.update(eqn.outvars)
        else:
            partition.moving.append(eqn)
    return partition


def variables_in(eqns: Sequence[JaxprEqn], outvars: Sequence[Atom]) -> set[Var]:
    """Return the variables that equations read, and those among `outvars`."""
    atoms = [*(atom for eqn in eqns for atom in eqn.invars), *outvars]
    return {atom for atom in atoms if not isinstance(atom, Literal)}
