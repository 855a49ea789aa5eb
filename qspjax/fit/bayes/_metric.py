"""How wide a posterior is about a point, before anything is sampled: the metric that chains begin with.

The expected information of the measurements and the curvature of the prior,

    H = sum_i w_i d_i d_i^T - d^2 log p(z) / dz^2

Random effects say nothing of Omega where they are zero; a logarithmic standard deviation of theirs is given what n
subjects say of it if their effects are known, 2 n.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from qspjax.fit.bayes._density import Density
from qspjax.fit.bayes._likelihood import Values, measured
from qspjax.fit.data._dependence import slopes_given_earlier

LEAST = 0.01
"""The least information of a direction: a standard deviation of 10 on the line."""


class Local(NamedTuple):
    """The posterior about a point of the line at which it can be simulated.

    Attributes:
        value: The log density.
        slope: Its slope, shape (size,).
        covariance: The covariance that the posterior has by its curvature there, shape (size, size).
    """

    value: Array
    slope: Array
    covariance: Array


def local(density: Density, z: Array, values: Values) -> Local:
    """Return the posterior about a point, by one simulation with its sensitivities."""
    names = len(density.names)
    x, u = density.parts(z)
    predictors, moves = density.likelihood.moves(x, u)
    value, slope = jax.value_and_grad(density.log_prior)(z)
    scale = jnp.concatenate([jnp.exp(density.line.log_slope(z[:names])), jnp.ones(u.size)])
    information = jnp.zeros((density.size, density.size))
    measurements = measured(density.likelihood.rows, values)
    predictors, moves = slopes_given_earlier(measurements, predictors, moves)
    for rows, own, by in zip(measurements, predictors, moves, strict=True):
        densities, score, expected = rows.scores(own)
        value += jnp.sum(densities)
        by = tuple(scale[:, None] * d for d in by)
        for s, d in zip(score, by, strict=True):
            slope += d @ s
        for w, d in expected.terms(by):
            information += (d * w) @ d.T
    bend = jax.hessian(lambda own: density.log_prior(z.at[:names].set(own)))(z[:names])
    prior = jnp.concatenate([jnp.maximum(-jnp.diagonal(bend), 0.0), jnp.ones(u.size)])
    information += jnp.diag(prior + jnp.asarray(_of_deviations(density)) + LEAST)
    fine = jnp.isfinite(information).all()
    covariance = jnp.linalg.inv(jnp.where(fine, information, jnp.eye(density.size)))
    return Local(value, slope, 0.5 * (covariance + covariance.T))


def _of_deviations(density: Density) -> np.ndarray:
    """Return what subjects say of the logarithms of standard deviations, shape (size,)."""
    found = np.zeros(density.size)
    for block in density.blocks:
        first, own = block.point.start, block.random
        found[first : first + min(own.size, len(own.names))] = 2.0 * density.effects[0]
    return found
