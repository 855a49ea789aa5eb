"""How large the products of matrices in a traced program are."""

import math

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from qspjax._jaxpr._walk import equations, shape_of

WIDE = 128
"""A product of matrices with this many multiply-adds is wide: a loop, no numbers one by one."""


def largest_product(program: Jaxpr) -> int:
    """Return the number of multiply-adds of the largest product of matrices in a program, of what it calls included."""
    largest = 0
    for eqn in equations(program):
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            shape = shape_of(eqn.invars[0])
            largest = max(largest, math.prod(shape_of(eqn.outvars[0])) * math.prod(shape[i] for i in contracted))
        else:
            inner = jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_program)
            bodies = [getattr(x, "jaxpr", x) for x in inner if _is_program(x)]
            largest = max([largest, *(largest_product(body) for body in bodies)])
    return largest


def _is_program(x: object) -> bool:
    return isinstance(x, (Jaxpr, ClosedJaxpr))
