"""The attempts of a search: what was simulated, which patients are plausible, and what it cost."""

from collections import Counter
from collections.abc import Callable

import numpy as np

from qspjax._progress import Progress
from qspjax.population._plausible._criteria import Criteria, Judged
from qspjax.population._plausible._features import Features

_SAME = 1e-9
"""Two points whose coordinates differ by less than this are the same patient."""


class Attempts:
    """What a search has tried so far.

    Args:
        criteria: What a plausible patient is.
        size: The number of plausible patients wanted.
        most: The maximum number of patients to simulate.
        progress: Called after every batch.

    Attributes:
        features: What points say about patients.
        simulations: Patients simulated, each in all arms.
        gradients: Patients simulated with the gradient of their score.
        causes: How many failed, by cause.
        duplicates: Plausible patients refused since they were there already.
        missed: An estimate of the share of plausible patients that the search could not find; NaN if it has none.
    """

    def __init__(
        self,
        criteria: Criteria,
        *,
        size: int,
        most: int,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        """Start with none."""
        self.criteria, self.size, self.most = criteria, size, most
        self.features = Features.of(criteria.population)
        self.simulations = self.gradients = self.duplicates = 0
        self.causes: Counter[str] = Counter()
        self.missed = np.nan
        self._progress, self._seen = progress, set()
        self._points: list[np.ndarray] = []
        self._values: list[np.ndarray] = []
        self._walk: list[np.ndarray] = []
        self._sloped: np.ndarray | None = None

    @property
    def found(self) -> int:
        """The number of different plausible patients found."""
        return len(self._points)

    @property
    def missing(self) -> int:
        """The number of plausible patients that are still missing."""
        return max(self.size - self.found, 0)

    @property
    def left(self) -> int:
        """The number of patients that may still be simulated."""
        return max(self.most - self.simulations - self.gradients, 0)

    @property
    def finished(self) -> bool:
        """Whether there are enough patients, or no more may be simulated."""
        return not self.missing or not self.left

    def simulate(self, points: np.ndarray, *, slopes: bool = False, kept: bool = True) -> Judged:
        """Simulate patients; those that are plausible are found.

        Args:
            points: The points, shape (patients, coordinates); beyond the number that is left they are not simulated.
            slopes: Whether to find the gradients of their scores.
            kept: Whether plausible ones among them are found; if not, they are simulated to learn from alone.
        """
        points = self.features.centred(points[: self.left])
        judged = self.criteria.judge_with_slopes(points) if slopes else self.criteria.judge(points)
        self.simulations += 0 if slopes else len(points)
        self.gradients += len(points) if slopes else 0
        self.causes += judged.causes
        if slopes:
            self._sloped = points
        self.keep(judged, np.full(len(points), kept))
        if self._progress is not None:
            tried = self.simulations + self.gradients
            self._progress(
                Progress(min(self.found, self.size), self.size, {"simulations": tried, "accepted": self.found / tried})
            )
        return judged

    def keep(self, judged: Judged, which: np.ndarray) -> None:
        """Count some of the patients as found, if they are plausible and not there already."""
        for i in np.flatnonzero(judged.inside & which):
            self._keep(judged.points[i], judged.values[i])

    def walked(self, states: np.ndarray) -> None:
        """Record where chains are after a step, shape (chains, coordinates), for the effective sample size."""
        self._walk.append(states.copy())

    def plausible(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the points and the statistics of the patients found, at most as many as are wanted."""
        none = np.zeros((0, self.criteria.dimensions)), np.zeros((0, len(self.criteria.bounds)))
        if not self._points:
            return none
        return np.stack(self._points[: self.size]), np.stack(self._values[: self.size])

    def chains(self) -> np.ndarray | None:
        """Return where chains went, shape (steps, chains, coordinates); None for independent patients."""
        return np.stack(self._walk) if self._walk else None

    def gradient_cost(self) -> float:
        """Measure what a simulation with its gradient costs in simulations; NaN where none was used."""
        return np.nan if self._sloped is None else self.criteria.cost_of_slopes(self._sloped)

    def _keep(self, point: np.ndarray, values: np.ndarray) -> None:
        mark = np.round(point / _SAME).astype(np.int64).tobytes()
        if mark in self._seen:
            self.duplicates += 1
            return
        self._seen.add(mark)
        self._points.append(point)
        self._values.append(values)
