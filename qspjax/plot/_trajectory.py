"""One output over time: a line for a patient, a median and a band for a cohort."""

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from jaxtyping import Real

from qspjax._checks import check_instance, check_one_of
from qspjax._solution import Solution
from qspjax.plot._figures import LineStyle, axes_or_new
from qspjax.plot._labels import with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Times: TypeAlias = Real[np.ndarray, " times"]


def trajectory(
    solution: Solution,
    output: str,
    ax: "Axes | None" = None,
    *,
    colour: str | None = None,
    label: str | None = None,
    dashes: LineStyle = "solid",
) -> "Axes":
    """Draw an observed value over time.

    A cohort is drawn as the median of its patients with a band from the 5th to the 95th percentile, without those that
    failed. Patients must share their times.

    Args:
        solution: The solution of one patient or of a cohort.
        output: The name of the observed value.
        ax: The axes to draw on; by default those of a new figure.
        colour: The colour of the line and the band; by default the next one of the axes.
        label: The label in the legend.
        dashes: A line style of matplotlib.

    Returns:
        The axes, with units on their labels.

    Raises:
        ValueError: If the solution has no such output, or patients have different times.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2)
        >>> solution = qsp.simulate(patient, qsp.bolus(200.0, to="depot"), [0.0, 1.0, 2.0, 4.0, 8.0])
        >>> qsp.plot.trajectory(solution, "concentration").get_ylabel()
        'concentration (mg/L)'
    """
    check_instance("solution", solution, Solution, "a solution of one patient or of a cohort")
    axes = axes_or_new(ax, 6.4, 4.8)
    times, low, middle, high = quantiles(solution, output)
    style = {"linestyle": dashes, "linewidth": 1.8, "solid_capstyle": "round", "marker": "o" if times.size == 1 else ""}
    (line,) = axes.plot(times, middle, color=colour, label=label, zorder=3, **style)
    line_colour = line.get_color()
    if solution.result_ndim():
        axes.fill_between(times, low, high, color=line_colour, alpha=0.13, linewidth=0, zorder=1)
        for edge in (low, high):
            axes.plot(times, edge, color=line_colour, alpha=0.55, linestyle=dashes, linewidth=0.6, zorder=2)
    axes.set_xlabel(with_unit("time", solution.labels.units.time))
    axes.set_ylabel(with_unit(output, solution.labels.unit(output)))
    return axes


def quantiles(solution: Solution, output: str) -> tuple[Times, Times, Times, Times]:
    """Return the times, and the 5th, 50th and 95th percentile of the patients at each, NaN without values.

    Patients that failed are left out, and undefined values (NaN) at their times. For one patient all three are its
    values.

    Example:
        >>> import qspjax as qsp
        >>> cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": [30.0, 60.0]})
        >>> solution = qsp.simulate_cohort(cohort, qsp.bolus(30.0, to="central"), [0.0])
        >>> times, low, middle, high = qsp.plot.quantiles(solution, "concentration")
        >>> middle
        array([0.75])
    """
    check_instance("solution", solution, Solution, "a solution of one patient or of a cohort")
    check_one_of("output", output, solution.observed, "an observed value")
    if np.ndim(solution.ts) != 1:
        raise ValueError("Argument `solution` must have the same times for all patients, but has different ones.")
    times, values = np.asarray(solution.ts), np.asarray(solution.observed[output])
    if not solution.result_ndim():
        return times, values, values, values
    values = values[~np.asarray(solution.failed)]
    has_values = ~np.isnan(values).all(axis=0)
    percentiles = np.full((3, times.size), np.nan)
    if has_values.any():
        percentiles[:, has_values] = np.nanpercentile(values[:, has_values], [5, 50, 95], axis=0)
    low, middle, high = percentiles
    return times, low, middle, high
