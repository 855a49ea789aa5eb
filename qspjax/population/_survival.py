"""Times to events: the Kaplan-Meier estimate and the log-rank test, with weights of patients.

With d_j the weight of the events at time t_j and Y_j that of the patients at risk just before it,

$$ S(t) = \\prod_{t_j \\le t} (1 - d_j / Y_j), \\qquad
   \\operatorname{var} \\log S(t) = \\sum_{t_j \\le t} \\frac{d_j / Y_j}{M_j (1 - d_j / Y_j)} $$

where M_j = (sum w)^2 / sum w^2 is the effective number at risk. With equal weights M_j is the number itself, and this
is Greenwood's formula. Weights are those of a virtual population: only their ratios matter, they are no counts.

References: Kaplan and Meier, J Am Stat Assoc 1958;53:457, doi:10.1080/01621459.1958.10501452; Xie and Liu, Stat Med
2005;24:3089, doi:10.1002/sim.2174 (weights).
"""

import dataclasses
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from qspjax._checks import check_no_unit, check_number, described, refuse
from qspjax._text import aligned, number
from qspjax._types import ArrayInput


class Interval(NamedTuple):
    """An estimate with its confidence interval; inf where a bound, or NaN where the estimate, is not reached.

    Example:
        >>> Interval(3.0, 2.0, 5.0).high
        5.0
    """

    estimate: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class KaplanMeier:
    """A Kaplan-Meier estimate: a step at each time of an event, a mark at each time where patients are censored.

    Attributes:
        times: The different times, those of events and of censored patients, shape (times,).
        survival: The share without an event after each of them.
        variance: Its variance, S^2 var(log S).
        low: Lower bound of its interval, by the log(-log) transformation.
        high: Upper bound.
        at_risk: Number of patients at risk just before each time.
        events: Number of events at each time.
        censored: Number of patients censored at each time.
        level: The level of the interval.

    Example:
        >>> curve = kaplan_meier([6.0, 6.0, 7.0, 10.0], [True, False, True, False])
        >>> curve.survival.tolist(), curve.at_risk.tolist(), curve.censored.tolist()
        ([0.75, 0.375, 0.375], [4, 2, 1], [1, 0, 1])
    """

    times: Float[np.ndarray, " times"]
    survival: Float[np.ndarray, " times"]
    variance: Float[np.ndarray, " times"]
    low: Float[np.ndarray, " times"]
    high: Float[np.ndarray, " times"]
    at_risk: Int[np.ndarray, " times"]
    events: Int[np.ndarray, " times"]
    censored: Int[np.ndarray, " times"]
    level: float

    def __str__(self) -> str:
        rows = [["patients", "events", "median", "low", "high"]]
        middle = self.median
        rows.append([str(int(self.at_risk[0])), str(int(self.events.sum())), *map(reached, middle)])
        return aligned(rows)

    @property
    def median(self) -> Interval:
        """The first time at which at most half are without an event, and where the bounds of the curve get there."""
        return self.quantile(0.5)

    def quantile(self, share: float) -> Interval:
        """Return the first time at which at most `1 - share` are without an event; inf where that is not reached."""
        left = 1.0 - share
        return Interval(*(self._reached(curve, left) for curve in (self.survival, self.low, self.high)))

    def at(self, times: ArrayInput) -> Float[np.ndarray, "..."]:
        """Return the share without an event at times; NaN after the last one where some are still at risk."""
        times = np.asarray(times, float)
        values = np.concatenate([[1.0], self.survival])[np.searchsorted(self.times, times, side="right")]
        return np.where((times > self.times[-1]) & (self.survival[-1] > 0.0), np.nan, values)

    def at_risk_at(self, times: ArrayInput) -> Int[np.ndarray, "..."]:
        """Return the number of patients at risk at times, for the table below a plot."""
        numbers = np.concatenate([self.at_risk, [0]])
        return numbers[np.searchsorted(self.times, np.asarray(times, float), side="left")]

    def _reached(self, curve: Float[np.ndarray, " times"], left: float) -> float:
        below = np.flatnonzero(curve <= left + 1e-12)
        return float(self.times[below[0]]) if below.size else math.inf


