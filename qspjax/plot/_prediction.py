"""The prediction of a fit for a new regimen: a median and a band."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from qspjax.plot._figures import axes_or_new
from qspjax.plot._labels import choice, with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def prediction(
    table: Mapping[str, np.ndarray],
    ax: "Axes | None" = None,
    *,
    output: str | None = None,
    colour: str | None = None,
    label: str | None = None,
) -> "Axes":
    """Draw the median of patients over time, and the band that holds a share of them.

    Args:
        table: The result of `predict` of a fit.
        ax: The axes to draw on; by default those of a new figure.
        output: The output; by default the first.
        colour: The colour of the line and the band; by default the next one of the axes.
        label: The label in the legend.

    Raises:
        ValueError: If the output is not in the table.

    Example:
        >>> import numpy as np
        >>> columns = {"TIME": [0.0, 1.0], "LOWER": [0.0, 3.0], "MEDIAN": [0.0, 4.0], "UPPER": [0.0, 6.0]}
        >>> table = {name: np.array(values) for name, values in columns.items()}
        >>> prediction(table | {"OUTPUT": np.array(["drug", "drug"])}).get_ylabel()
        'drug'
    """
    names = list(dict.fromkeys(table["OUTPUT"]))
    output = choice("output", output, names, "an output of the table")
    axes, rows = axes_or_new(ax, 5.0, 3.4), table["OUTPUT"] == output
    time, low, middle, high = (table[name][rows] for name in ("TIME", "LOWER", "MEDIAN", "UPPER"))
    (line,) = axes.plot(time, middle, color=colour, label=label, linewidth=1.8)
    axes.fill_between(time, low, high, color=line.get_color(), alpha=0.25, linewidth=0.0)
    units = {name: table[name][rows][0] if name in table else "" for name in ("TIME_UNIT", "UNIT")}
    axes.set_xlabel(with_unit("time", units["TIME_UNIT"]))
    axes.set_ylabel(with_unit(output, units["UNIT"]))
    return axes
