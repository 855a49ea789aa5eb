"""Requirements of the standard on the tables of a problem: ids, scopes of names, numbers; with line and column."""

import math
import re
from collections.abc import Collection, Sequence

from qspjax._expression import Expression, constants_named, symbols
from qspjax.io.petab._parts import Formula, Observable, Tables
from qspjax.io.petab._tables import Row, TableIssues
from qspjax.models.network import Definition

_ID = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_PRIOR_SPREAD = {"normal": 1, "laplace": 1, "lognormal": 1, "loglaplace": 1, "cauchy": 1, "rayleigh": 0}
_PRIOR_SPREAD |= {"exponential": 0, "chisquare": 0, "gamma": 1}
"""The index of the number of a prior that must be positive, by its name."""


def check_ids(
    rows: Sequence[Row], column: str, issues: TableIssues, *, model_ids: Collection[str] = (), unique: bool = True
) -> None:
    """Add issues of ids that are invalid or repeated; `model_ids` may have a dot."""
    first: dict[str, int] = {}
    for row in rows:
        id = row.get(column)
        if _ID.fullmatch(id) is None and id not in model_ids:
            issues.add(row, column, f"must be an id (letters, digits and _), but is {id or 'empty'}.")
        elif unique and id in first:
            issues.add(row, column, f"must occur once, but {id} is in line {first[id]} too.")
        first.setdefault(id, row.line)


def check_numbers(tables: Tables, issues: TableIssues) -> None:
    """Add issues of times and measurements that are not numbers that can be fitted."""
    for _, row in tables.measurements:
        time, value = issues.number(row, "time"), issues.number(row, "measurement")
        if row.get("time") == "" or time == -math.inf:
            issues.add(
                row, "time", f"must be a number, or inf for a steady state, but is {row.get('time') or 'empty'}."
            )
        if row.get("measurement") == "" or math.isinf(value):
            issues.add(row, "measurement", f"must be a number, but is {row.get('measurement') or 'empty'}.")
        observable = tables.observables.get(row.get("observableId"))
        if observable is not None and observable.base and value <= 0:
            issues.add(row, "measurement", f"must be positive for a logarithm to be taken, but is {value:g}.")


def check_names(tables: Tables, issues: TableIssues) -> None:
    """Add issues of names that are unknown or ambiguous, or that tables must not set."""
    definition = tables.network.definition
    entities = frozenset(definition.ids())
    parameters = frozenset(row.get("parameterId") for row in tables.parameters)
    targets = frozenset(target.id for target in tables.targets)
    outputs = tables.observables
    for id, observable in outputs.items():
        if id in entities:
            issues.add(observable.row, "observableId", f"must be an id of its own, but {_described(id, definition)}.")
        if id in parameters:
            issues.add(observable.row, "observableId", f"must be an id of its own, but {id} is a parameter too.")
    known = entities | parameters | targets | outputs.keys()
    used: set[str] = set()

    def check(row: Row, column: str, formula: Formula, allowed: Collection[str], must: str) -> None:
        names = symbols(formula) if isinstance(formula, Expression) else frozenset()
        used.update(names)
        for name in sorted(names - set(allowed)):
            actual = (
                _described(name, definition) if name in entities else f"{name} is none{local_hint(name, definition)}"
            )
            issues.add(row, column, f"{must}, but {actual}.")
        for name in constants_named(known, [formula]):
            actual = _described(name, definition) if name in entities else f"{name} is an id of the tables too"
            issues.add(row, column, f"must not use {name}, which PEtab reserves, but {actual}: rename it.")

    must = "must use ids of the model and of the tables"
    for id, observable in outputs.items():
        check(
            observable.row,
            "observableFormula",
            observable.formula,
            (known - ({id} - entities)) | {*observable.placeholders},
            must,
        )
        placeholders = {*observable.placeholders, *observable.noise_placeholders}
        check(observable.row, "noiseFormula", observable.noise, known | placeholders, must)
        _check_others(observable, id, outputs, issues)
        for column, names in (
            ("observablePlaceholders", observable.placeholders),
            ("noisePlaceholders", observable.noise_placeholders),
        ):
            if len(set(names)) < len(names):
                issues.add(observable.row, column, f"must be different names, but are {', '.join(names)}.")
    settable = {id for id in entities if id not in definition.reactions and id not in definition.participants}
    for target in tables.targets:
        allowed = parameters if target.first else known
        inner = "must use ids of the table of parameters at the start of an experiment" if target.first else must
        check(target.row, target.value_column, target.formula, allowed, inner)
        if target.id in definition.assignments:
            issues.add(target.row, target.column, f"must not be determined by a rule, but {target.id} is.")
        elif target.id in parameters:
            issues.add(target.row, target.column, f"must not be in the table of parameters too, but {target.id} is.")
        elif target.id not in settable and target.id not in used:
            hint = local_hint(target.id, definition)
            issues.add(
                target.row, target.column, f"must be an id of the model, but {target.id or 'no name'} is none{hint}."
            )
    for _, row in tables.measurements:
        for column in ("observableParameters", "noiseParameters"):
            for formula in map(tables.in_model_ids, issues.formulas(row, column)):
                check(row, column, formula, parameters, "must be numbers or ids of the table of parameters")
    _check_parameters(tables, used | targets | tables.used, issues)


