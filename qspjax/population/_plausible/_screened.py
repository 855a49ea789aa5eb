"""Screened rejection: an emulator says which patients of the population are worth a simulation.

Patients are drawn from the population as for rejection; each is simulated if the emulator, fitted to the simulations
so far, gives it a chance of being plausible, and kept if the simulation says that it is. With p(u) the least
probability among its bounds, the threshold c is that below which the population has no more than the stated part of
the plausible patients:

    sum_{p(u) < c} p(u) = missed sum_u p(u)

so that what is kept is distributed as by rejection, but for that part. It is checked: plausible patients are predicted
from others, and the share that would not have been simulated is reported.

The emulator is a Gaussian process (`_emulator.py`), which learns most from few simulations; where bounds are so rare,
or patients so many, that thousands of simulations could be spared, it is a neural network (`_network.py`).
"""

import equinox as eqx
import numpy as np

from qspjax._checks import check_whole, refuse
from qspjax._types import Scalar
from qspjax.population._plausible._attempts import Attempts
from qspjax.population._plausible._contract import AbstractPatientSearch
from qspjax.population._plausible._emulator import Emulator, fitted
from qspjax.population._plausible._network import Network, trained

_KNOWN = 512
"""The maximum number of points that a Gaussian process knows: it takes their number cubed."""
_LEARNT = 1024
"""The least number of points that a network learns from."""
_SPARED = 8192
"""A network is trained where a perfect emulator would spare so many simulations: training takes seconds."""
_POOL = 1 << 14
"""The number of patients that are screened together."""
_EXPECTED = 8.0
"""Patients are screened until so many plausible ones, at least, are expected among them."""
_POOLS, _FEW = 64, 2
"""The maximum number of such pools, and that after which it is given up if less than one is expected in all."""
_FAR = 8.0
"""Beyond so many typical standard deviations outside a bound, no exact one is computed."""
_NEAR = 4
"""Emulators are compared by their errors at one in so many of the points left out: those nearest to the bounds."""


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
        batch, share = len(points) // 2, 0.5
        while not attempts.finished:
            emulator = knowledge.emulator(share)
            if emulator is None:  # nothing could be predicted: plain rejection goes on
                knowledge.simulate(random.random((batch, size)))
                continue
            screen, found = _Screen(attempts, emulator, float(self.missed)), attempts.found
            most = min(batch, int(1.1 * attempts.missing / share) + 8)
            chosen, likeliest = screen.choose(random, most)
            simulated = chosen if len(chosen) else likeliest
            knowledge.simulate(simulated, kept=len(chosen) > 0)
            share = max(attempts.found - found, 1) / len(simulated)
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
        self._emulator: Emulator | Network | None = None
        self._fitted_at = 0

    def simulate(self, points: np.ndarray, *, kept: bool = True) -> None:
        """Simulate patients and remember those whose statistics are defined."""
        judged = self._attempts.simulate(points, kept=kept)
        defined = np.isfinite(judged.values).all(axis=1)
        self.points = np.concatenate([self.points, self._attempts.features(judged.points[defined])])
        scale = self._attempts.criteria.scale
        self.scaled = np.concatenate([self.scaled, scale.compressed(scale(judged.values[defined]))])
        self.score = np.concatenate([self.score, judged.score[defined]])
        self.inside = np.concatenate([self.inside, judged.inside[defined]])

    def emulator(self, share: float) -> Emulator | Network | None:
        """Return the emulator of what is known, fitted anew where half as much again is known as at the last fit.

        Args:
            share: The part of the patients that was plausible when it was last used.
        """
        count = len(self.points)
        if count < 2 * (2 * self.points.shape[1] + 1):
            return None
        if count >= 1.5 * self._fitted_at:
            spared = self._attempts.missing * (1.0 / share - 1.0)
            if count >= _LEARNT and spared >= _SPARED:
                self._learn(count)
            elif not isinstance(self._emulator, Network) and self._fitted_at < 4 * _KNOWN:
                self._fitted_at, self.known = count, self._worth_knowing()
                self._emulator = fitted(self.points[self.known], self.scaled[self.known])
        return self._emulator

    def _learn(self, count: int) -> None:
        """Train a network, which takes the place of a Gaussian process where it errs less near the bounds."""
        network = trained(self.points, self.scaled, self.score)
        self._fitted_at, process = count, None if isinstance(self._emulator, Network) else self._emulator
        if process is None or self._error(network, network.known) < self._error(process, self.known):
            self._emulator, self.known = network, network.known

    def _error(self, emulator: Emulator | Network, known: np.ndarray) -> float:
        nearest = np.argsort(self.score[known], kind="stable")[: max(len(known) // _NEAR, 1)]
        return float(np.mean(np.log(np.median(emulator.left_out_sd[nearest], axis=0))))

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

    def __init__(self, attempts: Attempts, emulator: Emulator | Network, missed: float) -> None:
        self._attempts, self._emulator, self._missed = attempts, emulator, missed
        scale = attempts.criteria.scale
        self._low, self._high = scale.compressed(scale.low), scale.compressed(scale.high)
        self._typical = np.quantile(emulator.left_out_sd, 0.9, axis=0)
        self.threshold = np.nan

    def choose(self, random: np.random.Generator, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Return patients worth a simulation, in the order in which they are drawn, and the likeliest of all."""
        pools, chances, distances, size = [], [], [], self._attempts.criteria.dimensions
        expected, possible = 0.0, np.zeros(0)
        for done in range(1, _POOLS + 1):
            pools.append(random.random((_POOL, size)))
            for collected, found in zip((chances, distances), self._chances(pools[-1]), strict=True):
                collected.append(found)
            possible = np.concatenate([possible, chances[-1][chances[-1] > 0.0]])
            expected, self.threshold = possible.sum(), _threshold(possible, self._missed)
            enough = expected >= _EXPECTED and (possible >= self.threshold).sum() >= most
            if enough or (done >= _FEW and expected * _POOLS < done):
                break
        points, chance, distance = (np.concatenate(parts) for parts in (pools, chances, distances))
        worth = np.flatnonzero(chance >= self.threshold)[:most]
        likeliest = points[np.lexsort((distance, -chance))[: max(most // 4, 1)]]
        return points[worth] if expected >= 1.0 else points[:0], likeliest

    def left_out(self, knowledge: _Knowledge) -> float:
        """Return the share of the known plausible patients that, predicted from others, would not be simulated."""
        chance = self._probability(self._emulator.left_out, self._emulator.left_out_sd)
        plausible = knowledge.inside[knowledge.known]
        return float(np.mean(chance[plausible] < self.threshold)) if plausible.any() else np.nan

    def _chances(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the probability of being plausible, zero for patients far outside, and the squared distance."""
        features = self._attempts.features(points)
        mean, chances = self._emulator.mean(features), np.zeros(len(points))
        outside = np.maximum(self._low - mean, mean - self._high)
        near = np.flatnonzero((outside < _FAR * self._typical).all(axis=1))
        if len(near):
            chances[near] = self._probability(mean[near], self._emulator.deviation(features[near]))
        return chances, (np.maximum(outside, 0.0) ** 2).sum(axis=1)

    def _probability(self, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
        from scipy.special import ndtr

        low, high = (self._low - mean) / deviation, (self._high - mean) / deviation
        return np.min(ndtr(high) - ndtr(low), axis=1)


def _threshold(chance: np.ndarray, missed: float) -> float:
    """Return the probability below which the patients have no more than a part of all probability."""
    if not len(chance):
        return 1.0
    ascending = np.sort(chance)
    below = np.cumsum(ascending) <= missed * ascending.sum()
    return float(ascending[min(int(below.sum()), len(ascending) - 1)])
