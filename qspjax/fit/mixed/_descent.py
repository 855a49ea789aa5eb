"""A quasi-Newton search in a box that begins with the information of single subjects.

The objective is a sum over subjects of -2 log p, so that half the sum of the outer products of their slopes is close to
its second derivative before anything is known of that, and updates of Broyden, Fletcher, Goldfarb and Shanno, damped so
that it stays positive, improve it. With many subjects, and far from the optimum, the products, about their mean, are
made anew at every step: they say where valleys turn, and steps become longer where the slope along them hardly falls.

References: Berndt, Hall, Hall and Hausman, Ann Econ Soc Meas 1974;3:653; Powell, Lecture Notes in Mathematics
1978;630:144, doi:10.1007/BFb0067703.
"""

from typing import NamedTuple

import numpy as np

LONGEST = 1.0
"""The longest step of any parameter, on the scale of the search."""
MANY = 5
"""Subjects for each parameter with which products of slopes are believed at every step."""
FAR = 1.0
"""Far from the optimum, a step should lower the objective by more than this."""
STRETCHED = 4.0
"""How much longer a step is at most than the second derivative says."""


class Descent(NamedTuple):
    """Where a search stands.

    Attributes:
        x: The point, shape (names,).
        value: The objective.
        slope: Its derivative.
        bend: What is believed to be its second derivative, shape (names, names).
        stretch: How much longer steps are than it says.
    """

    x: np.ndarray
    value: float
    slope: np.ndarray
    bend: np.ndarray
    stretch: float = 1.0


def are_many(slopes: np.ndarray) -> bool:
    """Whether subjects, the rows, are many for the number of parameters."""
    return len(slopes) >= MANY * slopes.shape[1]


def products(slopes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return half the sum of the outer products of the slopes of subjects, made positive; of many, about their mean."""
    if are_many(slopes):
        slopes = slopes - np.average(slopes, axis=0, weights=weights)
    whole = 0.5 * (weights * slopes.T) @ slopes
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
    longest = LONGEST / max(float(np.abs(step).max(initial=0.0)), 1e-300)
    return min(now.stretch, longest) * step, -float(now.slope @ step) * min(1.0, longest) / 2.0


def updated(now: Descent, x: np.ndarray, value: float, slope: np.ndarray) -> Descent:
    """Return where the search stands after a step to `x`, near the optimum."""
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


def renewed(now: Descent, x: np.ndarray, value: float, slope: np.ndarray, bend: np.ndarray) -> Descent:
    """Return where the search stands after a step to `x`, with a second derivative that is made anew."""
    before, after = float(now.slope @ (x - now.x)), float(slope @ (x - now.x))
    stretch = now.stretch / max(1.0 - after / before, 1e-3)  # to where the slope along the step would be zero
    return Descent(x, value, slope, bend, float(np.clip(stretch, 1.0, STRETCHED)))
