"""A quasi-Newton search in a box that begins with the information of single subjects.

The objective is a sum over subjects of -2 log p, so that half the sum of the outer products of their slopes is close to
its second derivative from the start, and updates of Broyden, Fletcher, Goldfarb and Shanno, damped so that it stays
positive, improve it. With many subjects, and far from the optimum, the products about their mean are computed again at
every step: they follow the turns of valleys, and steps become longer where the slope along them hardly falls.

References: Berndt, Hall, Hall and Hausman, Ann Econ Soc Meas 1974;3:653; Powell, Lecture Notes in Mathematics
1978;630:144, doi:10.1007/BFb0067703.
"""

from typing import NamedTuple

import numpy as np

LONGEST = 1.0
"""The longest step of any parameter, on the scale of the search."""
MANY = 5
"""From this number of subjects per parameter on, the products of slopes are used at every step."""
FAR = 1.0
"""A search is far from the optimum while a step should lower the objective by more than this."""
STRETCHED = 4.0
"""A step is at most this many times as long as the second derivative says."""


class Descent(NamedTuple):
    """The state of a search.

    Attributes:
        x: The point, shape (names,).
        value: The objective.
        slope: Its derivative.
        bend: An approximation of its second derivative, shape (names, names).
        stretch: How many times as long as it says steps are.
    """

    x: np.ndarray
    value: float
    slope: np.ndarray
    bend: np.ndarray
    stretch: float = 1.0


def are_many(slopes: np.ndarray) -> bool:
    """Whether there are many subjects (rows) for the number of parameters."""
    return len(slopes) >= MANY * slopes.shape[1]


def products(slopes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return half the sum of the outer products of the slopes of subjects, about their mean if many, made positive."""
    if are_many(slopes):
        slopes = slopes - np.average(slopes, axis=0, weights=weights)
    information = 0.5 * (weights * slopes.T) @ slopes
    scale = np.maximum(np.diag(information), 1e-8 * max(float(np.diag(information).max(initial=0.0)), 1e-8))
    return information + np.diag(1e-3 * scale)


def at_bound(now: Descent, bounds: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return which parameters are at a bound that the slope pushes them against."""
    lower, upper = bounds
    return ((now.x <= lower) & (now.slope > 0)) | ((now.x >= upper) & (now.slope < 0))


def direction(now: Descent, bounds: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, float]:
    """Return a step downhill, and by how much it should lower the objective."""
    free = ~at_bound(now, bounds)
    step = np.zeros_like(now.x)
    if free.any():
        step[free] = -np.linalg.solve(now.bend[np.ix_(free, free)], now.slope[free])
    longest = LONGEST / max(float(np.abs(step).max(initial=0.0)), 1e-300)
    return min(now.stretch, longest) * step, -float(now.slope @ step) * min(1.0, longest) / 2.0


def updated(now: Descent, x: np.ndarray, value: float, slope: np.ndarray) -> Descent:
    """Return the state after a step to `x` near the optimum."""
    step, change = x - now.x, slope - now.slope
    bend_step = now.bend @ step
    expected = float(step @ bend_step)
    bend = now.bend
    if expected > 0:
        observed = float(step @ change)
        mix = 1.0 if observed >= 0.2 * expected else 0.8 * expected / (expected - observed)
        change = mix * change + (1.0 - mix) * bend_step
        bend = bend - np.outer(bend_step, bend_step) / expected + np.outer(change, change) / float(step @ change)
    return Descent(x, value, slope, 0.5 * (bend + bend.T))


def renewed(now: Descent, x: np.ndarray, value: float, slope: np.ndarray, bend: np.ndarray) -> Descent:
    """Return the state after a step to `x`, with a second derivative that was computed again."""
    before, after = float(now.slope @ (x - now.x)), float(slope @ (x - now.x))
    stretch = now.stretch / max(1.0 - after / before, 1e-3)  # to where the slope along the step would be zero
    return Descent(x, value, slope, bend, float(np.clip(stretch, 1.0, STRETCHED)))
