"""The plot of a trial: one panel per output with all arms, and the responders as bars."""

import dataclasses
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from jaxtyping import Float

from qspjax._checks import check_instance
from qspjax._extras import require
from qspjax.plot._figures import COLOURS, LineStyle, new_figure
from qspjax.plot._labels import with_unit
from qspjax.plot._trajectory import quantiles, trajectory
from qspjax.population import Row, TrialResult, summarise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY = "#6E6E6E"
_DASHES: tuple[LineStyle, ...] = ("solid", (0, (6, 1.5)), (0, (2.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
_MOST_DOSE_MARKS = 60
_KEY = "Lines: median of patients. Bands: 5th to 95th percentile of patients."
_KEY_OF_DOSES = " Triangles: doses."
_KEY_OF_LINES = " Thin black dashes: thresholds."
_KEY_OF_BARS = " Whiskers: 95 % confidence interval of the share."
_HOURS = (6, 12, 24, 48, 72, 168, 336, 672)
"""Distances of ticks in hours: parts of a day, days and weeks."""
_CHARACTERS_PER_INCH = 15
"""The number of characters of the key that fit into an inch."""


@dataclasses.dataclass(frozen=True)
class Panel:
    """A panel of the plot.

    Attributes:
        output: The name of the observed value.
        label: The label of the axis; by default the name.
        log: Whether the axis is logarithmic, if any value is positive.
        lines: Thresholds to draw, in the unit of the output.

    Example:
        >>> Panel("concentration", label="drug", log=True).output
        'concentration'
    """

    output: str
    label: str | None = None
    log: bool = False
    lines: Sequence[float] = ()


class Band(TypedDict):
    """The numbers that are drawn of an arm and an output at one time."""

    arm: str
    output: str
    time: float
    p5: float
    median: float
    p95: float


def trial(result: TrialResult, *, panels: Sequence[Panel | str] | None = None, title: str | None = None) -> "Figure":
    """Draw a trial: the median and the 5th to 95th percentile of patients over time, and shares of responders.

    Names and title are plain text; a dollar sign starts no formula.

    Args:
        result: The trial.
        panels: Panels, or names of observed values, to draw over time; by default every observed value.
        title: The title of the figure.

    Returns:
        A matplotlib Figure of 8 inches by 6 for up to four panels; `figure.savefig("trial.png", dpi=200)` saves it.

    Example:
        >>> import qspjax as qsp
        >>> cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": [30.0, 60.0]})
        >>> trial = qsp.Trial([qsp.Arm("30 mg", qsp.bolus(30.0, to="central"))], [0.0, 8.0, 24.0])
        >>> figure = qsp.plot.trial(qsp.simulate_trial(trial, cohort), title="A trial")
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['concentration (mg/L)']
    """
    with require("matplotlib", extra="plot").rc_context({"text.parse_math": False}):
        return _figure(result, _panels(result, panels), title)


def _figure(result: TrialResult, panels: list[Panel], title: str | None) -> "Figure":
    responders = [row for row in summarise(result) if row.responder]
    count = len(panels) + bool(responders)
    columns = min(2 if count <= 4 else 3, max(count, 1))
    rows = max(-(-count // columns), 1)
    figure = new_figure(4.0 * columns + (1.0 if columns == 1 else 0.0), 2.75 * rows + 0.6)
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.06)
    grid = figure.add_gridspec(rows, columns)
    axes = [figure.add_subplot(grid[divmod(i, columns)]) for i in range(count)]
    doses = _doses(result)
    for ax, panel in zip(axes, panels, strict=False):
        _draw_panel(ax, panel, result, doses)
    if responders:
        _draw_responders(axes[-1], responders, styles_of(result))
    thresholds = any(len(panel.lines) for panel in panels)
    also = {_KEY_OF_DOSES: doses.size, _KEY_OF_LINES: thresholds, _KEY_OF_BARS: responders}
    key = _KEY + "".join(text for text, drawn in also.items() if drawn)
    _head(figure, result, title, textwrap.fill(key, int(_CHARACTERS_PER_INCH * figure.get_figwidth())))
    return figure


def bands(result: TrialResult, *, panels: Sequence[Panel | str] | None = None) -> list[Band]:
    """Return the numbers in the plot of a trial: one row per arm, output and time, with p5, median and p95.

    Example:
        >>> import qspjax as qsp
        >>> cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": [30.0, 60.0]})
        >>> trial = qsp.Trial([qsp.Arm("30 mg", qsp.bolus(30.0, to="central"))], [0.0])
        >>> [row["median"] for row in qsp.plot.bands(qsp.simulate_trial(trial, cohort))]
        [0.75]
    """
    rows = []
    for panel in _panels(result, panels):
        for arm in result.arms:
            for time, low, middle, high in zip(*quantiles(arm.solution, panel.output), strict=True):
                rows.append(
                    Band(
                        arm=arm.name,
                        output=panel.output,
                        time=float(time),
                        p5=float(low),
                        median=float(middle),
                        p95=float(high),
                    )
                )
    return rows


def _panels(result: TrialResult, panels: Sequence[Panel | str] | None) -> list[Panel]:
    """Return the panels to draw: a plain one for a name, by default one for every observed value."""
    check_instance("result", result, TrialResult, "what `simulate_trial` returns")
    panels = list(result.arms[0].solution.observed) if panels is None else panels
    return [panel if isinstance(panel, Panel) else Panel(panel) for panel in panels]


def styles_of(result: TrialResult) -> dict[str, tuple[str, LineStyle]]:
    """Return the colour and the dashes of each arm."""
    untreated = [arm.name for arm in result.trial.arms if not np.isfinite(np.asarray(arm.regimen.time)).any()]
    treated = [arm.name for arm in result.trial.arms if arm.name not in untreated]
    styles: dict[str, tuple[str, LineStyle]] = {
        name: (COLOURS[i % len(COLOURS)], _DASHES[i % len(_DASHES)]) for i, name in enumerate(treated)
    }
    return styles | dict.fromkeys(untreated, (_GREY, (0, (1, 1.2))))


def _doses(result: TrialResult) -> Float[np.ndarray, " doses"]:
    """Return the times of the doses of all arms within the plot; none if they are too many to be distinguished."""
    times = np.asarray(result.trial.ts)
    doses = np.unique(np.concatenate([np.asarray(arm.regimen.time).ravel() for arm in result.trial.arms]))
    doses = doses[np.isfinite(doses) & (doses >= times.min()) & (doses <= times.max())]
    return doses if doses.size <= _MOST_DOSE_MARKS else doses[:0]


def _draw_panel(ax: "Axes", panel: Panel, result: TrialResult, doses: Float[np.ndarray, " doses"]) -> None:
    styles = styles_of(result)
    for arm in result.arms:
        colour, dashes = styles[arm.name]
        trajectory(arm.solution, panel.output, ax, colour=colour, label=arm.name, dashes=dashes)
    labels = result.arms[0].solution.labels
    ax.set_ylabel(with_unit(panel.label or panel.output, labels.unit(panel.output)))
    if panel.log and any((np.asarray(line.get_ydata()) > 0).any() for line in ax.lines):
        _logarithmic(ax)
    for line in panel.lines:
        ax.axhline(line, color="black", linewidth=0.9, linestyle=(0, (4, 3)), zorder=2)
        ax.annotate(
            f"{line:g}", (1.0, line), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points",
            va="center", fontsize=8,
        )  # fmt: skip
    _time_axis(ax, result)
    if doses.size:
        marks = {"linestyle": "none", "marker": "^", "color": "black", "markersize": 4.5 if doses.size <= 12 else 3.0}
        ax.plot(doses, 0 * doses, **marks, transform=ax.get_xaxis_transform(), clip_on=False, zorder=4)
    _plain(ax)


def _logarithmic(ax: "Axes") -> None:
    ticker = require("matplotlib.ticker", extra="plot")
    ax.set_yscale("log", nonpositive="clip")
    ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 3.0)))
    ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(ticker.NullFormatter())


def _time_axis(ax: "Axes", result: TrialResult) -> None:
    """Set the limits of the time axis, with ticks at weeks if its unit is days, at days or parts of them if hours."""
    ticker = require("matplotlib.ticker", extra="plot")
    times = np.asarray(result.trial.ts)
    first, last = float(times.min()), float(times.max())
    if first < last:
        ax.set_xlim(first, last)
    span, unit = last - first, result.arms[0].solution.labels.units.time
    if unit == "d" and 14 <= span <= 400:
        weeks = next((step for step in (7, 14, 28) if span / step <= 6), 56)
        ax.xaxis.set_major_locator(ticker.MultipleLocator(weeks))
    hours = next((step for step in _HOURS if span / step <= 7), None)
    if unit == "h" and span >= 24 and hours:
        ax.xaxis.set_major_locator(ticker.MultipleLocator(hours))


def _draw_responders(ax: "Axes", rows: list[Row], styles: dict[str, tuple[str, LineStyle]]) -> None:
    """Draw the share of responders with Wilson's 95 % interval, one group of bars per endpoint."""
    groups = list(dict.fromkeys(row.endpoint for row in rows))
    width = 0.82 / len(styles)
    arms = list(dict.fromkeys(row.arm for row in rows))
    for row in rows:
        position = groups.index(row.endpoint) + (arms.index(row.arm) - (len(arms) - 1) / 2) * width
        share, low, high = 100 * row.mean, 100 * row.mean_low, 100 * row.mean_high
        ax.bar(position, share, width * 0.9, color=styles[row.arm][0], alpha=0.85, zorder=2)
        errors = [[max(share - low, 0.0)], [max(high - share, 0.0)]]
        ax.errorbar(position, share, errors, color="black", linewidth=1, capsize=2, zorder=3)
        if np.isfinite(share):
            placement = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center", "fontsize": 8}
            ax.annotate(f"{share:.0f}", (position, high), **placement)
    ax.set_xticks(range(len(groups)), [textwrap.fill(name, 18) for name in groups])
    ax.set_ylim(0, 108)
    ax.set_yticks(range(0, 101, 25))
    ax.set_ylabel("responders (%)")
    _plain(ax)
    ax.tick_params(axis="x", length=0)


def _plain(ax: "Axes") -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#DDDDDD", linewidth=0.6, zorder=0)
    ax.set_axisbelow(True)


def _head(figure: "Figure", result: TrialResult, title: str | None, key: str) -> None:
    lines = require("matplotlib.lines", extra="plot")
    handles = [
        lines.Line2D([], [], color=colour, linestyle=dashes, linewidth=2, label=arm.name)
        for arm in result.arms
        for colour, dashes in (styles_of(result)[arm.name],)
    ]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=min(len(handles), 5),
        frameon=False,
        handlelength=2.6,
        title=title,
        title_fontproperties={"weight": "bold", "size": 12},
    )
    figure.supxlabel(key, fontsize=8, color="#333333")
