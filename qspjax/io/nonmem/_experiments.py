"""The subjects of a data set as experiments of a fit: their doses, covariates and observations.

At equal times records are in the order of the table, as in `simulate_cohort(order=)`: doses and observations have the
number of their record, and a covariate changes just before or just after one, as the interpolation says.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypedDict

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from qspjax._checks import ArgumentError, check_instance, check_one_of, refuse, warn
from qspjax._dosing._covariates import LOCF, NOCB
from qspjax._expression import AnyFunction, Expression, Formula, as_formula, check_constants, substitute
from qspjax._renamed import renamed_method
from qspjax.fit import Change, Experiment, Measurements
from qspjax.fit.data._formula import names_in
from qspjax.io.nonmem._data import NonmemData

Outputs: TypeAlias = str | Mapping[int, str] | Mapping[str, str] | Mapping[int | str, str]
"""The name of the only output, or names of outputs by kind of observation."""


def experiments(
    data: NonmemData,
    outputs: Outputs,
    *,
    set: Mapping[str, Formula] | None = None,
    covariates: Sequence[str] | None = None,
) -> dict[str, Experiment]:
    """Return the subjects of a data set by their IDs, as experiments of `fit.Problem` or a mixed-effects fit.

    Each experiment sets covariates, and changes those that vary at its records: in steps, by the interpolation of the
    data. A covariate that is missing in a subject is not set. At equal times records are in the order of the table,
    each dose and observation with the values of its own record, as in `NonmemData.patients` and
    `simulate_cohort(order=)`. Observations with CENS = 1 lie between LIMIT (or nothing) and DV, or without a DV the
    limit of their output, such as `M3(0.5)`; with CENS = -1 above DV and below LIMIT.

    Args:
        data: What `read_nonmem` returned.
        outputs: The name of the output that is observed; or names of outputs by the DVID of observations (without that,
            by their CMT).
        set: By name, parameters of the model that follow from covariates: formulas over these and the parameters of the
            fit, such as `{"CL": "CLpop * (WT / 70)^0.75"}`. The numbers of covariates are substituted.
        covariates: The covariates that are set by their own names; by default all, or none if `set` has formulas. A
            `Problem` simulates stage by stage between changes, so name only those that it uses.

    Raises:
        ValueError: If an observation has a kind that is not named, covariates vary linearly between records, one that
            a formula uses is missing, or a subject occurs twice.

    Example:
        >>> import qspjax as qsp
        >>> data = qsp.io.NonmemData.of(qsp.bolus(100.0, to=1), [2.0, 8.0], observed=[3.5, 2.0])
        >>> qsp.io.experiments(data, "concentration")["1"].measurements.rows
        2
    """
    check_instance("data", data, NonmemData, "a data set (NonmemData)")
    columns = [*data.covariates, *data.varying]
    for name in covariates or ():
        check_one_of("covariates", name, columns, "a covariate of the data")
    formulas = {name: as_formula(name, value, AnyFunction()) for name, value in (set or {}).items()}
    check_constants("set", columns, formulas.values())
    used = names_in(*formulas.values()) & {*columns}
    named = frozenset(covariates if covariates is not None else () if formulas else columns)
    subjects = _subjects(data, outputs, used | named)
    if not formulas:
        return subjects
    return {id: _with_formulas(id, subject, formulas, used, named) for id, subject in subjects.items()}


if not TYPE_CHECKING:
    NonmemData.experiments = renamed_method("NonmemData.experiments(...)", "io.experiments(data, ...)", experiments)


def _subjects(data: NonmemData, outputs: Outputs, covariates: frozenset[str]) -> dict[str, Experiment]:
    """Return the subjects by their IDs, with the covariates that are named."""
    ndims = data.regimen.ndims()
    names = _output_names(data, outputs)
    constant, varying = (
        {name: values for name, values in columns.items() if name in covariates}
        for columns in (data.covariates, data.varying)
    )
    if varying and not isinstance(data.interpolation, (NOCB, LOCF)):
        refuse("data", "have covariates that change in steps, NOCB() or LOCF(), in a fit", str(data.interpolation))
    after = {name: np.asarray(data.interpolation.segments(data.ts, values)[0]) for name, values in varying.items()}
    subjects: dict[str, Experiment] = {}
    for i, id in enumerate(map(str, data.ids)):
        if id in subjects:
            raise ArgumentError("data", f"must have every subject once, but subject {id} occurs again.")
        regimen = jax.tree.map(lambda leaf, ndim, i=i: leaf[i] if leaf.ndim > ndim else leaf, data.regimen, ndims)
        observed = _observed(data)[i]
        measurements = Measurements(
            data.ts[i][observed],
            data.dv[i][observed],
            output=[str(name) for name in names[i][observed]],
            order=data.order[i][observed],
            **_censored(data, i, observed),
        )
        records = np.isfinite(data.ts[i])
        complete = [name for name, values in varying.items() if not np.isnan(values[i][records]).any()]
        begin = {name: float(values[i]) for name, values in constant.items() if not np.isnan(values[i])}
        begin |= {name: float(varying[name][i][0]) for name in complete}
        changes = _changes(
            data.ts[i][records],
            data.order[i][records] + data.interpolation.comes,
            {name: after[name][i][records] for name in complete},
            begin,
        )
        start = min(0.0, float(data.ts[i][0]))
        subjects[id] = Experiment(
            measurements, regimen, set=begin, changes=changes, start=start, optional=[*constant, *varying]
        )
    return subjects


class _Limits(TypedDict):
    """The columns of `Measurements` for censored observations and their bounds."""

    censored: Int[np.ndarray, " observations"]
    lower: Float[np.ndarray, " observations"]
    upper: Float[np.ndarray, " observations"]


def _censored(data: NonmemData, subject: int, observed: Bool[np.ndarray, " records"]) -> _Limits:
    """Return which observations of a subject are limits.

    CENS = 1 says LIMIT < y < DV, CENS = -1 says DV < y < LIMIT; without LIMIT there is no other bound, and without DV
    the upper one is that of the output, NaN here.
    """
    side, dv, limit = (column[subject][observed] for column in (data.cens, data.dv, data.limit))
    other = np.where(np.isnan(limit), np.where(side > 0, -np.inf, np.inf), limit)
    return {
        "censored": side,
        "lower": np.where(side > 0, other, np.where(side < 0, dv, np.nan)),
        "upper": np.where(side > 0, dv, np.where(side < 0, other, np.nan)),
    }


def _changes(
    time: Float[np.ndarray, " records"],
    order: Float[np.ndarray, " records"],
    after: Mapping[str, Float[np.ndarray, " records"]],
    begin: Mapping[str, float],
) -> list[Change]:
    """Return the changes of covariates at the records."""
    current, changes = dict(begin), []
    for k, (at, position) in enumerate(zip(time.tolist(), order.tolist(), strict=True)):
        changed = {name: float(values[k]) for name, values in after.items() if values[k] != current[name]}
        if changed:
            changes.append(Change(at, set=changed, order=position))
        current |= changed
    return changes


def _with_formulas(
    id: str,
    subject: Experiment,
    formulas: Mapping[str, float | Expression],
    used: frozenset[str],
    named: frozenset[str],
) -> Experiment:
    """Return an experiment with formulas in place of the covariates that they use, unless these are named as well."""
    current = dict(subject.begin.set)
    for name, formula in formulas.items():
        for missing in sorted(used & names_in(formula) - current.keys()):
            refuse(missing, f"be known in every subject, for `{name}`", f"missing in subject {id}")
    begin = {name: _with_numbers(formula, current) for name, formula in formulas.items()}
    begin |= {name: value for name, value in current.items() if name in named}
    changes = []
    for change in subject.changes:
        current |= change.set
        changed = {
            name: _with_numbers(formula, current)
            for name, formula in formulas.items()
            if names_in(formula) & change.set.keys()
        }
        changed |= {name: value for name, value in change.set.items() if name in named}
        changes.append(change.following(changed))
    return subject.changed(begin=subject.begin.setting(begin), changes=changes)


def _with_numbers(formula: float | Expression, covariates: Mapping[str, float | Expression]) -> float | Expression:
    """Return a formula with the numbers of covariates substituted."""
    if not isinstance(formula, Expression):
        return formula
    return substitute(formula, {name: covariates[name] for name in names_in(formula) & covariates.keys()})


def kinds_of(data: NonmemData) -> np.ndarray:
    """Return the kind of each observation, shape (subjects, outputs), None where there is none.

    It is the DVID, or the CMT if not all observations have a DVID; by its label if there are labels.
    """
    observed, column = _observed(data), _kind_column(data)
    codes, labels = (data.dvid if column == "DVID" else data.cmt), data.labels.get(column)
    kinds = np.full(data.dv.shape, None, dtype=object)
    kinds[observed] = [
        code if isinstance(code, str) else labels[int(code)] if labels else int(code)
        for code in codes[observed].tolist()
    ]
    return kinds


def _observed(data: NonmemData) -> Bool[np.ndarray, "subjects outputs"]:
    """Return which records are observations with a value, or below a limit."""
    return (data.evid == 0) & (np.isfinite(data.dv) | (data.cens == 1))


def _kind_column(data: NonmemData) -> str:
    observed = _observed(data)
    return "DVID" if observed.any() and np.isfinite(data.dvid[observed]).all() else "CMT"


def _output_names(data: NonmemData, outputs: Outputs) -> np.ndarray:
    """Return the output of each observation, shape (subjects, outputs); warn if several kinds become one."""
    kinds = kinds_of(data)
    present = sorted({*kinds[_observed(data)].tolist()}, key=lambda kind: (isinstance(kind, str), kind))
    if isinstance(outputs, str):
        if len(present) > 1:
            warn(f"Column {_kind_column(data)} is not used: all observations are of output `{outputs}`.")
        return np.full(data.dv.shape, outputs, dtype=object)
    names, named = np.full(data.dv.shape, "", dtype=object), dict(outputs.items())
    for kind in present:
        check_one_of("outputs", kind, named, "a kind of observation that is in the data")
        names[kinds == kind] = named[kind]
    return names
