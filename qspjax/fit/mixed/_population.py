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
"""The covariate that says to which subpopulation of a mixture a patient belongs."""


def mixed_population(
    mixed: AbstractMixed, x: Point, kept: Bool[np.ndarray, " subjects"], covariates: Mapping[str, PyTree] | None
) -> Population:
    """Return the population of a mixed-effects model at a point.

    Args:
        mixed: The model.
        x: The point, on the scale of the search; may be traced.
        kept: Of which subjects covariates are drawn, shape (subjects,).
        covariates: Of new patients, as of `Population`, in place of those of the subjects.

    Raises:
        ValueError: If patients do not begin as the model does, or subjects set a parameter of the model in different
            ways.
    """
    copies = mixed.copies
    check_begins(mixed.subjects, "subject")
    values, leaves = mixed.values(x), parameters_of(copies.model)
    model, formulas = placed(copies.model, (*mixed.free, *mixed.fixed), values)
    known, sets = _of_subjects(mixed, leaves, kept, covariates or {})
    formulas |= sets | {name: as_formula(name, one) for name, one in copies.individual.items() if name in leaves}
    if isinstance(mixed, Mixture):
        belongs = _belonging(mixed, x)
        known[SUBPOPULATION] = belongs
        of = {name: parse(f"piecewise(1, {SUBPOPULATION} == {k}, 0)") for k, name in enumerate(belongs.categories)}
        formulas = {name: substitute(one, of) if isinstance(one, Expression) else one for name, one in formulas.items()}
    omega = mixed.covariance(x)
    first = np.concatenate([np.arange(one.effects[0].start, one.effects[0].stop) for one in mixed.blocks])
    omega = omega[np.ix_(first, first)]
    sd = jnp.sqrt(jnp.diagonal(omega))
    names = [name for one in copies.random for name in one.names]
    return Population(
        model,
        covariates=known,
        individual=formulas,
        parameters=values,
        random=dict(zip(names, sd**2, strict=True)),
        correlation=omega / sd[:, None] / sd,
        occasional=[name for one in copies.random if one.occasion is not None for name in one.names],
    )


def _belonging(mixture: Mixture, x: Point) -> Categorical:
    shares = jnp.exp(mixture.log_shares(x))
    return Categorical({name: shares[k] for k, name in enumerate(mixture.subpopulations)})


def _of_subjects(
    mixed: AbstractMixed, leaves: frozenset[str], kept: Bool[np.ndarray, " subjects"], given: Mapping[str, PyTree]
) -> tuple[dict[str, PyTree], dict[str, Expression]]:
    """Return the covariates of new patients, and formulas of what subjects set of the model itself."""
    subjects, groups = mixed.subjects, mixed.space.subpopulations
    found = {
        name: values[: len(subjects)][kept]
        for name, values in mixed.copies.covariates.items()
        if "@" not in name and name not in groups
    }
    sets = {name: symbol(name) for one in subjects.values() for name in one.begin.set if name in leaves}
    for name in sets:
        column = [one.begin.set.get(name) for one in subjects.values()]
        if name not in given and any(value is None or isinstance(value, Expression) for value in column):
            must = f"must have what new patients have of `{name}`, which subjects set in different ways, but have not."
            raise ArgumentError("covariates", must)
        found[name] = np.array(column, float)[kept] if name not in given else given[name]
    return found | dict(given), sets
