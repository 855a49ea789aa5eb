"""Screened rejection: an emulator says which patients of the population are worth a simulation.

Patients are drawn from the population as for rejection; each is simulated if the emulator, fitted to the simulations
so far, gives it a chance of being plausible, and kept if the simulation says that it is. With p(u) the least
probability among its bounds, the threshold c is that below which the population has no more than the stated part of
the plausible patients:

    sum_{p(u) < c} p(u) = missed sum_u p(u)

so that what is kept is distributed as by rejection, but for that part. It is checked: of the plausible patients that
the emulator knows, each is predicted from all others, and the share that would not have been simulated is reported.
"""

import equinox as eqx
import numpy as np

from qspjax._checks import check_whole, refuse
from qspjax._types import Scalar
from qspjax.population._plausible._attempts import Attempts
from qspjax.population._plausible._contract import AbstractPatientSearch
from qspjax.population._plausible._emulator import Emulator, fitted

_KNOWN = 512
"""The maximum number of points that an emulator knows: it takes their number cubed."""
_POOL = 1 << 14
"""The number of patients that are screened together."""
_EXPECTED = 8.0
"""Patients are screened until so many plausible ones are expected among them."""
_POOLS, _FEW = 64, 2
"""The maximum number of such pools, and that after which it is given up if less than one is expected in all."""
_FAR = 8.0
"""Beyond so many typical standard deviations outside a bound, no exact one is computed."""


class Screened(AbstractPatientSearch):
    """Rejection in which an emulator screens the patients: about as few simulations as plausible patients.

    Patients that cannot be plausible are not simulated; what is found is distributed as by rejection, except for a
    small part of the plausible patients, which the result estimates as `missed`. It needs statistics that are smooth
    functions of up to about 30 parameters.

    Args:
        first: Patients simulated before the first screening, on a scrambled Sobol sequence; by default four for each
            term of a quadratic function of the parameters, and 128 to 1,024.
        missed: The part of the plausible patients that may be left out, by the probabilities of the emulator.
        batch: The maximum number of patients simulated together.

    Example:
        >>> import qspjax as qsp
        >>> qsp.population.Screened(missed=0.005).batch
        2048
    """

    first: int | None = eqx.field(default=None, static=True)
    missed: Scalar = 0.01
    batch: int = eqx.field(default=2048, static=True)

    def __check_init__(self) -> None:
        if self.first is not None:
            check_whole("first", self.first, 16)
        check_whole("batch", self.batch, 1)
        if not 0.0 < self.missed < 1.0:
            refuse("missed", "be between 0 and 1", self.missed)

    def search(self, attempts: Attempts, random: np.random.Generator) -> None:
        from scipy.stats import qmc

        size = attempts.criteria.dimensions
        knowledge = _Knowledge(attempts)
        points = qmc.Sobol(size, scramble=True, rng=random).random(self._first(attempts.features.size))
        knowledge.simulate(points)
        batch = len(points) // 2
        while not attempts.finished:
            emulator = knowledge.emulator()
            if emulator is None:  # nothing could be predicted: plain rejection goes on
                knowledge.simulate(random.random((batch, size)))
                continue
            screen = _Screen(attempts, emulator, float(self.missed))
            chosen, most_likely = screen.choose(random, batch)
            knowledge.simulate(most_likely if len(chosen) == 0 else chosen, kept=len(chosen) > 0)
            attempts.missed = screen.left_out(knowledge)
            batch = min(2 * batch, self.batch)

    def _first(self, size: int) -> int:
        """Return the number of patients of the first emulator, a power of two."""
        wanted = 2 * (size + 1) * (size + 2) if self.first is None else self.first
        return 1 << (int(np.clip(wanted, 16 if self.first else 128, 1 << 20 if self.first else 1024)) - 1).bit_length()


