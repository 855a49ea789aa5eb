"""The subjects of a data set as experiments of a fit: their doses, covariates and observations.

At equal times records are in the order of the table, as in `simulate_cohort(order=)`: doses and observations have the
number of their record, and a covariate changes just before or just after one, as the interpolation says.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from qspjax._checks import ArgumentError, check_one_of, refuse, warn
from qspjax._dosing._covariates import LOCF, NOCB
from qspjax.fit import Change, Experiment, Measurements

if TYPE_CHECKING:
    from qspjax.io.nonmem._data import NonmemData


def experiments_of(
    data: "NonmemData", outputs: Mapping[Any, str] | str, covariates: Sequence[str] | None = None
) -> dict[str, Experiment]:
    """Return the subjects by their IDs; see `NonmemData.experiments`."""
    one = data.regimen.ndims()
    names = _names(data, outputs)
    for name in covariates or ():
        check_one_of("covariates", name, [*data.covariates, *data.varying], "a covariate of the data")
    constant, varying = (
        {name: values for name, values in table.items() if covariates is None or name in covariates}
        for table in (data.covariates, data.varying)
    )
    if varying and not isinstance(data.interpolation, (NOCB, LOCF)):
        refuse("data", "have covariates that change in steps, NOCB() or LOCF(), in a fit", str(data.interpolation))
    after = {name: np.asarray(data.interpolation.segments(data.ts, values)[0]) for name, values in varying.items()}
    found = {}
    for i, subject in enumerate(data.ids):
        if f"{subject}" in found:
            raise ArgumentError("data", f"must have every subject once, but subject {subject} is there again.")
        regimen = jax.tree.map(lambda leaf, ndim, i=i: leaf[i] if leaf.ndim > ndim else leaf, data.regimen, one)
        seen = (data.evid[i] == 0) & np.isfinite(data.dv[i])
        measured = Measurements(
            data.ts[i][seen],
            data.dv[i][seen],
            output=[str(name) for name in names[i][seen]],
            order=data.order[i][seen],
            **_censored(data, i, seen),
        )
        live = np.isfinite(data.ts[i])
        known = [name for name, values in varying.items() if not np.isnan(values[i][live]).any()]
        begin = {name: float(values[i]) for name, values in constant.items() if not np.isnan(values[i])}
        begin |= {name: float(varying[name][i][0]) for name in known}
        changes = _changes(
            data.ts[i][live],
            data.order[i][live] + data.interpolation.comes,
            {name: after[name][i][live] for name in known},
            begin,
        )
        start = min(0.0, float(data.ts[i][0]))
        found[f"{subject}"] = Experiment(measured, regimen, set=begin, changes=changes, start=start)
    return found


def _censored(data: "NonmemData", subject: int, seen: np.ndarray) -> dict[str, np.ndarray]:
    """Return which observations of a subject are limits, and between what they lie: columns of `Measurements`.

    CENS = 1 says LIMIT < y < DV, CENS = -1 says DV < y < LIMIT; without LIMIT there is no other bound.
    """
    side, dv, limit = (column[subject][seen] for column in (data.cens, data.dv, data.limit))
    other = np.where(np.isnan(limit), np.where(side > 0, -np.inf, np.inf), limit)
    return {
        "censored": side,
        "lower": np.where(side > 0, other, np.where(side < 0, dv, np.nan)),
        "upper": np.where(side > 0, dv, np.where(side < 0, other, np.nan)),
    }


def _changes(
    time: np.ndarray, order: np.ndarray, after: Mapping[str, np.ndarray], begin: Mapping[str, float]
) -> list[Change]:
    """Return how covariates change at each record."""
    now, changes = dict(begin), []
    for k, moment in enumerate(zip(time.tolist(), order.tolist(), strict=True)):
        moved = {name: float(values[k]) for name, values in after.items() if values[k] != now[name]}
        if moved:
            changes.append(Change(moment[0], set=moved, order=moment[1]))
        now |= moved
    return changes


def warn_of_kinds(data: "NonmemData", outputs: Mapping[Any, str] | str) -> None:
    """Warn where several kinds of observations become one output."""
    seen = (data.evid == 0) & np.isfinite(data.dv)
    by_kind = seen.any() and np.isfinite(data.dvid[seen]).all()
    if isinstance(outputs, str) and len({*(data.dvid if by_kind else data.cmt)[seen].tolist()}) > 1:
        column = "DVID" if by_kind else "CMT"
        warn(f"Column {column} is not used: all observations are of output `{outputs}`.")


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
