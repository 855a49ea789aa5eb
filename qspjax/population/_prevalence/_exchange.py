"""Exchange: a small population of different patients with equal weights, improved by exchanging one at a time.

    min sum_k max(|e_k| - tolerance, 0)^2,   e_k = sum_{i in S} e_ik / |S|,   |S| = size

It starts from a sample without replacement, in which the chance of a patient follows from its weight by entropy
balancing; then each member in turn is exchanged for the patient that improves the sum most. Where no exchange does, a
few members are drawn anew, and what follows is kept if it is better.
"""

import equinox as eqx
import numpy as np

from qspjax._checks import check_minimum, check_whole, refuse
from qspjax._types import Scalar
from qspjax.population._prevalence._contract import AbstractSelection, Matching
from qspjax.population._prevalence._entropy import EntropyBalancing

_RENEWED = 4
"""Members that are drawn anew where exchanges no longer improve the sum."""


class Exchange(AbstractSelection):
    """Choose different patients, and exchange them one by one until the targets are met, or nothing improves.

    Args:
        tolerance: An error that is none, as a part of the scale of its target.
        renewals: How often a few members are drawn anew where nothing improves.

    Example:
        >>> import jax, numpy as np, qspjax as qsp
        >>> patients = {"x": np.linspace(0.0, 1.0, 101)}
        >>> chosen = qsp.population.select(patients, [qsp.population.Mean("x", 0.3)], size=10, key=jax.random.key(0))
        >>> chosen.reached.round(3), len(np.unique(chosen.members))
        (array([0.3]), 10)
    """

    tolerance: Scalar = 0.001
    renewals: int = eqx.field(default=50, static=True)

    def __check_init__(self) -> None:
        check_minimum("tolerance", self.tolerance, 0.0)
        check_whole("renewals", self.renewals, 0)

    def members(self, matching: Matching, size: int | None, random: np.random.Generator) -> np.ndarray:
        if size is None:
            refuse("size", "be given for `Exchange`", size)
        errors = matching.moments.errors / size
        weights = np.log(np.maximum(EntropyBalancing(self.tolerance).weights(matching), np.finfo(float).tiny))
        members = self._improved(errors, _drawn(weights, size, random), random)
        for _ in range(self.renewals):
            loss = self._loss(errors[members].sum(axis=0))
            if loss == 0.0 or size == matching.size:
                break
            renewed, outside = members.copy(), weights.copy()
            outside[members] = -np.inf
            count = min(_RENEWED, size, matching.size - size)
            renewed[random.choice(size, count, replace=False)] = _drawn(outside, count, random)
            renewed = self._improved(errors, renewed, random)
            if self._loss(errors[renewed].sum(axis=0)) <= loss:
                members = renewed
        return np.sort(members)

    def _improved(self, errors: np.ndarray, members: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Exchange members one by one, as long as that improves the sum."""
        members, total = members.copy(), errors[members].sum(axis=0)
        improved = True
        while improved:
            improved = False
            for place in random.permutation(len(members)):
                loss = self._loss(total)
                if loss == 0.0:
                    return members
                totals = total - errors[members[place]] + errors
                losses = self._loss(totals)
                losses[members] = np.inf
                best = int(np.argmin(losses))
                if losses[best] < loss:
                    members[place], total, improved = best, totals[best], True
        return members

    def _loss(self, totals: np.ndarray) -> np.ndarray:
        return np.sum(np.maximum(np.abs(totals) - float(self.tolerance), 0.0) ** 2, axis=-1)


def _drawn(log_weights: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """Return different patients, drawn one after the other with these weights."""
    return np.argsort(-(log_weights + random.gumbel(size=len(log_weights))))[:size]
