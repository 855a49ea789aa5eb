"""Plots of a calibration; the numbers of each are in a table of its argument, such as `fit.to_dataframe()`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from jaxtyping import Array, Float

from qspjax import _names
from qspjax._checks import ArgumentError, check_instance, check_one_of
from qspjax.fit import Fit, Problem, Profile, Uncertainty
from qspjax.plot._figures import COLOURS, axes_or_new, draw_key, new_figure, whole_numbers
from qspjax.plot._labels import choice, time_label, unit_of, unit_of_endpoint, with_unit
from qspjax.plot._trial import styles_of
from qspjax.population import TrialResult, TumourResponses
from qspjax.population.endpoints import Responder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_PANELS = 16
_OPEN = {
    (False, False): "",
    (True, False): "open below: no lower end",
    (False, True): "open above: no upper end",
    (True, True): "not identifiable",
}
"""What is said of a profile that does not fall to its threshold (below, above)."""

Point: TypeAlias = Float[Array, " parameters"] | Float[np.ndarray, " parameters"] | Sequence[float]
"""Values of the parameters, on the scale of the search."""


def waterfall(
    result: Fit | TrialResult | TumourResponses, ax: "Axes | None" = None, *, endpoint: str | None = None
) -> "Axes":
    """Draw a trial's patients in the order of an endpoint, or a fit's starts in the order of their log density.

    For tumour responses each patient is a bar down to the greatest shrinkage (or up to the least growth) until
    progression, in per cent, in the colour of the arm; dashed lines are at -30 %, a partial response, and 20 % growth.

    For a trial each patient is a bar, the greatest first, in the colour of the arm; a patient in several arms has a bar
    in each. For a fit, plateaus are optima that several starts reached.

    Args:
        result: A trial, what `population.tumour_responses` returns, or a fit from several starts.
        ax: The axes to draw on; by default those of a new figure.
        endpoint: The endpoint of a trial, such as the change of tumour size; by default the first that is a number and
            not a `Responder`.

    Raises:
        ValueError: If the trial has no such endpoint, or it is 1 for a responder and 0 for others.

    Example:
        >>> import jax, qspjax as qsp
        >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> cohort = qsp.Population(patient, between={"V": qsp.LogNormal(cv=0.3)}).sample(key=jax.random.key(0), size=9)
        >>> arms = [qsp.Arm("100 mg", qsp.bolus(100.0, to="central"))]
        >>> trial = qsp.Trial(arms, [0.0, 8.0], endpoints={"peak": qsp.endpoints.Value("concentration", at=0.0)})
        >>> len(qsp.plot.waterfall(qsp.simulate_trial(trial, cohort), endpoint="peak").patches)
        9
    """
    check_instance("result", result, (Fit, TrialResult, TumourResponses), "a fit or the result of a trial")
    axes = axes_or_new(ax)
    if isinstance(result, TumourResponses):
        return _deepest(result, axes)
    if isinstance(result, TrialResult):
        return _patients(result, axes, endpoint)
    fit = result
    finite = np.isfinite(fit.values)
    difference = fit.values[0] - fit.values[finite]
    axes.semilogy(np.arange(1, difference.size + 1), difference + 1e-3, "o-", markersize=3.5, linewidth=0.8, color="C0")
    axes.axhline(0.1, color="0.6", linewidth=0.8, linestyle="--")
    whole_numbers(axes)
    axes.set_xlabel("start, the best first")
    axes.set_ylabel("log density below the best, + 0.001")
    axes.set_title(f"{fit.reached()} of {len(fit.values)} starts within 0.1 of the best", fontsize="medium")
    return axes


def _patients(result: TrialResult, axes: "Axes", endpoint: str | None) -> "Axes":
    """Draw one bar per patient."""
    by_name = dict(zip(result.trial.endpoint_names, result.trial.endpoints, strict=True))
    numbers = [name for name, kind in by_name.items() if not isinstance(kind, Responder)]
    endpoint = choice("endpoint", endpoint, [*dict.fromkeys([*numbers, *by_name])], "an endpoint of the trial")
    if endpoint not in numbers:
        must = f"must be a number, but `{endpoint}` is 1 for a responder and 0 for others; `plot.trial` draws shares."
        raise ArgumentError("endpoint", must)
    label = with_unit(endpoint, unit_of_endpoint(by_name[endpoint], result.arms[0].solution.labels))
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
    whole_numbers(axes)
    members = np.concatenate([np.asarray(arm.members) for arm in result.arms])
    each = "patient and arm" if np.unique(members).size < members.size else "patient"
    axes.set_xlabel(f"{each}, the greatest first")
    axes.set_ylabel(label)
    return axes


def _deepest(responses: TumourResponses, axes: "Axes") -> "Axes":
    """Draw one bar per patient down to the greatest shrinkage."""
    parts = [100.0 * np.asarray(arm.assessment.deepest) for arm in responses.arms.values()]
    values, arms = np.concatenate(parts), np.repeat(np.arange(len(parts)), [part.size for part in parts])
    order = np.argsort(-values, kind="stable")
    order = order[np.isfinite(values[order])]
    for code, name in enumerate(responses.arms):
        here = arms[order] == code
        colour = COLOURS[code % len(COLOURS)]
        axes.bar(np.flatnonzero(here) + 1, values[order][here], width=0.9, color=colour, label=name)
    axes.axhline(0.0, color="0.4", linewidth=0.8)
    for bound in (-30.0, 20.0):
        axes.axhline(bound, color="0.4", linewidth=0.8, linestyle="--")
    if order.size < values.size:
        axes.set_title(f"{values.size - order.size} patients have no visit after baseline", fontsize="small")
    axes.legend(fontsize="small", frameon=False)
    axes.set_xlabel("patient, the greatest first")
    axes.set_ylabel("best change of the sum of diameters (%)")
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
    names = [*fit.problem.free]
    axes = axes_or_new(ax, 6.0, max(2.0, 0.22 * len(names) + 1.0))
    lower, upper = (edge[: len(names)] for edge in _edges(fit))
    rows = np.arange(len(names))
    count = min(best, int(np.isfinite(fit.values).sum()))
    for k in range(count - 1, -1, -1):
        closeness = np.exp(-max(fit.values[0] - fit.values[k], 0.0))
        colour = (0.12, 0.47, 0.71, 0.15 + 0.85 * closeness)
        point = fit.points[k, : len(names)]
        axes.plot((point - lower) / (upper - lower), rows, "-o", color=colour, markersize=3, linewidth=0.7)
    if fit.problem.reference:
        point = np.asarray(fit.problem.point(fit.problem.reference))[: len(names)]
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
    whole_numbers(axes)
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
        'predicted (mg/L)'
    """
    axes = axes_or_new(ax)
    table = problem.table(x)
    units = {output: unit_of(output, problem) for output in dict.fromkeys(table["output"])}
    unit = next(iter(units.values()), "") if len(set(units.values())) == 1 else ""
    _by_output(axes, table, "prediction", "observed", {} if unit else units)
    values = np.concatenate([table["prediction"], table["observed"]])
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0 and values.max() > 30 * values.min():
        axes.set_xscale("log")
        axes.set_yscale("log")
    if values.size:
        axes.axline((values.min(), values.min()), (values.max(), values.max()), color="0.5", linewidth=0.8)
    axes.set_xlabel(with_unit("predicted", unit))
    axes.set_ylabel(with_unit("observed", unit))
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


