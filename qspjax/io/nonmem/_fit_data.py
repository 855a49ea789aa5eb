"""Data sets in the format of NONMEM as the experiments of a fit: each subject one, with doses and covariates."""

from collections.abc import Mapping
from typing import Any

from qspjax._checks import check_instance, refuse
from qspjax._expression import Expression, number as number_node, substitute, symbols
from qspjax.fit import Experiment
from qspjax.fit.data._formula import Formula, as_formula
from qspjax.io.nonmem._data import NonmemData
from qspjax.io.nonmem._experiments import experiments_of, warn_of_kinds


def experiments(
    data: NonmemData, output: str | Mapping[int, str], *, set: Mapping[str, Formula] | None = None
) -> dict[str, Experiment]:
    """Return the subjects of a data set as experiments, with their doses and observations.

    They are those of `NonmemData.experiments`, in which parameters of the model follow covariates, also such as change
    from record to record.

    Args:
        data: What `read_nonmem` returned.
        output: The name of the output; where there are several, by DVID (by CMT in a table without DVID).
        set: By name, parameters of the model that follow from covariates: formulas over these and the parameters of the
            fit, such as `{"CL": "CLpop * (WT / 70)^0.75"}`.

    Returns:
        By ID, experiments for `fit.Problem`. At equal times records are in the order of the table.

    Raises:
        ValueError: If a covariate is missing, or a kind of observation has no output.

    Example:
        >>> import qspjax as qsp
        >>> data = qsp.io.NonmemData.of(qsp.bolus(100.0, to=1), [2.0, 8.0], observed=[3.5, 2.0])
        >>> [one.measurements.rows for one in qsp.io.experiments(data, "concentration").values()]
        [2]
    """
    check_instance("data", data, NonmemData, "a data set (NonmemData)")
    formulas = {name: as_formula(name, value) for name, value in (set or {}).items()}
    used = frozenset().union(*(symbols(one) for one in formulas.values() if isinstance(one, Expression)))
    columns = used & {*data.covariates, *data.varying}
    warn_of_kinds(data, output)
    found = experiments_of(data, output, sorted(columns))
    return {id: _with_covariates(id, one, formulas, columns) for id, one in found.items()}


def _with_covariates(
    id: str, one: Experiment, formulas: Mapping[str, float | Expression], columns: frozenset[str]
) -> Experiment:
    """Return an experiment with formulas in the place of covariates."""
    now: dict[str, Any] = dict(one.begin.set)
    for name, formula in formulas.items():
        for missing in sorted(columns & _used(formula) - now.keys()):
            refuse(missing, f"be known in every subject, for `{name}`", f"missing in subject {id}")
    begin, changes = one.begin.setting({name: _known(formula, now) for name, formula in formulas.items()}), []
    for change in one.changes:
        now |= change.set
        moved = {name: _known(formula, now) for name, formula in formulas.items() if _used(formula) & change.set.keys()}
        changes.append(change.setting(moved))
    return one.changed(begin=begin, changes=changes)


def _used(formula: float | Expression) -> frozenset[str]:
    return frozenset(symbols(formula)) if isinstance(formula, Expression) else frozenset()


def _known(formula: float | Expression, covariates: Mapping[str, float]) -> float | Expression:
    known = {one: number_node(float(covariates[one])) for one in _used(formula) & covariates.keys()}
    return substitute(formula, known) if known else formula
