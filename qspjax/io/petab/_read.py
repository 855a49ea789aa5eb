"""A PEtab problem, of version 1 or 2, as a `fit.Problem`.

References: Schmiester et al., PLoS Comput Biol 2021;17:e1008646, doi:10.1371/journal.pcbi.1008646; the specification of
version 2 at petab.readthedocs.io, and that of PEtab SciML at petab-sciml.readthedocs.io.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from qspjax._expression import Expression, as_expression, substitute, symbol, symbols
from qspjax._names import state_names
from qspjax._simulate import default_method
from qspjax._transform import AbstractTransform, Identity, Log
from qspjax.fit import (
    AbstractErrorModel,
    Additive,
    Change,
    Experiment,
    Free,
    LogNormalError,
    Measurements,
    Output,
    Problem,
)
from qspjax.io._issues import FileIssues, Issue
from qspjax.io.petab import _version1, _version2
from qspjax.io.petab._checks import check_names, check_numbers
from qspjax.io.petab._distributions import Bounds, prior_in, quantile_in
from qspjax.io.petab._parts import Formula, Observable, Period, Tables, with_ids
from qspjax.io.petab._priors import PetabPrior
from qspjax.io.petab._tables import Row, TableIssues, read_yaml
from qspjax.models import Network
from qspjax.solve import AbstractMethod, MatrixExponential, Rosenbrock

EXACT = 500
"""The greatest number of products up to which an exact solve, with its derivatives, is cheaper than `Rosenbrock`."""


def read_petab(path: str | Path, *, method: AbstractMethod | None = None) -> Problem:
    """Read a calibration problem from the YAML file of a PEtab problem, version 1 or 2, also one with networks (SciML).

    All conditions are simulated as one cohort. Nominal values are the start of the search, and the `reference` of the
    problem.

    Args:
        path: The YAML file.
        method: How to simulate; by default `Rosenbrock(rtol=1e-8, atol=1e-12)`, and exactly where the model is linear
            and so small that this is cheaper. With networks `Rosenbrock(rtol=1e-11, atol=1e-13)`:
            gradients are as exact as PEtab SciML asks for also where an activation such as relu has kinks. For
            training, looser tolerances are several times faster.

    Raises:
        FileIssues: If anything in the files is wrong or not supported: a list with file, line and column.
        ImportError: If the extra `petab` or `sbml` is not installed.

    Example:
        >>> import pathlib, tempfile, qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem
        >>> loss = {"loss": qsp.models.Reaction("drug ->", "k * drug")}
        >>> network = qsp.models.Network(species={"drug": 9.0}, parameters={"k": 0.1}, reactions=loss)
        >>> data = Experiment(Measurements([1.0, 4.0], [8.1, 5.2], output="drug"))
        >>> problem = Problem(network, data, {"drug": Output("drug", Additive(0.5))}, {"k": Free(0.1)})
        >>> path = qsp.io.write_petab(problem, pathlib.Path(tempfile.mkdtemp()) / "petab")
        >>> read_petab(path).names
        ('k',)
    """
    path = Path(path)
    content = read_yaml(path)
    version = str(content.get("format_version", "")).split(".")[0]
    if version not in ("1", "2"):
        raise FileIssues([Issue(path.name, ("format_version",), f"must be 1 or 2, but is {version or 'missing'}.")])
    issues = TableIssues()
    tables = (_version1 if version == "1" else _version2).tables_of(path, content, issues)
    issues.close()
    check_numbers(tables, issues)
    check_names(tables, issues)
    issues.close()
    return _problem(path.name, tables, issues, method, version)


def _problem(name: str, tables: Tables, issues: TableIssues, method: AbstractMethod | None, version: str) -> Problem:
    parameters, nominal = _parameters(tables, issues, version)
    network = _overridable(tables, parameters)
    outputs = {id: _output(id, tables.observables) for id in tables.observables}
    issues.close()
    by_experiment: dict[str, list[Row]] = {}
    for experiment, row in tables.measurements:
        by_experiment.setdefault(experiment, []).append(row)
    experiments = {
        experiment: _experiment(network, tables, experiment, rows, issues) for experiment, rows in by_experiment.items()
    }
    issues.close()
    if method is None:
        method = default_method(network)
        if network.functions or tables.functions:
            method = Rosenbrock(rtol=1e-11, atol=1e-13)
        elif not isinstance(method, MatrixExponential) or _products(network, experiments) > EXACT:
            method = Rosenbrock(rtol=1e-8, atol=1e-12)
    used = {row.get("observableId") for _, row in tables.measurements}
    try:
        return Problem(
            network,
            experiments,
            {id: output for id, output in outputs.items() if id in used},
            {**parameters, **tables.weights},
            method=method,
            reference=nominal,
            functions=tables.functions,
        )
    except ValueError as error:
        raise FileIssues([Issue(name, (), str(error))]) from None


def _products(network: Network, experiments: Mapping[str, Experiment]) -> int:
    """Return how many products an exact solve takes for each multiplication of matrices in an exponential.

    There is an exponential for every time between measurements, doses and changes; its derivatives are many more
    multiplications. A step of `Rosenbrock` has a sparse factorisation and as many solves, and few steps are needed.
    """
    intervals = max(
        np.unique(experiment.measurements.time).size + experiment.regimen.time.size + len(experiment.changes)
        for experiment in experiments.values()
    )
    return intervals * len(state_names(network.initial())) ** 3


# --- parameters -----------------------------------------------------------------------------------------------------


def _parameters(tables: Tables, issues: TableIssues, version: str) -> tuple[dict[str, Free | float], dict[str, float]]:
    parameters: dict[str, Free | float] = {}
    nominal: dict[str, float] = {}
    implicit = version == "2" and any([tables.has_priors, *(row.get("priorDistribution") for row in tables.parameters)])
    for row in tables.parameters:
        id, estimated = row.get("parameterId"), _ESTIMATED[version].get(row.get("estimate").lower())
        value = issues.number(row, "nominalValue")
        if estimated is None:
            expected = "1 or 0" if version == "1" else "true or false"
            issues.add(row, "estimate", f"must be {expected}, but is {row.get('estimate') or 'empty'}.")
        if not estimated:
            if math.isnan(value):
                issues.add(row, "nominalValue", "must be a number for a parameter that is not estimated, but is empty.")
            parameters[id] = value
            continue
        scale = row.get("parameterScale") if version == "1" else "lin"
        lower, upper = issues.number(row, "lowerBound", -math.inf), issues.number(row, "upperBound", math.inf)
        if version == "2" and lower > 0:
            scale = "log10"
        if scale not in ("lin", "log", "log10"):
            issues.add(row, "parameterScale", f"must be lin, log or log10, but is {scale or 'empty'}.")
            continue
        for column in ("lowerBound", "upperBound"):
            if not row.get(column):
                issues.add(row, column, "must be a number for a parameter that is estimated, but is empty.")
        if scale != "lin" and (lower < 0 or (lower == 0 and not row.get("initializationPriorType"))):
            issues.add(row, "lowerBound", f"must be positive on the scale {scale}, but is {lower:g}.")
            continue
        if not lower < upper:
            issues.add(row, "lowerBound", f"must be less than the upper bound {upper:g}, but is {lower:g}.")
            continue
        transform: AbstractTransform = {"lin": Identity(), "log": Log(), "log10": Log(10.0)}[scale]
        lower = lower if scale == "lin" else max(lower, 0.0)
        middle = (
            value
            if math.isfinite(value)
            else float(transform.inverse(0.5 * (transform.forward(lower) + transform.forward(upper))))
        )
        start = min(max(middle, lower), upper)
        if not math.isfinite(start) or (scale != "lin" and start <= 0):
            issues.add(row, "nominalValue", f"must be a number on the scale {scale}, but is {row.get('nominalValue')}.")
            continue
        bounds = Bounds(lower, upper, transform)
        prior, scaled = prior_in(row, issues, version, bounds)
        if prior is None and implicit and math.isfinite(upper - lower):
            prior = PetabPrior("uniform", (lower, upper))  # the standard: if any parameter has a prior, all have
        parameters[id] = Free(
            start,
            bounds=bounds[:2],
            transform=transform,
            prior=prior,
            prior_scaled=scaled,
            quantile=quantile_in(row, issues, bounds),
        )
        if math.isfinite(value):
            nominal[id] = value
    return parameters, nominal


_ESTIMATED = {"1": {"1": True, "1.0": True, "0": False, "0.0": False}, "2": {"true": True, "false": False}}
"""The words of each version for whether a parameter is estimated."""


def _overridable(tables: Tables, parameters: Mapping[str, Free | float]) -> Network:
    """Return the network with a number for each constant that a table sets, also in place of a formula."""
    network = tables.network
    definition = network.definition
    targets = {id for periods in tables.experiments.values() for period in periods for id in period.targets}
    constants = {
        id
        for id in (targets | parameters.keys()) & definition.initial.keys()
        if id not in network.plan.states and id not in definition.species
    }
    if not constants:
        return network
    values = network.observe(0.0, network.initial())
    parameters_of = {
        id: dataclasses.replace(parameter, value=float(values[id])) if id in constants else parameter
        for id, parameter in definition.parameters.items()
    }
    compartments = {
        id: dataclasses.replace(compartment, size=float(values[id])) if id in constants else compartment
        for id, compartment in definition.compartments.items()
    }
    initial = {id: formula for id, formula in definition.initial.items() if id not in constants}
    changed = dataclasses.replace(definition, initial=initial, parameters=parameters_of, compartments=compartments)
    return Network(changed, functions=network.functions)


# --- observables ----------------------------------------------------------------------------------------------------


def _output(id: str, observables: Mapping[str, Observable]) -> Output:
    formulas = {name: other.formula for name, other in observables.items()}
    observable = observables[id]
    columns = {name: column_of(id, name) for name in (*observable.placeholders, *observable.noise_placeholders)}
    prediction = with_ids(_inserted(observable.formula, formulas), columns)
    noise = with_ids(_inserted(_inserted(observable.noise, {id: symbol("prediction")}), formulas), columns)
    base, distribution = observable.base, observable.distribution
    error: AbstractErrorModel = (
        LogNormalError(sd=noise, base=base, distribution=distribution)
        if base
        else Additive(sd=noise, distribution=distribution)
    )
    return Output(prediction, error)


def column_of(observable: str, placeholder: str) -> str:
    """Return the name of the column with the values of a placeholder, which belongs to this observable alone."""
    return f"{placeholder} of {observable}"


def _inserted(formula: Formula, others: Mapping[str, Formula]) -> Formula:
    """Return a formula in which other observables are replaced by their formulas."""
    if not isinstance(formula, Expression):
        return formula
    for _ in range(len(others)):
        used = symbols(formula) & others.keys()
        if not used:
            break
        formula = substitute(formula, {name: as_expression(others[name]) for name in used})
    return formula


# --- experiments ----------------------------------------------------------------------------------------------------


def _experiment(network: Network, tables: Tables, name: str, rows: list[Row], issues: TableIssues) -> Experiment:
    changes, equilibrated, carried = [], None, {}
    for period in tables.experiments[name]:
        sets, puts = _split_targets(network, period, rows[0], issues)
        if period.time == -math.inf:
            equilibrated, carried = Change(0.0, set=sets, put=puts), sets
        else:
            changes.append(Change(period.time, set={**carried, **sets}, put=puts))
            carried = {}
    begin, *later = changes or [Change(0.0, set=carried)]
    return Experiment(
        _measurements(tables, rows, issues),
        set=begin.set,
        put=begin.put,
        equilibrated=equilibrated,
        changes=later,
        start=begin.at,
        optional={id for period in tables.experiments[name] for id in period.targets},
    )


def _split_targets(network: Network, period: Period, row: Row, issues: TableIssues) -> tuple[dict, dict]:
    """Return the targets that are parameters (or not in the model), and those that are states."""
    sets, puts = {}, {}
    definition = network.definition
    for id, formula in period.targets.items():
        if id in network.plan.states:
            puts[id] = formula
        elif id in network.values or id not in definition.ids():
            sets[id] = formula
        else:
            issues.of_file(row.file, f"must have conditions that set what is free, but a rule of the model sets {id}.")
    return sets, puts


def _measurements(tables: Tables, rows: list[Row], issues: TableIssues) -> Measurements:
    time, value, output = [], [], []
    given: dict[str, list[Formula]] = {}
    for number, row in enumerate(rows):
        id = row.get("observableId")
        observable = tables.observables[id]
        time.append(issues.number(row, "time"))
        value.append(issues.number(row, "measurement"))
        output.append(id)
        for column, names in (
            ("observableParameters", observable.placeholders),
            ("noiseParameters", observable.noise_placeholders),
        ):
            formulas = [*map(tables.in_model_ids, issues.formulas(row, column))]
            if len(formulas) != len(names):
                issues.add(
                    row,
                    column,
                    f"must have a value for each of {len(names)} placeholders of {id}, but has {len(formulas)}.",
                )
                continue
            for placeholder, formula in zip(names, formulas, strict=True):
                given.setdefault(column_of(id, placeholder), [0.0] * len(rows))[number] = formula
    issues.close()
    return Measurements(time, value, output=output, given=given)
