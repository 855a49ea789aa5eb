"""Plots of a mixed-effects fit; the numbers of each are its argument."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from jaxtyping import Real

from qspjax._checks import ArgumentError, check_one_of
from qspjax.fit import AbstractApproximation, Bootstrap, MixedFit
from qspjax.plot._figures import new_figure, panels, whole_numbers
from qspjax.plot._labels import choice, fit_time_label, fit_unit, with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Table: TypeAlias = Mapping[str, np.ndarray]
"""Columns by name."""


def goodness_of_fit(table: Table, *, output: str | None = None, fit: MixedFit | None = None) -> "Figure":
    """Draw the four goodness-of-fit plots of a population fit.

    Observed against population and individual predictions, and conditional weighted residuals against time and
    population predictions, with the line of identity, or the limits between which 95 % should lie.

    Args:
        table: The result of `fit.diagnostics`.
        output: The output; by default the first.
        fit: The fit, whose model has the units of the axes; without it axes have no units.

    Raises:
        ValueError: If the output is not in the table.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> columns = ("DV", "PRED", "IPRED", "CWRES", "TIME")
        >>> table = {name: rng.uniform(1.0, 2.0, 8) for name in columns}
        >>> table |= {"OUTPUT": np.array(["conc"] * 8), "CENSORED": np.zeros(8, bool)}
        >>> len(goodness_of_fit(table).axes)
        4
    """
    names = list(dict.fromkeys(table["OUTPUT"]))
    output = choice("output", output, names, "an output of the table")
    rows = (table["OUTPUT"] == output) & ~table["CENSORED"]
    columns = {name: column[rows] for name, column in table.items()}
    unit = fit_unit(fit, output)
    labels = {
        "PRED": with_unit("population prediction, PRED", unit) if unit else "population prediction (PRED)",
        "IPRED": with_unit("individual prediction, IPRED", unit) if unit else "individual prediction (IPRED)",
        "DV": with_unit("observed, DV", unit) if unit else "observed (DV)",
        "TIME": fit_time_label(fit),
    }
    figure = new_figure(8.0, 7.0)
    axes = figure.subplots(2, 2)
    for ax, name in zip(axes[0], ("PRED", "IPRED"), strict=True):
        _cloud(ax, columns[name], columns["DV"])
        values = [columns[name], columns["DV"]]
        ends = [np.nanmin(values), np.nanmax(values)]
        ax.plot(ends, ends, color="0.4", linewidth=0.8)
        ax.set_xlabel(labels[name])
        ax.set_ylabel(labels["DV"])
    for ax, name in zip(axes[1], ("TIME", "PRED"), strict=True):
        _cloud(ax, columns[name], columns["CWRES"])
        for level, style in ((0.0, "-"), (-1.96, "--"), (1.96, "--")):
            ax.axhline(level, color="0.4", linewidth=0.8, linestyle=style)
        ax.set_xlabel(labels[name])
        ax.set_ylabel("conditional weighted residual (CWRES)")
    figure.suptitle(output, fontsize="medium")
    return figure


def random_effects(fit: MixedFit) -> "Figure":
    """Draw the random effects of all subjects, with their estimated normal density and shrinkage.

    A method that is not conditional, as `FO()`, estimates no effects of subjects; then there is the density alone, and
    `nlme(mixed, method=FOCEI(), start=fit.x, iterations=0)` finds the effects at its estimates.

    Example:
        >>> import numpy as np, qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, FOCEI, Free, Measurements, MixedModel, Output, RandomEffects
        >>> times = np.array([1.0, 4.0, 8.0])
        >>> def subject(CL):
        ...     data = Measurements(times, 10.0 * np.exp(-CL / 30.0 * times), output="c")
        ...     return Experiment(data, qsp.bolus(300.0, to="central"))
        >>> mixed = MixedModel(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
        ...     {f"{i}": subject(CL) for i, CL in enumerate([2.0, 2.5, 3.1, 3.9])},
        ...     {"c": Output("concentration", Additive(0.2))},
        ...     parameters={"tCL": Free(2.8)},
        ...     individual={"CL": "tCL * exp(eta_CL)"},
        ...     random=[RandomEffects({"eta_CL": 0.1})],
        ... )
        >>> fit = qsp.fit.nlme(mixed)  # doctest: +SKIP
        >>> x, u = np.array([1.026, -1.411]), np.array([[-1.305], [-0.435], [0.418], [1.336]])  # what it finds
        >>> each, end = np.ones(4, bool), np.array([-21.08])
        >>> fit = MixedFit(mixed, FOCEI(), x, u, np.full(4, end / 4), each, (), each, end, x[None], "converged", 1.0)
        >>> [axes.get_title() for axes in random_effects(fit).axes]
        ['shrinkage -13 % (SD)']
    """
    names = [*(effects := fit.effects())]
    estimated = not isinstance(fit.method, AbstractApproximation) or fit.method.conditional
    figure = new_figure(3.2 * min(len(names), 4), 2.8 * -(-len(names) // 4) + (0.0 if estimated else 0.6))
    for k, name in enumerate(names):
        ax = figure.add_subplot(-(-len(names) // 4), min(len(names), 4), k + 1)
        etas, omega = effects[name]
        grid = np.linspace(-3.5 * omega, 3.5 * omega, 200)
        if estimated:
            ax.hist(etas, bins="auto", density=True, color="C0", alpha=0.5)
            ax.set_title(f"shrinkage {fit.shrinkage[name][0]:.0f} % (SD)", fontsize="small")
        density = np.exp(-0.5 * (grid / omega) ** 2) / (omega * np.sqrt(2.0 * np.pi))
        ax.plot(grid, density, color="0.2", linewidth=1.0)
        ax.set_xlabel(name)
    if not estimated:
        what = f"{type(fit.method).__name__} estimates no effects of subjects, only their density."
        how = "`nlme(mixed, method=FOCEI(),\nstart=fit.x, iterations=0)` finds them."
        figure.supxlabel(f"{what}\n{how}", fontsize="x-small")
    return figure


def convergence(table: Table) -> "Figure":
    """Draw the objective and the estimates at each iteration.

    Args:
        table: The result of `MixedFit.iterations`.

    Example:
        >>> table = {"ITERATION": np.arange(3), "OBJECTIVE": np.array([9.0, 7.0, 6.5]), "CL": np.array([3.0, 2.8, 2.7])}
        >>> [axes.get_title() for axes in convergence(table).axes]
        ['objective', 'CL']
    """
    iteration = table["ITERATION"]
    names = [name for name in table if name != "ITERATION" and np.isfinite(table[name]).any()]
    axes, figure = panels(len(names))
    for ax, name in zip(axes, names, strict=False):
        style = "o-" if np.isfinite(table[name]).sum() < 50 else "-"
        ax.plot(
            iteration, table[name], style, color="C1" if name == "OBJECTIVE" else "C0", markersize=2.5, linewidth=1.0
        )
        ax.set_title("objective" if name == "OBJECTIVE" else name, fontsize="small")
        ax.set_xlabel("iteration", fontsize="small")
        whole_numbers(ax)
    return figure


def bootstrap(result: Bootstrap) -> "Figure":
    """Draw the estimates of the replicates that converged, with the estimate and the percentiles of the summary.

    Args:
        result: The result of `fit.bootstrap`; its `table` and `to_dataframe` have the numbers.

    Example:
        >>> import numpy as np, qspjax as qsp
        >>> from qspjax.fit import (
        ...     FOCEI, Additive, Experiment, Free, Measurements, MixedModel, Output, RandomEffects, Bootstrap,
        ... )
        >>> times = np.array([1.0, 4.0, 8.0])
        >>> def subject(CL):
        ...     data = Measurements(times, 10.0 * np.exp(-CL / 30.0 * times), output="c")
        ...     return Experiment(data, qsp.bolus(300.0, to="central"))
        >>> mixed = MixedModel(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
        ...     {f"{i}": subject(CL) for i, CL in enumerate([2.0, 2.5, 3.1, 3.9])},
        ...     {"c": Output("concentration", Additive(0.2))},
        ...     parameters={"tCL": Free(2.8)},
        ...     individual={"CL": "tCL * exp(eta_CL)"},
        ...     random=[RandomEffects({"eta_CL": 0.1})],
        ... )
        >>> fit = qsp.fit.nlme(mixed)  # doctest: +SKIP
        >>> x, u = np.array([1.026, -1.411]), np.array([[-1.305], [-0.435], [0.418], [1.336]])  # what it finds
        >>> each, end = np.ones(4, bool), np.array([-21.08])
        >>> fit = MixedFit(mixed, FOCEI(), x, u, np.full(4, end / 4), each, (), each, end, x[None], "converged", 1.0)
        >>> counts = np.array([[1.0, 1.0, 2.0, 0.0], [0.0, 2.0, 1.0, 1.0]])  # of each subject in each replicate
        >>> result = Bootstrap(fit, counts, np.array([fit.x - 0.1, fit.x + 0.1]), np.zeros(2), ("converged",) * 2, 1.0)
        >>> [axes.get_title() for axes in bootstrap(result).axes]
        ['tCL', 'var(eta_CL)']
    """
    table, summary = result.table(), result.to_dataframe().to_dict("records")
    axes, figure = panels(len(summary))
    for ax, row in zip(axes, summary, strict=True):
        name = str(row["name"])
        ax.hist(table[name][table["CONVERGED"]], bins="auto", color="C0", alpha=0.5)
        ax.axvline(row["estimate"], color="C1", linewidth=1.5, label="estimate")
        for percentile, style in (("2.5%", "--"), ("50%", "-"), ("97.5%", "--")):
            ax.axvline(
                row[percentile], color="0.3", linewidth=0.9, linestyle=style, label=f"{percentile} of replicates"
            )
        ax.set_title(name, fontsize="small")
    figure.supylabel("replicates", fontsize="small")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def covariates(table: Table, names: Sequence[str], *, most: int = 6) -> "Figure":
    """Draw the random effects against covariates: a trend is an effect that the model does not explain.

    Numbers are drawn with Pearson's r, categories (text, or at most five different numbers) with their means.

    Args:
        table: The result of `MixedFit.individuals`, with columns of covariates: numbers or text, shape (subjects,).
        names: The covariates.
        most: The maximum number of covariates; others are left out.

    Raises:
        ValueError: If a covariate is not in the table, or none is named.

    Example:
        >>> table = {"ETA_eta_CL": np.array([0.1, -0.2, 0.2]), "SEX": np.array(["f", "m", "f"])}
        >>> [axes.get_xlabel() for axes in covariates(table, ["SEX"]).axes]
        ['SEX']
    """
    for name in names:
        check_one_of("names", name, table, "a column of the table")
    if not names:
        raise ArgumentError("names", "must name at least one covariate, but is empty.")
    effects, names = [name for name in table if name.startswith("ETA_")], list(names)[:most]
    figure = new_figure(2.6 * max(len(names), 2), 2.3 * len(effects))
    for row, effect in zip(figure.subplots(len(effects), len(names), squeeze=False), effects, strict=True):
        for ax, name in zip(row, names, strict=True):
            x, y = np.asarray(table[name]), np.asarray(table[effect], float)
            ax.axhline(0.0, color="0.4", linewidth=0.8)
            if x.dtype.kind == "f":
                x, y = x[np.isfinite(x)], y[np.isfinite(x)]
            categories = np.unique(x.astype(str) if x.dtype.kind in "OUS" else x).tolist()
            if x.dtype.kind in "OUS" or len(categories) <= min(5, x.size // 2):
                for position, category in enumerate(categories):
                    values = y[x == category]
                    _cloud(ax, np.full(values.size, position), values)
                    ax.plot([position - 0.2, position + 0.2], [values.mean()] * 2, color="C1", linewidth=1.5)
                labels = [f"{category:g}" if isinstance(category, float) else f"{category}" for category in categories]
                ax.set_xticks(range(len(categories)), labels)
                ax.set_xlim(-0.5, len(categories) - 0.5)
            else:
                _cloud(ax, x, y)
                ax.set_title(f"r = {_pearson(x, y):.2f}", fontsize="small")
            ax.set_xlabel(name)
            ax.set_ylabel(effect.removeprefix("ETA_"))
    return figure


def individual_fits(
    table: Table,
    *,
    curves: Table | None = None,
    output: str | None = None,
    subjects: Sequence[str] | None = None,
    most: int = 16,
    fit: MixedFit | None = None,
) -> "Figure":
    """Draw the measurements of each subject, with individual and population predictions.

    Args:
        table: The result of `fit.diagnostics`.
        curves: The result of `fit.curves`, for smooth lines; without it they join the predictions of measurements.
        output: The output; by default the first.
        subjects: The subjects; by default the first ones.
        most: The maximum number of panels.
        fit: The fit, whose model has the units of the axes; without it axes have no units.

    Raises:
        ValueError: If the output or a subject is not in the table.

    Example:
        >>> columns = {"TIME": [1.0, 4.0], "DV": [9.0, 6.0], "PRED": [8.5, 5.0], "IPRED": [8.9, 6.1]}
        >>> table = {name: np.array(values) for name, values in columns.items()}
        >>> table |= {"ID": np.array(["7", "7"]), "OUTPUT": np.array(["conc", "conc"]), "CENSORED": np.zeros(2, bool)}
        >>> [axes.get_title() for axes in individual_fits(table).axes]
        ['7']
    """
    names = list(dict.fromkeys(table["OUTPUT"]))
    output = choice("output", output, names, "an output of the table")
    measured = list(dict.fromkeys(table["ID"][table["OUTPUT"] == output]))
    for name in subjects or ():
        check_one_of("subjects", name, measured, "a subject with measurements of the output")
    chosen = list(measured if subjects is None else subjects)[:most]
    axes, figure = panels(len(chosen))
    for ax, name in zip(axes, chosen, strict=False):
        source = table if curves is None else curves
        rows = (source["OUTPUT"] == output) & (source["ID"] == name)
        time, population, individual = (source[key][rows] for key in ("TIME", "PRED", "IPRED"))
        order = np.argsort(time, kind="stable")
        ax.plot(time[order], population[order], "--", color="0.5", linewidth=0.9, label="population (PRED)")
        ax.plot(time[order], individual[order], "-", color="C0", linewidth=1.1, label="individual (IPRED)")
        rows = (table["OUTPUT"] == output) & (table["ID"] == name)
        time, value, censored = (table[key][rows] for key in ("TIME", "DV", "CENSORED"))
        ax.plot(time[~censored], value[~censored], "o", color="0.15", markersize=3.0, label="observed")
        if censored.any():
            ax.plot(time[censored], value[censored], "v", color="C3", markersize=3.0, label="beyond a limit")
        ax.set_title(f"{name}", fontsize="small")
    figure.supxlabel(fit_time_label(fit), fontsize="small")
    figure.supylabel(with_unit(output, fit_unit(fit, output)), fontsize="small")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def _pearson(x: Real[np.ndarray, " subjects"], y: Real[np.ndarray, " subjects"]) -> float:
    if x.size < 2 or not x.std() or not y.std():
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def _cloud(ax: "Axes", x: Real[np.ndarray, " points"], y: Real[np.ndarray, " points"]) -> None:
    ax.plot(x, y, "o", color="C0", markersize=3.0, alpha=0.5, linewidth=0.0)
