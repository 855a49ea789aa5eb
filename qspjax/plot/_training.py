"""Plots of a training: its course, and its errors inside and outside the doses that it knew."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from qspjax._checks import check_instance
from qspjax.fit import Fit
from qspjax.plot._figures import COLOURS, axes_or_new, new_figure, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def training(fit: Fit, *, start: int = 0) -> "Figure":
    """Draw the course of a training by `Descent`: the losses, and the gradients of both groups.

    The vertical line is at the point that was chosen because held-out subjects were predicted best there.

    Args:
        fit: What `estimate` returned; the numbers of the picture are `fit.course(start)`.
        start: The number of the start in the order of `points`.

    Raises:
        ValueError: If the method was another one.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Descent, Experiment, Free, Measurements, Output, Problem, estimate
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="c")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=2.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(2.0)},
        ... )
        >>> figure = qsp.plot.training(estimate(problem, method=Descent(max_steps=20)))
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['-log likelihood a measurement', 'norm of the gradient']
    """
    check_instance("fit", fit, Fit, "what `estimate` returns")
    course = {name: column[:-1] for name, column in fit.course(start).items()}  # the last one evaluates the answer
    figure = new_figure(8.6, 3.4)
    losses, slopes = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    step, held = course["step"], course["held_out"]
    losses.plot(step, course["training"], color=COLOURS[0], linewidth=1.0, label="training")
    seen = np.isfinite(held) & (held != 0.0)
    if seen.any():
        losses.plot(step[seen], held[seen], color=COLOURS[1], linewidth=1.4, label="held out")
        losses.axvline(step[seen][np.argmin(held[seen])], color="0.6", linewidth=0.8, linestyle="--")
    losses.set_yscale("symlog", linthresh=1.0)
    losses.set_ylabel("-log likelihood a measurement")
    losses.legend(fontsize="small", frameon=False)
    for name, colour, label in (("mechanism", COLOURS[2], "mechanism"), ("networks", COLOURS[3], "networks")):
        size = course[f"{name}_slope"]
        if (size > 0.0).any():
            slopes.plot(step[size > 0.0], size[size > 0.0], color=colour, linewidth=1.0, label=label)
    slopes.set_yscale("log")
    slopes.set_ylabel("norm of the gradient")
    slopes.legend(fontsize="small", frameon=False)
    for axes in (losses, slopes):
        axes.set_xlabel("step")
        whole_numbers(axes)
    return figure


def extrapolation(table: Mapping[str, np.ndarray], ax: "Axes | None" = None) -> "Axes":
    """Draw the errors of predictions over doses; those that the training knew are shaded.

    Args:
        table: The result of `fit.extrapolation`.
        ax: The axes to draw on; by default those of a new figure.

    Example:
        >>> import numpy as np
        >>> columns = {"DOSE": [1.0, 10.0, 100.0], "OUTSIDE": [True, False, True], "ERROR": [0.3, 0.1, 0.2]}
        >>> table = {name: np.array(values) for name, values in columns.items()}
        >>> extrapolation(table | {"OUTPUT": np.array(["drug"] * 3)}).get_xlabel()
        'dose'
    """
    axes = axes_or_new(ax, 5.0, 3.4)
    dose, inside = table["DOSE"], ~table["OUTSIDE"].astype(bool)
    if inside.any():
        axes.axvspan(dose[inside].min(), dose[inside].max(), color="0.92", linewidth=0.0, label="doses of the training")
    for number, name in enumerate(dict.fromkeys(table["OUTPUT"])):
        mine, colour = table["OUTPUT"] == name, COLOURS[number % len(COLOURS)]
        distinct = np.unique(dose[mine])
        middle = [100.0 * np.nanmedian(table["ERROR"][mine & (dose == d)]) for d in distinct]
        axes.plot(dose[mine], 100.0 * table["ERROR"][mine], "o", color=colour, markersize=3.5, alpha=0.5)
        axes.plot(distinct, middle, color=colour, linewidth=1.4, label=str(name))
    if (dose > 0.0).all():
        axes.set_xscale("log")
        every = np.unique(dose)
        axes.set_xticks(every, [f"{d:g}" for d in every])
        axes.minorticks_off()
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("dose")
    axes.set_ylabel("median error (%)")
    axes.legend(fontsize="small", frameon=False)
    return axes
