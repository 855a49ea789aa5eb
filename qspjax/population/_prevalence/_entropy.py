"""Entropy balancing: of all weights that meet the targets within a tolerance, those nearest to equal ones.

    min sum_i w_i ln(n w_i),   |sum_i w_i e_ik| <= c_k,   sum_i w_i = 1

Its dual is a convex problem with one unknown for each moment, whatever the number of patients:

    min ln mean_i exp(-e_i^T l) + sum_k c_k |l_k|,   w_i ~ exp(-e_i^T l)

solved by Newton's method. With the gradient g and the curvature H = F F^T at l, the errors r that the next weights use
of what is allowed are those of a least-squares problem with bounds, min |F^-1 (g - H l + r)|, |r_k| <= c_k.

Reference: Hainmueller, Polit Anal 2012;20:25, doi:10.1093/pan/mpr025.
"""

import numpy as np

from qspjax._checks import check_minimum
from qspjax._types import Scalar
from qspjax.population._prevalence._contract import AbstractWeighting, Matching
from qspjax.population._prevalence._linear_programme import least_violation

_STEPS, _SAME, _SMALLEST, _RIDGE = 100, 1e-13, 1e-10, 1e-8
"""The maximum number of Newton steps; a gain that is none; the smallest part of a step; what is added to the diagonal
of the curvature, in parts of its mean."""
_MOST = 10_000
"""The maximum number of changes of the active set in a step."""
_FAR = 1e-4
"""An error beyond the tolerance by more than this says that the targets conflict."""
_ROOM = 1e-3
"""What is added to least violations, in parts of them, so that more than one population has them."""


class EntropyBalancing(AbstractWeighting):
    """Weights as equal as the targets allow: those of greatest entropy among all that meet them.

    Where no weights meet all targets, those with the least sum of errors (`LeastViolation`) are the new targets.

    Args:
        tolerance: An error that is none, as a part of the scale of its target: 0.05 is 5 % of a mean.

    Example:
        >>> import numpy as np, qspjax as qsp
        >>> patients = {"x": np.array([0.0, 1.0])}
        >>> qsp.population.weights(patients, [qsp.population.Mean("x", 0.3)]).weights.round(6)
        array([0.7, 0.3])
    """

    tolerance: Scalar = 0.0

    def __check_init__(self) -> None:
        check_minimum("tolerance", self.tolerance, 0.0)

    def weights(self, matching: Matching) -> np.ndarray:
        errors = matching.moments.errors
        allowed = np.full(errors.shape[1], float(self.tolerance))
        weights = balanced(errors, allowed)
        if np.max(np.abs(weights @ errors) - allowed) <= _FAR:
            return weights
        _, violations = least_violation(errors, float(self.tolerance))
        if violations.sum() <= _FAR:
            return weights
        return balanced(errors, allowed + (1.0 + _ROOM) * violations)


def balanced(errors: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Return the weights of greatest entropy whose errors are allowed, shape (patients,).

    Args:
        errors: Of each patient on the scale of each moment, shape (patients, moments).
        allowed: The greatest error of each moment, shape (moments,).
    """
    size = np.maximum(np.abs(errors).max(axis=0), np.finfo(float).tiny)
    with np.errstate(over="ignore", invalid="ignore"):  # where no weights are allowed, the multipliers grow without end
        return _minimised(errors / size, allowed / size)


def _minimised(errors: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Return the weights that belong to the least value of the dual function."""
    multipliers = np.zeros(errors.shape[1])
    value, weights = _dual(errors, allowed, multipliers)
    for _ in range(_STEPS):
        mean = weights @ errors
        centred = errors - mean
        curvature = (centred * weights[:, None]).T @ centred
        step = _newton(-mean, curvature, allowed, multipliers) - multipliers
        if not np.isfinite(step).all():
            break
        promised = -mean @ step + allowed @ (np.abs(multipliers + step) - np.abs(multipliers))
        if promised >= -_SAME:  # within rounding of the best: one more full step is all that is left
            return _dual(errors, allowed, multipliers + step)[1]
        share = 1.0
        while share > _SMALLEST:
            new_value, new_weights = _dual(errors, allowed, multipliers + share * step)
            if new_value <= value + 1e-4 * share * promised:
                break
            share *= 0.5
        else:
            break
        multipliers, value, weights = multipliers + share * step, new_value, new_weights
    return weights


def _newton(slope: np.ndarray, curvature: np.ndarray, allowed: np.ndarray, multipliers: np.ndarray) -> np.ndarray:
    """Return the multipliers that are best for the quadratic function with this slope and curvature."""
    from scipy.linalg import solve_triangular
    from scipy.optimize import lsq_linear

    ridge = _RIDGE * max(np.trace(curvature) / len(slope), np.finfo(float).tiny)
    curvature = curvature + ridge * np.eye(len(slope))
    inverse = solve_triangular(np.linalg.cholesky(curvature), np.eye(len(slope)), lower=True)
    constant = slope - curvature @ multipliers
    used = np.zeros(len(slope))
    free = allowed > 0.0
    if free.any():
        bounds = (-allowed[free], allowed[free])
        used[free] = lsq_linear(inverse[:, free], -inverse @ constant, bounds=bounds, method="bvls", max_iter=_MOST).x
    return -inverse.T @ (inverse @ (constant + used))


def _dual(errors: np.ndarray, allowed: np.ndarray, multipliers: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the dual function and the weights that belong to its unknowns."""
    exponents = -errors @ multipliers
    top = exponents.max()
    terms = np.exp(exponents - top)
    return float(top + np.log(terms.mean()) + allowed @ np.abs(multipliers)), terms / terms.sum()