def kaplan_meier(
    times: ArrayInput, events: ArrayInput, *, weights: ArrayInput | None = None, level: float = 0.95
) -> KaplanMeier:
    """Estimate the share of patients without an event over time.

    Patients censored at the time of an event are still at risk there.

    Args:
        times: Time of the event, or of the last observation, shape (patients,).
        events: Whether it was the event, shape (patients,).
        weights: Weights of the patients, shape (patients,); only their ratios matter.
        level: The level of the interval.

    Raises:
        ValueError: If shapes differ, a time is not finite or a weight is negative, or no weight is positive.

    Example:
        >>> curve = kaplan_meier([6.0, 6.0, 6.0, 7.0, 10.0, 13.0], [1, 1, 0, 1, 0, 1])
        >>> curve.at([5.0, 6.0, 8.0]).round(4).tolist(), curve.median.estimate
        ([1.0, 0.6667, 0.4444], 7.0)
    """
    times, events, weights, _ = checked(times, events, weights)
    check_level(level)
    risk = _Risk.of(times, events, weights)
    hazard = risk.events / risk.weight
    with np.errstate(divide="ignore", invalid="ignore"):
        log_survival = np.cumsum(np.log1p(-hazard))
        terms = hazard / (risk.effective * (1.0 - hazard))
        spread = np.sqrt(np.cumsum(terms)) / -log_survival
        survival = np.exp(log_survival)
        variance = np.where(survival > 0.0, survival**2 * np.cumsum(np.where(np.isinf(terms), 0.0, terms)), 0.0)
        z = deviations(level)
        bounds = [np.exp(log_survival * np.exp(sign * z * spread)) for sign in (1.0, -1.0)]
    certain, gone = log_survival == 0.0, survival == 0.0
    low, high = (np.where(certain, 1.0, np.where(gone, 0.0, bound)) for bound in bounds)
    return KaplanMeier(
        risk.times, survival, variance, low, high, risk.at_risk, risk.event_counts, risk.censored_counts, level
    )


@dataclasses.dataclass(frozen=True)
class LogRank:
    """The result of a log-rank test.

    Attributes:
        statistic: The chi-squared statistic.
        p: The p value.
        degrees: The degrees of freedom, groups - 1.
        groups: The groups.
        observed: The events of each group; with weights, their weight.
        expected: Those that were expected if all groups had the same hazard.

    Example:
        >>> test = log_rank([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1, 1, 1, 1, 1, 1], ["a", "a", "a", "b", "b", "b"])
        >>> test.observed, [round(x, 4) for x in test.expected]
        ((3.0, 3.0), [1.15, 4.85])
    """

    statistic: float
    p: float
    degrees: int
    groups: tuple[object, ...]
    observed: tuple[float, ...]
    expected: tuple[float, ...]


def log_rank(
    times: ArrayInput,
    events: ArrayInput,
    groups: ArrayInput | Sequence[str],
    *,
    strata: ArrayInput | Sequence[str] | None = None,
    weights: ArrayInput | None = None,
) -> LogRank:
    """Test whether groups have the same hazard at all times.

    At a time with d events among Y patients at risk, with p_g the share of group g in the weight at risk, the
    difference between observed and expected events has the covariance of drawing d patients from the Y,

    $$ U_g = \\sum (d_g - p_g d), \\qquad
       C = \\sum \\frac{d (Y - d)}{Y (Y - 1)} \\sum_i w_i^2 (e_{g(i)} - p)(e_{g(i)} - p)^T $$

    and U^T C^{-1} U is chi-squared. With equal weights C is that of the hypergeometric distribution. Both are sums over
    strata.

    Args:
        times: Time of the event, or of the last observation, shape (patients,).
        events: Whether it was the event, shape (patients,).
        groups: The group of each patient, shape (patients,).
        strata: The stratum of each patient, within which groups are compared, shape (patients,).
        weights: Weights of the patients; only their ratios matter.

    Raises:
        ValueError: If shapes differ, there is one group alone, or a time or weight is refused by `kaplan_meier`.

    Reference: Mantel, Cancer Chemother Rep 1966;50:163; Xie and Liu, Stat Med 2005;24:3089, doi:10.1002/sim.2174.

    Example:
        >>> test = log_rank([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1, 1, 1, 1, 1, 1], ["a", "a", "a", "b", "b", "b"])
        >>> round(test.statistic, 4), round(test.p, 4)
        (5.0517, 0.0246)
    """
    times, events, weights, kept = checked(times, events, weights)
    names, codes = _labels("groups", groups, kept)
    if len(names) < 2:
        refuse("groups", "have at least two groups", "that of one alone")
    parts = [
        _excess(times[chosen], events[chosen], codes[chosen], weights[chosen], len(names))
        for chosen in strata_of(strata, kept)
    ]
    observed, expected, covariance = (np.sum(part, axis=0) for part in zip(*parts, strict=True))
    from scipy.stats import chi2  # half a second to import

    excess = (observed - expected)[:-1]
    statistic = float(excess @ np.linalg.pinv(covariance[:-1, :-1], hermitian=True) @ excess)
    degrees = len(names) - 1
    p = float(chi2.sf(statistic, degrees))
    return LogRank(statistic, p, degrees, names, tuple(observed.tolist()), tuple(expected.tolist()))


