"""Chains that move by the gradient of the score: Langevin's dynamics, or Hamilton's with several leaps.

    H(u, p) = S(u) / (2 softness^2) + |p|^2 / 2

A leap is p - h/2 grad, u + h p, p - h/2 grad; the walls of the cube reflect both. The end is accepted with probability
min(1, exp(H - H')). Outside the bounds the score draws a chain inside, where it is zero and chains move uniformly.

References: Roberts and Tweedie, Bernoulli 1996;2:341, doi:10.2307/3318418; Neal, Handbook of MCMC 2011:113,
doi:10.1201/b10905-6.
"""

import equinox as eqx
import numpy as np

from qspjax._checks import check_above, check_whole
from qspjax._types import Scalar
from qspjax.population._plausible._attempts import Attempts
from qspjax.population._plausible._contract import AbstractPatientSearch
from qspjax.population._plausible._walls import bounced, reflected

_WANTED = 0.6
"""The share of accepted moves that the length of a leap is adapted to, during warm-up."""


class Langevin(AbstractPatientSearch):
    """Walk among plausible patients, drawn inside the bounds by the gradient.

    Args:
        chains: Chains side by side; each starts at a patient of the population.
        warmup: Moves of each chain whose patients are not kept; the length of a leap is adapted meanwhile.
        leaps: Leaps in a move: 1 for Langevin's dynamics, more for Hamilton's.
        leap: The first length of a leap, as a part of the range of each parameter.
        softness: How far outside a bound, on its own scale, a chain may still go.

    Example:
        >>> import qspjax as qsp
        >>> qsp.population.Langevin(leaps=4).chains
        64
    """

    chains: int = eqx.field(default=64, static=True)
    warmup: int = eqx.field(default=30, static=True)
    leaps: int = eqx.field(default=1, static=True)
    leap: Scalar = 0.15
    softness: Scalar = 0.1

    def __check_init__(self) -> None:
        check_whole("chains", self.chains, 1)
        check_whole("warmup", self.warmup, 0)
        check_whole("leaps", self.leaps, 1)
        check_above("leap", self.leap, 0.0)
        check_above("softness", self.softness, 0.0)

    def search(self, attempts: Attempts, random: np.random.Generator) -> None:
        scale, length, moves = 0.5 / float(self.softness) ** 2, float(self.leap), 0
        now = attempts.simulate(random.random((self.chains, attempts.criteria.dimensions)), slopes=True, kept=False)
        while attempts.left >= self.leaps * self.chains and not attempts.finished:
            moves += 1
            momentum = random.standard_normal(now.points.shape)
            before = scale * now.score + 0.5 * (momentum**2).sum(axis=1)
            end = now
            for _ in range(self.leaps):
                momentum = momentum - 0.5 * length * scale * end.slopes
                moved = end.points + length * momentum
                end = attempts.simulate(reflected(moved), slopes=True, kept=False)
                momentum = bounced(moved) * momentum - 0.5 * length * scale * end.slopes
            after = scale * end.score + 0.5 * (momentum**2).sum(axis=1)
            accepted = np.log(random.random(self.chains)) < before - after
            now = now.where(accepted, end)
            if moves > self.warmup:
                attempts.keep(end, accepted)
                attempts.walked(now.points)
            else:
                length = float(np.clip(length * np.exp(0.3 * (accepted.mean() - _WANTED)), 1e-4, 0.5))
