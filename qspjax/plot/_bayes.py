"""Plots of posteriors; the table of each is its argument."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from qspjax._checks import check_one_of, refuse
from qspjax.plot._figures import panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INDICES = ("CHAIN", "DRAW", "DIVERGING")


def traces(table: Mapping[str, np.ndarray], *, names: Sequence[str] | None = None, most: int = 12) -> "Figure":
    """Plot the draws of each chain in their order: chains that mix look alike, and like noise.

    Draws at the end of divergent trajectories are marked at the lower edge.

    Args:
        table: The result of `Posterior.columns`.
        names: The parameters; by default the first ones.
        most: The maximum number of panels.

    Raises:
        ValueError: If a parameter is not in the table.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> table = {"CHAIN": np.repeat([0, 1], 30), "DRAW": np.tile(np.arange(30), 2), "DIVERGING": np.zeros(60, bool)}
        >>> [axes.get_title() for axes in traces(table | {"CL": rng.normal(3.0, 0.1, 60)}).axes]
        ['CL']
    """
    chosen = _chosen(names, [name for name in table if name not in INDICES], most)
    axes, figure = panels(len(chosen))
    for ax, name in zip(axes, chosen, strict=False):
        for chain in np.unique(table["CHAIN"]):
            rows = table["CHAIN"] == chain
            ax.plot(table["DRAW"][rows], table[name][rows], color=f"C{chain % 10}", linewidth=0.5, alpha=0.8)
        diverging, edge = table["DRAW"][table["DIVERGING"]], ax.get_xaxis_transform()
        ax.plot(diverging, np.zeros_like(diverging), "|", color="0.1", markersize=6.0, transform=edge)
        ax.set_title(name, fontsize="small")
    figure.supxlabel("draw", fontsize="small")
    return figure


def ranks(table: Mapping[str, np.ndarray], *, names: Sequence[str] | None = None, most: int = 12) -> "Figure":
    """Plot how often ranks fall into bins: uniformly for chains that mix, and for a calibrated sampler.

    The band holds 95 % of the counts of independent draws.

    Args:
        table: The result of `Posterior.ranks` or `Calibration.ranks`.
        names: The parameters; by default the first ones.
        most: The maximum number of panels.

    Raises:
        ValueError: If a parameter is not in the table.

    References: Vehtari et al., Bayesian Anal 2021;16:667, doi:10.1214/20-BA1221; Talts et al., arXiv:1804.06788.

    Example:
        >>> table = {"PARAMETER": ["CL", "CL"], "CHAIN": [0, 0], "LEFT": [0.0, 0.5], "RIGHT": [0.5, 1.0]}
        >>> table |= {"COUNT": [48, 52], "LOWER": [40.0, 40.0], "UPPER": [60.0, 60.0]}
        >>> figure = ranks({name: np.array(values) for name, values in table.items()})
        >>> [axes.get_title() for axes in figure.axes]
        ['CL']
    """
    chosen = _chosen(names, list(dict.fromkeys(table["PARAMETER"])), most)
    axes, figure = panels(len(chosen))
    for ax, name in zip(axes, chosen, strict=False):
        bins = {key: values[table["PARAMETER"] == name] for key, values in table.items()}
        ax.axhspan(bins["LOWER"][0], bins["UPPER"][0], color="0.85", linewidth=0.0)
        for chain in np.unique(bins["CHAIN"]):
            rows = bins["CHAIN"] == chain
            edges = np.append(bins["LEFT"][rows], bins["RIGHT"][rows][-1])
            ax.stairs(bins["COUNT"][rows], edges, color=f"C{chain % 10}", linewidth=1.0)
        ax.set_ylim(bottom=0.0)
        ax.set_title(name, fontsize="small")
    figure.supxlabel("rank, as a share of all draws", fontsize="small")
    figure.supylabel("count", fontsize="small")
    return figure


def posteriors(table: Mapping[str, np.ndarray], *, names: Sequence[str] | None = None, most: int = 12) -> "Figure":
    """Plot the marginal density of each parameter, with that of its prior.

    Args:
        table: The result of `Posterior.densities`.
        names: The parameters; by default the first ones.
        most: The maximum number of panels.

    Raises:
        ValueError: If a parameter is not in the table.

    Example:
        >>> value = np.linspace(2.0, 4.0, 50)
        >>> table = {"PARAMETER": np.repeat("CL", 50), "VALUE": value, "PRIOR": np.full(50, 0.5)}
        >>> table |= {"POSTERIOR": 4.0 * np.exp(-0.5 * ((value - 3.0) / 0.1) ** 2)}
        >>> [axes.get_title() for axes in posteriors(table).axes]
        ['CL']
    """
    chosen = _chosen(names, list(dict.fromkeys(table["PARAMETER"])), most)
    axes, figure = panels(len(chosen))
    for ax, name in zip(axes, chosen, strict=False):
        density = {key: values[table["PARAMETER"] == name] for key, values in table.items()}
        ax.fill_between(density["VALUE"], density["POSTERIOR"], color="C0", alpha=0.3, linewidth=0.0)
        ax.plot(density["VALUE"], density["POSTERIOR"], color="C0", linewidth=1.2, label="posterior")
        ax.plot(density["VALUE"], density["PRIOR"], color="0.4", linewidth=1.0, linestyle="--", label="prior")
        ax.set_ylim(bottom=0.0)
        ax.set_yticks([])
        ax.set_title(name, fontsize="small")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def _chosen(names: Sequence[str] | None, available: list[str], most: int) -> list[str]:
    for name in names or ():
        check_one_of("names", name, available, "a parameter of the table")
    chosen = list(available if names is None else names)[:most]
    if not chosen:
        refuse("names", "name at least one parameter", "empty")
    return chosen
