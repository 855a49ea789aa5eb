"""The nominal sizes of the states of a network, to which absolute tolerances are relative.

A model in mol per litre has concentrations of 1e-9, and amounts of 1e-21 in a cell: an absolute tolerance of 1e-9 would
treat all of them as zero. So a state whose symbol starts below 1 has its initial value as its size, and one that starts
at 0 the smallest initial value of the others.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from qspjax._expression import evaluate
from qspjax.models.network._plan import Plan

LEAST = 1e-6
"""Smallest size, relative to the largest of the network: what is smaller is rounding error."""


def _unknown(outputs: int | None) -> Callable[..., np.ndarray]:
    """Return a function whose values are not known: what is learned later has no size now."""
    return lambda *_: np.full(() if outputs is None else (outputs,), math.nan)


def nominal_sizes(plan: Plan, numbers: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """Return the sizes of the states that are not of size 1, as powers of 10.

    Args:
        plan: The plan of the network.
        numbers: Its numbers by id, as far as they are known.
    """
    unknown = {name: _unknown(function.outputs) for name, function in plan.definition.functions.items()}
    values = {**unknown, **{f"{id}#v": numbers.get(id, math.nan) for id in plan.leaves}}
    results = np.array(evaluate([*plan.start, *plan.spaces], values, 0.0), float)
    start, spaces = np.abs(results[: len(plan.states)]), np.abs(results[len(plan.states) :])
    spaces = np.where(np.isfinite(spaces) & (spaces > 0.0), spaces, 1.0)
    initial = np.minimum(start / spaces, 1.0)
    positive = np.isfinite(initial) & (initial > 0.0)
    if positive.any():
        initial = np.where(positive, np.maximum(initial, LEAST * initial[positive].max()), initial[positive].min())
    else:
        initial = np.ones_like(initial)
    powers = np.floor(np.log10(initial * spaces) + 1e-9)
    return tuple((id, float(f"1e{power:.0f}")) for id, power in zip(plan.states, powers, strict=True) if power != 0.0)
