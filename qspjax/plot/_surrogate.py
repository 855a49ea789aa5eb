"""Plots of surrogates; the table of each is its argument."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from qspjax.plot._figures import axes_or_new, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_BARS = 400
"""The maximum number of intervals in a panel."""


def surrogate(table: Mapping[str, np.ndarray], *, most: int = 12) -> "Figure":
    """Plot predictions of a surrogate against simulations, with intervals; titles say how many of them hold.

    Intervals that do not hold the simulation have another colour; of many points, some are drawn.

    Args:
        table: The result of `Surrogate.compared`.
        most: The maximum number of panels, one an output.

    Example:
        >>> rows = {"OUTPUT": ["AUC"] * 2, "SIMULATED": [1.0, 2.0], "PREDICTED": [1.1, 1.5], "LOWER": [0.9, 1.3]}
        >>> rows |= {"UPPER": [1.3, 1.7], "INSIDE": [True, False], "LEVEL": [0.9, 0.9]}
        >>> figure = surrogate({name: np.array(column) for name, column in rows.items()})
        >>> [axes.get_title() for axes in figure.axes]
        ['AUC\\n50 % within 90 %']
    """
    names = list(dict.fromkeys(table["OUTPUT"]))[:most]
    axes, figure = panels(len(names))
    for ax, name in zip(axes, names, strict=False):
        rows = {key: column[table["OUTPUT"] == name] for key, column in table.items()}
        inside, level = rows["INSIDE"], float(rows["LEVEL"][0])
        for which, colour in ((inside, "C0"), (~inside, "C1")):
            some = np.flatnonzero(which)
            some = some[:: max(-(-len(inside) // _MOST_BARS), 1)]
            simulated, predicted = rows["SIMULATED"][some], rows["PREDICTED"][some]
            reach = [predicted - rows["LOWER"][some], rows["UPPER"][some] - predicted]
            style = {"fmt": ".", "markersize": 2.5, "linewidth": 0.6, "color": colour, "alpha": 0.7}
            ax.errorbar(simulated, predicted, np.maximum(reach, 0.0), **style)
        ends = [rows["SIMULATED"].min(), rows["SIMULATED"].max()]
        ax.plot(ends, ends, color="0.3", linewidth=0.8, zorder=0)
        if ends[0] > 0.0 and ends[1] > 20.0 * ends[0]:
            ax.set_xscale("log")
            ax.set_yscale("log")
            ax.set_ylim(0.5 * ends[0], 2.0 * ends[1])
        ax.set_title(f"{name}\n{100.0 * inside.mean():.0f} % within {100.0 * level:.0f} %", fontsize="small")
        ax.tick_params(labelsize="small")
    figure.supxlabel("simulated", fontsize="small")
    figure.supylabel("predicted", fontsize="small")
    return figure


def learning_curve(table: Mapping[str, np.ndarray], *, most: int = 8, ax: "Axes | None" = None) -> "Axes":
    """Plot how the errors of a surrogate fell with the number of simulations.

    Args:
        table: The result of `Surrogate.learning_curve`.
        most: The maximum number of outputs: those with the greatest errors at the end.
        ax: Where to plot; by default a new figure.

    Example:
        >>> table = {"SIMULATIONS": [32, 64], "OUTPUT": ["AUC", "AUC"], "ERROR": [0.1, 0.02]}
        >>> axes = learning_curve({name: np.array(column) for name, column in table.items()})
        >>> axes.get_yscale(), axes.get_legend_handles_labels()[1]
        ('log', ['AUC'])
    """
    ax = axes_or_new(ax)
    names = list(dict.fromkeys(table["OUTPUT"]))
    last = {name: table["ERROR"][table["OUTPUT"] == name][-1] for name in names}
    for name in sorted(names, key=lambda name: -last[name])[:most]:
        rows = table["OUTPUT"] == name
        ax.plot(table["SIMULATIONS"][rows], table["ERROR"][rows], ".-", linewidth=1.0, label=name)
    ax.set_yscale("log")
    ax.set_xlabel("simulations")
    ax.set_ylabel("error, in parts of the output's spread")
    ax.legend(fontsize="small")
    return ax
