"""The subjects of a data set as experiments of a fit: their doses, covariates and observations.

At equal times records are in the order of the table: what stands before a dose is observed just before it, and a
covariate takes its next value just after the record.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from qspjax._checks import check_one_of, refuse
from qspjax._varying import LOCF, NOCB
from qspjax.fit import Change, Experiment, Measurements

if TYPE_CHECKING:
    from qspjax.io._nonmem import NonmemData

JUST = 1e-11
"""How far apart times of one moment are that must not be taken for the same, as a part of the time."""


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
    found = {}
    for i, subject in enumerate(data.ids):
        seen = (data.evid[i] == 0) & np.isfinite(data.dv[i])
        regimen = jax.tree.map(lambda leaf, ndim, i=i: leaf[i] if leaf.ndim > ndim else leaf, data.regimen, one)
        times = before_doses(data.ts[i], data.order[i], np.asarray(regimen.time), np.asarray(regimen.order))
        measured = Measurements(
            times[seen],
            data.dv[i][seen],
            output=[str(name) for name in names[i][seen]],
            **censored(data, i, seen),
        )
        own = {name: float(values[i]) for name, values in constant.items() if not np.isnan(values[i])}
        live = np.isfinite(data.ts[i])
        records = {name: values[i][live] for name, values in varying.items() if not np.isnan(values[i][live]).any()}
        begin, changes = _changes(data.ts[i][live], records, carried_backward=isinstance(data.interpolation, NOCB))
        found[f"{subject}"] = Experiment(measured, regimen, set=own | begin, changes=changes)
    return found


def censored(data: "NonmemData", subject: int, seen: np.ndarray) -> dict[str, np.ndarray]:
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


def before_doses(time: np.ndarray, order: np.ndarray, doses: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the times of records, those that stand before a dose of the same time just before it."""
    same = (time[:, None] == doses[None, :]) & (places[None, :] > order[:, None]) & np.isfinite(time)[:, None]
    moved = time.copy()
    moved[same.any(axis=1)] -= JUST * np.maximum(1.0, np.abs(moved[same.any(axis=1)]))
    return moved


def _changes(
    time: np.ndarray, records: Mapping[str, np.ndarray], *, carried_backward: bool
) -> tuple[dict[str, float], list[Change]]:
    """Return what covariates are at the first record, and how they change just after each."""
    ahead = 1 if carried_backward else 0
    now = {name: float(values[0]) for name, values in records.items()}
    begin, changes = dict(now), []
    for k, at in enumerate(time[: time.size - ahead].tolist()):
        if k + 1 < time.size and time[k + 1] == at:
            continue  # the last record of a moment says what follows
        new = {name: float(values[k + ahead]) for name, values in records.items()}
        moved = {name: value for name, value in new.items() if value != now[name]}
        if moved:
            changes.append(Change(at + JUST * max(1.0, abs(at)), set=moved))
        now = new
    return begin, changes


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