def _by_output(
    axes: "Axes", table: Mapping[str, np.ndarray], x: str, y: str, units: Mapping[str, str] | None = None
) -> None:
    """Draw one column over another, each output in its colour, and a key of few outputs, with units if given."""
    outputs = list(dict.fromkeys(table["output"]))
    for number, output in enumerate(outputs):
        rows = (table["output"] == output) & ~table["censored"]
        label = with_unit(output, (units or {}).get(output, "")) if len(outputs) <= 8 else None
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
    check_instance("problem", problem, Problem, "a problem")
    table, curves = problem.table(x), problem.curves(x) if uncertainty is None else uncertainty.curves()
    for name in experiments or ():
        check_one_of("experiments", name, problem.experiments, "an experiment of the problem")
    chosen = list(problem.experiments)[:10] if experiments is None else list(experiments)
    table["observed"] = np.concatenate(
        [np.where(r.side > 0, r.upper, np.where(r.side < 0, r.lower, r.value)) for r in problem.rows]
    )  # what is censored at its limit
    outputs = list(dict.fromkeys(table["output"]))[:_MOST_PANELS]
    columns = min(3, len(outputs))
    rows = -(-len(outputs) // columns)
    figure = new_figure(4.0 * columns + 1.0, 2.8 * rows + 0.3)
    for number, output in enumerate(outputs, start=1):
        axes = figure.add_subplot(rows, columns, number)
        for k, experiment in enumerate(chosen):
            label = experiment if len(problem.experiments) > 1 else "predicted"
            _curve(axes, _rows_of(curves, output, experiment), colour=f"C{k % 10}", label=label)
        for k, experiment in enumerate(chosen):
            _measured(axes, _rows_of(table, output, experiment), colour=f"C{k % 10}")
        axes.set_xlabel(time_label(problem.model))
        axes.set_ylabel(with_unit(output, unit_of(output, problem)))
    draw_key(figure.axes, figure)
    return figure


def _rows_of(table: Mapping[str, np.ndarray], output: str, experiment: str) -> dict[str, np.ndarray]:
    rows = (table["output"] == output) & (table["experiment"] == experiment)
    return {name: column[rows] for name, column in table.items()}


def _curve(axes: "Axes", curve: Mapping[str, np.ndarray], *, colour: str, label: str) -> None:
    """Draw the prediction of an experiment, and its band if it has one."""
    if "lower" in curve:
        low, high = curve["lower"], curve["upper"]
        finite = np.isfinite(low) & np.isfinite(high)
        band = {"where": finite, "color": colour, "alpha": 0.2, "linewidth": 0}
        axes.fill_between(curve["time"], low, high, label="95 % band of the prediction", **band)
    axes.plot(curve["time"], curve["prediction"], "-", color=colour, linewidth=1.2, label=label)


def _measured(axes: "Axes", data: Mapping[str, np.ndarray], *, colour: str) -> None:
    """Draw the measurements of an experiment, censored ones at their limits."""
    for rows, marker, what in (
        (~data["censored"], "o", "measured"),
        (data["censored"], "v", "beyond a limit, at the limit"),
    ):
        if rows.any():
            style = {"color": colour, "markersize": 3.0, "linestyle": "none"}
            axes.plot(data["time"][rows], data["observed"][rows], marker, label=what, **style)


def profile(profiles: Mapping[str, Profile]) -> "Figure":
    """Draw profile likelihoods with their confidence thresholds, one panel per parameter.

    A title says on which side a confidence interval has no end; without both, the parameter is not identifiable.

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
        >>> [axes.get_xlabel() for axes in profile(profiles(problem, [2.98], max_points=4)).axes]
        ['CL (L/h)']
    """
    check_instance("profiles", profiles, Mapping, "what `fit.profiles` returns")
    curves = list(profiles.values())
    for name, curve in profiles.items():
        check_instance(f'profiles["{name}"]', curve, Profile, "a profile")
    columns = min(4, max(len(curves), 1))
    rows = max(-(-len(curves) // columns), 1)
    figure = new_figure(2.9 * columns + 0.3, 2.5 * rows + 0.3)
    for number, curve in enumerate(curves, start=1):
        axes = figure.add_subplot(rows, columns, number)
        line = {"markersize": 2.5, "linewidth": 1.0, "color": "C0", "label": "profile"}
        axes.plot(curve.values, curve.log_density, "o-", **line)
        line = {"color": "C3", "linewidth": 0.8, "linestyle": "--", "label": "threshold of the confidence interval"}
        axes.axhline(curve.threshold, **line)
        for edge in curve.interval:
            if np.isfinite(edge):
                axes.axvline(edge, color="0.6", linewidth=0.8, label="end of the confidence interval")
        if curve.values.min() > 0 and curve.values.max() > 20 * curve.values.min():
            axes.set_xscale("log")
        axes.set_xlabel(with_unit(curve.name, _units_of(curve.problem).get(curve.name, "")), fontsize="small")
        axes.set_title(_OPEN[curve.open], fontsize="small")
    draw_key(figure.axes, figure)
    figure.supylabel("log density", fontsize="small")
    return figure


def _units_of(problem: Problem) -> dict[str, str]:
    """Return the units of the parameters of the model by name."""
    return {parameter.name: parameter.unit for parameter in _names.names(problem.model)}


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
    height = max(4.0, 0.22 * len(fit.problem.free) + 1.5)
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
