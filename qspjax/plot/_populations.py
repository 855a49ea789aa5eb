"""Plots of plausible patients, of populations that agree with targets, and of what depends on a parameter."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from qspjax._checks import check_instance, check_names, check_one_of, check_whole, refuse
from qspjax.plot._figures import axes_or_new, draw_key, new_figure
from qspjax.plot._labels import with_unit
from qspjax.population import PartialDependence, PlausiblePopulation, Prevalence

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BINS = 20
_MOST = 6
"""The number of parameters that are shown unless names are given."""


def coverage(
    patients: PlausiblePopulation, chosen: Prevalence | None = None, *, names: Sequence[str] | None = None
) -> "Figure":
    """Draw which parts of the ranges of parameters the patients cover: marginals, and pairs below them.

    A range goes from 0 to 1 by the distribution function of the population, so that the population itself is flat. The
    numbers are in `patients.to_dataframe()`, the weights in `chosen.weights`.

    Args:
        patients: The plausible patients.
        chosen: Weights or a selection of them, drawn over all of them.
        names: Parameters and covariates to show; by default the first six.

    Example:
        >>> import jax, qspjax as qsp
        >>> population = qsp.Population(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0), between={"V": qsp.LogUniform(10.0, 100.0)}
        ... )
        >>> bounds = {"C0": qsp.population.Bound(qsp.endpoints.Value("concentration", at=0.0), 1.0, 2.0)}
        >>> arms = [qsp.Arm("100 mg", qsp.bolus(100.0, to="central"))]
        >>> found = qsp.population.plausible(population, bounds, arms=arms, size=50, key=jax.random.key(0))
        >>> len(qsp.plot.coverage(found).axes)
        1
    """
    check_instance("patients", patients, PlausiblePopulation, "plausible patients")
    if not patients.size:
        refuse("patients", "be at least one", "nobody")
    names = patients.coordinates[:_MOST] if names is None else check_names("names", names)
    for name in names:
        check_one_of("names", name, patients.coordinates, "something that differs between patients")
    if chosen is not None:
        check_instance("chosen", chosen, Prevalence, "what `weights` or `select` returns")
        if len(chosen.weights) != patients.size:
            refuse("chosen", f"be of these patients ({patients.size})", f"of {len(chosen.weights)}")
    columns = [patients.points[:, patients.coordinates.index(name)] for name in names]
    count = len(names)
    figure = new_figure(1.0 + 1.6 * max(count, 2), 0.8 + 1.4 * max(count, 1))
    marginals = [figure.add_subplot(count, count, 1 + i * (count + 1)) for i in range(count)]
    for axes, name, column in zip(marginals, names, columns, strict=True):
        _marginal(axes, column, chosen)
        axes.set_title(name, fontsize="small")
    for i in range(1, count):
        for j in range(i):
            axes = figure.add_subplot(count, count, 1 + i * count + j)
            axes.plot(columns[j], columns[i], ".", color="0.7", markersize=2)
            if chosen is not None:
                members = chosen.members
                sizes = 20.0 * chosen.weights[members] / chosen.weights.max()
                axes.scatter(columns[j][members], columns[i][members], s=sizes, color="C0")
            axes.set(xlim=(0.0, 1.0), ylim=(0.0, 1.0), xticks=[], yticks=[])
            axes.set_xlabel(names[j] if i == count - 1 else "", fontsize="small")
            axes.set_ylabel(names[i] if j == 0 else "", fontsize="small")
    figure.supxlabel("position in the range of a parameter, by the distribution of the population", fontsize="small")
    draw_key(marginals, figure)
    return figure


def _marginal(axes: "Axes", column: np.ndarray, chosen: Prevalence | None) -> None:
    """Draw the distribution of the position in one range."""
    edges = [i / _BINS for i in range(_BINS + 1)]
    axes.axhline(1.0, color="0.4", linewidth=0.8, linestyle="--", label="population")
    axes.hist(column, bins=edges, density=True, color="0.8", label="plausible")
    if chosen is not None:
        style = {"density": True, "histtype": "step", "color": "C0", "label": "chosen"}
        axes.hist(column, bins=edges, weights=chosen.weights, **style)
    axes.set(xlim=(0.0, 1.0), yticks=[], xticks=[0.0, 1.0])
    axes.tick_params(labelsize="small")


def partial_dependence(
    found: PartialDependence, ax: "Axes | None" = None, *, label: str = "endpoint", unit: str = "", most: int = 100
) -> "Axes":
    """Draw the mean of an endpoint over the values of a parameter, and the curves of patients behind it.

    Marks at the bottom are the patients' own values. The numbers are in `found.to_dataframe()`.

    Args:
        found: What `population.partial_dependence` returns.
        ax: The axes to draw on; by default those of a new figure.
        label: The label of the endpoint.
        unit: The unit of the parameter.
        most: How many patients are drawn at most, the first.

    Example:
        >>> import qspjax as qsp
        >>> cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": [20.0, 25.0, 40.0]})
        >>> dose, peak = qsp.bolus(100.0, to="central"), qsp.endpoints.Value("concentration", at=0.0)
        >>> found = qsp.population.partial_dependence(cohort, dose, [0.0], name="V", endpoint=peak)
        >>> partial_dependence(found, label="peak (mg/L)", unit="L").get_xlabel()
        'V (L)'
    """
    check_instance("found", found, PartialDependence, "what `population.partial_dependence` returns")
    check_whole("most", most, 0)
    axes = axes_or_new(ax)
    axes.plot(found.values, found.individual[:, :most], color="0.75", linewidth=0.6)
    axes.plot(found.values, found.mean, color="C0", linewidth=2.0)
    inside = found.own[(found.own >= found.values.min()) & (found.own <= found.values.max())][:most]
    axes.plot(inside, np.zeros(inside.size), "|", color="0.4", transform=axes.get_xaxis_transform(), markersize=8)
    axes.set_xlabel(with_unit(found.name, unit))
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def targets(found: Prevalence, ax: "Axes | None" = None) -> "Axes":
    """Draw how far the population is from each target, in per cent.

    The numbers are in `found.to_dataframe()`.

    Args:
        found: What `population.weights` or `population.select` returns.
        ax: The axes to draw on; by default those of a new figure.

    Example:
        >>> import qspjax as qsp
        >>> patients = {"LDL": [150.0, 180.0, 200.0]}
        >>> axes = qsp.plot.targets(qsp.population.weights(patients, [qsp.population.Mean("LDL", 165.0)]))
        >>> axes.get_xlabel()
        'reached - wanted (%)'
    """
    check_instance("found", found, Prevalence, "what `weights` or `select` returns")
    rows = np.arange(len(found.names))
    axes = axes_or_new(ax, 6.0, max(2.0, 0.2 * len(rows) + 0.8))
    missed = np.isin(found.names, [*found.unreachable, *found.conflicting])
    axes.axvline(0.0, color="0.4", linewidth=0.8)
    axes.hlines(rows, 0.0, 100.0 * found.errors, color="0.7", linewidth=1.0)
    for flag, colour, label in ((False, "C0", "target"), (True, "C3", "cannot be reached, or conflicts")):
        if (missed == flag).any():
            style = {"color": colour, "markersize": 4, "label": label}
            axes.plot(100.0 * found.errors[missed == flag], rows[missed == flag], "o", **style)
    labels = [f"{name}: {wanted:.3g}" for name, wanted in zip(found.names, found.wanted, strict=True)]
    axes.set_yticks(rows, labels, fontsize="x-small")
    axes.invert_yaxis()
    axes.set_xlabel("reached - wanted (%)")
    if missed.any():
        axes.legend(fontsize="small")
    return axes
