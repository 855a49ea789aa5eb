"""How large the states of a network are, so that a tolerance can be counted in their own sizes.

A model in mol per litre has concentrations of 1e-9, and amounts of 1e-21 in a cell: an absolute tolerance of 1e-9 would
say that all of it is effectively nothing. So a state whose symbol begins below 1 counts in what it begins with, and one
that begins at 0 in the smallest that another begins with.
"""

import math
from collections.abc import Mapping

import numpy as np

from qspjax._expression import evaluate
from qspjax.models.network._plan import Plan

LEAST = 1e-6
"""Smallest size, relative to the largest of the network: below lies what rounding makes of it."""


def nominal_sizes(plan: Plan, numbers: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """Return the sizes of the states that are not of size 1, as powers of 10.

    Args:
        plan: The plan of the network.
        numbers: Its numbers by id, as far as they are known.
    """
    values = {f"{id}#v": numbers.get(id, math.nan) for id in plan.leaves}
    found = np.array(evaluate([*plan.start, *plan.spaces], values, 0.0), float)
    start, spaces = np.abs(found[: len(plan.states)]), np.abs(found[len(plan.states) :])
    spaces = np.where(np.isfinite(spaces) & (spaces > 0.0), spaces, 1.0)
    begun = np.minimum(start / spaces, 1.0)
    there = np.isfinite(begun) & (begun > 0.0)
    if there.any():
        begun = np.where(there, np.maximum(begun, LEAST * begun[there].max()), begun[there].min())
    else:
        begun = np.ones_like(begun)
    powers = np.floor(np.log10(begun * spaces) + 1e-9)
    return tuple((id, float(f"1e{power:.0f}")) for id, power in zip(plan.states, powers, strict=True) if power != 0.0)
