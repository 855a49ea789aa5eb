"""The log likelihood of each subject at given random effects, with its slope in these and its information on them.

Random effects are written as eta = L u with Omega = L L^T, so that u is standard normal and variances near zero are
harmless:

    -2 log p(y, u) = -2 log p(y | L u) + u^T u + E log 2 pi
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from qspjax._solution import RESULTS
from qspjax.fit.data._dependence import log_densities, slopes_given_earlier
from qspjax.fit.data._output_data import OutputData
from qspjax.fit.errors._contract import Predictors
from qspjax.fit.errors._location_scale import AbstractLocationScale
from qspjax.fit.mixed._individuals import Expansion, unexpanded
from qspjax.fit.mixed._mixed import MixedModel, without_constant


class Conditional(NamedTuple):
    """Each subject at its random effects; without the constant n log 2 pi of normal measurements, as in NONMEM.

    Attributes:
        twice: -2 log p(y | u), shape (subjects,).
        slope: The derivative of log p(y | u) in u, shape (subjects, effects).
        information: The expected information of y on u, shape (subjects, effects, effects).
    """

    twice: Array
    slope: Array
    information: Array


def predictors_of(
    mixed: MixedModel, x: Array, u: Array, expansion: Expansion, typical: Expansion | None
) -> list[Predictors]:
    """Return the predictors of the densities of all measurements, output by output.

    Args:
        mixed: The problem.
        x: The point.
        u: The random effects, shape (subjects, effects).
        expansion: The simulations, expanded near `u`.
        typical: Those at random effects of zero, which give the standard deviations where there is no interaction.
    """
    individual = [predictors for _, predictors in mixed.predicted(x, u, expansion)]
    if typical is None:
        return individual
    population = [predictors for _, predictors in mixed.predicted(x, jnp.zeros_like(u), typical)]
    pairs = zip(mixed.rows, individual, population, strict=True)
    return [(predictors[0], *at_zero[1:]) if _has_scale(rows) else predictors for rows, predictors, at_zero in pairs]


def twice_of(mixed: MixedModel, predictors: list[Predictors]) -> Array:
    """Return -2 log p(y | u) of each subject, without n log 2 pi."""
    total = jnp.zeros(mixed.count)
    for rows, density in zip(mixed.rows, log_densities(mixed.rows, predictors), strict=True):
        total = total.at[rows.experiment].add(-2.0 * density - without_constant(rows))
    return total


def twice_and_effects(mixed: MixedModel, x: Array, u: Array) -> Array:
    """Return -2 log p(y | u) + u^T u of each subject, inf where it cannot be simulated."""
    return twice_and_effects_of(mixed, x, u, observed_at(mixed, x, u))


def observed_at(mixed: MixedModel, x: Array, u: Array) -> dict[str, Array]:
    """Simulate, and return observed values by name, shape (subjects, times), NaN for a subject that failed."""
    expansion = mixed.expanded(x, u, 0)
    succeeded = (expansion.result == RESULTS.successful)[:, None]
    return {name: jnp.where(succeeded, value, jnp.nan) for name, value in expansion.terms[0].items()}


def twice_and_effects_of(mixed: MixedModel, x: Array, u: Array, observed: dict[str, Array]) -> Array:
    """Return -2 log p(y | u) + u^T u of each subject from observed values at `u`, inf where it failed."""
    value = twice_of(mixed, predictors_of(mixed, x, u, unexpanded(observed), None)) + jnp.sum(u * u, axis=-1)
    return jnp.where(jnp.isfinite(value), value, jnp.inf)


def conditional(mixed: MixedModel, x: Array, u: Array, expansion: Expansion, typical: Expansion | None) -> Conditional:
    """Return the log likelihood of each subject, its slope and its information; arguments as in `predictors_of`."""
    effects = u.shape[1]

    def predicted(u: Array) -> list[Predictors]:
        return predictors_of(mixed, x, u, expansion, typical)

    def along(direction: Array) -> tuple:
        return jax.jvp(predicted, (u,), (jnp.broadcast_to(direction, u.shape),))

    predictors, slopes = slopes_given_earlier(mixed.rows, *jax.vmap(along, out_axes=(None, 0))(jnp.eye(effects)))
    twice, slope = jnp.zeros(mixed.count), jnp.zeros((mixed.count, effects))
    information = jnp.zeros((mixed.count, effects, effects))
    for rows, values, derivatives in zip(mixed.rows, predictors, slopes, strict=True):
        density, score, expected = rows.scores(values)
        subject = rows.experiment
        twice = twice.at[subject].add(-2.0 * density - without_constant(rows))
        for s, d in zip(score, derivatives, strict=True):
            slope = slope.at[subject].add((s * d).T)
        for w, d in expected.terms(derivatives):
            information = information.at[subject].add(jnp.einsum("r,ar,br->rab", w, d, d))
    return Conditional(twice, slope, information)


def observed_information(
    mixed: MixedModel, x: Array, u: Array, expansion: Expansion, typical: Expansion | None
) -> Array:
    """Return minus the second derivative of log p(y | u) of each subject, shape (subjects, effects, effects)."""

    def slope(u: Array) -> Array:
        return jax.grad(lambda u: 0.5 * jnp.sum(twice_of(mixed, predictors_of(mixed, x, u, expansion, typical))))(u)

    def along(direction: Array) -> Array:
        return jax.jvp(slope, (u,), (jnp.broadcast_to(direction, u.shape),))[1]

    return jnp.moveaxis(jax.vmap(along)(jnp.eye(u.shape[1])), 0, -1)


def _has_scale(rows: OutputData) -> bool:
    return isinstance(rows.output.error, AbstractLocationScale)
