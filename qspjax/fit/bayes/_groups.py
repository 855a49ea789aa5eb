"""Posteriors in the form of ArviZ: groups of arrays with the dimensions chain and draw, in a NetCDF file.

Reference: Kumar, Carroll, Hartikainen and Martin, J Open Source Softw 2019;4:1143, doi:10.21105/joss.01143.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qspjax._extras import require
from qspjax._files import replaced
from qspjax.fit.data._output_data import OutputData

if TYPE_CHECKING:
    import xarray

DRAW = ("chain", "draw")


@dataclasses.dataclass(frozen=True)
class Contents:
    """The contents of a data set for a posterior.

    Attributes:
        rows: The measurements, output by output.
        units: The names of the subjects or experiments.
        unit: The name of their dimension.
        parameters: Draws by name, shape (chains, draws).
        random: For a mixed-effects model, `Omega` and `eta`.
        effects: The names of its random effects.
        stats: Statistics of each draw by name, shape (chains, draws).
        evidences: log p(y) of each chain, if known.
        attributes: Attributes of all groups.
    """

    rows: Sequence[OutputData]
    units: Sequence[str]
    unit: str
    parameters: Mapping[str, np.ndarray]
    random: Mapping[str, np.ndarray]
    effects: Sequence[str]
    stats: Mapping[str, np.ndarray]
    evidences: np.ndarray | None
    attributes: Mapping[str, str | float]


def groups(
    contents: Contents, shape: tuple[int, int], simulated: Mapping[str, Sequence[np.ndarray]]
) -> "dict[str, xarray.Dataset]":
    """Return the groups by name.

    Args:
        contents: Their contents.
        shape: The numbers of chains and of draws.
        simulated: By group, values for each measurement, output by output, shape (chains, draws, measurements).
    """
    xarray = require("xarray", extra="data")

    def dataset(variables: Mapping[str, object], coordinates: Mapping[str, object]) -> "xarray.Dataset":
        return xarray.Dataset(dict(variables), coords=dict(coordinates), attrs=dict(contents.attributes))

    sizes = {"chain": np.arange(shape[0]), "draw": np.arange(shape[1])}
    dimensions = {"Omega": ("effect", "effect_other"), "eta": (contents.unit, "effect")}
    variables: dict[str, object] = {name: (DRAW, values) for name, values in contents.parameters.items()}
    variables |= {name: ((*DRAW, *dimensions[name]), values) for name, values in contents.random.items()}
    coordinates: dict[str, object] = dict(sizes)
    if contents.random:
        effects = [*contents.effects]
        coordinates |= {contents.unit: [*contents.units], "effect": effects, "effect_other": effects}
    stats: dict[str, object] = {name: (DRAW, values) for name, values in contents.stats.items()}
    if contents.evidences is not None:
        stats["log_evidence"] = (("chain",), contents.evidences)
    datasets = {"posterior": dataset(variables, coordinates), "sample_stats": dataset(stats, sizes)}
    row_coordinates = {
        name: value
        for rows in contents.rows
        for name, value in _row_coordinates(rows, contents.units, contents.unit).items()
    }
    for group, values in simulated.items():
        of_rows = {rows.name: ((*DRAW, _axis(rows)), draws) for rows, draws in zip(contents.rows, values, strict=True)}
        datasets[group] = dataset(of_rows, sizes | row_coordinates)
    datasets["observed_data"] = dataset(
        {rows.name: ((_axis(rows),), rows.value) for rows in contents.rows}, row_coordinates
    )
    return datasets


def write(path: Path, datasets: "Mapping[str, xarray.Dataset]") -> None:
    """Write groups to a NetCDF file atomically."""
    require("h5netcdf", extra="data")
    with replaced(path) as new:
        for k, (name, dataset) in enumerate(datasets.items()):
            dataset.to_netcdf(new, mode="a" if k else "w", group=name, engine="h5netcdf")


def _axis(rows: OutputData) -> str:
    return f"{rows.name}_row"


def _row_coordinates(rows: OutputData, names: Sequence[str], kind: str) -> dict[str, object]:
    """Return the coordinates of the rows of an output: the unit and the time of each measurement."""
    axis = _axis(rows)
    return {
        f"{rows.name}_{kind}": ((axis,), np.array([names[i] for i in rows.experiment], dtype=str)),
        f"{rows.name}_time": ((axis,), np.asarray(rows.time, float)),
    }
