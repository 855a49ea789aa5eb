"""A fit of a mixed-effects model as a population: the same formulas, random effects and covariates."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, PyTree

from qspjax._checks import ArgumentError
from qspjax._expression import Expression, as_formula, parse, substitute, symbol
from qspjax.fit._patients import check_begins, placed
from qspjax.fit._types import Point
from qspjax.fit.data._stages import parameters_of
from qspjax.fit.mixed._mixed import AbstractMixed
from qspjax.fit.mixed._mixture import Mixture
from qspjax.population import Categorical, Population

SUBPOPULATION = "SUBPOPULATION"
"""The covariate that gives the subpopulation of a mixture to which a patient belongs."""


def mixed_population(
    mixed: AbstractMixed, x: Point, kept: Bool[np.ndarray, " subjects"], covariates: Mapping[str, PyTree] | None
) -> Population:
    """Return the population of a mixed-effects model at a point.

    Args:
        mixed: The model.
        x: The point, on the scale of the search; may be traced.
        kept: The subjects from which covariates are drawn, shape (subjects,).
        covariates: Those of new patients, as in `Population`, in place of those of the subjects.

    Raises:
        ValueError: If patients do not begin as the model does, or subjects set a parameter of the model in different
            ways.
    """
    copies = mixed.copies
    check_begins(mixed.subjects, "subject")
    values, leaves = mixed.values(x), parameters_of(copies.model)
    weights = mixed.space.split(x)[1]
    learned = mixed.weights.placed(copies.model, weights)
    model, formulas = placed(learned, (*mixed.free, *mixed.fixed), values)
    of_patients, sets = _of_subjects(mixed, leaves, kept, covariates or {})
    formulas |= sets | {
        name: as_formula(name, formula, copies.functions)
        for name, formula in copies.individual.items()
        if name in leaves
    }
    if isinstance(mixed, Mixture):
        subpopulation = _belonging(mixed, x)
        of_patients[SUBPOPULATION] = subpopulation
        indicators = {
            name: parse(f"piecewise(1, {SUBPOPULATION} == {k}, 0)") for k, name in enumerate(subpopulation.categories)
        }
        formulas = {
            name: substitute(formula, indicators) if isinstance(formula, Expression) else formula
            for name, formula in formulas.items()
        }
    omega = mixed.covariance(x)
    first = np.concatenate([np.arange(block.effects[0].start, block.effects[0].stop) for block in mixed.blocks])
    omega = omega[np.ix_(first, first)]
    sd = jnp.sqrt(jnp.diagonal(omega))
    names = [name for block in copies.random for name in block.names]
    return Population(
        model,
        covariates=of_patients,
        individual=formulas,
        parameters=values,
        random=dict(zip(names, sd**2, strict=True)),
        correlation=omega / sd[:, None] / sd,
        occasional=[name for block in copies.random if block.occasion is not None for name in block.names],
        functions=mixed.weights.callables(weights),
    )


def _belonging(mixture: Mixture, x: Point) -> Categorical:
    shares = jnp.exp(mixture.log_shares(x))
    return Categorical({name: shares[k] for k, name in enumerate(mixture.subpopulations)})


def _of_subjects(
    mixed: AbstractMixed, leaves: frozenset[str], kept: Bool[np.ndarray, " subjects"], new: Mapping[str, PyTree]
) -> tuple[dict[str, PyTree], dict[str, Expression]]:
    """Return the covariates of new patients, and formulas for the parameters of the model that subjects set."""
    subjects, groups = mixed.subjects, mixed.space.subpopulations
    values = {
        name: column[: len(subjects)][kept]
        for name, column in mixed.copies.covariates.items()
        if "@" not in name and name not in groups
    }
    sets = {name: symbol(name) for experiment in subjects.values() for name in experiment.begin.set if name in leaves}
    for name in sets:
        column = [experiment.begin.set.get(name) for experiment in subjects.values()]
        if name not in new and any(value is None or isinstance(value, Expression) for value in column):
            must = f"must have `{name}` of new patients, since subjects set it in different ways, but do not."
            raise ArgumentError("covariates", must)
        values[name] = np.array(column, float)[kept] if name not in new else new[name]
    return values | dict(new), sets