class _Risk(NamedTuple):
    """Who is at risk at each of the different times: weights, effective and plain numbers, and what happens."""

    times: Float[np.ndarray, " times"]
    weight: Float[np.ndarray, " times"]
    effective: Float[np.ndarray, " times"]
    events: Float[np.ndarray, " times"]
    at_risk: Int[np.ndarray, " times"]
    event_counts: Int[np.ndarray, " times"]
    censored_counts: Int[np.ndarray, " times"]

    @classmethod
    def of(cls, times: np.ndarray, events: np.ndarray, weights: np.ndarray) -> "_Risk":
        different, index = np.unique(times, return_inverse=True)

        def each(values: np.ndarray) -> np.ndarray:
            return np.bincount(index, values, different.size)

        def at_risk(values: np.ndarray) -> np.ndarray:
            return np.cumsum(each(values)[::-1])[::-1]

        weight, one = at_risk(weights), np.ones(times.size)
        return cls(
            times=different,
            weight=weight,
            effective=weight**2 / at_risk(weights**2),
            events=each(weights * events),
            at_risk=at_risk(one).astype(int),
            event_counts=each(one * events).astype(int),
            censored_counts=each(one * ~events).astype(int),
        )


def _excess(
    times: np.ndarray, events: np.ndarray, codes: np.ndarray, weights: np.ndarray, groups: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the observed and the expected events of each group, and the covariance of their difference."""
    everyone = _Risk.of(times, events, weights)
    happens = everyone.event_counts > 0

    def by_group(values: np.ndarray, at_risk: bool) -> np.ndarray:
        """Sum values of each group at, or from, each time of an event, shape (times, groups)."""
        table = np.zeros((everyone.times.size, groups))
        np.add.at(table, (np.searchsorted(everyone.times, times), codes), values)
        return (np.cumsum(table[::-1], axis=0)[::-1] if at_risk else table)[happens]

    d, at_risk = everyone.event_counts[happens].astype(float), everyone.at_risk[happens].astype(float)
    share = by_group(weights, True) / everyone.weight[happens, None]
    squares = by_group(weights**2, True)
    factor = d * (at_risk - d) / (at_risk * np.maximum(at_risk - 1.0, 1.0))
    deviation = np.eye(groups) - share[:, None, :]  # of a patient of each group, shape (times, groups, groups)
    covariance = np.einsum("t,tg,tga,tgb->ab", factor, squares, deviation, deviation)
    return by_group(weights * events, False).sum(0), (share * everyone.events[happens, None]).sum(0), covariance


def checked(
    times: ArrayInput, events: ArrayInput, weights: ArrayInput | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return times, events and weights of the patients who weigh anything, and which these are."""
    check_no_unit("times", times)
    try:
        values = np.asarray(times, float)
    except (TypeError, ValueError):
        refuse("times", "hold numbers", described(times))
    if values.ndim != 1 or not values.size:
        refuse("times", "have shape (patients,)", f"of shape {values.shape}")
    if not np.isfinite(values).all():
        refuse("times", "be finite (leave patients who failed out)", values[~np.isfinite(values)][0])
    happened, heavy = flags("events", events, values.size), weights_of(weights, values.size)
    kept = heavy > 0.0
    if not kept.any():
        refuse("weights", "have a number of at least 0 for each patient, not 0 for all", described(heavy))
    return values[kept], happened[kept], heavy[kept], kept


def flags(argument: str, given: ArrayInput, size: int) -> Bool[np.ndarray, " patients"]:
    """Return what is true or false, or 1 or 0, for each patient."""
    values = np.asarray(given)
    if values.shape != (size,) or values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        refuse(argument, f"be true or false for each patient ({size})", described(values))
    return values.astype(bool)


def weights_of(weights: ArrayInput | None, size: int) -> Float[np.ndarray, " patients"]:
    """Return the weights of patients, by default 1."""
    must = f"have a number of at least 0 for each patient ({size})"
    try:
        heavy = np.ones(size) if weights is None else np.asarray(weights, float)
    except (TypeError, ValueError):
        refuse("weights", must, described(weights))
    if heavy.shape != (size,) or not (np.isfinite(heavy) & (heavy >= 0.0)).all():
        refuse("weights", must, described(heavy))
    return heavy


def _labels(
    argument: str, labels: ArrayInput | Sequence[str], kept: np.ndarray
) -> tuple[tuple[object, ...], np.ndarray]:
    """Return the different labels of patients in order, and the number of each patient's among them."""
    values = np.asarray(labels)
    if values.shape != kept.shape:
        refuse(argument, f"have one label for each patient ({kept.size})", described(values))
    names, codes = np.unique(values[kept], return_inverse=True)
    return (*names.tolist(),), codes


def strata_of(strata: ArrayInput | Sequence[str] | None, kept: np.ndarray) -> list[np.ndarray]:
    """Return the patients of each stratum, as masks."""
    codes = np.zeros(kept.sum(), int) if strata is None else _labels("strata", strata, kept)[1]
    return [codes == k for k in range(codes.max() + 1)]


def check_level(level: float, argument: str = "level") -> None:
    """Check that the level of an interval, or of a test, is between 0 and 1."""
    check_number(argument, level)
    if not 0.0 < level < 1.0:
        refuse(argument, "be between 0 and 1", level)


def deviations(level: float) -> float:
    """Return how many standard errors an interval of a level reaches to either side."""
    return NormalDist().inv_cdf(0.5 + level / 2.0)


def reached(value: float) -> str:
    """Return a number as text, `-` for one that is not reached or not defined."""
    return number(value) if math.isfinite(value) else "-"
