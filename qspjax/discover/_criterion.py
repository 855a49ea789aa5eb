"""An information criterion for the approximation of one function by another, whose errors are smooth."""

from math import lgamma

import numpy as np
from jaxtyping import Float

from qspjax.discover._search import Fitted, Points


def effective_count(members: Float[np.ndarray, "members points"]) -> float:
    """Return in how many independent directions the members of an ensemble differ.

    $$ (tr C)^2 / tr(C^2) $$

    with their covariance C between points: 1 if all differ by one factor, the number of points if they differ in each
    on its own.
    """
    deviations = members - members.mean(axis=0)
    gram = deviations @ deviations.T
    trace, squares = np.trace(gram), np.sum(gram**2)
    count = len(members) - 1
    plain = trace**2 / squares if squares else 1.0
    # what a sample of so few members makes too small
    return float(plain * count / max(count - plain, 1.0)) if count > 1 else 1.0


def criterion(one: Fitted, points: Points, count: float, terms: int) -> float:
    """Return the extended Bayesian information criterion of a candidate, where the errors of the term are known.

    $$ BIC = n \\langle r^2 / \\sigma^2 \\rangle + k \\ln n + 2 \\ln {P \\choose m} $$

    with k constants, n independent errors r of standard deviation sigma, and m terms out of P, among so many of which
    some fit by luck. If a term is the projection of measurements to what a network can be, differences of the first
    part are those of the measurements themselves.

    Args:
        one: The candidate.
        points: The points, whose weights are inverse variances.
        count: The number of independent errors n.
        terms: The number of terms P of the library.

    Reference: Schwarz (1978), doi:10.1214/aos/1176344136; Chen and Chen (2008), doi:10.1093/biomet/asn034.
    """
    chosen = len(one.coefficients)
    luck = 2.0 * (lgamma(terms + 1) - lgamma(chosen + 1) - lgamma(terms - chosen + 1))
    return count / points.count * one.loss + one.size * np.log(count) + luck
