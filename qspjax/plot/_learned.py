"""What a network learned, against what is known."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from qspjax._checks import check_instance, refuse
from qspjax._types import ArrayInput
from qspjax.plot._figures import axes_or_new, new_figure
from qspjax.plot._labels import with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_MARKS = 200
"""The largest number of marks at the bottom; more values are shown by their quantiles."""


def learned_rate(
    table: Mapping[str, ArrayInput],
    ax: "Axes | None" = None,
    *,
    support: ArrayInput | None = None,
    truth: ArrayInput | None = None,
    label: str = "learned rate",
    unit: str = "",
    logarithmic: bool = False,
) -> "Axes":
    """Draw a learned rate against one of its inputs, with its band, and shade where there were data.

    The numbers are in `table`.

    Args:
        table: What `models.learned_curve` returns: the input by its name, `rate`, and `low` and `high` of a band.
        ax: The axes to draw on; by default those of a new figure.
        support: Values of the input that the data visited, shape (values,): their range is shaded, with marks at the
            bottom, 200 at most. Outside it the term is extrapolated.
        truth: The true rate at the values of the input, where it is known.
        label: The label of the rate, with its unit.
        unit: The unit of the input.
        logarithmic: Whether the input has a logarithmic axis.

    Raises:
        ValueError: If a column is missing, or one has another length.

    Example:
        >>> import jax
        >>> import qspjax as qsp
        >>> draws = [qsp.models.NeuralRate.mlp(["drug"], key=jax.random.key(i)) for i in range(5)]
        >>> table = qsp.models.learned_curve(draws, {"drug": [0.0, 1.0, 2.0]})
        >>> learned_rate(table, support=[0.2, 1.1], unit="mg/L").get_xlabel()
        'drug (mg/L)'
    """
    check_instance("table", table, Mapping, "what `models.learned_curve` returns")
    name = next((name for name in table if name not in ("rate", "low", "high")), None)
    if name is None or "rate" not in table:
        refuse("table", "have an input and `rate`, as `models.learned_curve` returns them", f"one of {[*table]}")
    columns = {key: np.asarray(column, float) for key, column in table.items()}
    columns |= {} if truth is None else {"truth": np.asarray(truth, float)}
    x = columns[name]
    for key, column in columns.items():
        if column.shape != x.shape:
            refuse(key, f"have {x.size} values, one for each of `{name}`", f"of shape {column.shape}")
    axes = axes_or_new(ax)
    if support is not None:
        _shade(axes, np.asarray(support, float).ravel())
    if "low" in columns and "high" in columns:
        axes.fill_between(x, columns["low"], columns["high"], color="C0", alpha=0.25, linewidth=0.0)
    axes.plot(x, columns["rate"], color="C0", label="learned")
    if truth is not None:
        axes.plot(x, columns["truth"], color="0.2", linestyle="--", label="truth")
    if logarithmic:
        axes.set_xscale("log")
    axes.set_xlim(x.min(), x.max())
    axes.set_xlabel(with_unit(name, unit))
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    return axes


def learned_rates(curves: Mapping[tuple[str, str], Mapping[str, ArrayInput]]) -> "Figure":
    """Draw what several networks learned, each against each of its inputs.

    Args:
        curves: By the names of a network and of one of its inputs, what `models.learned_curve` returns.

    Example:
        >>> import jax
        >>> import qspjax as qsp
        >>> rate = qsp.models.NeuralRate.mlp(["drug"], key=jax.random.key(0))
        >>> table = qsp.models.learned_curve(rate, {"drug": [0.0, 1.0, 2.0]})
        >>> len(learned_rates({("uptake", "drug"): table}).axes)
        1
    """
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure = new_figure(4.0 * columns, 3.2 * rows)
    for number, ((network, _), table) in enumerate(curves.items(), start=1):
        learned_rate(table, figure.add_subplot(rows, columns, number), label=network)
    return figure


def _shade(axes: "Axes", seen: np.ndarray) -> None:
    """Shade the range of values, and mark them at the bottom."""
    axes.axvspan(seen.min(), seen.max(), color="0.93", linewidth=0.0, zorder=0, label="data")
    marks = np.quantile(seen, np.linspace(0.0, 1.0, min(seen.size, MOST_MARKS)))
    below = axes.get_xaxis_transform()
    axes.plot(marks, np.zeros(marks.size), "|", color="0.4", markersize=8, markeredgewidth=0.6, transform=below)
