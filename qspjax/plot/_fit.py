"""Plots of a calibration; the numbers of each are in a table of its argument, such as `fit.to_dataframe()`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from jaxtyping import Array, Float

from qspjax._checks import check_instance
from qspjax.fit import Fit, Problem, Profile, Uncertainty
from qspjax.plot._figures import axes_or_new, new_figure
from qspjax.plot._labels import choice, time_label, unit_of, with_unit
from qspjax.plot._trial import styles_of
from qspjax.population import TrialResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_PANELS = 16

Point: TypeAlias = Float[Array, " parameters"] | Float[np.ndarray, " parameters"] | Sequence[float]
"""Values of the parameters, on the scale of the search."""


def waterfall(result: Fit | TrialResult, ax: "Axes | None" = None, *, endpoint: str | None = None) -> "Axes":
    """Draw a trial's patients in the order of an endpoint, or a fit's starts in the order of their log density.

    For a trial each patient is a bar, the greatest first, in the colour of the arm. For a fit, plateaus are optima that
    several starts reached.

    Args:
        result: A trial, or a fit from several starts.
        ax: The axes to draw on; by default those of a new figure.
        endpoint: The endpoint of a trial, such as the change of tumour size; by default the first.

    Raises:
        ValueError: If the trial has no such endpoint.

    Example:
        >>> import jax, qspjax as qsp
        >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> cohort = qsp.Population(patient, between={"V": qsp.LogNormal(cv=0.3)}).sample(key=jax.random.key(0), size=9)
        >>> arms = [qsp.Arm("100 mg", qsp.bolus(100.0, to="central"))]
        >>> trial = qsp.Trial(arms, [0.0, 8.0], endpoints={"peak": qsp.endpoints.Value("concentration", at=0.0)})
        >>> len(qsp.plot.waterfall(qsp.simulate_trial(trial, cohort), endpoint="peak").patches)
        9
    """
    check_instance("result", result, (Fit, TrialResult), "a fit or the result of a trial")
    axes = axes_or_new(ax)
    if isinstance(result, TrialResult):
        return _patients(result, axes, endpoint)
    fit = result
    finite = np.isfinite(fit.values)
    difference = fit.values[0] - fit.values[finite]
    axes.semilogy(np.arange(1, difference.size + 1), difference + 1e-3, "o-", markersize=3.5, linewidth=0.8, color="C0")
    axes.axhline(0.1, color="0.6", linewidth=0.8, linestyle="--")
    axes.set_xlabel("start, the best first")
    axes.set_ylabel("log density below the best, + 0.001")
    axes.set_title(f"{fit.reached()} of {len(fit.values)} starts within 0.1 of the best", fontsize="medium")
    return axes


def _patients(result: TrialResult, axes: "Axes", endpoint: str | None) -> "Axes":
    """Draw one bar per patient."""
    names = result.trial.endpoint_names
    endpoint = choice("endpoint", endpoint, names, "an endpoint of the trial")
    styles = styles_of(result)
    values = np.concatenate([np.asarray(arm.endpoints[endpoint]) for arm in result.arms])
    arms = np.repeat([arm.name for arm in result.arms], [arm.members.size for arm in result.arms])
    order = np.argsort(-values, kind="stable")
    order = order[np.isfinite(values[order])]
    position = np.arange(1, order.size + 1)
    for arm in result.arms:
        in_arm = arms[order] == arm.name
        axes.bar(position[in_arm], values[order][in_arm], width=0.9, color=styles[arm.name][0], label=arm.name)
    axes.axhline(0.0, color="0.4", linewidth=0.8)
    if order.size < values.size:
        axes.set_title(f"{values.size - order.size} patients have no value", fontsize="small")
    if len(result.arms) > 1:
        axes.legend(fontsize="small", frameon=False)
    axes.set_xlabel("patient, the greatest first")
    axes.set_ylabel(endpoint)
    return axes


def parameter_agreement(fit: Fit, ax: "Axes | None" = None, *, best: int = 20) -> "Axes":
    """Draw where the best starts ended, each parameter between its bounds.

    Args:
        fit: A fit from several starts.
        ax: The axes to draw on; by default those of a new figure.
        best: The number of starts.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem, estimate
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="c")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=2.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(2.0, bounds=(0.5, 10.0))},
        ... )
        >>> [label.get_text() for label in parameter_agreement(estimate(problem)).get_yticklabels()]
        ['CL']
    """
    names = fit.problem.names
    axes = axes_or_new(ax, 6.0, max(2.0, 0.22 * len(names) + 1.0))
    lower, upper = _edges(fit)
    rows = np.arange(len(names))
    count = min(best, int(np.isfinite(fit.values).sum()))
    for k in range(count - 1, -1, -1):
        closeness = np.exp(-max(fit.values[0] - fit.values[k], 0.0))
        colour = (0.12, 0.47, 0.71, 0.15 + 0.85 * closeness)
        axes.plot((fit.points[k] - lower) / (upper - lower), rows, "-o", color=colour, markersize=3, linewidth=0.7)
    if fit.problem.reference:
        point = np.asarray(fit.problem.point(fit.problem.reference))
        axes.plot((point - lower) / (upper - lower), rows, "x", color="C3", markersize=5, label="reference")
        axes.legend(loc="best", fontsize="small")
    axes.set_yticks(rows, names, fontsize="small")
    axes.invert_yaxis()
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel("between the bounds, on the scale of the search")
    return axes


def _edges(fit: Fit) -> tuple[Float[np.ndarray, " parameters"], Float[np.ndarray, " parameters"]]:
    """Return the bounds of the parameters, or where there is none, an edge beyond the ends of the starts."""
    lower, upper = (np.asarray(edge, float) for edge in fit.problem.bounds)
    points = fit.points[np.isfinite(fit.values)]
    low, high = points.min(axis=0) - 1.0, points.max(axis=0) + 1.0
    return np.where(np.isfinite(lower), lower, low), np.where(np.isfinite(upper), upper, high)


def optimiser_history(fit: Fit, ax: "Axes | None" = None) -> "Axes":
    """Draw how the log density of each start rose, step by step.

    Args:
        fit: The result of `estimate`.
        ax: The axes to draw on; by default those of a new figure.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem, estimate
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="c")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=2.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(2.0, bounds=(0.5, 10.0))},
        ... )
        >>> optimiser_history(estimate(problem)).get_xlabel()
        'step'
    """
    axes = axes_or_new(ax)
    top = fit.values[0]
    for row in fit.history[::-1]:
        finite = np.isfinite(row)
        if finite.any():
            axes.semilogy(np.flatnonzero(finite) + 1, top - row[finite] + 1e-3, color="C0", alpha=0.4, linewidth=0.8)
    axes.set_xlabel("step")
    axes.set_ylabel("log density below the best, + 0.001")
    return axes


def observed_vs_predicted(problem: Problem, x: Point, ax: "Axes | None" = None) -> "Axes":
    """Draw every measurement against its prediction; the table is `problem.table(x)`.

    Args:
        problem: The problem.
        x: The point, on the scale of the search.
        ax: The axes to draw on; by default those of a new figure.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="c")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=2.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(2.0, bounds=(0.5, 10.0))},
        ... )
        >>> observed_vs_predicted(problem, problem.start).get_xlabel()
        'predicted'
    """
    axes = axes_or_new(ax)
    table = problem.table(x)
    _by_output(axes, table, "prediction", "observed")
    values = np.concatenate([table["prediction"], table["observed"]])
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0 and values.max() > 30 * values.min():
        axes.set_xscale("log")
        axes.set_yscale("log")
    if values.size:
        axes.axline((values.min(), values.min()), (values.max(), values.max()), color="0.5", linewidth=0.8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("observed")
    return axes


def residuals(problem: Problem, x: Point, ax: "Axes | None" = None) -> "Axes":
    """Draw standardised residuals over time; the table is `problem.table(x)`.

    Args:
        problem: The problem.
        x: The point, on the scale of the search.
        ax: The axes to draw on; by default those of a new figure.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="c")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=2.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(2.0, bounds=(0.5, 10.0))},
        ... )
        >>> residuals(problem, problem.start).get_xlabel()
        'time (h)'
    """
    axes = axes_or_new(ax)
    _by_output(axes, problem.table(x), "time", "residual")
    for level, style in ((0.0, "-"), (-1.96, "--"), (1.96, "--")):
        axes.axhline(level, color="0.5", linewidth=0.8, linestyle=style)
    axes.set_xlabel(time_label(problem.model))
    axes.set_ylabel("standardised residual")
    return axes


def _by_output(axes: "Axes", table: Mapping[str, np.ndarray], x: str, y: str) -> None:
    outputs = list(dict.fromkeys(table["output"]))
    for number, output in enumerate(outputs):
        rows = (table["output"] == output) & ~table["censored"]
        label = output if len(outputs) <= 8 else None
        axes.plot(table[x][rows], table[y][rows], ".", color=f"C{number % 10}", markersize=4, label=label)
    if 1 < len(outputs) <= 8:
        axes.legend(fontsize="small")


def fits(
    problem: Problem, x: Point, *, uncertainty: Uncertainty | None = None, experiments: Sequence[str] | None = None
) -> "Figure":
    """Draw data and predicted curves, one panel per output, one colour per experiment.

    Args:
        problem: The problem.
        x: The point, on the scale of the search.
        uncertainty: The uncertainty there, for 95 % bands of the predictions.
        experiments: The experiments; by default the first ten.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="c")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=2.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(2.0, bounds=(0.5, 10.0))},
        ... )
        >>> [axes.get_ylabel() for axes in fits(problem, problem.start).axes]
        ['c (mg/L)']
    """
    table, curves = problem.table(x), problem.curves(x) if uncertainty is None else uncertainty.curves()
    chosen = list(problem.experiments)[:10] if experiments is None else list(experiments)
    outputs = list(dict.fromkeys(table["output"]))[:_MOST_PANELS]
    columns = min(3, len(outputs))
    rows = -(-len(outputs) // columns)
    figure = new_figure(4.0 * columns + 1.0, 2.8 * rows + 0.3)
    for number, output in enumerate(outputs, start=1):
        axes = figure.add_subplot(rows, columns, number)
        for k, experiment in enumerate(chosen):
            colour = f"C{k % 10}"
            if uncertainty is not None:
                mask = (curves["output"] == output) & (curves["experiment"] == experiment)
                time, low, high = (curves[name][mask] for name in ("time", "lower", "upper"))
                finite = np.isfinite(low) & np.isfinite(high)
                axes.fill_between(time, low, high, where=finite, color=colour, alpha=0.2, linewidth=0)
            for source, style, up in ((curves, "-", "prediction"), (table, ".", "observed")):
                mask = (source["output"] == output) & (source["experiment"] == experiment)
                axes.plot(source["time"][mask], source[up][mask], style, color=colour, markersize=5, linewidth=1.2)
        axes.set_title(output, fontsize="medium")
        axes.set_xlabel(time_label(problem.model))
        axes.set_ylabel(with_unit(output, unit_of(output, problem)))
    return figure


def profile(profiles: Mapping[str, Profile]) -> "Figure":
    """Draw profile likelihoods with their confidence thresholds, one panel per parameter.

    Args:
        profiles: The result of `fit.profiles`.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem, profiles
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="c")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=2.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(2.0, bounds=(0.5, 10.0))},
        ... )
        >>> [axes.get_title() for axes in profile(profiles(problem, [2.98], max_points=4)).axes]
        ['CL: not identifiable']
    """
    curves = list(profiles.values())
    columns = min(4, max(len(curves), 1))
    rows = max(-(-len(curves) // columns), 1)
    figure = new_figure(2.9 * columns + 0.3, 2.4 * rows + 0.3)
    for number, curve in enumerate(curves, start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.plot(curve.values, curve.log_density, "o-", markersize=2.5, linewidth=1.0, color="C0")
        axes.axhline(curve.threshold, color="C3", linewidth=0.8, linestyle="--")
        for edge in curve.interval:
            if np.isfinite(edge):
                axes.axvline(edge, color="0.6", linewidth=0.8)
        if curve.values.min() > 0 and curve.values.max() > 20 * curve.values.min():
            axes.set_xscale("log")
        axes.set_title(curve.name if curve.identifiable else f"{curve.name}: not identifiable", fontsize="small")
    figure.supylabel("log density", fontsize="small")
    return figure


def diagnostics(fit: Fit) -> "Figure":
    """Draw a calibration on one page: data against predictions, residuals, starts, parameters and progress.

    Args:
        fit: The result of `estimate`.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem, estimate
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="c")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=2.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(2.0, bounds=(0.5, 10.0))},
        ... )
        >>> figure = diagnostics(estimate(problem))
        >>> len(figure.axes)
        5
    """
    height = max(4.0, 0.22 * len(fit.problem.names) + 1.5)
    figure = new_figure(12.0, 4.0 + height)
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(4.0, height))[:, 0]
    first, second = upper.subplots(1, 2)
    observed_vs_predicted(fit.problem, fit.x, first)
    residuals(fit.problem, fit.x, second)
    axes = lower.subplots(1, 3)
    waterfall(fit, axes[0])
    optimiser_history(fit, axes[1])
    parameter_agreement(fit, axes[2])
    return figure
