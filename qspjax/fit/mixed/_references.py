"""Which parameters only move the means of random effects ("mu-referenced" ones), found by their slopes.

In `CL = tCL * exp(eta_CL) * (WT / 70)^b` a subject depends on tCL, b and eta_CL only through

    psi = eta_CL + log tCL + b log(WT / 70)

With psi given, the data say nothing more about tCL and b: they are the coefficients of a linear regression of psi,
which has a closed form. Every such formula is found, however it is written: the slopes of all numbers of a subject in
the parameter are then a linear combination of those in its random effects, with the same weights at every point.

Reference: Lavielle, Mixed Effects Models for the Population Approach, 2014, doi:10.1201/b17203, chapter 9.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qspjax.fit._free import natural_values
from qspjax.fit.mixed._individuals import used_entries
from qspjax.fit.mixed._mixed import MixedModel

POINTS = 3
SAME = 1e-7
"""The greatest relative difference between weights at different points."""


class References(NamedTuple):
    """Subject i depends on referenced parameters and random effects only through psi_i = eta_i + weight_i^T s.

    Attributes:
        weight: By subject, parameter and random effect; zero for parameters that are not referenced.
        referenced: Which free parameters are, shape (free parameters,).
        natural: For which of them s is the natural value instead of that on the scale of the search.
        simulating: Which of the others simulations depend on.
        present: Which random effects a subject depends on, shape (subjects, effects).
    """

    weight: np.ndarray
    referenced: np.ndarray
    natural: np.ndarray
    simulating: np.ndarray
    present: np.ndarray


def references(mixed: MixedModel) -> References:
    """Find the parameters that only move the means of random effects."""
    rng = np.random.default_rng(0)
    free, effects = [*mixed.free.values()], len(mixed.effects)
    lower, upper = (edge[: len(free)] for edge in mixed.bounds)
    omega = np.sqrt(np.diag(np.asarray(mixed.covariance(mixed.start))))
    slopes = jax.jit(lambda x, etas: _slopes(mixed, x, etas))
    weights, simulating, present = [], [], []
    for _ in range(POINTS):
        x = np.clip(mixed.start[: len(free)] + 0.3 * rng.normal(size=len(free)), lower, upper)
        etas = omega * rng.normal(size=(mixed.count, effects))
        by_x, by_eta, alone, moving, scale = (np.asarray(part) for part in slopes(x, etas))
        weight = np.linalg.pinv(by_eta, rcond=1e-10) @ by_x  # (subjects, effects, parameters)
        size = np.abs(by_x).max(axis=1, initial=0.0)
        residual = np.abs(by_eta @ weight - by_x).max(axis=1, initial=0.0)
        fits = (residual <= SAME * size).all(axis=0) & (alone == 0) & (size > 0).any(axis=0)
        weights.append((np.where(fits, weight, np.nan), np.where(fits, weight / scale, np.nan)))
        simulating.append(moving > 0)
        present.append(np.abs(by_eta).max(axis=1, initial=0.0) > 0)
    named = frozenset().union(*(output.names() for output in mixed.outputs.values()))
    direct = np.array([name in named for name in mixed.free], bool)
    (searched, is_searched), (natural, is_natural) = (_constant([pair[k] for pair in weights]) for k in range(2))
    has_prior = np.array([parameter.prior is not None for parameter in free], bool)
    # the slope of a prior is that on the scale of the search
    is_searched, is_natural = is_searched & ~direct, is_natural & ~direct & ~is_searched & ~has_prior
    weight = np.where(is_searched, searched, np.where(is_natural, natural, 0.0))
    referenced = is_searched | is_natural
    moves = np.any(simulating, axis=0) & ~referenced
    return References(np.swapaxes(weight, 1, 2), referenced, is_natural, moves, np.any(present, axis=0))


def regressed(mixed: MixedModel, mu_references: References, x: np.ndarray) -> np.ndarray:
    """Return s of all free parameters at a point of the search."""
    searched = np.asarray(x, float)[: len(mixed.free)]
    return np.where(mu_references.natural, np.asarray(natural_values([*mixed.free.values()], searched)), searched)


def _slopes(mixed: MixedModel, x: jax.Array, etas: jax.Array) -> tuple[jax.Array, ...]:
    """Return the slopes of the numbers of subjects in parameters and in random effects, and of what no effect changes.

    Returns:
        Slopes in x, shape (subjects, numbers, parameters); in eta, shape (subjects, numbers, effects); the greatest
        slopes of what all subjects share, and of what simulations depend on, shape (parameters,); and d natural / dx.
    """
    free, table = [*mixed.free.values()], mixed.individuals.table
    point = jnp.asarray(mixed.start)

    def numbers(x: jax.Array, etas: jax.Array) -> jax.Array:
        return mixed.numbers(mixed.values(point.at[: len(free)].set(x)), etas, mixed.space.split(point)[1])

    def along(direction: jax.Array) -> jax.Array:
        return jax.jvp(lambda etas: numbers(x, etas), (etas,), (jnp.broadcast_to(direction, etas.shape),))[1]

    by_x = jax.jacfwd(numbers)(x, etas)
    by_eta = jax.vmap(along, out_axes=-1)(jnp.eye(etas.shape[1]))
    simulated, used = used_entries(mixed.individuals)
    blocks = np.array([start for start in table.blocks.values() if used[start : start + table.count].any()], int)
    indices = blocks[None, :] + np.arange(table.count)[:, None]
    shared = used.copy()
    shared[indices] = False
    alone, moving = (jnp.abs(by_x * mask[:, None]).max(axis=0, initial=0.0) for mask in (shared, simulated))
    scale = jax.jvp(lambda x: natural_values(free, x), (x,), (jnp.ones_like(x),))[1] if free else x
    is_used = used[indices][..., None]
    return by_x[indices] * is_used, by_eta[indices] * is_used, alone, moving, scale


def _constant(weights: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return weights, and for which parameters they are the same at all points."""
    stack = np.stack(weights)
    size = np.abs(stack).max(axis=(0, 1, 2), initial=0.0)
    spread = np.ptp(stack, axis=0).max(axis=(0, 1), initial=0.0)
    return weights[0], spread <= SAME * size  # NaN is never the same