def _check_others(observable: Observable, id: str, outputs: dict[str, Observable], issues: TableIssues) -> None:
    """Add an issue if a formula uses another observable that has placeholders: no measurement gives their values."""
    for column, formula in (("observableFormula", observable.formula), ("noiseFormula", observable.noise)):
        names = symbols(formula) if isinstance(formula, Expression) else frozenset()
        for name in sorted(names & outputs.keys() - {id}):
            if outputs[name].placeholders:
                issues.add(observable.row, column, f"must not use an observable with placeholders, but uses {name}.")
        if "prediction" in names:
            issues.add(
                observable.row,
                column,
                "not supported: the name prediction, which stands for the value of an observable.",
            )
    if not isinstance(observable.noise, Expression) and not 0 < observable.noise < math.inf:
        issues.add(observable.row, "noiseFormula", f"must be positive, but is {observable.noise:g}.")


def _check_parameters(tables: Tables, used: Collection[str], issues: TableIssues) -> None:
    definition = tables.network.definition
    for row in tables.parameters:
        id = row.get("parameterId")
        if id == "time":
            issues.add(row, "parameterId", "must not be time, which means the time.")
        elif id in definition.ids():
            if id not in definition.parameters:
                issues.add(row, "parameterId", f"must be a parameter, but {_described(id, definition)}.")
            elif id in definition.assignments or id in definition.rates:
                issues.add(row, "parameterId", f"must not be determined by a rule, but {id} is.")
        elif id not in used:
            hint = local_hint(id, definition)
            issues.add(row, "parameterId", f"must be an id that the model or a table uses, but {id} is none{hint}.")


def check_prior(row: Row, column: str, kind: str, parameters: Sequence[float], issues: TableIssues) -> bool:
    """Return whether the numbers of a prior are valid; add an issue if not."""
    message = ""
    if any(not math.isfinite(x) for x in parameters):
        message = "must be finite numbers"
    elif "uniform" in kind and parameters and not parameters[0] < parameters[1]:
        message = "must be the lower and the higher end"
    elif kind == "loguniform" and parameters[0] <= 0:
        message = "must be positive"
    elif kind in _PRIOR_SPREAD and not parameters[_PRIOR_SPREAD[kind]] > 0:
        message = f"must have a positive number at position {_PRIOR_SPREAD[kind] + 1}"
    if message:
        issues.add(row, column, f"{message}, but is {row.get(column)}.")
    return not message


def local_hint(id: str, definition: Definition) -> str:
    """Return a hint to the parameters of single reactions whose names end in an id."""
    names = [name for name in definition.parameters if name.endswith(f".{id}")] if id else []
    return "" if not names else f"; parameters of one reaction alone are called {' and '.join(names)}"


def _described(id: str, definition: Definition) -> str:
    tables = {"species": definition.species, "compartment": definition.compartments, "reaction": definition.reactions}
    kind = next((kind for kind, table in tables.items() if id in table), "parameter")
    return f"{id} is a {kind} of the model"
