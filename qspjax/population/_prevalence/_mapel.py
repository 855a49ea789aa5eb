"""Prevalence weights by mechanistic axes (MAPEL): each part of each parameter's range has a probability.

    w_i ~ prod_a p_a(bin_a(i)),   min sum_k (sum_i w_i e_ik)^2 + penalty sum_a sum_b (ln p_ab)^2 / bins

The range of each parameter is cut into equally wide parts. The logarithms of the probabilities are the unknowns, and
their derivatives are exact, in place of the simplex search of the original.

Reference: Schmidt, Casey, Paterson and Chan, BMC Bioinformatics 2013;14:221, doi:10.1186/1471-2105-14-221.
"""

import equinox as eqx
import numpy as np

from qspjax._checks import check_minimum, check_whole, refuse
from qspjax._types import Scalar
from qspjax.population._prevalence._contract import AbstractWeighting, Matching


class MAPEL(AbstractWeighting):
    """Weights that are products over the parameters: what is prevalent is said of mechanisms, not of patients.

    It needs a `PlausiblePopulation`, which says where patients are in the ranges of their parameters.

    Args:
        parts: The parts of each range.
        penalty: What keeps the probabilities near to equal ones; more of it gives a greater effective size.

    Example:
        >>> import qspjax as qsp
        >>> qsp.population.MAPEL(parts=4).penalty
        1e-06
    """

    parts: int = eqx.field(default=5, static=True)
    penalty: Scalar = 1e-6

    def __check_init__(self) -> None:
        check_whole("parts", self.parts, 2)
        check_minimum("penalty", self.penalty, 0.0)

    def weights(self, matching: Matching) -> np.ndarray:
        from scipy.optimize import minimize

        axes = matching.positions.shape[1]
        if not axes:
            refuse("patients", "be a `PlausiblePopulation` for `MAPEL`", "statistics alone")
        bins = np.minimum((matching.positions * self.parts).astype(int), self.parts - 1) + self.parts * np.arange(axes)
        errors, penalty, unknowns = matching.moments.errors, float(self.penalty) / self.parts, axes * self.parts

        def weights(logits: np.ndarray) -> np.ndarray:
            exponents = logits[bins].sum(axis=1)
            terms = np.exp(exponents - exponents.max())
            return terms / terms.sum()

        def loss(logits: np.ndarray) -> tuple[float, np.ndarray]:
            w = weights(logits)
            error = w @ errors
            by_patient = w * (errors @ error - error @ error) * 2.0
            slope = np.bincount(bins.ravel(), np.repeat(by_patient, axes), minlength=unknowns)
            return float(error @ error + penalty * logits @ logits), slope + 2.0 * penalty * logits

        options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-14, "gtol": 1e-10}
        found = minimize(loss, np.zeros(unknowns), jac=True, method="L-BFGS-B", options=options)
        return weights(found.x)
