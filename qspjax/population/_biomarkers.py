"""Biomarkers: how well one tells responders from others, and estimates within subgroups of patients.

References: DeLong, DeLong and Clarke-Pearson, Biometrics 1988;44:837, doi:10.2307/2531595; Youden, Cancer 1950;3:32,
doi:10.1002/1097-0142(1950)3:1<32::AID-CNCR2820030106>3.0.CO;2-3.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float

from qspjax._checks import ArgumentError, check_instance, check_whole, described, refuse
from qspjax._text import aligned, number
from qspjax._types import ArrayInput
from qspjax.population._hazard_ratio import HazardRatio
from qspjax.population._survival import Interval, check_level, deviations, weights_of

Estimate = TypeVar("Estimate", Interval, HazardRatio)
_FEW = 8
"""So many different numbers at most are categories; more are cut into parts."""


@dataclasses.dataclass(frozen=True)
class ROC:
    """How well a number tells responders from others, at every threshold.

    Attributes:
        thresholds: The different values, the greatest first, after inf, at which nobody is called a responder; shape
            (thresholds,).
        sensitivity: The share of the responders at or above each of them.
        specificity: The share of the others below each.
        auc: The area under the curve, the probability that a responder has a greater number than another patient, with
            its interval.

    Example:
        >>> curve = roc([1.0, 2.0, 3.0, 4.0], [False, False, True, True])
        >>> curve.auc.estimate, curve.threshold
        (1.0, 3.0)
    """

    thresholds: Float[np.ndarray, " thresholds"]
    sensitivity: Float[np.ndarray, " thresholds"]
    specificity: Float[np.ndarray, " thresholds"]
    auc: Interval

    @property
    def threshold(self) -> float:
        """The threshold at which sensitivity + specificity is greatest (Youden)."""
        return float(self.thresholds[self._best])

    @property
    def _best(self) -> int:
        return int(np.argmax(self.sensitivity + self.specificity))

    def __str__(self) -> str:
        area, best = self.auc, self._best
        cells = [*map(number, area), number(self.threshold)]
        shares = [f"{100 * share[best]:.1f} %" for share in (self.sensitivity, self.specificity)]
        return aligned([["area", "low", "high", "threshold", "sensitivity", "specificity"], [*cells, *shares]])


def roc(
    scores: ArrayInput,
    responded: ArrayInput,
    *,
    weights: ArrayInput | None = None,
    level: float = 0.95,
) -> ROC:
    """Return how well a number that patients have tells those who respond from others.

    With X the numbers of m responders and Y those of n others, $\\psi$ being 1 for X > Y, 1/2 for X = Y and else 0,

    $$ A = \\frac{1}{mn} \\sum_{ij} \\psi(X_i, Y_j), \\qquad
       \\operatorname{var} A = \\frac{S_X}{m} + \\frac{S_Y}{n} $$

    where S_X and S_Y are the variances of the means of $\\psi$ for each X and each Y. The interval is that of the logit
    of A. With weights, sums are weighted, and m and n are effective numbers (sum w)^2 / sum w^2.

    Args:
        scores: The number of each patient, of which great ones speak for a response (`-score` where small ones do),
            shape (patients,); NaN leaves a patient out.
        responded: Whether each patient responds, shape (patients,); NaN leaves a patient out.
        weights: Weights of the patients; only their ratios matter.
        level: The level of the interval.

    Returns:
        A curve, whose area has no interval (NaN) where it is 0 or 1, or where one patient alone does or does not
        respond.

    Raises:
        ValueError: If shapes differ, or nobody responds, or everybody.

    Reference: DeLong, DeLong and Clarke-Pearson, Biometrics 1988;44:837, doi:10.2307/2531595.

    Example:
        >>> curve = roc([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0, 0, 1, 0, 1, 1])
        >>> print(curve)
        area       low    high  threshold  sensitivity  specificity
        0.8889  0.2614  0.9945          3      100.0 %       66.7 %
    """
    check_level(level)
    values, responds = _numbers("scores", scores), _numbers("responded", responded)
    if values.shape != responds.shape:
        refuse("responded", f"be true or false for each patient ({values.size})", described(responds))
    known = ~(np.isnan(values) | np.isnan(responds))
    if not np.isin(responds[known], (0.0, 1.0)).all():
        refuse("responded", "be true or false, 1 or 0, or NaN", described(responds))
    heavy = weights_of(weights, values.size)
    known &= heavy > 0.0
    values, responds, heavy = values[known], responds[known] == 1.0, heavy[known]
    if responds.all() or not responds.any():
        who = "everybody" if responds.any() else "nobody"
        raise ArgumentError("responded", f"must have patients who respond, and others, but {who} does.")
    different, place = np.unique(values, return_inverse=True)

    def shares(group: Bool[np.ndarray, " patients"]) -> Float[np.ndarray, " values"]:
        return np.bincount(place[group], heavy[group], different.size) / heavy[group].sum()

    positive, negative = shares(responds), shares(~responds)
    at_least = np.concatenate([[0.0], np.cumsum(positive[::-1])])
    below = np.concatenate([[1.0], 1.0 - np.cumsum(negative[::-1])])
    lower, upper = np.cumsum(negative) - 0.5 * negative, 1.0 - np.cumsum(positive) + 0.5 * positive
    area = float(positive @ lower)
    error = math.sqrt(
        _variance(lower[place[responds]], area, heavy[responds])
        + _variance(upper[place[~responds]], area, heavy[~responds])
    )
    interval = _on_logits(area, error, level)
    return ROC(np.concatenate([[math.inf], different[::-1]]), at_least, np.clip(below, 0.0, 1.0), interval)


def _numbers(argument: str, given: ArrayInput) -> Float[np.ndarray, " patients"]:
    try:
        values = np.asarray(given, float)
    except (TypeError, ValueError):
        refuse(argument, "hold numbers", described(given))
    if values.ndim != 1 or not values.size:
        refuse(argument, "have shape (patients,)", f"of shape {values.shape}")
    return values


def _variance(placements: np.ndarray, area: float, weights: np.ndarray) -> float:
    """Return the variance of the weighted mean of placements; NaN of one patient alone."""
    shares = weights / weights.sum()
    size = 1.0 / float(shares @ shares)
    if size <= 1.0 + 1e-12:
        return math.nan
    return float(shares**2 @ (placements - area) ** 2) * size / (size - 1.0)


def _on_logits(area: float, error: float, level: float) -> Interval:
    if not 0.0 < area < 1.0 or math.isnan(error):
        return Interval(area, math.nan, math.nan)
    logit, half = math.log(area / (1.0 - area)), deviations(level) * error / (area * (1.0 - area))
    low, high = (1.0 / (1.0 + math.exp(-(logit + sign * half))) for sign in (-1.0, 1.0))
    return Interval(area, low, high)


def subgroups(
    by: Mapping[str, ArrayInput], estimate: Callable[[Bool[np.ndarray, " patients"]], Estimate], *, parts: int = 2
) -> dict[str, Estimate]:
    """Return an estimate of all patients, and within each subgroup: the data of `plot.forest`.

    Args:
        by: What patients are grouped by, by name: texts, truths or at most eight different numbers are groups, other
            numbers are cut into parts of equal size; shape (patients,). NaN leaves a patient out of all of them.
        estimate: A function of which patients belong to a group, shape (patients,), such as
            `lambda rows: hazard_ratio(times[rows], events[rows], treated[rows])`.
        parts: Into how many parts numbers are cut.

    Returns:
        Estimates by name of the group and number of patients in it.

    Raises:
        ValueError: If shapes differ; the estimate's own errors, with the name of the group before them.

    Example:
        >>> from qspjax.population import share
        >>> sex, responds = np.array(["f", "m", "f", "m"]), np.array([True, False, True, True])
        >>> found = subgroups({"sex": sex}, lambda rows: share(responds[rows]))
        >>> {name: group.estimate for name, group in found.items()}
        {'all (4)': 0.75, 'sex f (2)': 1.0, 'sex m (2)': 0.5}
    """
    check_instance("by", by, Mapping, "a mapping of names to what patients are grouped by")
    check_whole("parts", parts, 2)
    columns = {name: np.asarray(column) for name, column in by.items()}
    shapes = {column.shape for column in columns.values()}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 1 or not shape[0]:
        refuse("by", "have one value per patient in each column", "not")
    groups = {"all": np.ones(shape, bool)}
    for name, column in columns.items():
        groups |= {f"{name} {group}": rows for group, rows in _groups(column, parts).items()}
    found = {}
    for name, rows in groups.items():
        try:
            found[f"{name} ({np.count_nonzero(rows)})"] = estimate(rows)
        except ArgumentError as error:
            raise ValueError(f"In the subgroup {name}: {error}") from error
    return found


def _groups(column: np.ndarray, parts: int) -> dict[str, Bool[np.ndarray, " patients"]]:
    """Return the patients of each category, or of each part of the numbers."""
    if column.dtype.kind != "f" and column.dtype.kind not in "iu":
        return {str(value): column == value for value in np.unique(column)}
    values = np.unique(column[~np.isnan(column)])
    if values.size <= _FEW:
        return {f"{value:g}": column == value for value in values}
    edges = np.unique(np.quantile(column[~np.isnan(column)], np.arange(1, parts) / parts))
    groups = {f"< {number(edges[0])}": column < edges[0]}
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        groups[f"{number(low)} to {number(high)}"] = (column >= low) & (column < high)
    return groups | {f">= {number(edges[-1])}": column >= edges[-1]}
