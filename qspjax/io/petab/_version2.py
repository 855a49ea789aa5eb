"""PEtab 2: conditions as rows of targets, experiments of periods, placeholders by name."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from qspjax._expression import Expression
from qspjax.fit import Gaussian
from qspjax.io._issues import FileIssues, Issue
from qspjax.io.petab._checks import check_ids
from qspjax.io.petab._parts import Observable, Period, Tables, Target, noise_of, read_model, with_ids
from qspjax.io.petab._tables import Row, TableIssues, ids_in, listed, read_tables
from qspjax.io.petab.sciml import embedded, read_hybrid

WITHOUT = "without experiment"
"""The experiment of measurements that name none; no id contains a blank."""

PARAMETERS = (
    ("parameterId", "estimate", "lowerBound", "upperBound"),
    ("parameterName", "nominalValue", "priorDistribution", "priorParameters"),
)
OBSERVABLES = (
    ("observableId", "observableFormula", "noiseFormula"),
    ("observableName", "noiseDistribution", "observablePlaceholders", "noisePlaceholders"),
)
MEASUREMENTS = (
    ("observableId", "experimentId", "time", "measurement"),
    ("modelId", "observableParameters", "noiseParameters", "datasetId", "replicateId"),
)
"""Columns of tables: required ones, and optional ones."""


def tables_of(path: Path, content: dict[str, object], issues: TableIssues) -> Tables:
    """Read the tables of a problem."""
    folder = path.parent
    models = content.get("model_files")
    if not isinstance(models, dict) or len(models) != 1:
        raise FileIssues([Issue(path.name, ("model_files",), "must be one model: several are not supported.")])
    ((model_id, model),) = models.items()
    if not isinstance(model, dict) or str(model.get("language", "")).lower() != "sbml":
        raise FileIssues([Issue(path.name, ("model_files", str(model_id)), "must be a model in SBML, but is not.")])

    def table(key: str, needed: tuple[str, ...], others: tuple[str, ...] = ()) -> list[Row]:
        return read_tables(folder, listed(content.get(key)), needed, others, issues)

    parameters = table("parameter_files", *PARAMETERS)
    conditions = table("condition_files", ("conditionId", "targetId", "targetValue"))
    experiments = table("experiment_files", ("experimentId", "time", "conditionId"))
    observables = table("observable_files", *OBSERVABLES)
    measurements = table("measurement_files", *MEASUREMENTS)
    mapping = table("mapping_files", ("petabEntityId", "modelEntityId"), ("petabEntityName", "name"))
    for key, rows in (("parameter", parameters), ("observable", observables), ("measurement", measurements)):
        if not rows:
            issues.of_file(path.name, f"must name tables in {key}_files that have rows, but does not.")
    issues.close()
    hybrid = read_hybrid(path, content.get("extensions"), mapping, issues)
    weights = [row for row in parameters if hybrid and row.get("parameterId") in hybrid.references.weights]
    parameters = [row for row in parameters if row not in weights]
    network = read_model(path, str(model.get("location")))
    model_ids = network.definition.ids()
    check_ids(mapping, "petabEntityId", issues)
    check_ids([*parameters, *weights], "parameterId", issues, model_ids=model_ids)
    check_ids(observables, "observableId", issues)
    check_ids(conditions, "conditionId", issues, unique=False)
    check_ids(experiments, "experimentId", issues, unique=False)
    renamed = {row.get("petabEntityId"): row.get("modelEntityId") for row in mapping if row.get("modelEntityId")}
    renamed = {new: old for new, old in renamed.items() if new != old and old in model_ids}
    issues.declare(model_ids, renamed, ids_in(parameters, "parameterId"), ids_in(conditions, "targetId"))
    issues.declare(ids_in(observables, "observableId"), hybrid.ids() if hybrid else ())
    issues.declare(*(_placeholders(row, column) for row in observables for column in _PLACEHOLDERS))
    parameters = [_in_model_ids(row, "parameterId", renamed) for row in parameters]

    def read(row: Row, column: str) -> float | Expression:
        return with_ids(issues.formula(row, column), renamed)

    targets: dict[str, dict] = {name: {} for name in (hybrid.conditions if hybrid else ())}
    set_: list[Target] = []
    ids = {row.get("conditionId") for row in _starting(experiments)}
    for row in conditions:
        id, target = row.get("conditionId"), renamed.get(row.get("targetId"), row.get("targetId"))
        if target in targets.setdefault(id, {}):
            issues.add(row, "targetId", f"must be set once by a condition, but {target} is again by {id}.")
        targets[id][target] = read(row, "targetValue")
        set_.append(Target(target, targets[id][target], row, "targetId", "targetValue", first=id in ids))
    by_id = {row.get("observableId"): _observable(row, read, issues) for row in observables}
    periods = _periods(experiments, targets, issues)
    named: list[tuple[str, Row]] = []
    for row in measurements:
        name = row.get("experimentId")
        if name and name not in periods:
            issues.add(row, "experimentId", f"must be an experiment ({', '.join(periods)}), but is {name}.")
        if row.get("observableId") not in by_id:
            issues.add(
                row, "observableId", f"must be an observable ({', '.join(by_id)}), but is {row.get('observableId')}."
            )
        if not name:
            name = WITHOUT
            periods.setdefault(name, [Period(0.0, {})])
        named.append((name, row))
        if row.get("modelId") not in ("", model_id):
            issues.add(row, "modelId", f"must be the model ({model_id}), but is {row.get('modelId')}.")
    tables = Tables(network, parameters, by_id, periods, named, set_, renamed)
    if hybrid is None:
        return tables
    issues.close()
    return embedded(tables, hybrid, weights, issues)


def _in_model_ids(row: Row, column: str, renamed: Mapping[str, str]) -> Row:
    id = row.get(column)
    return dataclasses.replace(row, cells={**row.cells, column: renamed[id]}) if id in renamed else row


def _starting(rows: list[Row]) -> list[Row]:
    """Return the rows of the first period of each experiment."""
    times = {id(row): TableIssues().number(row, "time") for row in rows}
    first: dict[str, float] = {}
    for row in rows:
        name = row.get("experimentId")
        first[name] = min(first.get(name, math.inf), times[id(row)])
    return [row for row in rows if times[id(row)] == first[row.get("experimentId")]]


def _periods(rows: list[Row], targets: dict[str, dict], issues: TableIssues) -> dict[str, list[Period]]:
    """Return the periods of each experiment, in the order of time."""
    by_time: dict[str, dict[float, Period]] = {}
    for row in rows:
        time = issues.number(row, "time")
        if math.isnan(time) or time == math.inf:
            issues.add(row, "time", f"must be a number, or -inf, but is {row.get('time') or 'empty'}.")
            continue
        periods = by_time.setdefault(row.get("experimentId"), {})
        period = periods.setdefault(time, Period(time, {}))
        condition = row.get("conditionId")
        if condition and condition not in targets:
            issues.add(row, "conditionId", f"must be a condition ({', '.join(targets)}), but is {condition}.")
        for target in period.targets.keys() & targets.get(condition, {}).keys():
            issues.add(row, "conditionId", f"must set what nothing else sets at that time, but sets {target} again.")
        period.targets.update(targets.get(condition, {}))
        period.conditions += (condition,) if condition else ()
    ordered = {name: [periods[time] for time in sorted(periods)] for name, periods in by_time.items()}
    for periods in ordered.values():
        if all(period.time == -math.inf for period in periods):
            periods.append(Period(0.0, {}))
    return ordered


def _observable(row: Row, read: Callable[[Row, str], float | Expression], issues: TableIssues) -> Observable:
    noise = noise_of("lin", row.get("noiseDistribution"))
    if noise is None:
        must = "must be normal, laplace, log-normal or log-laplace"
        issues.add(row, "noiseDistribution", f"{must}, but is {row.get('noiseDistribution')}.")

    base, distribution = noise or (0.0, Gaussian())
    names = [_placeholders(row, column) for column in _PLACEHOLDERS]
    return Observable(row, read(row, "observableFormula"), read(row, "noiseFormula"), base, distribution, *names)


_PLACEHOLDERS = ("observablePlaceholders", "noisePlaceholders")


def _placeholders(row: Row, column: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in row.get(column).split(";") if part.strip())
