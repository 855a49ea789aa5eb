"""Covariates that change in steps: parameters of the model follow them during the simulation of an individual.

    CL(t) = tCL exp(eta) (WT(t) / 70)^b        has two individual numbers that do not change, tCL exp(eta) and b

Only these are numbers of the individual, in which its simulation is expanded; how often a covariate changes, and to
what, is data, so that more records mean no more work for the compiler or the derivatives.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping

import numpy as np
from jaxtyping import Float

from qspjax._checks import refuse
from qspjax._dosing._covariates import FIRST
from qspjax._expression import Expression, call, nodes, substitute, symbol, with_arguments
from qspjax.fit.data._formula import names_in
from qspjax.fit.data._measurements import Change, Experiment, Measurements, passed
from qspjax.fit.data._stages import TimeVaryingParameter


@dataclasses.dataclass(frozen=True)
class CovariateSteps:
    """How covariates change.

    Attributes:
        at: The times of the changes, padded with inf.
        order: Their order among the actions at these times.
        values: By name, the values at the beginning and after each change.
    """

    at: Float[np.ndarray, "subjects changes"]
    order: Float[np.ndarray, "subjects changes"]
    values: Mapping[str, Float[np.ndarray, "subjects steps"]]

    def moves(self, change: Change) -> bool:
        """Whether a change sets a covariate that is used."""
        return bool(change.set.keys() & self.values.keys())

    def of(self, formula: float | Expression) -> bool:
        """Whether a formula uses a covariate that changes."""
        return bool(names_in(formula) & self.values.keys())

    def later(self) -> dict[str, Float[np.ndarray, " subjects"]]:
        """Return the value of each covariate after each change, by names such as `WT#1`."""
        return {f"{name}#{k}": table[:, k] for name, table in self.values.items() for k in range(1, table.shape[1])}

    def measured(
        self, number: int, experiment: Experiment, names: Collection[str], formulas: Mapping[str, float | Expression]
    ) -> Measurements:
        """Return measurements of a subject with columns for the values that change, for the formulas of outputs.

        Args:
            number: The number of the subject.
            experiment: Its experiment.
            names: The names that formulas of outputs use.
            formulas: Those of individuals.
        """
        data = experiment.measurements
        known = {**{name: symbol(name) for name in self.values}, **formulas}
        changing = [name for name in known if name in names and self.of(known[name]) and name not in data.given]
        stage = passed([change for change in experiment.changes if self.moves(change)], data.time, experiment.seen)

        def after(formula: float | Expression, k: int) -> float | Expression:
            if k == 0 or not isinstance(formula, Expression):
                return formula
            return substitute(formula, {name: symbol(f"{name}#{k}") for name in self.values})

        return data.with_columns({name: [after(known[name], int(k)) for k in stage] for name in changing})

    def time_varying(
        self, formula: Expression, fixed: Mapping[str, float], index_of: Callable[[Expression, int], int]
    ) -> TimeVaryingParameter:
        """Return how a parameter follows the covariates.

        Args:
            formula: Its formula.
            fixed: The parameters that are fixed.
            index_of: Returns the index in the table of a formula for a subject.
        """
        outer, parts = hoisted(substitute(formula, dict(fixed)), self.values.keys())
        subjects = range(self.at.shape[0])
        indices = {name: np.array([[index_of(part, i)] for i in subjects]) for name, part in parts.items()}
        used = names_in(outer)
        return TimeVaryingParameter(
            self.at, self.order, outer, indices, {name: values for name, values in self.values.items() if name in used}
        )


def steps_of(
    subjects: Mapping[str, Experiment], covariates: Mapping[str, np.ndarray], used: Collection[str]
) -> CovariateSteps | None:
    """Return how the covariates that are used change; None if something else changes as well.

    Raises:
        ValueError: If a covariate changes to something other than a number.
    """
    changes = [change for subject in subjects.values() for change in subject.changes]
    if any(change.put or change.set.keys() - covariates.keys() for change in changes):
        return None
    moving = [name for name in covariates if name in used and any(name in change.set for change in changes)]
    moments, tables = [], {name: [] for name in moving}
    for number, experiment in enumerate(subjects.values()):
        used_changes = [change for change in experiment.changes if change.set.keys() & tables.keys()]
        moments.append([(change.at, change.order) for change in used_changes])
        for name, table in tables.items():
            values = [float(covariates[name][number])]
            for change in used_changes:
                value = change.set.get(name, values[-1])
                if isinstance(value, Expression):
                    refuse("subjects", f"have numbers as covariates, also where `{name}` changes", value)
                values.append(float(value))
            table.append(values)
    most = max(map(len, moments), default=0)
    padded = {
        name: np.array([row + row[-1:] * (most + 1 - len(row)) for row in table]) for name, table in tables.items()
    }
    filled = [row + [(np.inf, FIRST)] * (most - len(row)) for row in moments]
    at, order = np.moveaxis(np.array(filled, float).reshape(len(filled), most, 2), -1, 0)
    return CovariateSteps(at, order, padded)


def hoisted(formula: Expression, names: Collection[str]) -> tuple[Expression, dict[str, Expression]]:
    """Return a formula with its largest parts without these names replaced by symbols, and the parts by symbol."""
    parts: dict[Expression, str] = {}

    def part(expression: Expression) -> Expression:
        if expression.op in ("number", "true", "false"):
            return expression
        return symbol(parts.setdefault(expression, f"#{len(parts)}"))

    varying: dict[Expression, bool] = {}
    rewritten: dict[Expression, Expression] = {}
    for node in nodes(formula):
        varying[node] = node.op == "symbol" and node.value in names or any(varying[arg] for arg in node.args)
        if not varying[node]:
            continue
        constants = [arg for arg in node.args if not varying[arg]]
        if node.op in ("+", "*") and len(constants) > 1:
            together = [part(call(node.op, *constants))]
            rewritten[node] = call(node.op, *together, *(rewritten[arg] for arg in node.args if varying[arg]))
        elif node.op == "symbol":
            rewritten[node] = node
        else:
            rewritten[node] = with_arguments(node, (rewritten[arg] if varying[arg] else part(arg) for arg in node.args))
    return rewritten[formula], {name: part for part, name in parts.items()}
