"""Pictures of a mixed-effects fit; the table of each is its argument."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from qspjax._checks import check_one_of
from qspjax._extras import require
from qspjax.fit import MixedFit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _figure(width: float, height: float) -> "Figure":
    return require("matplotlib.figure", extra="plot").Figure(figsize=(width, height), layout="constrained")


def goodness_of_fit(table: Mapping[str, np.ndarray], *, output: str | None = None) -> "Figure":
    """Draw the four pictures that a population fit is judged by.

    Observed against population and individual predictions, and conditional weighted residuals against time and
    population predictions, with the line of identity or the two standard deviations where 95 % should lie.

    Args:
        table: What `fit.diagnostics` returns.
        output: Which output; by default the first.

    Raises:
        ValueError: If the output is not in the table.
    """
    names = list(dict.fromkeys(table["OUTPUT"]))
    output = names[0] if output is None else output
    check_one_of("output", output, names, "an output of the table")
    mine = (table["OUTPUT"] == output) & ~table["CENSORED"]
    one = {name: values[mine] for name, values in table.items()}
    figure = _figure(8.0, 7.0)
    axes = figure.subplots(2, 2)
    for ax, name, label in zip(axes[0], ("PRED", "IPRED"), ("population", "individual"), strict=True):
        _cloud(ax, one[name], one["DV"])
        ends = [np.nanmin([one[name], one["DV"]]), np.nanmax([one[name], one["DV"]])]
        ax.plot(ends, ends, color="0.4", linewidth=0.8)
        ax.set_xlabel(f"{label} prediction ({name})")
        ax.set_ylabel("observed (DV)")
    for ax, name, label in zip(axes[1], ("TIME", "PRED"), ("time", "population prediction (PRED)"), strict=True):
        _cloud(ax, one[name], one["CWRES"])
        for level, style in ((0.0, "-"), (-1.96, "--"), (1.96, "--")):
            ax.axhline(level, color="0.4", linewidth=0.8, linestyle=style)
        ax.set_xlabel(label)
        ax.set_ylabel("conditional weighted residual (CWRES)")
    figure.suptitle(output, fontsize="medium")
    return figure


def random_effects(fit: MixedFit) -> "Figure":
    """Draw the random effects of all subjects with the normal density they are estimated to have, and shrinkage."""
    names, etas = fit.mixed.effects, fit.etas[fit.kept]
    figure = _figure(3.2 * min(len(names), 4), 2.8 * -(-len(names) // 4))
    axes = np.atleast_1d(figure.subplots(-(-len(names) // 4), min(len(names), 4), squeeze=False)).ravel()
    for k, name in enumerate(names):
        omega = float(np.sqrt(fit.covariance[k, k]))
        grid = np.linspace(-3.5 * omega, 3.5 * omega, 200)
        axes[k].hist(etas[:, k], bins="auto", density=True, color="C0", alpha=0.5)
        density = np.exp(-0.5 * (grid / omega) ** 2) / (omega * np.sqrt(2.0 * np.pi))
        axes[k].plot(grid, density, color="0.2", linewidth=1.0)
        axes[k].set_xlabel(name)
        axes[k].set_title(f"shrinkage {fit.shrinkage[name][0]:.0f} % (SD)", fontsize="small")
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    return figure


def vpc(table: Mapping[str, np.ndarray], ax: "Axes | None" = None) -> "Axes":
    """Draw quantiles of measurements over the intervals in which the fit expects them.

    Args:
        table: What `fit.visual_predictive_check` returns.
        ax: Where to draw; by default on a new figure.
    """
    axes = _figure(6.0, 4.0).subplots() if ax is None else ax
    quantiles = np.unique(table["QUANTILE"])
    for quantile in quantiles:
        one = {name: values[table["QUANTILE"] == quantile] for name, values in table.items()}
        colour = "C1" if quantile == np.median(quantiles) else "C0"
        axes.fill_between(one["TIME"], one["LOWER"], one["UPPER"], color=colour, alpha=0.25, linewidth=0.0)
        axes.plot(one["TIME"], one["MEDIAN"], color=colour, linewidth=0.8, linestyle="--")
        axes.plot(one["TIME"], one["OBSERVED"], "o-", color="0.15", markersize=3.0, linewidth=0.9)
        label = f"{100 * quantile:g} %"
        axes.annotate(label, (one["TIME"][-1], one["MEDIAN"][-1]), textcoords="offset points", xytext=(4, 0))
    axes.set_xlabel("time")
    axes.set_ylabel("quantiles: observed (points), expected (bands)")
    return axes


def _cloud(ax: Any, x: np.ndarray, y: np.ndarray) -> None:
    ax.plot(x, y, "o", color="C0", markersize=3.0, alpha=0.5, linewidth=0.0)
