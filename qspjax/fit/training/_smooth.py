"""Smooth curves through measurements and their slopes, by a Gaussian process with a straight line as its mean.

    v(t) = a + b u + g(u) + e,   u = (t - t_1) / (t_n - t_1)

with g of a Matern 5/2 covariance. Its size, its length and the noise are those of the greatest marginal likelihood on a
grid. Positive values are smoothed on a logarithmic scale.
"""

import itertools

import numpy as np
from jaxtyping import Float

Column = Float[np.ndarray, " rows"]

LENGTHS, SIZES, NOISES = (0.15, 0.3, 0.6, 1.2), (0.1, 0.3, 1.0), (0.02, 0.06, 0.2, 0.5)
"""Lengths in units of the span of times; sizes and noises in units of the standard deviation of the values."""
VAGUE = 100.0
"""The variance of the coefficients of the straight line, in units of the variance of the values."""


def smoothed(time: Column, value: Column) -> tuple[Column, Column]:
    """Return a smooth curve through measurements at their times, and its slope there.

    Args:
        time: At least three times, of which two differ.
        value: The values.

    Reference: Rasmussen and Williams, Gaussian Processes for Machine Learning, MIT Press 2006, 2.7.
    """
    logs = bool((value > 0.0).all())
    v = np.log(value) if logs else value
    span, spread = np.ptp(time), max(np.std(v), 1e-12)
    u, z = (time - time.min()) / span, (v - v.mean()) / spread
    line = np.stack([np.ones_like(u), u], axis=1)
    slopes = np.stack([np.zeros_like(u), np.ones_like(u)], axis=1)
    distance = u[:, None] - u
    best, mean, slope = -np.inf, z, np.zeros_like(z)
    for length, size, noise in itertools.product(LENGTHS, SIZES, NOISES):
        r = np.sqrt(5.0) * np.abs(distance) / length
        covariance = size**2 * (1.0 + r + r**2 / 3.0) * np.exp(-r) + VAGUE * line @ line.T
        lower = np.linalg.cholesky(covariance + noise**2 * np.eye(u.size))
        white = np.linalg.solve(lower, z)
        evidence = -0.5 * white @ white - np.log(np.diag(lower)).sum()
        if evidence > best:
            weights = np.linalg.solve(lower.T, white)
            derivative = -5.0 / 3.0 * size**2 * distance / length**2 * (1.0 + r) * np.exp(-r)
            best, mean = evidence, covariance @ weights
            slope = (derivative + VAGUE * slopes @ line.T) @ weights
    mean, slope = v.mean() + spread * mean, spread * slope / span
    return (np.exp(mean), np.exp(mean) * slope) if logs else (mean, slope)
