"""Acceptance by the ratio of densities: that observed over that of the plausible patients.

    P(accept i) = min(1, b f(x_i) / r(x_i)),   r(x_i) = k / (n V_i)

f is the density of a normal (or log-normal) distribution with the means, standard deviations and correlations of the
targets, r that of the patients by the volume V_i of the ball that reaches the k-th neighbour. The factor b is that for
which the marginal distributions agree best: the least mean distance of Kolmogorov and Smirnov.

Reference: Allen, Rieger and Musante, CPT Pharmacometrics Syst Pharmacol 2016;5:140, doi:10.1002/psp4.12063.
"""

import math

import equinox as eqx
import numpy as np

from qspjax._checks import ArgumentError, check_above, check_whole, refuse
from qspjax.population._prevalence._contract import AbstractSelection, Matching
from qspjax.population._prevalence._targets import SD, Correlation, Mean

_FACTORS = np.logspace(-4.0, 4.0, 161)
"""Factors b that are tried, in those of the greatest ratio."""
_AS_GOOD = 0.01
"""A distance that is greater by no more than this is as good, and the greatest such b has the most patients."""
_LEAST = 1e-12
"""The least eigenvalue of a matrix of correlations that has a density."""


class DensityRatio(AbstractSelection):
    """Accept each patient with a probability in proportion to the ratio of densities.

    The targets are the mean and the standard deviation of each statistic, and correlations.

    Args:
        neighbours: k, the neighbour whose distance says how dense patients are.
        logarithmic: Whether statistics are log-normal rather than normal.

    Example:
        >>> import jax, numpy as np, qspjax as qsp
        >>> from qspjax.population import SD, Mean
        >>> patients = {"x": np.linspace(-4.0, 4.0, 4001)}
        >>> targets = [Mean("x", 1.0), SD("x", 0.5, mean=1.0)]
        >>> chosen = qsp.population.select(
        ...     patients, targets, key=jax.random.key(0), method=qsp.population.DensityRatio()
        ... )
        >>> chosen.members.size > 100, chosen.reached.round(1)
        (True, array([1. , 0.5]))
    """

    neighbours: int = eqx.field(default=5, static=True)
    logarithmic: bool = eqx.field(default=False, static=True)

    def __check_init__(self) -> None:
        check_whole("neighbours", self.neighbours, 1)

    def members(self, matching: Matching, size: int | None, random: np.random.Generator) -> np.ndarray:
        from scipy.special import ndtr

        scores, correlation = self._scores(matching)
        ratio = np.exp(_log_normal(scores, correlation) - self._log_density(scores))
        ratio /= ratio.max()
        order = np.argsort(scores, axis=0)
        expected = ndtr(np.take_along_axis(scores, order, axis=0))

        def distance(factor: float) -> float:
            chance = np.minimum(1.0, factor * ratio)
            shares = np.cumsum(chance[order], axis=0) / chance.sum()
            return float(np.mean(np.max(np.abs(shares - expected), axis=0)))

        factors = np.array([factor for factor in _FACTORS if np.minimum(1.0, factor * ratio).sum() >= (size or 10)])
        if not len(factors):
            refuse("size", f"be at most about {ratio.size}, or the targets nearer to the patients", size or 10)
        distances = np.array([distance(factor) for factor in factors])
        best = factors[distances <= distances.min() + _AS_GOOD].max()
        chosen = np.flatnonzero(random.random(len(ratio)) < np.minimum(1.0, best * ratio))
        if size is None or len(chosen) <= size:
            return chosen
        return np.sort(random.choice(chosen, size, replace=False))

    def _scores(self, matching: Matching) -> tuple[np.ndarray, np.ndarray]:
        """Return the statistics in standard deviations from their means, and the correlation of them."""
        means = {t.statistic: float(t.value) for t in matching.targets if isinstance(t, Mean)}
        sds = {t.statistic: float(t.value) for t in matching.targets if isinstance(t, SD)}
        pairs = [t for t in matching.targets if isinstance(t, Correlation)]
        related = {name for pair in pairs for name in (pair.first, pair.second)}
        others = len(means) + len(sds) + len(pairs) < len(matching.targets)
        if others or means.keys() != sds.keys() or not related <= means.keys():
            raise ArgumentError(
                "targets",
                "must be the mean and the SD of each statistic, and correlations of these, for `DensityRatio`.",
            )
        names = [*means]
        correlation = np.eye(len(names))
        for pair in pairs:
            i, j = names.index(pair.first), names.index(pair.second)
            correlation[i, j] = correlation[j, i] = float(pair.value)
        if np.linalg.eigvalsh(correlation)[0] <= _LEAST:
            raise ArgumentError("targets", "must have correlations that are possible together, and less than 1.")
        columns = np.stack([matching.values[name] for name in names], axis=1)
        mean, sd = (np.array([known[name] for name in names]) for known in (means, sds))
        if self.logarithmic:
            check_above("targets", mean, 0.0)
            check_above("patients", columns, 0.0)
            omega = np.sqrt(np.log1p((sd / mean) ** 2))
            return (np.log(columns) - np.log(mean) + 0.5 * omega**2) / omega, correlation
        return (columns - mean) / sd, correlation

    def _log_density(self, scores: np.ndarray) -> np.ndarray:
        """Return the log density of the patients, by the distance to the k-th neighbour."""
        from scipy.spatial import KDTree

        size, dimensions = scores.shape
        if size < 2:
            refuse("patients", "be at least 2 for `DensityRatio`", size)
        distances, _ = KDTree(scores).query(scores, k=min(self.neighbours, size - 1) + 1)
        ball = 0.5 * dimensions * math.log(math.pi) - math.lgamma(0.5 * dimensions + 1.0)
        radius = np.maximum(distances[:, -1], np.finfo(float).tiny)
        return math.log(self.neighbours / size) - ball - dimensions * np.log(radius)


def _log_normal(scores: np.ndarray, correlation: np.ndarray) -> np.ndarray:
    factor = np.linalg.cholesky(correlation)
    whitened = np.linalg.solve(factor, scores.T)
    constant = np.log(np.diag(factor)).sum() + 0.5 * scores.shape[1] * math.log(2.0 * math.pi)
    return -0.5 * (whitened**2).sum(axis=0) - constant
