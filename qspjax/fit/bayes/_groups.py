"""Posteriors as ArviZ has them: groups of arrays with the dimensions chain and draw, in a NetCDF file.

Reference: Kumar, Carroll, Hartikainen and Martin, J Open Source Softw 2019;4:1143, doi:10.21105/joss.01143.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from qspjax._extras import require
from qspjax._files import replaced
from qspjax.fit.data._rows import Rows
from qspjax.fit.mixed._mixed import Mixed

if TYPE_CHECKING:
    import xarray

    from qspjax.fit.bayes._posterior import Posterior

DRAW = ("chain", "draw")


def groups(posterior: "Posterior", *, measurements: bool) -> "dict[str, xarray.Dataset]":
    """Return the groups by name; arguments as in `Posterior.groups`."""
    xarray = require("xarray", extra="data")
    problem = posterior.problem
    chains, draws = posterior.z.shape[:2]
    places = {"chain": np.arange(chains), "draw": np.arange(draws)}
    attributes = {"inference_library": "qspjax", "sampler": repr(posterior.method), "seconds": posterior.seconds}
    if posterior.log_evidence is not None:
        attributes["log_evidence"] = posterior.log_evidence

    def dataset(variables: Mapping[str, Any], coordinates: Mapping[str, Any]) -> "xarray.Dataset":
        return xarray.Dataset(dict(variables), coords=dict(coordinates), attrs=attributes)

    own: dict[str, Any] = {name: (DRAW, posterior.parameters[name]) for name in problem.free}
    coordinates: dict[str, Any] = dict(places)
    if isinstance(problem, Mixed):
        own["Omega"] = ((*DRAW, "effect", "effect_other"), posterior.covariance)
        own["eta"] = ((*DRAW, "subject", "effect"), posterior.etas)
        coordinates |= {"subject": [*problem.subjects], "effect": [*problem.effects]}
        coordinates["effect_other"] = [*problem.effects]
    stats = {name: (DRAW, one) for name, one in posterior.stats.items()}
    if posterior.evidences is not None:
        stats["log_evidence"] = (("chain",), posterior.evidences)
    found = {"posterior": dataset(own, coordinates), "sample_stats": dataset(stats, places)}
    rows = posterior._density.likelihood.rows
    names = [*(problem.subjects if isinstance(problem, Mixed) else problem.experiments)]
    kind = "subject" if isinstance(problem, Mixed) else "experiment"
    where = {name: value for one in rows for name, value in _where(one, names, kind).items()}
    if measurements:
        simulated = {"log_likelihood": posterior.pointwise_log_likelihood(), "posterior_predictive": None}
        simulated["posterior_predictive"] = posterior.predictive(key=jax.random.fold_in(posterior.method.key, 1))
        for group, values in simulated.items():
            each = {one.name: ((*DRAW, _axis(one)), value) for one, value in zip(rows, values, strict=True)}
            found[group] = dataset(each, places | where)
    found["observed_data"] = dataset({one.name: ((_axis(one),), one.value) for one in rows}, where)
    return found


def write(path: Path, found: "Mapping[str, xarray.Dataset]") -> None:
    """Write groups to a NetCDF file, whole or not at all."""
    require("h5netcdf", extra="data")
    with replaced(path) as new:
        for k, (name, one) in enumerate(found.items()):
            one.to_netcdf(new, mode="a" if k else "w", group=name, engine="h5netcdf")


def _axis(rows: Rows) -> str:
    return f"{rows.name}_row"


def _where(rows: Rows, names: list[str], kind: str) -> dict[str, Any]:
    """Return the coordinates of the rows of an output: where and when each was measured."""
    axis = _axis(rows)
    return {
        f"{rows.name}_{kind}": ((axis,), np.array([names[i] for i in rows.experiment], dtype=str)),
        f"{rows.name}_time": ((axis,), np.asarray(rows.time, float)),
    }
