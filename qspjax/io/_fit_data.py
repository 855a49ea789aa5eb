"""Data sets in the format of NONMEM as the experiments of a fit: each subject one, with doses and covariates."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from qspjax._checks import check_instance, refuse
from qspjax._expression import Expression, number as number_node, substitute, symbols
from qspjax.fit import Experiment, Measurements
from qspjax.fit._formula import Formula, as_formula
from qspjax.io._nonmem import NonmemData
from qspjax.io._nonmem_experiments import before_doses, censored


def experiments(
    data: NonmemData, output: str | Mapping[int, str], *, set: Mapping[str, Formula] | None = None
) -> dict[str, Experiment]:
    """Return the subjects of a data set as experiments, with their doses and observations.

    Args:
        data: What `read_nonmem` returned.
        output: The name of the output; where there are several, by DVID (by CMT in a table without DVID).
        set: By name, parameters of the model that follow from covariates: formulas over these and the parameters of the
            fit, such as `{"CL": "CLpop * (WT / 70)^0.75"}`.

    Returns:
        By ID, experiments for `fit.Problem`. A value that CENS marks is censored; an observation that stands before a
        dose at the same time is taken just before it.

    Raises:
        ValueError: If a covariate varies within a subject or is missing, or a kind of observation has no output.

    Example:
        >>> import qspjax as qsp
        >>> data = qsp.io.NonmemData.of(qsp.bolus(100.0, to=1), [2.0, 8.0], observed=[3.5, 2.0])
        >>> [one.measurements.rows for one in qsp.io.experiments(data, "concentration").values()]
        [2]
    """
    check_instance("data", data, NonmemData, "a data set (NonmemData)")
    formulas = {name: as_formula(name, value) for name, value in (set or {}).items()}
    found = {}
    for i, id in enumerate(data.ids):
        covariates = {name: values[i] for name, values in data.covariates.items()}
        seen = np.isfinite(data.dv[i]) & (data.evid[i] == 0)
        outputs = [_output(output, data, i, k) for k in np.flatnonzero(seen)]
        regimen = jax.tree.map(
            lambda leaf, ndim, i=i: leaf[i] if leaf.ndim > ndim else leaf, data.regimen, data.regimen.ndims()
        )
        times = before_doses(data.ts[i], data.order[i], np.asarray(regimen.time), np.asarray(regimen.order))
        measurements = Measurements(times[seen], data.dv[i][seen], output=outputs, **censored(data, i, seen))
        own = {name: _with_covariates(name, one, covariates, data, id) for name, one in formulas.items()}
        found[str(id)] = Experiment(measurements, regimen, set=own)
    return found


def _output(output: str | Mapping[int, str], data: NonmemData, subject: int, record: int) -> str:
    if isinstance(output, str):
        return output
    kind = data.dvid[subject][record]
    if np.isnan(kind):
        kind = data.cmt[subject][record]
    if int(kind) not in output:
        refuse("output", f"have an output for observations of kind {int(kind)}", f"for {', '.join(map(str, output))}")
    return output[int(kind)]


def _with_covariates(
    name: str, formula: float | Expression, covariates: Mapping[str, float], data: NonmemData, id: Any
) -> float | Expression:
    if not isinstance(formula, Expression):
        return formula
    used = symbols(formula)
    for one in used & data.varying.keys():
        refuse(name, "use covariates that are constant within a subject", f"one that varies (`{one}`)")
    known = {one: covariates[one] for one in used & covariates.keys()}
    for one, value in known.items():
        if np.isnan(value):
            refuse(one, f"be known in every subject, for `{name}`", f"missing in subject {id}")
    return substitute(formula, {one: number_node(float(value)) for one, value in known.items()})
