"""The hazard ratio of two groups, by Cox's model with weights of patients."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from qspjax._checks import refuse
from qspjax._types import ArrayInput
from qspjax.population._survival import check_level, checked, deviations, flags, strata_of

_ROUNDING = 1e-12
"""The share of the events' weight below which sums of weights are rounding errors."""


class HazardRatio(NamedTuple):
    """A hazard ratio with its interval and the p value of Wald's test.

    Example:
        >>> hazard_ratio([1.0, 2.0, 3.0, 4.0], [1, 1, 1, 1], [True, False, True, False]).ratio > 1.0
        True
    """

    ratio: float
    low: float
    high: float
    p: float


def hazard_ratio(
    times: ArrayInput,
    events: ArrayInput,
    treated: ArrayInput,
    *,
    strata: ArrayInput | Sequence[str] | None = None,
    weights: ArrayInput | None = None,
    level: float = 0.95,
) -> HazardRatio:
    """Estimate the hazard of treated patients relative to that of others, by Cox's model with Efron's ties.

    With weights, those of tied events are their mean, and the variance is that of the sum of the score's parts by
    patient (a sandwich), since weights are no counts.

    Args:
        times: Time of the event, or of the last observation, shape (patients,).
        events: Whether it was the event, shape (patients,).
        treated: Whether a patient is of the group whose hazard is above the line, shape (patients,).
        strata: The stratum of each patient; each has its own baseline hazard.
        weights: Weights of the patients; only their ratios matter.
        level: The level of the interval.

    Returns:
        The ratio; 0 or inf, with an interval of all ratios, where one group has no events while it is at risk.

    Raises:
        ValueError: If shapes differ or there are patients of one group alone.

    References: Cox, J R Stat Soc B 1972;34:187, doi:10.1111/j.2517-6161.1972.tb00899.x; Efron, J Am Stat Assoc
    1977;72:557, doi:10.1080/01621459.1977.10480613; Lin and Wei, J Am Stat Assoc 1989;84:1074,
    doi:10.1080/01621459.1989.10478874; Binder, Biometrika 1992;79:139, doi:10.1093/biomet/79.1.139 (weights).

    Example:
        >>> times, events = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1, 1, 1, 1, 1, 0]
        >>> round(hazard_ratio(times, events, [False, False, True, False, True, True]).ratio, 4)
        0.1849
    """
    times, events, heavy, kept = checked(times, events, weights)
    check_level(level)
    treated = flags("treated", treated, kept.size)[kept]
    if treated.all() or not treated.any():
        refuse("treated", f"be true or false for each patient ({times.size}), with some of both", "one for all")
    parts = [
        _Events.of(times[chosen], events[chosen], treated[chosen], heavy[chosen]) for chosen in strata_of(strata, kept)
    ]
    weight, above, others = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("weight", "treated", "others")
    )
    seen = float((heavy * (events & treated)).sum() - weight[others <= 0.0].sum())
    told = (above > 0.0) & (others > 0.0)  # events that say something, and the weight seen of the treated among them
    weight, above, others, most = weight[told], above[told], others[told], float(weight[told].sum())
    if not _ROUNDING * most < seen < (1.0 - _ROUNDING) * most:
        ratio = math.nan if not most else (0.0 if seen < 0.5 * most else math.inf)
        return HazardRatio(ratio, 0.0, math.inf, math.nan)
    from scipy.stats import norm

    def expected(log_ratio: float) -> Float[np.ndarray, " events"]:
        return above / (above + others * math.exp(-log_ratio))

    log_ratio, step = 0.0, 100.0
    for _ in range(64):  # the score falls with the ratio, so halving finds its zero
        log_ratio, step = log_ratio + (step if weight @ expected(log_ratio) < seen else -step) / 2.0, step / 2.0
    shares = expected(log_ratio)
    information = float(weight @ (shares * (1.0 - shares)))
    spread = 1.0 if weights is None else sum(part.squares(log_ratio) for part in parts) / information
    error = math.sqrt(spread / information)
    half = error * deviations(level)
    ratio, low, high = (math.exp(log_ratio + x) for x in (0.0, -half, half))
    return HazardRatio(ratio, low, high, 2.0 * float(norm.sf(abs(log_ratio) / error)))


class _Events(NamedTuple):
    """The events of one stratum in order, tied ones one after the other, each after its share of them is over.

    Of each event, the weight it counts with (the mean of those tied), and the weights of treated patients and of others
    at risk, shape (events,); `over` is the share of tied events that are over, `place` the number of its time.
    """

    weight: Float[np.ndarray, " events"]
    treated: Float[np.ndarray, " events"]
    others: Float[np.ndarray, " events"]
    over: Float[np.ndarray, " events"]
    place: Int[np.ndarray, " events"]
    times: Float[np.ndarray, " times"]
    patients: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

    @classmethod
    def of(cls, times: np.ndarray, events: np.ndarray, treated: np.ndarray, weights: np.ndarray) -> "_Events":
        different, first, ties = np.unique(np.sort(times[events]), return_index=True, return_counts=True)
        place = np.repeat(np.arange(ties.size), ties)
        over = (np.arange(ties.sum()) - first[place]) / ties[place]

        def happening(group: np.ndarray) -> np.ndarray:
            chosen = group & events
            return np.bincount(np.searchsorted(different, times[chosen]), weights[chosen], different.size)[place]

        def at_risk(group: np.ndarray) -> np.ndarray:
            order = np.argsort(times[group])
            left = np.concatenate([np.cumsum(weights[group][order][::-1])[::-1], [0.0]])
            risk = left[np.searchsorted(times[group][order], different, side="left")]
            return risk[place] - over * happening(group)

        weight = happening(np.ones_like(events)) / ties[place]
        patients = (times, events, treated, weights)
        return cls(weight, at_risk(treated), at_risk(~treated), over, place, different, patients)

    def squares(self, log_ratio: float) -> float:
        """Return the sum of the squares of the parts of the score, one of each patient."""
        times, events, treated, weights = self.patients
        ratio, count = math.exp(log_ratio), self.times.size
        total = self.treated * ratio + self.others
        share, hazard = self.treated * ratio / total, self.weight / total

        def each(values: np.ndarray) -> np.ndarray:
            return np.bincount(self.place, values, count)

        last = np.searchsorted(self.times, times, side="right")  # how many times of events a patient lives to see
        own = np.where(events, last - 1, 0)
        expected = np.zeros(times.size)
        for values, factor in ((hazard, treated.astype(float)), (hazard * share, np.full(times.size, -1.0))):
            until = np.concatenate([[0.0], np.cumsum(each(values))])[last]
            expected += factor * (until - np.where(events, each(self.over * values)[own], 0.0))
        mean = each(share)[own] / each(np.ones(share.size))[own]
        scores = np.where(events, treated - mean, 0.0) - np.where(treated, ratio, 1.0) * expected
        return float(np.sum((weights * scores) ** 2))
