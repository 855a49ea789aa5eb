"""The plot of a noncompartmental analysis; its numbers are in `NCA.table`."""

import math
from typing import TYPE_CHECKING

import numpy as np

from qspjax._checks import check_instance, check_whole
from qspjax.plot._figures import new_figure
from qspjax.population import NCA
from qspjax.population._noncompartmental import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def nca(result: NCA, *, most: int = 16, time: str = "time after dose", value: str = "concentration") -> "Figure":
    """Draw the samples of each dose on a logarithmic scale, with the terminal slope and its samples filled.

    Args:
        result: The result of `population.nca`.
        most: The maximum number of profiles, from the first.
        time: The label of the time axis, with its unit.
        value: The label of the other axis, with its unit.

    Returns:
        A matplotlib Figure.

    Example:
        >>> import numpy as np, qspjax as qsp
        >>> time = np.array([1.0, 2.0, 4.0, 8.0])
        >>> result = qsp.population.nca({"ID": np.ones(4), "TIME": time, "DV": np.exp(-0.3 * time)})
        >>> len(qsp.plot.nca(result).axes)
        1
    """
    check_instance("result", result, NCA, "what `population.nca` returns")
    check_whole("most", most, 1)
    profiles = result.profiles[:most]
    columns = min(4, len(profiles))
    rows = -(-len(profiles) // columns)
    figure = new_figure(2.8 * columns + 0.6, 2.4 * rows + 0.5)
    axes = np.atleast_1d(figure.subplots(rows, columns, sharex=len(profiles) > 1, squeeze=False)).ravel()
    several_doses = max(result.table["DOSE"]) > 1
    for ax, (key, _, curve) in zip(axes, profiles, strict=False):
        _profile(ax, curve)
        titles = [str(key.subject), f"dose {key.dose}" if several_doses else "", str(key.kind or "")]
        ax.set_title(", ".join(filter(None, titles)), fontsize="small")
    for ax in axes[len(profiles) :]:
        ax.set_visible(False)
    figure.supxlabel(time, fontsize="medium")
    figure.supylabel(value, fontsize="medium")
    return figure


def _profile(ax: "Axes", curve: Curve) -> None:
    positive = curve.value > 0
    ax.plot(curve.time[positive], curve.value[positive], color="C0", linewidth=0.8)
    sampled = positive & (np.arange(positive.size) >= curve.added)
    ax.plot(curve.time[sampled], curve.value[sampled], "o", color="C0", markersize=4, markerfacecolor="white")
    ax.set_yscale("log")
    if curve.line is None:
        return
    chosen = curve.line.chosen
    ax.plot(curve.time[chosen], curve.value[chosen], "o", color="C1", markersize=4)
    ends = np.array([curve.time[chosen][0], curve.time[chosen][-1]])
    ax.plot(ends, np.exp(curve.line.intercept - curve.line.rate * ends), color="C1", linewidth=1.2)
    half_life = math.log(2.0) / curve.line.rate
    ax.annotate(
        f"half-life {half_life:.3g}", (0.97, 0.95), xycoords="axes fraction", ha="right", va="top", fontsize="small"
    )
