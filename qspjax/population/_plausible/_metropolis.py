"""Random walks of many chains, side by side: Metropolis and Hastings' algorithm on the flat-bottomed score.

    u' = u + h xi,  accepted with probability min(1, exp((S(u) - S(u')) / (2 softness^2)))

Walls of the cube reflect, which keeps proposals symmetric. Within the bounds the score is zero, so that a chain which
has arrived moves uniformly among plausible patients; each that it visits is kept once.

References: Metropolis et al., J Chem Phys 1953;21:1087, doi:10.1063/1.1699114; for virtual patients Rieger et al., Prog
Biophys Mol Biol 2018;139:15, doi:10.1016/j.pbiomolbio.2018.06.002.
"""

import equinox as eqx
import numpy as np

from qspjax._checks import check_above, check_whole
from qspjax._types import Scalar
from qspjax.population._plausible._attempts import Attempts
from qspjax.population._plausible._contract import AbstractPatientSearch
from qspjax.population._plausible._walls import reflected

_WANTED = 0.3
"""The share of accepted moves that the size of steps is adapted to, during warm-up."""


class MetropolisHastings(AbstractPatientSearch):
    """Walk at random among plausible patients; neighbours in a chain are alike, as `effective_size` of the result says.

    Args:
        chains: Chains side by side; each starts at a patient of the population.
        warmup: Steps of each chain whose patients are not kept; the size of a step is adapted meanwhile.
        step: The first size of a step, as a part of the range of each parameter.
        softness: How far outside a bound, on its own scale, a chain may still go.

    Example:
        >>> import qspjax as qsp
        >>> qsp.population.MetropolisHastings(chains=32).warmup
        50
    """

    chains: int = eqx.field(default=64, static=True)
    warmup: int = eqx.field(default=50, static=True)
    step: Scalar = 0.2
    softness: Scalar = 0.05

    def __check_init__(self) -> None:
        check_whole("chains", self.chains, 1)
        check_whole("warmup", self.warmup, 0)
        check_above("step", self.step, 0.0)
        check_above("softness", self.softness, 0.0)

    def search(self, attempts: Attempts, random: np.random.Generator) -> None:
        size = self.chains, attempts.criteria.dimensions
        states, step = random.random(size), float(self.step)
        scores = attempts.simulate(states, kept=False).score
        steps = 0
        while not attempts.finished:
            steps += 1
            proposals = self._proposals(states, attempts.criteria.coordinates, step, random)
            kept = steps > self.warmup
            judged = attempts.simulate(proposals, kept=kept)
            gain = (scores[: len(judged.score)] - judged.score) / (2.0 * float(self.softness) ** 2)
            moved = np.log(random.random(self.chains))[: len(gain)] < gain
            states[: len(gain)][moved], scores[: len(gain)][moved] = judged.points[moved], judged.score[moved]
            if kept:
                attempts.walked(states)
            else:
                step = float(np.clip(step * np.exp(0.2 * (moved.mean() - _WANTED) / _WANTED), 1e-4, 0.5))

    def _proposals(
        self, states: np.ndarray, coordinates: tuple[str, ...], step: float, random: np.random.Generator
    ) -> np.ndarray:
        proposals = reflected(states + step * random.standard_normal(states.shape))
        again = random.random(len(states)) < 0.5
        if coordinates[-1] == "subject":  # rows of a table have no neighbours
            proposals[:, -1] = np.where(again, random.random(len(states)), states[:, -1])
        return proposals
