"""What is known of each subject at given random effects: its log likelihood, the slope and the information on these.

Random effects are written as eta = L u with Omega = L L^T, so that u is standard normal and a variance near zero does
no harm:

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
    """Each subject at its random effects; without the constant n log 2 pi of normal measurements, as NONMEM has it.

    Attributes:
        twice: -2 log p(y | u), shape (subjects,).
        slope: The derivative of log p(y | u) in u, shape (subjects, effects).
        information: The expected information of y on u, shape (subjects, effects, effects).
    """

    twice: Array
    slope: Array
    information: Array


def predictors_of(
    mixed: MixedModel, x: Array, u: Array, here: Expansion, typical: Expansion | None
) -> list[Predictors]:
    """Return the predictors of the densities of all measurements, output by output.

    Args:
        mixed: The problem.
        x: The point.
        u: The random effects, shape (subjects, effects).
        here: The simulations, expanded near `u`.
        typical: Those of subjects whose random effects are zero, where standard deviations are theirs (no interaction).
    """
    found = [predictors for _, predictors in mixed.predicted(x, u, here)]
    if typical is None:
        return found
    middle = [predictors for _, predictors in mixed.predicted(x, jnp.zeros_like(u), typical)]
    pairs = zip(mixed.rows, found, middle, strict=True)
    return [(own[0], *at_zero[1:]) if _has_scale(rows) else own for rows, own, at_zero in pairs]


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
    """Simulate; return what is observed by name, shape (subjects, times), NaN of a subject that failed."""
    here = mixed.expanded(x, u, 0)
    fine = (here.result == RESULTS.successful)[:, None]
    return {name: jnp.where(fine, value, jnp.nan) for name, value in here.terms[0].items()}


def twice_and_effects_of(mixed: MixedModel, x: Array, u: Array, observed: dict[str, Array]) -> Array:
    """Return -2 log p(y | u) + u^T u of each subject from what is observed at `u`, inf where it failed."""
    value = twice_of(mixed, predictors_of(mixed, x, u, unexpanded(observed), None)) + jnp.sum(u * u, axis=-1)
    return jnp.where(jnp.isfinite(value), value, jnp.inf)


def conditional(mixed: MixedModel, x: Array, u: Array, here: Expansion, typical: Expansion | None) -> Conditional:
    """Return what is known of each subject at its random effects; arguments as in `predictors_of`."""
    effects = u.shape[1]

    def predicted(u: Array) -> list[Predictors]:
        return predictors_of(mixed, x, u, here, typical)

    def along(direction: Array) -> tuple:
        return jax.jvp(predicted, (u,), (jnp.broadcast_to(direction, u.shape),))

    found, moved = slopes_given_earlier(mixed.rows, *jax.vmap(along, out_axes=(None, 0))(jnp.eye(effects)))
    twice, slope = jnp.zeros(mixed.count), jnp.zeros((mixed.count, effects))
    information = jnp.zeros((mixed.count, effects, effects))
    for rows, own, by in zip(mixed.rows, found, moved, strict=True):
        density, score, expected = rows.scores(own)
        at = rows.experiment
        twice = twice.at[at].add(-2.0 * density - without_constant(rows))
        for s, d in zip(score, by, strict=True):
            slope = slope.at[at].add((s * d).T)
        for w, d in expected.terms(by):
            information = information.at[at].add(jnp.einsum("r,ar,br->rab", w, d, d))
    return Conditional(twice, slope, information)


def observed_information(mixed: MixedModel, x: Array, u: Array, here: Expansion, typical: Expansion | None) -> Array:
    """Return minus the second derivative of log p(y | u) of each subject, shape (subjects, effects, effects)."""

    def slope(u: Array) -> Array:
        return jax.grad(lambda u: 0.5 * jnp.sum(twice_of(mixed, predictors_of(mixed, x, u, here, typical))))(u)

    def along(direction: Array) -> Array:
        return jax.jvp(slope, (u,), (jnp.broadcast_to(direction, u.shape),))[1]

    return jnp.moveaxis(jax.vmap(along)(jnp.eye(u.shape[1])), 0, -1)


def _has_scale(rows: OutputData) -> bool:
    return isinstance(rows.output.error, AbstractLocationScale)
