"""Plots of sensitivities; the numbers of each are in the table of its argument."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from qspjax._checks import check_instance, check_names, check_whole, refuse
from qspjax.plot._figures import axes_or_new, draw_key, new_figure
from qspjax.sensitivity import Fast, Local, Morris, Ranks, Sobol

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_WIDTH = 5.5
"""The width of a figure of one output, in inches."""


def _height(names: tuple[str, ...]) -> float:
    return max(2.2, 0.28 * len(names) + 1.0)


def _outputs_of(result: Local | Ranks | Morris | Sobol | Fast) -> int:
    """Return the number of outputs."""
    if isinstance(result, Local):
        return result.log_derivatives.shape[1]
    indices = {Ranks: "coefficients", Morris: "mu"}.get(type(result), "total")
    return getattr(result, indices).shape[1]


def _check_output(output: int, count: int) -> None:
    check_whole("output", output, 0)
    if output >= count:
        refuse("output", f"be the number of an output (0 to {count - 1})", output)


def tornado(result: Local | Ranks | Morris, ax: "Axes | None" = None, *, output: int = 0) -> "Axes":
    """Draw one bar per parameter, the longest at the top.

    Args:
        result: Local sensitivities of endpoints (their logarithmic derivatives; for outputs over time, that of the
            greatest size), rank correlations, or elementary effects (mu).
        ax: The axes to draw on; by default those of a new figure.
        output: The number of the output.

    Example:
        >>> import jax, qspjax as qsp
        >>> inputs = qsp.sensitivity.Inputs({"a": (0, 1), "b": (0, 1)})
        >>> found = qsp.sensitivity.morris(lambda x: x[:, 0] - 2 * x[:, 1], inputs, key=jax.random.key(0))
        >>> axes = qsp.plot.tornado(found)
    """
    check_instance("result", result, (Local, Ranks, Morris), "what a function of `sensitivity` returns")
    _check_output(output, _outputs_of(result))
    if isinstance(result, Local):
        names, label = result.parameters, "d ln output / d ln parameter"
        values = result.log_derivatives[:, output]
        if values.ndim > 1:
            greatest = np.nanargmax(np.abs(np.where(np.isfinite(values), values, 0.0)), axis=1)
            values = np.take_along_axis(values, greatest[:, None], axis=1)[:, 0]
    elif isinstance(result, Ranks):
        names, values, label = result.names, result.coefficients[:, output], "partial rank correlation"
    else:
        names, values, label = result.names, result.mu[:, output], "mean elementary effect"
    axes = axes_or_new(ax, _WIDTH, _height(names))
    order = np.argsort(np.abs(values))
    colours = ["C0" if values[i] >= 0 else "C3" for i in order]
    axes.barh(np.arange(len(order)), values[order], color=colours)
    axes.set_yticks(np.arange(len(order)), [names[i] for i in order], fontsize="small")
    axes.axvline(0.0, color="0.3", linewidth=0.8)
    axes.set_xlabel(label)
    return axes


def sobol(result: Sobol | Fast, ax: "Axes | None" = None, *, output: int = 0) -> "Axes":
    """Draw first-order and total indices with their confidence intervals.

    Args:
        result: The result of `sensitivity.sobol` or `sensitivity.efast`.
        ax: The axes to draw on; by default those of a new figure.
        output: The number of the output.

    Example:
        >>> import jax, qspjax as qsp
        >>> from qspjax.sensitivity import Inputs
        >>> inputs = Inputs({"a": (0.0, 1.0), "b": (0.0, 1.0)})
        >>> found = qsp.sensitivity.sobol(lambda x: x[:, 0] + 2 * x[:, 1], inputs, samples=64, key=jax.random.key(0))
        >>> axes = qsp.plot.sobol(found)
    """
    check_instance("result", result, (Sobol, Fast), "what `sensitivity.sobol` or `sensitivity.efast` returns")
    _check_output(output, _outputs_of(result))
    figure = None
    if ax is None:
        figure = new_figure(_WIDTH, _height(result.names))
        ax = figure.add_subplot()
    _indices(result, ax, output)
    if result.total.shape[1] > 1:
        ax.set_xlabel(f"share of the variance of output {output}")
    draw_key([ax], figure)
    return ax


def _indices(result: Sobol | Fast, axes: "Axes", output: int) -> None:
    """Draw the indices of one output, without a key."""
    order = np.argsort(result.total[:, output])
    rows = np.arange(len(order))
    errors = (result.total_error, result.first_error) if isinstance(result, Sobol) else (None, None)
    for offset, name, values, error in (
        (0.2, "total", result.total, errors[0]),
        (-0.2, "first order", result.first, errors[1]),
    ):
        axes.barh(rows + offset, values[order, output], 0.38, label=name)
        if error is not None:
            label = "confidence interval" if name == "first order" else None
            style = {"fmt": "none", "ecolor": "0.3", "label": label}
            axes.errorbar(values[order, output], rows + offset, xerr=error[order, output], **style)
    axes.set_yticks(rows, [result.names[i] for i in order], fontsize="small")
    axes.set_xlabel("share of the variance")


def sensitivities(
    result: Sobol | Fast | Morris | Ranks, outputs: Sequence[str], *, title: str | None = None
) -> "Figure":
    """Draw the result of a global analysis, one panel per output.

    Args:
        result: The result of a function of `sensitivity`.
        outputs: The names of the outputs.
        title: The title of the figure.

    Example:
        >>> import jax, qspjax as qsp
        >>> inputs = qsp.sensitivity.Inputs({"a": (0, 1), "b": (0, 1)})
        >>> found = qsp.sensitivity.morris(lambda x: x[:, 0] - 2 * x[:, 1], inputs, key=jax.random.key(0))
        >>> len(qsp.plot.sensitivities(found, ["AUC"]).axes)
        1
    """
    kinds = (Sobol, Fast, Morris, Ranks)
    check_instance("result", result, kinds, "what a function of `sensitivity` returns")
    outputs, count = check_names("outputs", outputs), _outputs_of(result)
    if not 0 < len(outputs) <= count:
        refuse("outputs", f"name at least one and at most all of the {count} outputs", f"of {len(outputs)} names")
    columns = min(3, len(outputs))
    rows = -(-len(outputs) // columns)
    height = max(2.4, 0.28 * len(result.names) + 1.0)
    figure = new_figure(4.6 * columns, height * rows + 0.4)
    for k, name in enumerate(outputs):
        axes = figure.add_subplot(rows, columns, k + 1)
        if isinstance(result, (Sobol, Fast)):
            _indices(result, axes, k)
        else:
            tornado(result, axes, output=k)
        axes.set_title(name, fontsize="medium")
    if isinstance(result, (Sobol, Fast)):
        draw_key(figure.axes, figure, place="outside lower center")
    if title:
        figure.suptitle(title)
    return figure
