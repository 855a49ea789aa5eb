"""The approximate covariance of a posterior about a point, before sampling: the metric with which chains begin.

Its inverse is the expected information of the measurements and the curvature of the prior,

    H = sum_i w_i d_i d_i^T - d^2 log p(z) / dz^2

Random effects have no information on Omega where they are zero; each of their logarithmic standard deviations gets the
information that n subjects with known effects have on it, 2 n.
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
        covariance: The covariance of the posterior according to its curvature there, shape (size, size).
    """

    value: Array
    slope: Array
    covariance: Array


def local(density: Density, z: Array, values: Values) -> Local:
    """Return the posterior about a point, by one simulation with its sensitivities."""
    names = len(density.names)
    x, u = density.parts(z)
    predictors, slopes = density.likelihood.moves(x, u)
    value, slope = jax.value_and_grad(density.log_prior)(z)
    scale = jnp.concatenate([jnp.exp(density.line.log_slope(z[:names])), jnp.ones(u.size)])
    information = jnp.zeros((density.size, density.size))
    measurements = measured(density.likelihood.rows, values)
    predictors, slopes = slopes_given_earlier(measurements, predictors, slopes)
    for rows, row_predictors, derivatives in zip(measurements, predictors, slopes, strict=True):
        densities, score, expected = rows.scores(row_predictors)
        value += jnp.sum(densities)
        derivatives = tuple(scale[:, None] * d for d in derivatives)
        for s, d in zip(score, derivatives, strict=True):
            slope += d @ s
        for w, d in expected.terms(derivatives):
            information += (d * w) @ d.T
    hessian = jax.hessian(lambda values: density.log_prior(z.at[:names].set(values)))(z[:names])
    prior = jnp.concatenate([jnp.maximum(-jnp.diagonal(hessian), 0.0), jnp.ones(u.size)])
    information += jnp.diag(prior + jnp.asarray(_of_deviations(density)) + LEAST)
    finite = jnp.isfinite(information).all()
    covariance = jnp.linalg.inv(jnp.where(finite, information, jnp.eye(density.size)))
    return Local(value, slope, 0.5 * (covariance + covariance.T))


def _of_deviations(density: Density) -> np.ndarray:
    """Return the information of subjects on the logarithms of standard deviations, shape (size,)."""
    information = np.zeros(density.size)
    for block in density.blocks:
        first, random = block.point.start, block.random
        information[first : first + min(random.size, len(random.names))] = 2.0 * density.effects[0]
    return information
