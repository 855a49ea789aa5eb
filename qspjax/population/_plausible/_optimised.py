"""Optimised patients: many starts, each moved by the gradient of its flat-bottomed score until all bounds hold.

    u' = u - w (2 S(u) / |grad S(u)|^2) grad S(u),   1 <= w <= 2

The least score is known to be zero, so that the length of a step follows (Polyak): with one bound violated, w = 1 ends
on it and w = 2 as far inside as the start was outside. w is drawn anew for each step, which spreads the ends.

References: Polyak, USSR Comput Math Math Phys 1969;9:14, doi:10.1016/0041-5553(69)90035-X; for virtual patients Allen,
Rieger and Musante, CPT Pharmacometrics Syst Pharmacol 2016;5:140, doi:10.1002/psp4.12063.
"""

import equinox as eqx
import numpy as np

from qspjax._checks import check_whole
from qspjax.population._plausible._attempts import Attempts
from qspjax.population._plausible._contract import AbstractPatientSearch
from qspjax.population._plausible._criteria import FAILED
from qspjax.population._plausible._walls import reflected

_LONGEST = 0.5
"""The longest step, as a part of the range of a parameter."""


class Optimised(AbstractPatientSearch):
    """Move many starts along the gradients of their scores, side by side, until each is plausible.

    For bounds that hardly any patient of the population meets, or parameters so many that no emulator learns them. What
    is found is less even than by rejection: patients gather near the bounds, as `spread` of the result says.

    Args:
        starts: Patients side by side; one that has arrived, failed or stalled is replaced by another start.
        steps: The maximum number of steps of a start.

    Example:
        >>> import qspjax as qsp
        >>> qsp.population.Optimised(starts=128).steps
        25
    """

    starts: int = eqx.field(default=256, static=True)
    steps: int = eqx.field(default=25, static=True)

    def __check_init__(self) -> None:
        check_whole("starts", self.starts, 1)
        check_whole("steps", self.steps, 1)

    def search(self, attempts: Attempts, random: np.random.Generator) -> None:
        size = self.starts, attempts.criteria.dimensions
        points, taken = random.random(size), np.zeros(self.starts, int)
        while not attempts.finished:
            judged = attempts.simulate(points, slopes=True)
            count = len(judged.points)  # fewer where no more may be simulated
            squares = (judged.slopes**2).sum(axis=1)
            ended = judged.inside | (judged.score >= FAILED) | (taken[:count] >= self.steps) | (squares == 0.0)
            length = random.uniform(1.0, 2.0, count) * 2.0 * judged.score / np.where(ended, 1.0, squares)
            step = np.where(ended, 0.0, length)[:, None] * judged.slopes
            step *= np.minimum(1.0, _LONGEST / np.maximum(np.abs(step).max(axis=1, keepdims=True), _LONGEST))
            points = np.where(ended[:, None], random.random((count, size[1])), reflected(judged.points - step))
            taken = np.where(ended, 0, taken[:count] + 1)
