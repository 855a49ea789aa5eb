"""PEtab 1: conditions as a table with one column per target, parameters on scales."""

import re
from pathlib import Path

from qspjax._expression import Expression, symbols
from qspjax.fit import Gaussian
from qspjax.io._issues import FileIssues, Issue
from qspjax.io.petab._checks import check_ids
from qspjax.io.petab._parts import Observable, Period, Tables, Target, noise_of, read_model
from qspjax.io.petab._tables import Row, TableIssues, ids_in, listed, read_tables

_NAMES = ("conditionId", "conditionName")
PARAMETERS = (
    ("parameterId", "parameterScale", "lowerBound", "upperBound", "estimate"),
    ("parameterName", "nominalValue", "initializationPriorType", "initializationPriorParameters")
    + ("objectivePriorType", "objectivePriorParameters"),
)
OBSERVABLES = (
    ("observableId", "observableFormula", "noiseFormula"),
    ("observableName", "observableTransformation", "noiseDistribution"),
)
MEASUREMENTS = (
    ("observableId", "simulationConditionId", "time", "measurement"),
    ("preequilibrationConditionId", "observableParameters", "noiseParameters", "datasetId", "replicateId"),
)
"""Columns of tables: required ones, and optional ones."""


def tables_of(path: Path, content: dict[str, object], issues: TableIssues) -> Tables:
    """Read the tables of a problem."""
    several = content.get("problems")
    if not isinstance(several, list) or len(several) != 1 or not isinstance(several[0], dict):
        raise FileIssues([Issue(path.name, ("problems",), "must be a list of one problem.")])
    files = several[0]
    folder = path.parent

    def table(key: str, names: object, needed: tuple[str, ...], others: tuple[str, ...]) -> list[Row]:
        if not listed(names):
            raise FileIssues([Issue(path.name, (key,), "must name a file, but is missing.")])
        return read_tables(folder, listed(names), needed, others, issues)

    parameters = table("parameter_file", content.get("parameter_file"), *PARAMETERS)
    conditions = table("condition_files", files.get("condition_files"), ("conditionId",), ("conditionName",))
    observables = table("observable_files", files.get("observable_files"), *OBSERVABLES)
    measurements = table("measurement_files", files.get("measurement_files"), *MEASUREMENTS)
    models = listed(files.get("sbml_files"))
    issues.close()
    if len(models) != 1:
        raise FileIssues([Issue(path.name, ("sbml_files",), f"must be one model, but is {len(models)}.")])
    network = read_model(path, models[0])
    check_ids(parameters, "parameterId", issues, model_ids=network.definition.ids())
    check_ids(conditions, "conditionId", issues)
    check_ids(observables, "observableId", issues)
    issues.declare(network.definition.ids(), *(row.cells for row in conditions))
    issues.declare(ids_in(parameters, "parameterId"), ids_in(observables, "observableId"))
    targets = {row.get("conditionId"): _targets(row, issues) for row in conditions}
    by_id = {row.get("observableId"): _observable(row, issues) for row in observables}
    experiments: dict[str, list[Period]] = {}
    named: list[tuple[str, Row]] = []
    for row in measurements:
        before, during = row.get("preequilibrationConditionId"), row.get("simulationConditionId")
        for column, id in (("preequilibrationConditionId", before), ("simulationConditionId", during)):
            if (id or column.startswith("sim")) and id not in targets:
                issues.add(row, column, f"must be a condition ({', '.join(targets)}), but is {id or 'empty'}.")
        if row.get("observableId") not in by_id:
            issues.add(
                row, "observableId", f"must be an observable ({', '.join(by_id)}), but is {row.get('observableId')}."
            )
        name = f"{before}+{during}" if before else during
        if name not in experiments:
            periods = [Period(-float("inf"), targets.get(before, {}))] if before else []
            experiments[name] = [*periods, Period(0.0, dict(targets.get(during, {})))]
        named.append((name, row))
    set_ = [
        Target(name, targets[row.get("conditionId")].get(name, 0.0), row, name, name)
        for row in conditions
        for name in row.cells
        if name not in _NAMES
    ]
    return Tables(network, parameters, by_id, experiments, named, set_)


def _targets(row: Row, issues: TableIssues) -> dict:
    columns = [name for name in row.cells if name not in _NAMES and row.get(name)]
    return {name: issues.formula(row, name) for name in columns}


def _observable(row: Row, issues: TableIssues) -> Observable:
    id = row.get("observableId")
    noise = noise_of(row.get("observableTransformation"), row.get("noiseDistribution"))
    if noise is None:
        issues.add(row, "noiseDistribution", "must be normal or laplace on the scale lin, log or log10, but is not.")
    formula, scatter = issues.formula(row, "observableFormula"), issues.formula(row, "noiseFormula")

    def placeholders(formula: float | Expression, kind: str) -> tuple[str, ...]:
        if not isinstance(formula, Expression):
            return ()
        pattern = re.compile(rf"{kind}Parameter(\d+)_{re.escape(id)}")
        numbers = sorted(int(match.group(1)) for name in symbols(formula) if (match := pattern.fullmatch(name)))
        return tuple(f"{kind}Parameter{n}_{id}" for n in numbers)

    base, distribution = noise or (0.0, Gaussian())
    return Observable(
        row, formula, scatter, base, distribution, placeholders(formula, "observable"), placeholders(scatter, "noise")
    )
