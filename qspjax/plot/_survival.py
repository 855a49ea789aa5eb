"""Pictures of times to events and of responses: Kaplan-Meier, swimmers, spiders, forests, ROC, and power over sizes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from qspjax._checks import check_instance, check_whole, refuse
from qspjax._extras import require
from qspjax.plot._figures import COLOURS, axes_or_new, draw_key, new_figure
from qspjax.plot._labels import with_unit
from qspjax.population import ROC, HazardRatio, Interval, KaplanMeier, PowerCurve, Response, TumourResponses

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OF_RESPONSE = {
    Response.CR: "#009E73",
    Response.PR: "#56B4E9",
    Response.SD: "#E69F00",
    Response.PD: "#D55E00",
    Response.NE: "#999999",
}
"""The colour of each response, distinguishable without colour vision."""


def kaplan_meier(
    curves: Mapping[str, KaplanMeier], *, ticks: int = 6, label: str = "share without an event", unit: str = ""
) -> "Figure":
    """Draw Kaplan-Meier curves with their intervals, a cross where patients are censored, and numbers at risk below.

    The numbers drawn are those of the curves; `KaplanMeier.at_risk_at` gives the table below.

    Args:
        curves: The estimates by arm.
        ticks: How many times the table has at most.
        label: The label of the axis.
        unit: The unit of time.

    Example:
        >>> from qspjax.population import kaplan_meier as estimate
        >>> figure = kaplan_meier({"10 mg": estimate([6.0, 7.0, 9.0], [1, 0, 1]), "none": estimate([5.0, 6.0], [1, 1])})
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['share without an event', '']
    """
    _check_curves(curves)
    check_whole("ticks", ticks, 1)
    figure = new_figure(6.0, 3.6 + 0.22 * len(curves))
    heights = [3.2, 0.3 + 0.22 * len(curves)]
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=heights)
    last = max(float(curve.times[-1]) for curve in curves.values())
    for (name, curve), colour in zip(curves.items(), _colours(len(curves)), strict=True):
        times = np.concatenate([[0.0], curve.times])
        survival, low, high = (np.concatenate([[1.0], x]) for x in (curve.survival, curve.low, curve.high))
        upper.step(times, survival, where="post", color=colour, linewidth=1.6, label=name)
        upper.fill_between(times, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
        marks = curve.censored > 0
        upper.plot(curve.times[marks], curve.survival[marks], "+", color=colour, markersize=6)
    upper.set_ylim(0.0, 1.03)
    upper.set_ylabel(label)
    upper.spines[["top", "right"]].set_visible(False)
    draw_key([upper], None)
    upper.set_xlim(-0.04 * last, 1.04 * last)
    locator = require("matplotlib.ticker", extra="plot").MaxNLocator(ticks)
    upper.xaxis.set_major_locator(locator)
    at = [time for time in locator.tick_values(0.0, last) if 0.0 <= time <= last]
    _draw_numbers(lower, curves, np.array(at))
    lower.set_xlabel(with_unit("time", unit))
    return figure


def _draw_numbers(axes: "Axes", curves: Mapping[str, KaplanMeier], times: np.ndarray) -> None:
    """Write how many patients of each curve are at risk at some times."""
    axes.set_title("at risk", loc="left", fontsize="small")
    axes.set_ylim(len(curves) - 0.5, -0.5)
    axes.set_yticks(range(len(curves)), list(curves))
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    for place, (curve, colour) in enumerate(zip(curves.values(), _colours(len(curves)), strict=True)):
        for time, count in zip(times, curve.at_risk_at(times), strict=True):
            axes.text(time, place, str(count), color=colour, ha="center", va="center", fontsize="small", clip_on=False)


def swimmer(responses: TumourResponses, ax: "Axes | None" = None, *, unit: str = "") -> "Axes":
    """Draw a bar for each patient of a trial, as long as progression-free survival, in the colour of the best response.

    A dot is the beginning of the response; an arrow says that progression was not seen. The numbers drawn are those of
    `responses.patients()`.

    Args:
        responses: What `population.tumour_responses` returns.
        ax: The axes to draw on; by default those of a new figure.
        unit: The unit of time.

    Example:
        >>> from qspjax.population import ArmResponses, RECIST, assess
        >>> visits, criteria = np.array([0.0, 42.0, 84.0]), RECIST(stable_after=42.0)
        >>> assessment = assess(visits, [[100.0, 60.0, 90.0], [80.0, 90.0, 90.0]], criteria)
        >>> arm = ArmResponses(np.arange(2), 0, visits, assessment)
        >>> len(swimmer(TumourResponses({"10 mg": arm}), unit="d").patches)
        2
    """
    check_instance("responses", responses, TumourResponses, "what `population.tumour_responses` returns")
    order = {name: place for place, name in enumerate(responses.arms)}
    rows = sorted(responses.patients(), key=lambda row: (order[row.arm], -row.time))
    axes = axes_or_new(ax, 6.0, min(1.2 + 0.16 * len(rows), 12.0))
    for place, row in enumerate(rows):
        best = Response[row.best]
        axes.barh(place, row.time, height=0.8, color=_OF_RESPONSE[best], label=row.best)
    begins = [(row.response_time, place) for place, row in enumerate(rows) if np.isfinite(row.response_time)]
    goes_on = [(row.time, place) for place, row in enumerate(rows) if not row.event]
    for marks, shape, label in ((begins, "o", "response begins"), (goes_on, ">", "no progression seen")):
        if marks:
            axes.plot(*zip(*marks, strict=True), shape, color="black", markersize=4, linestyle="none", label=label)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    ends = np.cumsum([arm.patients.size for arm in responses.arms.values()])
    for end in ends[:-1]:
        axes.axhline(end - 0.5, color="0.4", linewidth=0.8)
    axes.set_yticks((np.concatenate([[0], ends[:-1]]) + ends - 1) / 2, list(responses.arms))
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(left=0.0)
    axes.set_xlabel(with_unit("time since baseline", unit))
    axes.spines[["top", "right"]].set_visible(False)
    _key_without_repeats(axes)
    return axes


def spider(responses: TumourResponses, ax: "Axes | None" = None, *, unit: str = "") -> "Axes":
    """Draw the change of each patient's sum of diameters over time, in the colour of the best response.

    A line ends with progression. Dashed lines are at -30 % (a partial response) and at 20 % growth. Numbers drawn are
    `ArmResponses.times` and `assessment.change` of each arm.

    Args:
        responses: What `population.tumour_responses` returns.
        ax: The axes to draw on; by default those of a new figure.
        unit: The unit of time.

    Example:
        >>> from qspjax.population import ArmResponses, RECIST, assess
        >>> visits, criteria = np.array([0.0, 42.0, 84.0]), RECIST(stable_after=42.0)
        >>> assessment = assess(visits, [[100.0, 60.0, 90.0], [80.0, 90.0, 90.0]], criteria)
        >>> spider(TumourResponses({"10 mg": ArmResponses(np.arange(2), 0, visits, assessment)})).lines[0].get_ydata()
        array([  0., -40., -10.])
    """
    check_instance("responses", responses, TumourResponses, "what `population.tumour_responses` returns")
    axes = axes_or_new(ax)
    for arm in responses.arms.values():
        changes, best = 100.0 * np.asarray(arm.assessment.change), np.asarray(arm.assessment.best)
        times = np.broadcast_to(arm.times, changes.shape)
        progressed = np.cumsum(np.asarray(arm.assessment.visits) == Response.PD, axis=1)
        until = np.concatenate([np.ones((len(best), 1), bool), progressed[:, :-1] == 0], axis=1)
        for when, change, code, ongoing in zip(times - times[:, :1], changes, best, until, strict=True):
            known = np.isfinite(change) & ongoing
            look = {"color": _OF_RESPONSE[Response(code)], "linewidth": 0.9, "markersize": 2.5}
            axes.plot(when[known], change[known], "o-", label=Response(code).name, **look)
    for bound in (-30.0, 20.0):
        axes.axhline(bound, color="0.4", linewidth=0.8, linestyle="--")
    axes.axhline(0.0, color="0.4", linewidth=0.8)
    axes.set_xlabel(with_unit("time since baseline", unit))
    axes.set_ylabel("change of the sum of diameters (%)")
    axes.spines[["top", "right"]].set_visible(False)
    _key_without_repeats(axes)
    return axes


def forest(
    estimates: Mapping[str, Interval | HazardRatio],
    ax: "Axes | None" = None,
    *,
    label: str = "hazard ratio",
    neutral: float = 1.0,
    log: bool = True,
) -> "Axes":
    """Draw estimates with their intervals, one below the other, and the numbers beside them.

    The numbers drawn are those given.

    Args:
        estimates: By name of the subgroup or comparison, from `population.hazard_ratio`, `population.difference` or
            `population.share`.
        ax: The axes to draw on; by default those of a new figure.
        label: The label of the axis.
        neutral: The value that means no difference: 1 for ratios, 0 for differences.
        log: Whether the axis is logarithmic, as it should be for ratios.

    Raises:
        ValueError: If there are no estimates, or one on a logarithmic axis is not positive.

    Example:
        >>> estimates = {"men": HazardRatio(0.6, 0.4, 0.9, 0.01), "women": HazardRatio(0.8, 0.5, 1.3, 0.4)}
        >>> [text.get_text() for text in forest(estimates).get_yticklabels()]
        ['men', 'women']
    """
    check_instance("estimates", estimates, Mapping, "a mapping of names to estimates with intervals")
    if not estimates:
        refuse("estimates", "have at least one estimate", "empty")
    axes = axes_or_new(ax, 6.0, 1.2 + 0.3 * len(estimates))
    for place, (name, estimate) in enumerate(estimates.items()):
        check_instance(f'estimates["{name}"]', estimate, (Interval, HazardRatio), "an estimate with its interval")
        middle, low, high = estimate[:3]
        if log and middle <= 0.0:
            refuse(f'estimates["{name}"]', "be positive on a logarithmic axis (`log=False`)", middle)
        axes.plot([low, high], [place, place], color="black", linewidth=1.1)
        axes.plot(middle, place, "s", color="#0072B2", markersize=6)
        text = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        axes.annotate(text, (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize="small")
    axes.axvline(neutral, color="0.4", linewidth=0.8, linestyle="--")
    if log:
        _logarithmic(axes)
    axes.set_yticks(range(len(estimates)), list(estimates))
    axes.set_ylim(len(estimates) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return axes


def _logarithmic(axes: "Axes") -> None:
    """Make an axis logarithmic, with as many plain numbers at its ticks as there is room for."""
    ticker = require("matplotlib.ticker", extra="plot")
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    if high < 5.0 * low:
        locator = ticker.MaxNLocator(5)
    else:
        locator = ticker.LogLocator(subs=(1.0, 2.0, 5.0) if high < 3e3 * low else (1.0,))
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())


def power(curves: Mapping[str, PowerCurve] | PowerCurve, ax: "Axes | None" = None, *, wanted: float = 0.8) -> "Axes":
    """Draw the power of trials over their size, with its interval, and the power that is wanted.

    The numbers drawn are those of the curves.

    Args:
        curves: What `population.power` returns, or several by name.
        ax: The axes to draw on; by default those of a new figure.
        wanted: Where a dashed line is drawn.

    Example:
        >>> curve = PowerCurve((20, 40), (Interval(0.6, 0.5, 0.7), Interval(0.85, 0.8, 0.9)))
        >>> power(curve).lines[0].get_ydata().tolist()
        [0.6, 0.85]
    """
    by_name = {"": curves} if isinstance(curves, PowerCurve) else curves
    check_instance("curves", by_name, Mapping, "what `population.power` returns, or several by name")
    axes = axes_or_new(ax)
    for (name, curve), colour in zip(by_name.items(), _colours(len(by_name)), strict=True):
        check_instance("curves", curve, PowerCurve, "what `population.power` returns, or several by name")
        order = np.argsort(curve.sizes)
        sizes, (middle, low, high) = np.array(curve.sizes)[order], np.array(curve.power)[order].T
        axes.plot(sizes, middle, "o-", color=colour, label=name or None)
        axes.fill_between(sizes, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.axhline(wanted, color="0.4", linewidth=0.8, linestyle="--")
    axes.set_ylim(0.0, 1.03)
    axes.set_xlabel("patients in each arm")
    axes.set_ylabel("power")
    axes.spines[["top", "right"]].set_visible(False)
    if any(by_name):
        draw_key([axes], None)
    return axes


def roc(curves: Mapping[str, ROC] | ROC, ax: "Axes | None" = None) -> "Axes":
    """Draw how well biomarkers tell responders from others, with the area under each curve, and Youden's thresholds.

    The numbers drawn are those of the curves.

    Args:
        curves: What `population.roc` returns, or several by name.
        ax: The axes to draw on; by default those of a new figure.

    Example:
        >>> from qspjax.population import roc as of
        >>> roc(of([1.0, 2.0, 3.0, 4.0], [0, 1, 0, 1])).get_legend().get_texts()[0].get_text()
        'area 0.75 (0.07 to 0.99)'
    """
    by_name = {"": curves} if isinstance(curves, ROC) else curves
    check_instance("curves", by_name, Mapping, "what `population.roc` returns, or several by name")
    if not by_name:
        refuse("curves", "have at least one curve", "empty")
    axes = axes_or_new(ax, 4.2, 4.2)
    for (name, curve), colour in zip(by_name.items(), _colours(len(by_name)), strict=True):
        check_instance("curves", curve, ROC, "what `population.roc` returns, or several by name")
        area, low, high = curve.auc
        label = f"{name}: area {area:.2f} ({low:.2f} to {high:.2f})".removeprefix(": ")
        axes.plot(1.0 - curve.specificity, curve.sensitivity, color=colour, label=label)
        best = int(np.flatnonzero(curve.thresholds == curve.threshold)[0])
        axes.plot(1.0 - curve.specificity[best], curve.sensitivity[best], "o", color=colour, markersize=5)
    axes.plot([0.0, 1.0], [0.0, 1.0], color="0.4", linewidth=0.8, linestyle="--")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set_xlabel("1 - specificity")
    axes.set_ylabel("sensitivity")
    axes.spines[["top", "right"]].set_visible(False)
    draw_key([axes], None)
    return axes


def _colours(count: int) -> list[str]:
    return [COLOURS[k % len(COLOURS)] for k in range(count)]


def _check_curves(curves: Mapping[str, KaplanMeier]) -> None:
    check_instance("curves", curves, Mapping, "a mapping of names to Kaplan-Meier estimates")
    if not curves:
        refuse("curves", "have at least one estimate", "empty")
    for name, curve in curves.items():
        check_instance(f'curves["{name}"]', curve, KaplanMeier, "a Kaplan-Meier estimate")


def _key_without_repeats(axes: "Axes") -> None:
    """Draw the key with each label once, responses in their order."""
    entries: dict[str, Artist] = {}
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
        entries.setdefault(label, handle)
    ranks = {response.name: -response for response in Response}
    labels = sorted(entries, key=lambda label: ranks.get(label, 1))
    axes.legend([entries[label] for label in labels], labels, fontsize="small", frameon=False)
