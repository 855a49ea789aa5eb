"""Shares of patients with their intervals, and the probability of target attainment over doses."""

import math

import numpy as np

from qspjax._checks import refuse
from qspjax._types import ArrayInput
from qspjax.population._survival import Interval, check_level, deviations, weights_of


def percent(share: Interval) -> tuple[str, str]:
    """Return a share and its interval as texts, `-` where there are no patients."""
    if math.isnan(share.estimate):
        return "-", "-"
    return f"{100 * share.estimate:.1f} %", f"{100 * share.low:.1f} to {100 * share.high:.1f} %"


def share(responded: ArrayInput, *, weights: ArrayInput | None = None, level: float = 0.95) -> Interval:
    """Return the share of patients who respond, with Wilson's interval.

    With p the share, z the quantile of the level and n the number of patients, the bounds are

    $$ \\frac{p + z^2 / 2n \\pm z \\sqrt{p (1 - p) / n + z^2 / 4n^2}}{1 + z^2 / n} $$

    With weights, p is the share of the weight and n the effective number (sum w)^2 / sum w^2.

    Args:
        responded: Whether each patient does: true, false, 1 or 0, shape (patients,); NaN leaves a patient out.
        weights: Weights of the patients; only their ratios matter.
        level: The level of the interval.

    Returns:
        NaN without patients.

    Reference: Wilson, J Am Stat Assoc 1927;22:209, doi:10.1080/01621459.1927.10502953.

    Example:
        >>> [round(x, 4) for x in share([True] * 8 + [False] * 2)]
        [0.8, 0.4902, 0.9433]
    """
    check_level(level)
    values = np.asarray(responded, float)
    known = ~np.isnan(values)
    if values.ndim != 1 or not np.isin(values[known], (0.0, 1.0)).all():
        refuse("responded", "be true or false for each patient", f"of shape {values.shape} with other numbers")
    heavy = weights_of(weights, values.size)[known]
    if not heavy.sum():
        return Interval(math.nan, math.nan, math.nan)
    p, size, z = float(heavy @ values[known] / heavy.sum()), heavy.sum() ** 2 / (heavy @ heavy), deviations(level)
    middle, half = p + z**2 / (2 * size), z * math.sqrt(p * (1 - p) / size + z**2 / (4 * size**2))
    low, high = ((middle + sign * half) / (1 + z**2 / size) for sign in (-1.0, 1.0))
    return Interval(p, max(float(low), 0.0), min(float(high), 1.0))
