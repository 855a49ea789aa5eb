"""Figures and panels; matplotlib is imported with the first one."""

from typing import TYPE_CHECKING, TypeAlias

from qspjax._extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LineStyle: TypeAlias = str | tuple[float, tuple[float, ...]]
"""A line style of matplotlib: its name, or an offset and the lengths of dashes and gaps."""


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches."""
    return require("matplotlib.figure", extra="plot").Figure(figsize=(width, height), layout="constrained")


def axes_or_new(ax: "Axes | None", width: float = 5.0, height: float = 3.5) -> "Axes":
    """Return the given axes, or those of a new figure."""
    return new_figure(width, height).add_subplot() if ax is None else ax


def panels(count: int, *, columns: int = 4) -> "tuple[list[Axes], Figure]":
    """Return the axes of a figure with a number of small panels, and the figure."""
    columns = min(count, columns)
    rows = -(-count // columns)
    figure = new_figure(2.5 * max(columns, 2), 2.0 * rows + 0.6)
    axes = [figure.add_subplot(rows, columns, k + 1) for k in range(count)]
    return axes, figure
