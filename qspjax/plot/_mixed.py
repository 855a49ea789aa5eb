"""Plots of a mixed-effects fit; the numbers of each are its argument."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from jaxtyping import Real

from qspjax._checks import ArgumentError, check_one_of
from qspjax._model import AbstractModel
from qspjax.fit import Bootstrap, MixedFit, VisualPredictiveCheck
from qspjax.plot._figures import axes_or_new, new_figure, panels
from qspjax.plot._labels import choice, time_label, unit_of, with_unit

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
    unit = _unit(fit, output)
    labels = {
        "PRED": with_unit("population prediction, PRED", unit) if unit else "population prediction (PRED)",
        "IPRED": with_unit("individual prediction, IPRED", unit) if unit else "individual prediction (IPRED)",
        "DV": with_unit("observed, DV", unit) if unit else "observed (DV)",
        "TIME": time_label(_model(fit)),
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

    Example:
        >>> import numpy as np, qspjax as qsp
        >>> from qspjax.fit import FO, Additive, Experiment, Free, Measurements, MixedModel, Output, RandomEffects, nlme
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
        >>> fit = nlme(mixed)  # doctest: +SKIP
        >>> u, each = np.array([[-1.2], [-0.3], [0.4], [1.3]]), np.ones(4, bool)  # what it finds
        >>> start, none = mixed.start, np.zeros(1)
        >>> fit = MixedFit(mixed, FO(), start, u, np.zeros(4), each, (), each, none, start[None], "converged", 1.0)
        >>> figure = random_effects(fit)
        >>> [axes.get_xlabel() for axes in figure.axes]
        ['eta_CL']
    """
    names = [*(effects := fit.effects())]
    figure = new_figure(3.2 * min(len(names), 4), 2.8 * -(-len(names) // 4))
    for k, name in enumerate(names):
        ax = figure.add_subplot(-(-len(names) // 4), min(len(names), 4), k + 1)
        etas, omega = effects[name]
        grid = np.linspace(-3.5 * omega, 3.5 * omega, 200)
        ax.hist(etas, bins="auto", density=True, color="C0", alpha=0.5)
        density = np.exp(-0.5 * (grid / omega) ** 2) / (omega * np.sqrt(2.0 * np.pi))
        ax.plot(grid, density, color="0.2", linewidth=1.0)
        ax.set_xlabel(name)
        ax.set_title(f"shrinkage {fit.shrinkage[name][0]:.0f} % (SD)", fontsize="small")
    return figure


def vpc(table: Table, ax: "Axes | None" = None, *, stratum: str | None = None, fit: MixedFit | None = None) -> "Axes":
    """Draw quantiles of measurements over the intervals that the fit predicts for them, and the measurements.

    Args:
        table: The result of `fit.visual_predictive_check`, or its table.
        ax: The axes to draw on; by default those of a new figure.
        stratum: The stratum; by default the first. `vpc_panels` draws all.
        fit: The fit, whose model has the units of the axes; without it axes have no units.

    Raises:
        ValueError: If the stratum is not in the table.

    Example:
        >>> rows = {"TIME": [1.0, 4.0], "LEFT": [0.0, 2.0], "RIGHT": [2.0, 6.0], "COUNT": [9, 9], "QUANTILE": [0.5] * 2}
        >>> rows |= {"OBSERVED": [9.0, 6.1], "LOWER": [8.0, 5.0], "MEDIAN": [9.1, 6.0], "UPPER": [9.9, 7.2]}
        >>> rows |= {"BELOW": [np.nan] * 2, "BELOW_LOWER": [np.nan] * 2}
        >>> rows |= {"BELOW_MEDIAN": [np.nan] * 2, "BELOW_UPPER": [np.nan] * 2}
        >>> table = {name: np.array(values) for name, values in rows.items()}
        >>> vpc(table).get_xlabel()
        'time'
    """
    axes = axes_or_new(ax, 6.0, 4.0)
    strata = _strata(table)
    stratum = choice("stratum", stratum, strata, "a stratum of the table")
    in_stratum = _stratum_of(table) == stratum
    if isinstance(table, VisualPredictiveCheck):
        _points(axes, table.points, stratum)
    quantiles = np.unique(table["QUANTILE"])
    drawn = np.concatenate([table[name][in_stratum] for name in ("LOWER", "MEDIAN", "UPPER", "OBSERVED")])
    if isinstance(table, VisualPredictiveCheck):
        drawn = np.append(drawn, table.points["VALUE"][table.points["STRATUM"] == stratum])
    for quantile in quantiles:
        rows = in_stratum & (table["QUANTILE"] == quantile)
        time, low, middle, high, observed = (
            table[name][rows] for name in ("TIME", "LOWER", "MEDIAN", "UPPER", "OBSERVED")
        )
        colour = "C1" if quantile == np.median(quantiles) else "C0"
        axes.fill_between(time, *_closed(low, high, drawn), color=colour, alpha=0.25, linewidth=0.0)
        axes.plot(time, middle, color=colour, linewidth=0.8, linestyle="--")
        axes.plot(time, observed, "o-", color="0.15", markersize=3.0, linewidth=0.9)
        finite = np.flatnonzero(np.isfinite(middle))
        if finite.size:
            end = float(time[finite[-1]]), float(middle[finite[-1]])
            axes.annotate(f"{100 * quantile:g} %", end, textcoords="offset points", xytext=(4, 0))
    left, right = axes.get_xlim()
    axes.set_xlim(left, right + 0.06 * (right - left))  # room for the labels
    axes.set_xlabel(time_label(_model(fit)))
    unit = _unit(fit, table.output) if isinstance(table, VisualPredictiveCheck) else ""
    axes.set_ylabel(with_unit("quantiles: observed as lines, expected as bands", unit))
    return axes


def vpc_panels(*checks: VisualPredictiveCheck, fit: MixedFit | None = None) -> "Figure":
    """Draw visual predictive checks: one panel per stratum, and below it the share below the limit of quantification.

    Args:
        *checks: The result of `fit.visual_predictive_check`, such as one per output, each of which is a row.
        fit: The fit, whose model has the units of the axes; without it axes have no units.

    Raises:
        ValueError: If there are none.

    Example:
        >>> rows = {"TIME": [1.0, 4.0], "LEFT": [0.0, 2.0], "RIGHT": [2.0, 6.0], "COUNT": [9, 9], "QUANTILE": [0.5] * 2}
        >>> rows |= {"OBSERVED": [9.0, 6.1], "LOWER": [8.0, 5.0], "MEDIAN": [9.1, 6.0], "UPPER": [9.9, 7.2]}
        >>> rows |= {"BELOW": [np.nan] * 2, "BELOW_LOWER": [np.nan] * 2}
        >>> rows |= {"BELOW_MEDIAN": [np.nan] * 2, "BELOW_UPPER": [np.nan] * 2}
        >>> table = {name: np.array(values) for name, values in rows.items()}
        >>> points = {"STRATUM": [""], "ID": ["7"], "TIME": [1.0], "VALUE": [9.0], "CENSORED": [False]}
        >>> points = {name: np.array(values) for name, values in points.items()}
        >>> check = VisualPredictiveCheck("conc", table, points, corrected=False, reasons=())
        >>> [axes.get_ylabel() for axes in vpc_panels(check).axes]
        ['conc']
    """
    if not checks:
        raise ArgumentError("checks", "must be at least one visual predictive check, but there are none.")
    columns = max(len(_strata(check)) for check in checks)
    heights = [height for check in checks for height in ((3.4, 1.5) if _has_share(check) else (3.4,))]
    figure = new_figure(5.0 * columns + 0.6, sum(heights) + 0.2 * any(check.reasons for check in checks))
    grid = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights, sharex="col", sharey="row")
    row = 0
    for check in checks:
        has_share, strata = _has_share(check), _strata(check)
        for k, ax in enumerate(grid[row]):
            if k >= len(strata):
                for empty in grid[row : row + 1 + has_share, k]:
                    empty.set_axis_off()
                continue
            vpc(check, ax, stratum=strata[k], fit=fit)
            ax.set_title(strata[k], fontsize="medium")
            label = with_unit(check.output, _unit(fit, check.output))
            ax.set_ylabel("" if k else f"{label}{', prediction-corrected' if check.corrected else ''}")
            if has_share:
                _share_below(grid[row + 1, k], check, strata[k], time_label(_model(fit)))
                ax.set_xlabel("")
                grid[row + 1, k].set_ylabel("" if k else "share below limit")
        row += 1 + has_share
    if reasons := [reason for check in checks for reason in check.reasons]:
        subjects = dict.fromkeys(reason.partition(":")[0].removeprefix("Subject ").strip("`") for reason in reasons)
        figure.supxlabel(f"left out, see `reasons`: {', '.join(subjects)}", fontsize="small", x=0.01, ha="left")
    return figure


def _model(fit: MixedFit | None) -> AbstractModel | None:
    return None if fit is None else fit.mixed.copies.model


def _unit(fit: MixedFit | None, output: str) -> str:
    return "" if fit is None else unit_of(output, fit.mixed.copies)


def _has_share(check: Table) -> bool:
    """Whether there is a share of measurements below the limit of quantification."""
    return bool(np.isfinite(check["BELOW"]).any())


def _stratum_of(table: Table) -> np.ndarray:
    return table["STRATUM"] if "STRATUM" in table else np.full(table["TIME"].size, "", dtype=object)


def _strata(table: Table) -> list[str]:
    return list(dict.fromkeys(_stratum_of(table)))


def _closed(
    low: Real[np.ndarray, " bins"], high: Real[np.ndarray, " bins"], drawn: Real[np.ndarray, " values"]
) -> tuple[Real[np.ndarray, " bins"], Real[np.ndarray, " bins"]]:
    """Return the ends of bands; one beyond a limit of quantification (NaN) is the least or greatest value drawn."""
    if not np.isfinite(drawn).any():
        return low, high
    low_open, high_open = np.isnan(low) & ~np.isnan(high), np.isnan(high) & ~np.isnan(low)
    return np.where(low_open, np.nanmin(drawn), low), np.where(high_open, np.nanmax(drawn), high)


def _points(ax: "Axes", points: Table, stratum: str) -> None:
    """Draw the measurements, and the limits of censored ones."""
    for censored, marker, colour in ((False, "o", "0.6"), (True, "v", "C3")):
        rows = (points["STRATUM"] == stratum) & (points["CENSORED"] == censored)
        if rows.any():
            time, value = points["TIME"][rows], points["VALUE"][rows]
            ax.plot(time, value, marker, color=colour, linewidth=0.0, markersize=2.5, alpha=0.5)


def _share_below(ax: "Axes", table: Table, stratum: str, label: str) -> None:
    """Draw the share of measurements below the limit, observed and expected."""
    rows = (_stratum_of(table) == stratum) & (table["QUANTILE"] == table["QUANTILE"][0])
    time, low, middle, high, observed = (
        table[name][rows] for name in ("TIME", "BELOW_LOWER", "BELOW_MEDIAN", "BELOW_UPPER", "BELOW")
    )
    ax.fill_between(time, low, high, color="C2", alpha=0.25, linewidth=0.0)
    ax.plot(time, middle, color="C2", linewidth=0.8, linestyle="--")
    ax.plot(time, observed, "o-", color="0.15", markersize=3.0, linewidth=0.9)
    ax.set_xlabel(label)


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
    return figure


def bootstrap(result: Bootstrap) -> "Figure":
    """Draw the estimates of the replicates that converged, with the estimate and the percentiles of the summary.

    Args:
        result: The result of `fit.bootstrap`; its `table` and `to_dataframe` have the numbers.

    Example:
        >>> import numpy as np, qspjax as qsp
        >>> from qspjax.fit import (
        ...     FO, Additive, Experiment, Free, Measurements, MixedModel, Output, RandomEffects, Bootstrap, nlme,
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
        >>> fit = nlme(mixed)  # doctest: +SKIP
        >>> u, each = np.array([[-1.2], [-0.3], [0.4], [1.3]]), np.ones(4, bool)  # what it finds
        >>> start, none = mixed.start, np.zeros(1)
        >>> fit = MixedFit(mixed, FO(), start, u, np.zeros(4), each, (), each, none, start[None], "converged", 1.0)
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
    figure.supxlabel(time_label(_model(fit)), fontsize="small")
    figure.supylabel(with_unit(output, _unit(fit, output)), fontsize="small")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def _pearson(x: Real[np.ndarray, " subjects"], y: Real[np.ndarray, " subjects"]) -> float:
    if x.size < 2 or not x.std() or not y.std():
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def _cloud(ax: "Axes", x: Real[np.ndarray, " points"], y: Real[np.ndarray, " points"]) -> None:
    ax.plot(x, y, "o", color="C0", markersize=3.0, alpha=0.5, linewidth=0.0)