class _Knowledge:
    """What has been simulated, as an emulator can learn from it."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self.points = np.zeros((0, attempts.features.size))
        self.scaled = np.zeros((0, len(attempts.criteria.bounds)))
        self.score, self.inside = np.zeros(0), np.zeros(0, bool)
        self._emulator: Emulator | None = None
        self._fitted_at = 0

    def simulate(self, points: np.ndarray, *, kept: bool = True) -> None:
        """Simulate patients and remember those whose statistics are defined."""
        judged = self._attempts.simulate(points, kept=kept)
        defined = np.isfinite(judged.values).all(axis=1)
        self.points = np.concatenate([self.points, self._attempts.features(judged.points[defined])])
        self.scaled = np.concatenate([self.scaled, self._attempts.criteria.scale(judged.values[defined])])
        self.score = np.concatenate([self.score, judged.score[defined]])
        self.inside = np.concatenate([self.inside, judged.inside[defined]])

    def emulator(self) -> Emulator | None:
        """Return the emulator of what is known, fitted anew where half as much again is known as at the last fit."""
        if len(self.points) < 2 * (2 * self.points.shape[1] + 1):
            return None
        if self._emulator is None or (len(self.points) >= 1.5 * self._fitted_at and self._fitted_at < 4 * _KNOWN):
            self._fitted_at = len(self.points)
            self.known = self._worth_knowing()
            self._emulator = fitted(self.points[self.known], self.scaled[self.known])
        return self._emulator

    def _worth_knowing(self) -> np.ndarray:
        """Return which points an emulator knows: the first ones, which fill space, and those nearest to the bounds."""
        count = len(self.points)
        if count <= _KNOWN:
            return np.arange(count)
        first = np.arange(_KNOWN // 2)
        later = np.arange(_KNOWN // 2, count)
        nearest = later[np.argsort(self.score[later], kind="stable")[: _KNOWN - len(first)]]
        return np.concatenate([first, np.sort(nearest)])


class _Screen:
    """An emulator and the threshold of the probability above which a patient is simulated."""

    def __init__(self, attempts: Attempts, emulator: Emulator, missed: float) -> None:
        self._attempts, self._emulator, self._missed = attempts, emulator, missed
        self._scale = attempts.criteria.scale
        self._typical = np.quantile(emulator.left_out_sd, 0.9, axis=0)
        self.threshold = np.nan

    def choose(self, random: np.random.Generator, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return patients worth a simulation, in the order in which they are drawn, and the likeliest of all."""
        pools, chances, distances, size = [], [], [], self._attempts.criteria.dimensions
        for done in range(1, _POOLS + 1):
            pools.append(random.random((_POOL, size)))
            for collected, found in zip((chances, distances), self._chances(pools[-1]), strict=True):
                collected.append(found)
            expected = sum(chance.sum() for chance in chances)
            enough = expected >= max(_EXPECTED, min(batch, self._attempts.missing))
            if enough or (done >= _FEW and expected * _POOLS < done):
                break
        points, chance, distance = (np.concatenate(parts) for parts in (pools, chances, distances))
        self.threshold = _threshold(chance, self._missed)
        worth = np.flatnonzero(chance >= self.threshold)
        precision = chance[worth].mean() if len(worth) else 1.0
        most = min(batch, int(np.ceil(1.05 * self._attempts.missing / max(precision, 0.05))) + 4)
        likeliest = points[np.lexsort((distance, -chance))[: max(batch // 4, 1)]]
        return points[worth[:most]] if chance.sum() >= 1.0 else points[:0], likeliest

    def left_out(self, knowledge: _Knowledge) -> float:
        """Return the share of the known plausible patients that, predicted from the others, would not be simulated."""
        chance = self._probability(self._emulator.left_out, self._emulator.left_out_sd)
        plausible = knowledge.inside[knowledge.known]
        return float(np.mean(chance[plausible] < self.threshold)) if plausible.any() else np.nan

    def _chances(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the probability of being plausible, zero for patients far outside, and the squared distance."""
        features = self._attempts.features(points)
        mean, chances = self._emulator.mean(features), np.zeros(len(points))
        outside = np.maximum(self._scale.low - mean, mean - self._scale.high)
        near = np.flatnonzero((outside < _FAR * self._typical).all(axis=1))
        if len(near):
            chances[near] = self._probability(mean[near], self._emulator.deviation(features[near]))
        return chances, (np.maximum(outside, 0.0) ** 2).sum(axis=1)

    def _probability(self, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
        from scipy.special import ndtr

        low, high = (self._scale.low - mean) / deviation, (self._scale.high - mean) / deviation
        return np.min(ndtr(high) - ndtr(low), axis=1)


def _threshold(chance: np.ndarray, missed: float) -> float:
    """Return the probability below which the patients have no more than a part of all probability."""
    ascending = np.sort(chance)
    below = np.cumsum(ascending) <= missed * ascending.sum()
    return float(ascending[min(int(below.sum()), len(ascending) - 1)])
