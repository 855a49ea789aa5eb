"""Least violation: where targets conflict, the weights with the least sum of errors, by a linear programme.

    min sum_k v_k,   |sum_i w_i e_ik| <= tolerance + v_k,   v_k >= 0,   0 <= w_i <= 1 / N,   sum_i w_i = 1

with the errors e_ik of patient i on the scale of target k. A limit to each weight is a limit to the effective size from
below: sum w^2 <= max w <= 1 / N.
"""

import equinox as eqx
import numpy as np

from qspjax._checks import check_minimum, refuse
from qspjax._types import Scalar
from qspjax.population._prevalence._contract import AbstractWeighting, Matching


class LeastViolation(AbstractWeighting):
    """Weights with the least sum of errors beyond a tolerance; few patients have any, unless `effective` says more.

    Args:
        tolerance: An error that is none, as a part of the scale of its target.
        effective: The least effective size, in patients.

    Example:
        >>> import qspjax as qsp
        >>> patients = {"LDL": [150.0, 180.0, 200.0]}
        >>> targets = [qsp.population.Mean("LDL", 160.0), qsp.population.Mean("LDL", 250.0, weight=0.5)]
        >>> qsp.population.weights(patients, targets, method=qsp.population.LeastViolation()).reached
        array([160., 160.])
    """

    tolerance: Scalar = 0.0
    effective: Scalar = eqx.field(default=1.0, kw_only=True)

    def __check_init__(self) -> None:
        check_minimum("tolerance", self.tolerance, 0.0)
        check_minimum("effective", self.effective, 1.0)

    def weights(self, matching: Matching) -> np.ndarray:
        if self.effective > matching.size:
            refuse("effective", f"be no more than the number of patients ({matching.size})", self.effective)
        return least_violation(matching.moments.errors, float(self.tolerance), greatest=1.0 / float(self.effective))[0]


def least_violation(errors: np.ndarray, tolerance: float, *, greatest: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of least violation, and the violations, shape (patients,) and (moments,).

    Args:
        errors: Of each patient on the scale of each moment, shape (patients, moments).
        tolerance: An error that is none.
        greatest: The greatest weight.
    """
    from scipy.optimize import linprog

    patients, moments = errors.shape
    slack = -np.eye(moments)
    found = linprog(
        np.concatenate([np.zeros(patients), np.ones(moments)]),
        A_ub=np.block([[errors.T, slack], [-errors.T, slack]]),
        b_ub=np.full(2 * moments, tolerance),
        A_eq=np.concatenate([np.ones(patients), np.zeros(moments)])[None],
        b_eq=[1.0],
        bounds=[(0.0, greatest)] * patients + [(0.0, None)] * moments,
        method="highs",
    )
    if found.x is None:
        raise RuntimeError(f"The linear programme did not end: {found.message}")
    weights = np.maximum(found.x[:patients], 0.0)
    return weights / weights.sum(), np.maximum(found.x[patients:], 0.0)
