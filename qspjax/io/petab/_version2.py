"""PEtab 2: conditions as rows of targets, experiments of periods, placeholders by name."""

import math
from pathlib import Path
from typing import Any

from qspjax._expression import Expression, substitute, symbol
from qspjax.io._issues import FileIssues, Issue
from qspjax.io.petab._parts import Observable, Period, Tables, noise_of, read_model
from qspjax.io.petab._tables import Problems, Row, listed, read_tables


def tables_of(path: Path, content: dict[str, Any], problems: Problems) -> Tables:
    """Read the tables of a problem."""
    folder = path.parent
    models = content.get("model_files")
    if not isinstance(models, dict) or len(models) != 1:
        raise FileIssues([Issue(path.name, ("model_files",), "must be one model: several are not supported.")])
    ((model_id, model),) = models.items()
    if not isinstance(model, dict) or str(model.get("language", "")).lower() != "sbml":
        raise FileIssues([Issue(path.name, ("model_files", str(model_id)), "must be a model in SBML, but is not.")])
    if content.get("extensions"):
        raise FileIssues(
            [Issue(path.name, ("extensions",), f"not supported: extension {next(iter(content['extensions']))}.")]
        )

    def table(key: str, *needed: str) -> list[Row]:
        return read_tables(folder, listed(content.get(key)), needed, problems)

    parameters = table("parameter_files", "parameterId", "estimate")
    conditions = table("condition_files", "conditionId", "targetId", "targetValue")
    experiments = table("experiment_files", "experimentId", "time", "conditionId")
    observables = table("observable_files", "observableId", "observableFormula", "noiseFormula")
    measurements = table("measurement_files", "observableId", "time", "measurement")
    mapping = table("mapping_files", "petabEntityId", "modelEntityId")
    problems.stop()
    network = read_model(path, str(model.get("location")))
    renamed = {row.get("petabEntityId"): row.get("modelEntityId") for row in mapping if row.get("modelEntityId")}
    renamed = {new: old for new, old in renamed.items() if new != old and old in network.definition.ids()}

    def read(row: Row, column: str) -> float | Expression:
        formula = problems.formula(row, column)
        if not isinstance(formula, Expression) or not renamed:
            return formula
        return substitute(formula, {new: symbol(old) for new, old in renamed.items()})

    targets: dict[str, dict] = {}
    for row in conditions:
        target = row.get("targetId")
        targets.setdefault(row.get("conditionId"), {})[renamed.get(target, target)] = read(row, "targetValue")
    found = {row.get("observableId"): _observable(row, read, problems) for row in observables}
    periods = _periods(experiments, targets, problems)
    named: list[tuple[str, Row]] = []
    for row in measurements:
        name = row.get("experimentId")
        if name and name not in periods:
            problems.add(row, "experimentId", f"must be an experiment ({', '.join(periods)}), but is {name}.")
        if row.get("observableId") not in found:
            problems.add(
                row, "observableId", f"must be an observable ({', '.join(found)}), but is {row.get('observableId')}."
            )
        if not name:
            name = "without_experiment"
            periods.setdefault(name, [Period(0.0, {})])
        named.append((name, row))
    return Tables(network, parameters, found, periods, named)


def _periods(rows: list[Row], targets: dict[str, dict], problems: Problems) -> dict[str, list[Period]]:
    """Return the periods of each experiment, in the order of time."""
    found: dict[str, dict[float, Period]] = {}
    for row in rows:
        time = problems.number(row, "time")
        own = found.setdefault(row.get("experimentId"), {})
        period = own.setdefault(time, Period(time, {}))
        condition = row.get("conditionId")
        if condition and condition not in targets:
            problems.add(row, "conditionId", f"must be a condition ({', '.join(targets)}), but is {condition}.")
        period.targets.update(targets.get(condition, {}))
    ordered = {name: [own[time] for time in sorted(own)] for name, own in found.items()}
    for periods in ordered.values():
        if all(period.time == -math.inf for period in periods):
            periods.append(Period(0.0, {}))
    return ordered


def _observable(row: Row, read: Any, problems: Problems) -> Observable:
    noise = noise_of("lin", row.get("noiseDistribution"))
    if noise is None:
        must = "must be normal, laplace, log-normal or log-laplace"
        problems.add(row, "noiseDistribution", f"{must}, but is {row.get('noiseDistribution')}.")

    def placeholders(column: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in row.get(column).split(";") if part.strip())

    base, tails = noise or (0.0, None)
    names = placeholders("observablePlaceholders"), placeholders("noisePlaceholders")
    return Observable(read(row, "observableFormula"), read(row, "noiseFormula"), base, tails, *names)
