"""The subjects of a mixed-effects model as experiments: their own parameters set by formulas, covariates as numbers."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from qspjax._checks import ArgumentError, check_instance, refuse
from qspjax._expression import Expression, Formula, as_formula, misuses, substitute, symbol
from qspjax._types import Scalar
from qspjax.fit.data._formula import called_by, names_in
from qspjax.fit.data._layout import Design, numbers_of, parts_of
from qspjax.fit.data._measurements import Change, Experiment, Output
from qspjax.fit.data._stages import parameters_of
from qspjax.fit.mixed._individuals import Individuals, IndividualTable
from qspjax.fit.mixed._occasions import Occasions
from qspjax.fit.mixed._time_varying import CovariateSteps
from qspjax.models import AbstractTerm

Formulas = Mapping[str, float | Expression]
Covariates = Mapping[str, Float[np.ndarray, " subjects"]]


def names_of(outputs: Mapping[str, Output]) -> frozenset[str]:
    """Return the names that formulas of outputs use."""
    return frozenset().union(*(output.names() for output in outputs.values()))


def formulas_of(
    individual: Mapping[str, Formula],
    free: Sequence[str],
    leaves: frozenset[str],
    outputs: Mapping[str, Output],
    occasions: Occasions,
    functions: Mapping[str, AbstractTerm],
) -> dict[str, float | Expression]:
    """Return the formulas of what differs between subjects, with one effect per occasion.

    Parameters of the model that are estimated directly, and effects that outputs use directly, are among them.

    Args:
        individual: As in `MixedModel`.
        free: The names of the parameters that are estimated.
        leaves: The parameters of the model.
        outputs: As in `MixedModel`.
        occasions: The occasions of the subjects.
        functions: As in `MixedModel`.
    """
    formulas = {name: as_formula(name, formula, functions) for name, formula in individual.items()}
    _check_calls(formulas, functions)
    formulas |= {name: symbol(name) for name in free if name in leaves and name not in formulas}
    used = names_of(outputs)
    direct = [name for block in occasions.random if block.occasion for name in block.names if name in used]
    formulas |= {name: symbol(name) for name in direct}
    return {name: occasions.summed(formula) for name, formula in formulas.items()}


def _check_calls(formulas: Formulas, functions: Mapping[str, AbstractTerm]) -> None:
    """Refuse functions that are no terms or that no formula calls, and calls that do not fit them."""
    for name, function in functions.items():
        check_instance(
            f'functions["{name}"]', function, AbstractTerm, "a term: a class that derives from models.AbstractTerm"
        )
    expressions = {name: formula for name, formula in formulas.items() if isinstance(formula, Expression)}
    for name, formula in expressions.items():
        for wrong in misuses(formula, functions):
            raise ArgumentError(name, wrong)
    called = called_by(*expressions.values())
    for name in functions:
        if name not in called:
            must = f"must be called by formulas of `individual`, but none calls `{name}`."
            raise ArgumentError("functions", must)


def covariates_of(subjects: Mapping[str, Experiment], leaves: frozenset[str]) -> Covariates:
    """Return the values that subjects set initially for names that are not parameters of the model."""
    names = dict.fromkeys(
        name for experiment in subjects.values() for name in experiment.begin.set if name not in leaves
    )
    return {name: np.array([_covariate(name, *pair) for pair in subjects.items()], float) for name in names}


def _covariate(name: str, subject: str, experiment: Experiment) -> float:
    if name not in experiment.begin.set:
        raise ArgumentError("subjects", f"must all have the covariate `{name}`, but `{subject}` has none.")
    value = experiment.begin.set[name]
    if isinstance(value, Expression) or not np.isfinite(value):
        raise ArgumentError("subjects", f"must have numbers as covariates, but `{name}` of `{subject}` is {value}.")
    return value


def experiments_of(
    subjects: Mapping[str, Experiment],
    formulas: Formulas,
    covariates: Covariates,
    steps: CovariateSteps | None,
    outputs: Mapping[str, Output],
    numbers: Mapping[str, Scalar],
) -> dict[str, Experiment]:
    """Return the experiments of subjects with their individual parameters at the start and at changes of covariates.

    Args:
        subjects: As in `MixedModel`, with the covariates that indicate the occasion.
        formulas: See `formulas_of`.
        covariates: See `covariates_of`.
        steps: How covariates change, None if something else changes as well.
        outputs: As in `MixedModel`.
        numbers: Those of the model that formulas use.
    """
    used = names_of(outputs)
    if steps is None:
        later = {name: _with_numbers(formula, numbers) for name, formula in formulas.items()}
        return {name: _changing(experiment, formulas, later, covariates, used) for name, experiment in subjects.items()}
    experiments = {}
    for number, (name, experiment) in enumerate(subjects.items()):
        others = {key: value for key, value in experiment.begin.set.items() if key not in covariates}
        measured = experiment.measuring(steps.measured(number, experiment, used, formulas))
        experiments[name] = measured.changed(begin=experiment.begin.setting({**formulas, **others}), changes=[])
    return experiments


def _with_numbers(formula: float | Expression, numbers: Mapping[str, object]) -> float | Expression:
    """Return a formula with numbers in place of the names that have them."""
    return substitute(formula, numbers) if isinstance(formula, Expression) else formula


def _changing(
    experiment: Experiment, formulas: Formulas, later: Formulas, covariates: Covariates, used: frozenset[str]
) -> Experiment:
    """Return an experiment whose changes set the values that formulas of covariates have from then on.

    Args:
        experiment: The experiment of a subject.
        formulas: See `formulas_of`.
        later: The same with the numbers of the model, for changes.
        covariates: See `covariates_of`.
        used: The names that formulas of outputs use.
    """
    at_start = {name: value for name, value in experiment.begin.set.items() if name in covariates}
    others = {name: value for name, value in experiment.begin.set.items() if name not in at_start}
    direct = {name: symbol(name) for name in used & at_start.keys()}  # outputs use these covariates directly
    changes, current = [], dict(at_start)
    for change in experiment.changes:
        current |= {name: value for name, value in change.set.items() if name in covariates}
        changed = {name: value for name, value in current.items() if value != at_start[name]}
        values = {
            name: _with_numbers(formula, changed)
            for name, formula in later.items()
            if isinstance(formula, Expression) and names_in(formula) & change.set.keys()
        }
        values |= {
            name: _with_numbers(value, changed)
            for name, value in change.set.items()
            if name not in at_start or name in direct
        }
        puts = {name: _with_numbers(value, changed) for name, value in change.put.items()}
        changes.append(Change(change.at, set=values, put=puts, order=change.order, typical=change.typical))
    return experiment.changed(begin=experiment.begin.setting({**formulas, **others, **direct}), changes=changes)


def laid_out(
    design: Design,
    effects: Sequence[str],
    covariates: Covariates,
    steps: CovariateSteps | None,
    formulas: Formulas,
    fixed: Mapping[str, float],
) -> Individuals:
    """Return all subjects, laid out.

    Args:
        design: Their experiments, and what is measured.
        effects: The names of the random effects.
        covariates: See `covariates_of`.
        steps: How covariates change.
        formulas: See `formulas_of`.
        fixed: The values of the parameters that are not estimated.
    """
    leaves = parameters_of(design.model)
    individual = [*effects, *covariates, *({} if steps is None else steps.later())]
    table = IndividualTable(
        design.parameters,
        numbers_of(design.model, design.parameters),
        individual=individual,
        count=len(design.experiments),
        learned=design.weights,
    )
    stages, rows = parts_of(design, table)
    if steps is None or not steps.values:
        return Individuals(table, stages, rows)
    varying = {
        name: steps.time_varying(formula, fixed, table.index_of)
        for name, formula in formulas.items()
        if name in leaves and isinstance(formula, Expression) and steps.of(formula)
    }
    for name, formula in formulas.items():
        if isinstance(formula, Expression) and called_by(formula) and steps.of(formula):
            refuse("individual", "call functions of what does not change", f"`{formula}` for `{name}`")
    (stage,) = stages.stages
    sets = {name: indices for name, indices in stage.sets.items() if name not in varying}
    stages = dataclasses.replace(stages, stages=(dataclasses.replace(stage, sets=sets),), varying=varying)
    return Individuals(table, stages, rows)
