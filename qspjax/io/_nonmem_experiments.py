"""The subjects of a data set as experiments of a fit: their doses, covariates and observations."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from qspjax._checks import ArgumentError, check_one_of
from qspjax.fit import Experiment, Measurements

if TYPE_CHECKING:
    from qspjax.io._nonmem import NonmemData


def experiments_of(data: "NonmemData", outputs: Mapping[Any, str] | str) -> dict[str, Experiment]:
    """Return the subjects by their IDs; see `NonmemData.experiments`."""
    one = data.regimen.ndims()
    names = _names(data, outputs)
    missing = {name: np.isnan(values) for name, values in data.covariates.items()}
    found = {}
    for i, subject in enumerate(data.ids):
        seen = (data.evid[i] == 0) & np.isfinite(data.dv[i])
        censored = data.cens[i][seen]
        if (censored < 0).any():
            raise ArgumentError("data", f"must have no values above a limit, but subject {subject} has (CENS = -1).")
        measured = Measurements(
            data.ts[i][seen],
            data.dv[i][seen],
            output=[str(name) for name in names[i][seen]],
            censored=censored == 1,
        )
        regimen = jax.tree.map(lambda leaf, ndim, i=i: leaf[i] if leaf.ndim > ndim else leaf, data.regimen, one)
        own = {name: float(values[i]) for name, values in data.covariates.items() if not missing[name][i]}
        found[f"{subject}"] = Experiment(measured, regimen, set=own)
    return found


def _names(data: "NonmemData", outputs: Mapping[Any, str] | str) -> np.ndarray:
    """Return the output of each observation, shape (subjects, outputs)."""
    if isinstance(outputs, str):
        return np.full(data.dv.shape, outputs, dtype=object)
    seen = (data.evid == 0) & np.isfinite(data.dv)
    given = data.dvid if np.isfinite(data.dvid[seen]).all() and seen.any() else data.cmt
    labels = data.labels.get("DVID" if given is data.dvid else "CMT")
    found = np.full(data.dv.shape, "", dtype=object)
    for code in np.unique(given[seen]):
        key = labels[int(code)] if labels else int(code)
        check_one_of("outputs", key, outputs, "a kind of observation that is in the data")
        found[given == code] = outputs[key]
    return found
