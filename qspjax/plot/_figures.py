"""Figures, panels and keys; matplotlib is imported with the first one."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from qspjax._extras import require

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Palette of Okabe and Ito (2008), distinguishable without colour vision; grey is for an arm without treatment."""
_CHARACTERS_PER_INCH = 16
"""The number of small characters of a key that fit into an inch."""
_CHARACTERS_OF_A_SYMBOL = 9
"""The number of characters whose width a symbol of a key has, with the gaps about it."""
_MOST_SYMBOLS = 4
"""The number of colours that a symbol of a key shows."""
_LINE_HEIGHT = 0.19
"""The height of a line of a key in inches."""

LineStyle: TypeAlias = str | tuple[float, tuple[float, ...]]
"""A line style of matplotlib: its name, or an offset and the lengths of dashes and gaps."""


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches."""
    return require("matplotlib.figure", extra="plot").Figure(figsize=(width, height), layout="constrained")


def axes_or_new(ax: "Axes | None", width: float = 5.0, height: float = 3.5) -> "Axes":
    """Return the given axes, or those of a new figure."""
    return new_figure(width, height).add_subplot() if ax is None else ax


def figure_of(axes: "Axes") -> "Figure":
    """Return the whole figure of axes."""
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes of plots are part of a figure"
    return figure


def panels(count: int, *, columns: int = 4) -> "tuple[list[Axes], Figure]":
    """Return the axes of a figure with a number of small panels, and the figure."""
    columns = min(count, columns)
    rows = -(-count // columns)
    figure = new_figure(2.5 * max(columns, 2), 2.0 * rows + 0.6)
    axes = [figure.add_subplot(rows, columns, k + 1) for k in range(count)]
    return axes, figure


def draw_key(
    axes: "Sequence[Axes]",
    figure: "Figure | None",
    *,
    place: Literal["outside upper center", "outside lower center"] = "outside upper center",
) -> None:
    """Draw the key of axes: one entry per label, with the colours in which it is drawn; those of several come last.

    Args:
        axes: The axes.
        figure: The figure that becomes higher to hold the key beside its axes; with None it is in the first axes.
        place: The side of the figure.
    """
    entries: dict[str, dict[str, Artist]] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, {}).setdefault(_look(handle), handle)
    if not entries:
        return
    entries = dict(sorted(entries.items(), key=lambda entry: len(entry[1]) > 1))
    symbols = [[*looks.values()][:_MOST_SYMBOLS] for looks in entries.values()]
    handles: list = [tuple(some) if len(some) > 1 else some[0] for some in symbols]
    side_by_side = {tuple: require("matplotlib.legend_handler", extra="plot").HandlerTuple(ndivide=None)}
    if figure is None:
        axes[0].legend(handles, [*entries], fontsize="small", handler_map=side_by_side)
        return
    width = int(_CHARACTERS_PER_INCH * figure.get_figwidth())
    labels = [textwrap.fill(label, max(width - _CHARACTERS_OF_A_SYMBOL, 10)) for label in entries]
    longest = max(len(line) for label in labels for line in label.splitlines())
    columns = min(max(width // (longest + _CHARACTERS_OF_A_SYMBOL), 1), len(labels))
    lines = -(-len(labels) // columns) + sum(label.count("\n") for label in labels)
    figure.set_figheight(figure.get_figheight() + _LINE_HEIGHT * lines)
    style = {"ncols": columns, "frameon": False, "fontsize": "small", "handler_map": side_by_side}
    figure.legend(handles, labels, loc=place, **style)


def _look(handle: "Artist") -> str:
    """Return the colour of a line or a band, as text; empty for other things."""
    artist = require("matplotlib.artist", extra="plot")
    if isinstance(handle, require("matplotlib.lines", extra="plot").Line2D):
        return str(artist.getp(handle, "color"))
    if isinstance(handle, require("matplotlib.collections", extra="plot").PolyCollection):
        return str(artist.getp(handle, "facecolor"))
    return ""


def whole_numbers(ax: "Axes") -> None:
    """Put the ticks of the horizontal axis at whole numbers."""
    ax.xaxis.set_major_locator(require("matplotlib.ticker", extra="plot").MaxNLocator(integer=True))
