"""Covariates that change in steps: parameters of the model follow them while an individual is simulated.

    CL(t) = tCL exp(eta) (WT(t) / 70)^b        has two numbers of its own that do not change, tCL exp(eta) and b

Only these are numbers of the individual, in which its simulation is expanded; how often a covariate changes, and to
what, is data. So neither the compiler nor the derivatives have more to do where there are more records.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping

import numpy as np
from jaxtyping import Float

from qspjax._checks import refuse
from qspjax._dosing._covariates import FIRST
from qspjax._expression import Expression, call, nodes, substitute, symbol
from qspjax.fit.data._formula import names_in
from qspjax.fit.data._measurements import Change, Experiment, Measurements, passed
from qspjax.fit.data._stages import TimeVaryingParameter


@dataclasses.dataclass(frozen=True)
class CovariateSteps:
    """How covariates change.

    Attributes:
        at: When, padded with inf.
        order: Their places among what happens at these times.
        values: By name, what they are at the beginning and after each change.
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
        """Return what each covariate is after each change, by names such as `WT#1`."""
        return {f"{name}#{k}": table[:, k] for name, table in self.values.items() for k in range(1, table.shape[1])}

    def measured(
        self, number: int, one: Experiment, names: Collection[str], formulas: Mapping[str, float | Expression]
    ) -> Measurements:
        """Return measurements of a subject with columns of what changes, for the formulas of outputs.

        Args:
            number: The number of the subject.
            one: Its experiment.
            names: The names that formulas of outputs use.
            formulas: Those of individuals.
        """
        data = one.measurements
        known = {**{name: symbol(name) for name in self.values}, **formulas}
        wanted = [name for name in known if name in names and self.of(known[name]) and name not in data.given]
        stage = passed([change for change in one.changes if self.moves(change)], data.time, one.seen)

        def then(formula: float | Expression, k: int) -> float | Expression:
            if k == 0 or not isinstance(formula, Expression):
                return formula
            return substitute(formula, {name: symbol(f"{name}#{k}") for name in self.values})

        return data.with_columns({name: [then(known[name], int(k)) for k in stage] for name in wanted})

    def time_varying(
        self, formula: Expression, known: Mapping[str, float], place: Callable[[Expression, int], int]
    ) -> TimeVaryingParameter:
        """Return how a parameter follows the covariates.

        Args:
            formula: Its formula.
            known: The parameters that are fixed.
            place: Returns the place in the table of a formula for a subject.
        """
        whole, parts = apart(substitute(formula, dict(known)), self.values.keys())
        subjects = range(self.at.shape[0])
        places = {name: np.array([[place(part, i)] for i in subjects]) for name, part in parts.items()}
        used = names_in(whole)
        return TimeVaryingParameter(
            self.at, self.order, whole, places, {name: own for name, own in self.values.items() if name in used}
        )


def steps_of(
    subjects: Mapping[str, Experiment], covariates: Mapping[str, np.ndarray], used: Collection[str]
) -> CovariateSteps | None:
    """Return how the covariates that are used change; None if something else changes as well.

    Raises:
        ValueError: If a covariate changes to what is no number.
    """
    changes = [change for subject in subjects.values() for change in subject.changes]
    if any(change.put or change.set.keys() - covariates.keys() for change in changes):
        return None
    moving = [name for name in covariates if name in used and any(name in change.set for change in changes)]
    moments, tables = [], {name: [] for name in moving}
    for number, one in enumerate(subjects.values()):
        mine = [change for change in one.changes if change.set.keys() & tables.keys()]
        moments.append([(change.at, change.order) for change in mine])
        for name, table in tables.items():
            values = [float(covariates[name][number])]
            for change in mine:
                value = change.set.get(name, values[-1])
                if isinstance(value, Expression):
                    refuse("subjects", f"have numbers as covariates, also where `{name}` changes", value)
                values.append(float(value))
            table.append(values)
    most = max(map(len, moments), default=0)
    padded = {
        name: np.array([own + own[-1:] * (most + 1 - len(own)) for own in table]) for name, table in tables.items()
    }
    filled = [own + [(np.inf, FIRST)] * (most - len(own)) for own in moments]
    at, order = np.moveaxis(np.array(filled, float).reshape(len(filled), most, 2), -1, 0)
    return CovariateSteps(at, order, padded)


def apart(formula: Expression, names: Collection[str]) -> tuple[Expression, dict[str, Expression]]:
    """Return a formula in which the greatest parts without these names are symbols, and the parts by symbol."""
    parts: dict[Expression, str] = {}

    def part(own: Expression) -> Expression:
        if own.op in ("number", "true", "false"):
            return own
        return symbol(parts.setdefault(own, f"#{len(parts)}"))

    moves: dict[Expression, bool] = {}
    found: dict[Expression, Expression] = {}
    for one in nodes(formula):
        moves[one] = one.op == "symbol" and one.value in names or any(moves[arg] for arg in one.args)
        if not moves[one]:
            continue
        still = [arg for arg in one.args if not moves[arg]]
        if one.op in ("+", "*") and len(still) > 1:
            together = [part(call(one.op, *still))]
            found[one] = call(one.op, *together, *(found[arg] for arg in one.args if moves[arg]))
        elif one.op == "symbol":
            found[one] = one
        else:
            found[one] = call(one.op, *(found[arg] if moves[arg] else part(arg) for arg in one.args))
    return found[formula], {name: own for own, name in parts.items()}
