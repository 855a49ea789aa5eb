"""Visual predictive checks: quantiles of measurements over the intervals that a fit predicts for them."""

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from jaxtyping import Real

from qspjax._checks import ArgumentError, check_instance
from qspjax.fit import MixedFit, VisualPredictiveCheck
from qspjax.plot._figures import draw_key, new_figure
from qspjax.plot._labels import choice, fit_time_label, fit_unit, with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Table: TypeAlias = Mapping[str, np.ndarray]
"""Columns by name."""

_LINES = {False: "measured quantiles", True: "measured quantiles and share"}
_MEDIANS = {False: "simulated quantiles: median", True: "simulated ones: median"}
_BANDS = {False: "simulated quantiles: interval", True: "simulated ones: interval"}
"""What the key says, without and with the share below the limit of quantification."""
_LINE_HEIGHT = 11.0
"""The least distance of the names of quantiles, in points."""


def vpc(table: Table, ax: "Axes | None" = None, *, stratum: str | None = None, fit: MixedFit | None = None) -> "Axes":
    """Draw quantiles of measurements over the intervals that the fit predicts for them, and the measurements.

    The key stands above the axes of a new figure, within those that are given.

    Args:
        table: The result of `fit.visual_predictive_check`, or its table.
        ax: The axes to draw on; by default those of a new figure.
        stratum: The stratum; by default the first. `vpc_panels` draws all.
        fit: The fit, whose model has the units of the axes; without it axes have no units.

    Raises:
        ValueError: If the stratum is not in the table.

    Example:
        >>> rows = {"TIME": [1.0, 4.0], "LEFT": [0.0, 2.0], "RIGHT": [2.0, 6.0], "COUNT": [9, 9], "QUANTILE": [0.5] * 2}
        >>> rows |= {"OBSERVED": [9.0, 6.1], "LOWER": [8.0, 5.0], "MEDIAN": [9.1, 6.0], "UPPER": [9.9, 7.2]}
        >>> rows |= {"BELOW": [np.nan] * 2, "BELOW_LOWER": [np.nan] * 2}
        >>> rows |= {"BELOW_MEDIAN": [np.nan] * 2, "BELOW_UPPER": [np.nan] * 2}
        >>> table = {name: np.array(values) for name, values in rows.items()}
        >>> vpc(table).get_xlabel()
        'time'
    """
    check_instance("table", table, Mapping, "what `fit.visual_predictive_check` returns")
    figure = None
    if ax is None:
        figure = new_figure(6.0, 4.0)
        ax = figure.add_subplot()
    _name_quantiles(ax, _quantiles(ax, table, stratum, fit))
    draw_key([ax], figure)
    return ax


def _quantiles(
    axes: "Axes", table: Table, stratum: str | None, fit: MixedFit | None, *, with_share: bool = False
) -> dict[float, tuple[float, str]]:
    """Draw a check without its key; return for each quantile the last median and its colour."""
    stratum = choice("stratum", stratum, _strata(table), "a stratum of the table")
    in_stratum = _stratum_of(table) == stratum
    drawn = np.concatenate([table[name][in_stratum] for name in ("LOWER", "MEDIAN", "UPPER", "OBSERVED")])
    label = "quantile"
    if isinstance(table, VisualPredictiveCheck):
        _points(axes, table.points, stratum, corrected=table.corrected)
        drawn = np.append(drawn, table.points["VALUE"][table.points["STRATUM"] == stratum])
        label = with_unit(table.output, fit_unit(fit, table.output))
        label += ", prediction-corrected" if table.corrected else ""
    quantiles, ends, labelled = np.unique(table["QUANTILE"]), {}, set()
    for quantile in quantiles:
        rows = in_stratum & (table["QUANTILE"] == quantile)
        time, low, middle, high, observed = (
            table[name][rows] for name in ("TIME", "LOWER", "MEDIAN", "UPPER", "OBSERVED")
        )
        colour = "C1" if quantile == np.median(quantiles) else "C0"
        band, median, line = (
            None if colour in labelled else _BANDS[with_share],
            None if colour in labelled else _MEDIANS[with_share],
            None if labelled else _LINES[with_share],
        )
        labelled.add(colour)
        axes.fill_between(time, *_closed(low, high, drawn), color=colour, alpha=0.25, linewidth=0.0, label=band)
        axes.plot(time, middle, color=colour, linewidth=0.8, linestyle="--", label=median)
        axes.plot(time, observed, "o-", color="0.15", markersize=3.0, linewidth=0.9, label=line)
        finite = middle[np.isfinite(middle)]
        if finite.size:
            ends[float(quantile)] = float(finite[-1]), colour
    axes.set_xlabel(fit_time_label(fit))
    axes.set_ylabel(textwrap.fill(label, 36, break_on_hyphens=False))
    return ends


def _name_quantiles(axes: "Axes", ends: Mapping[float, tuple[float, str]]) -> None:
    """Write the quantiles beside the right edge, the highest at its end; one that ended in the limit stands below."""
    points = 72.0 / axes.figure.dpi
    last = np.inf
    for quantile, (value, colour) in sorted(ends.items(), reverse=True):
        height = float(axes.transData.transform((axes.get_xlim()[0], value))[1]) * points
        last = min(height, last - _LINE_HEIGHT)
        axes.annotate(
            f"{100 * quantile:g} %", (1.0, value), xycoords=("axes fraction", "data"), xytext=(4, last - height),
            textcoords="offset points", va="center", fontsize="small", color=colour,
        )  # fmt: skip


