"""Wald intervals and draws of estimates, on scales that keep every parameter within its domain.

    g(theta) +- z SE g'(theta),   g(theta*) ~ N(g(theta), G C G),  G = diag g'

with g the scale of the search; if that is the natural one, the logarithm for a parameter that cannot be negative, and
the logit for one between 0 and 1.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtri

from qspjax._checks import check_number, check_whole, refuse
from qspjax._transform import AbstractTransform
from qspjax._types import Key
from qspjax.fit._free import Free, natural_values


def check_level(level: float) -> None:
    """Check that a confidence level lies between 0 and 1."""
    check_number("level", level)
    if not 0.0 < level < 1.0:
        refuse("level", "lie between 0 and 1", level)


def wald_intervals(
    scales: Sequence[AbstractTransform], values: np.ndarray, errors: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return confidence intervals of natural values, each symmetric on its scale.

    Args:
        scales: The scale of each estimate.
        values: The estimates, shape (names,).
        errors: Their standard errors, shape (names,); inf where the data say nothing, NaN where they are not known.
        level: The confidence level.
    """
    check_level(level)
    reach = ndtri(0.5 + level / 2) * np.asarray(errors, float) / np.exp(_log_slopes(scales, values))
    middle = np.array([float(scale.forward(value)) for scale, value in zip(scales, values, strict=True)])
    edges = [
        np.array([float(scale.inverse(x)) for scale, x in zip(scales, edge, strict=True)])
        for edge in (middle - reach, middle + reach)
    ]
    return edges[0], edges[1]


def drawn_points(free: Sequence[Free], x: np.ndarray, covariance: np.ndarray, *, key: Key, size: int) -> np.ndarray:
    """Return draws of estimates on the scale of the search, shape (size, names), normal on the scales of intervals.

    Args:
        free: The parameters that the first estimates belong to; others are normal on the scale of the search.
        x: The estimates, shape (names,).
        covariance: Their covariance, on the scale of the search.
        key: `jax.random.key(seed)`.
        size: The number of draws.

    Raises:
        ValueError: If the covariance is not positive semidefinite.
    """
    check_whole("size", size, 1)
    natural = np.asarray(natural_values(free, x[: len(free)])) if len(free) else np.zeros(0)
    scales = [parameter.scale(float(value)) for parameter, value in zip(free, natural, strict=True)]
    slopes = np.ones(x.size)
    slopes[: len(free)] = np.exp(
        _log_slopes([parameter.transform for parameter in free], natural) - _log_slopes(scales, natural)
    )
    known = np.isfinite(covariance).all()
    sizes, vectors = np.linalg.eigh(np.where(known, covariance * slopes[:, None] * slopes, -np.eye(x.size)))
    if sizes.min() < -1e-9 * np.abs(sizes).max():
        raise ValueError("Estimates cannot be drawn: the data say nothing about some direction.")
    normal = np.asarray(jax.random.normal(key, (size, x.size)))
    deviation = (normal * np.sqrt(np.maximum(sizes, 0.0))) @ vectors.T
    points = x + deviation
    for k, (parameter, scale, value) in enumerate(zip(free, scales, natural, strict=True)):
        drawn = scale.inverse(scale.forward(value) + deviation[:, k])
        points[:, k] = np.asarray(parameter.transform.forward(jnp.clip(drawn, parameter.lower, parameter.upper)))
    return points


def _log_slopes(scales: Sequence[AbstractTransform], values: np.ndarray) -> np.ndarray:
    """Return log |d theta / d g| of each value."""
    return np.array([float(scale.log_det(value)) for scale, value in zip(scales, values, strict=True)])
