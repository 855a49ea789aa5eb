"""Distributions in cells of the table of parameters: priors, and where searches start."""

from typing import NamedTuple

import numpy as np

from qspjax._transform import AbstractTransform
from qspjax.io.petab._checks import check_prior
from qspjax.io.petab._priors import DENSITIES, PetabPrior, Quantile, log_mass, plain_kind, quantile
from qspjax.io.petab._tables import Row, TableIssues


class Bounds(NamedTuple):
    """The bounds of a parameter, and its scale."""

    lower: float
    upper: float
    transform: AbstractTransform

    def on_scale(self, scaled: bool) -> tuple[float, float]:
        """Return the bounds, transformed if `scaled`."""
        forward = self.transform.forward if scaled else float
        return float(forward(self.lower)), float(forward(self.upper))


def prior_in(row: Row, issues: TableIssues, version: str, bounds: Bounds) -> tuple[PetabPrior | None, bool]:
    """Return the prior of a parameter, and whether it is that of the transformed value."""
    kinds, numbers = (
        ("objectivePriorType", "objectivePriorParameters")
        if version == "1"
        else ("priorDistribution", "priorParameters")
    )
    kind, parameters, scaled = _distribution(row, issues, kinds, numbers)
    if not kind:
        return None, False
    edges = bounds.on_scale(scaled)
    mass = log_mass(kind, parameters or edges, *edges) if version == "2" else 0.0
    return PetabPrior(kind, parameters or edges, mass), scaled


def quantile_in(row: Row, issues: TableIssues, bounds: Bounds) -> Quantile | None:
    """Return the quantile function of starts, None if they are uniform on the scale of the search."""
    kind, parameters, scaled = _distribution(row, issues, "initializationPriorType", "initializationPriorParameters")
    if not kind or (kind == "uniform" and scaled and not parameters):
        return None
    edges = bounds.on_scale(scaled)
    on_scale = quantile(kind, parameters or edges, *edges)
    if not scaled:
        return on_scale
    return lambda probability: np.asarray(bounds.transform.inverse(on_scale(probability)))


def _distribution(row: Row, issues: TableIssues, kinds: str, numbers: str) -> tuple[str, tuple[float, ...], bool]:
    """Return the name and the parameters of a distribution, and whether it is that of the transformed value."""
    kind, scaled, nothing = plain_kind(row.get(kinds)), False, ("", (), False)
    if not kind:
        return nothing
    if kind.startswith("parameterscale"):
        kind, scaled = kind.removeprefix("parameterscale"), True
    if kind not in DENSITIES:
        issues.add(row, kinds, f"must be a prior of PEtab, but is {row.get(kinds)}.")
        return nothing
    parts = [part for part in row.get(numbers).split(";") if part.strip()]
    try:
        parameters = tuple(float(part) for part in parts)
    except ValueError:
        issues.add(row, numbers, f"must be numbers that semicolons separate, but is {row.get(numbers)}.")
        return nothing
    if len(parameters) != DENSITIES[kind][0] and (parameters or kind != "uniform"):
        issues.add(row, numbers, f"must have {DENSITIES[kind][0]} numbers, but has {len(parameters)}.")
        return nothing
    return (kind, parameters, scaled) if check_prior(row, numbers, kind, parameters, issues) else nothing
