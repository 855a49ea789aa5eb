"""A quasi-Newton search in a box that begins with the information of single subjects.

The objective is a sum over subjects of -2 log p, so that half the sum of the outer products of their slopes is close to
its second derivative before anything is known of that, and updates of Broyden, Fletcher, Goldfarb and Shanno, damped so
that it stays positive, improve it.

References: Berndt, Hall, Hall and Hausman, Ann Econ Soc Meas 1974;3:653; Powell, Lecture Notes in Mathematics
1978;630:144, doi:10.1007/BFb0067703.
"""

from typing import NamedTuple

import numpy as np

LONGEST = 1.0
"""The longest step of any parameter, on the scale of the search."""


class Descent(NamedTuple):
    """Where a search stands.

    Attributes:
        x: The point, shape (names,).
        value: The objective.
        slope: Its derivative.
        bend: What is believed to be its second derivative, shape (names, names).
    """

    x: np.ndarray
    value: float
    slope: np.ndarray
    bend: np.ndarray


def products(slopes: np.ndarray) -> np.ndarray:
    """Return half the sum of the outer products of the slopes of subjects, made positive."""
    whole = 0.5 * slopes.T @ slopes
    scale = np.maximum(np.diag(whole), 1e-8 * max(float(np.diag(whole).max(initial=0.0)), 1e-8))
    return whole + np.diag(1e-3 * scale)


def held(now: Descent, bounds: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return which parameters rest at a bound that they are pushed against."""
    lower, upper = bounds
    return ((now.x <= lower) & (now.slope > 0)) | ((now.x >= upper) & (now.slope < 0))


def direction(now: Descent, bounds: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, float]:
    """Return a step downhill, and how much it should gain."""
    free = ~held(now, bounds)
    step = np.zeros_like(now.x)
    if free.any():
        step[free] = -np.linalg.solve(now.bend[np.ix_(free, free)], now.slope[free])
    step *= min(1.0, LONGEST / max(float(np.abs(step).max(initial=0.0)), 1e-300))
    return step, -float(now.slope @ step) / 2.0


def updated(now: Descent, x: np.ndarray, value: float, slope: np.ndarray) -> Descent:
    """Return where the search stands after a step to `x`."""
    moved, turned = x - now.x, slope - now.slope
    along = now.bend @ moved
    curve = float(moved @ along)
    bend = now.bend
    if curve > 0:
        seen = float(moved @ turned)
        mix = 1.0 if seen >= 0.2 * curve else 0.8 * curve / (curve - seen)
        turned = mix * turned + (1.0 - mix) * along
        bend = bend - np.outer(along, along) / curve + np.outer(turned, turned) / float(moved @ turned)
    return Descent(x, value, slope, 0.5 * (bend + bend.T))