def vpc_panels(*checks: VisualPredictiveCheck, fit: MixedFit | None = None) -> "Figure":
    """Draw visual predictive checks: one panel per stratum, and below it the share below the limit of quantification.

    Args:
        *checks: The result of `fit.visual_predictive_check`, such as one per output, each of which is a row.
        fit: The fit, whose model has the units of the axes; without it axes have no units.

    Raises:
        ValueError: If there are none.

    Example:
        >>> rows = {"TIME": [1.0, 4.0], "LEFT": [0.0, 2.0], "RIGHT": [2.0, 6.0], "COUNT": [9, 9], "QUANTILE": [0.5] * 2}
        >>> rows |= {"OBSERVED": [9.0, 6.1], "LOWER": [8.0, 5.0], "MEDIAN": [9.1, 6.0], "UPPER": [9.9, 7.2]}
        >>> rows |= {"BELOW": [np.nan] * 2, "BELOW_LOWER": [np.nan] * 2}
        >>> rows |= {"BELOW_MEDIAN": [np.nan] * 2, "BELOW_UPPER": [np.nan] * 2}
        >>> table = {name: np.array(values) for name, values in rows.items()}
        >>> points = {"STRATUM": [""], "ID": ["7"], "TIME": [1.0], "VALUE": [9.0], "CENSORED": [False]}
        >>> points = {name: np.array(values) for name, values in points.items()}
        >>> check = VisualPredictiveCheck("conc", table, points, corrected=False, reasons=())
        >>> [axes.get_ylabel() for axes in vpc_panels(check).axes]
        ['conc']
    """
    if not checks:
        raise ArgumentError("checks", "must be at least one visual predictive check, but there are none.")
    for i, check in enumerate(checks):
        must = "what `fit.visual_predictive_check` returns"
        check_instance(f"checks[{i}]", check, VisualPredictiveCheck, must)
    columns = max(len(_strata(check)) for check in checks)
    heights = [height for check in checks for height in ((3.4, 1.5) if _has_share(check) else (3.4,))]
    figure = new_figure(5.0 * columns + 0.6, sum(heights) + 0.2 * any(check.reasons for check in checks))
    grid = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights, sharex="col", sharey="row")
    row, ends, any_share = 0, {}, any(_has_share(check) for check in checks)
    for check in checks:
        has_share, strata = _has_share(check), _strata(check)
        for k, ax in enumerate(grid[row]):
            if k >= len(strata):
                for empty in grid[row : row + 1 + has_share, k]:
                    empty.set_axis_off()
                continue
            ends[ax] = _quantiles(ax, check, strata[k], fit, with_share=any_share)
            ax.set_title(strata[k], fontsize="medium")
            if k:
                ax.set_ylabel("")
            if has_share:
                _share_below(grid[row + 1, k], check, strata[k], fit_time_label(fit))
                ax.set_xlabel("")
                grid[row + 1, k].set_ylabel("" if k else "share below limit")
        row += 1 + has_share
    for ax, of_ax in ends.items():  # when the limits of all axes are known
        _name_quantiles(ax, of_ax)
    draw_key([*grid.ravel()], figure)
    if reasons := [reason for check in checks for reason in check.reasons]:
        subjects = dict.fromkeys(reason.partition(":")[0].removeprefix("Subject ").strip("`") for reason in reasons)
        figure.supxlabel(f"left out, see `reasons`: {', '.join(subjects)}", fontsize="small", x=0.01, ha="left")
    return figure


def _has_share(check: Table) -> bool:
    """Whether there is a share of measurements below the limit of quantification."""
    return bool(np.isfinite(check["BELOW"]).any())


def _stratum_of(table: Table) -> np.ndarray:
    return table["STRATUM"] if "STRATUM" in table else np.full(table["TIME"].size, "", dtype=object)


def _strata(table: Table) -> list[str]:
    return list(dict.fromkeys(_stratum_of(table)))


def _closed(
    low: Real[np.ndarray, " bins"], high: Real[np.ndarray, " bins"], drawn: Real[np.ndarray, " values"]
) -> tuple[Real[np.ndarray, " bins"], Real[np.ndarray, " bins"]]:
    """Return the ends of bands; one beyond a limit of quantification (NaN) is the least or greatest value drawn."""
    if not np.isfinite(drawn).any():
        return low, high
    low_open, high_open = np.isnan(low) & ~np.isnan(high), np.isnan(high) & ~np.isnan(low)
    return np.where(low_open, np.nanmin(drawn), low), np.where(high_open, np.nanmax(drawn), high)


def _points(ax: "Axes", points: Table, stratum: str, *, corrected: bool) -> None:
    """Draw the measurements, and the limits of censored ones."""
    for censored, marker, colour, label in (
        (False, "o", "0.6", "measurements"),
        (True, "v", "C3", "beyond a limit, at it (corrected)" if corrected else "beyond a limit, at the limit"),
    ):
        rows = (points["STRATUM"] == stratum) & (points["CENSORED"] == censored)
        if rows.any():
            time, value = points["TIME"][rows], points["VALUE"][rows]
            ax.plot(time, value, marker, color=colour, linewidth=0.0, markersize=2.5, alpha=0.5, label=label)


def _share_below(ax: "Axes", table: Table, stratum: str, label: str) -> None:
    """Draw the share of measurements below the limit, observed and expected."""
    rows = (_stratum_of(table) == stratum) & (table["QUANTILE"] == table["QUANTILE"][0])
    time, low, middle, high, observed = (
        table[name][rows] for name in ("TIME", "BELOW_LOWER", "BELOW_MEDIAN", "BELOW_UPPER", "BELOW")
    )
    ax.fill_between(time, low, high, color="C2", alpha=0.25, linewidth=0.0, label=_BANDS[True])
    ax.plot(time, middle, color="C2", linewidth=0.8, linestyle="--", label=_MEDIANS[True])
    ax.plot(time, observed, "o-", color="0.15", markersize=3.0, linewidth=0.9, label=_LINES[True])
    ax.set_xlabel(label)
