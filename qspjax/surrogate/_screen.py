"""Millions of candidates are screened by a surrogate; each patient that is accepted is confirmed by a simulation.

With p(u) the probability that the surrogate gives a candidate of being plausible, the threshold c is that below which
the candidates have no more than the stated part of all plausible patients,

    sum_{p(u) < c} p(u) = missed sum_u p(u)

It is checked: some of the candidates below it are simulated as well, drawn in proportion to q(u), p(u) but no less than
a floor; those of them that are plausible, each counting 1 / (n q(u)), say how many were missed.
"""

import dataclasses
import time
from collections.abc import Callable

import numpy as np

from qspjax._checks import check_instance, check_whole, refuse
from qspjax._progress import Progress
from qspjax._random import generator
from qspjax._types import Key
from qspjax.population._plausible._attempts import Attempts
from qspjax.population._plausible._plausible import result_of
from qspjax.population._plausible._result import PlausiblePopulation
from qspjax.surrogate._acquisition import chances, scaled_ends
from qspjax.surrogate._simulators import Plausibility
from qspjax.surrogate._surrogate import Surrogate

_POOL = 1 << 16
"""Candidates that are screened together."""
_BATCH = 2048
"""Patients that are simulated together."""
_FLOOR = 1e-4
"""The least probability by which candidates below the threshold are drawn to be checked."""


@dataclasses.dataclass(frozen=True)
class Screening:
    """What a screening has found, and what it cost.

    Attributes:
        population: The plausible patients, each confirmed by a simulation.
        candidates: The number of candidates that were screened.
        chosen: The number of those that were worth a simulation.
        simulations: The number of all simulations: of those, to check who was missed, and to learn the surrogate.
        missed: An estimate of the share of the plausible patients among the candidates that was missed.
        seconds: The time of the screening alone, without simulations.

    Example:
        >>> Screening(None, 1_000_000, 1250, 2000, 0.01, 4.0).rate
        250000.0
    """

    population: PlausiblePopulation | None
    candidates: int
    chosen: int
    simulations: int
    missed: float
    seconds: float

    @property
    def rate(self) -> float:
        """Candidates screened a second."""
        return self.candidates / self.seconds

    @property
    def found(self) -> int:
        """The number of plausible patients."""
        return 0 if self.population is None else self.population.size

    @property
    def saved(self) -> float:
        """The number of simulations that rejection needs for as many patients, over those that were made."""
        needed = self.candidates * (1.0 - self.missed)
        return needed / max(self.simulations, 1)

    def __str__(self) -> str:
        precision = self.found / max(self.chosen, 1)
        return (
            f"{self.found} plausible patients among {self.candidates:,} candidates ({self.rate:,.0f} a second), "
            f"{precision:.0%} of those simulated\n"
            f"{self.simulations:,} simulations in all, where rejection takes {self.saved:.3g} times as many; "
            f"about {self.missed:.2%} of the plausible patients were missed"
        )


def screen(
    surrogate: Surrogate,
    simulator: Plausibility,
    *,
    key: Key,
    candidates: int = 1_000_000,
    missed: float = 0.01,
    checked: int = 256,
    progress: Callable[[Progress], None] | None = None,
) -> Screening:
    """Screen candidates of a population by a surrogate, and confirm those that may be plausible by simulations.

    What is found is distributed as by rejection, but for the part that is missed.

    Args:
        surrogate: The emulator of the statistics, from `fit(simulator, learn=Boundary(), ...)`.
        simulator: The population, its arms and the bounds.
        key: `jax.random.key(seed)`.
        candidates: The number of candidates, drawn from the population.
        missed: The part of the plausible patients that may be left out, by the probabilities of the surrogate.
        checked: The number of candidates below the threshold that are simulated to estimate what was missed.
        progress: Called after every batch of simulations.

    Returns:
        A `Screening`, whose `population` is a `PlausiblePopulation`.

    Raises:
        ValueError: If the surrogate is of other outputs than the simulator.

    Example:
        >>> import jax, qspjax as qsp
        >>> population = qsp.Population(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0), between={"V": qsp.Uniform(10.0, 110.0)}
        ... )
        >>> bounds = {"C0": qsp.population.Bound(qsp.endpoints.Value("concentration", at=0.0), 2.0, 2.1)}
        >>> arms = [qsp.Arm("100 mg", qsp.bolus(100.0, to="central"))]
        >>> simulator = qsp.surrogate.Plausibility(population, bounds, arms=arms)
        >>> emulated = qsp.surrogate.fit(simulator, qsp.surrogate.Sobol(64), key=jax.random.key(0))
        >>> found = qsp.surrogate.screen(emulated, simulator, candidates=20000, checked=64, key=jax.random.key(1))
        >>> bool(450 < found.found < 500), found.simulations < 800  # 2.4 % of the candidates are plausible
        (True, True)
    """
    check_instance("surrogate", surrogate, Surrogate, "a Surrogate")
    check_instance("simulator", simulator, Plausibility, "a Plausibility(...)")
    if surrogate.outputs != simulator.outputs:
        refuse("surrogate", f"have the outputs {', '.join(simulator.outputs)}", ", ".join(surrogate.outputs))
    for name, value in (("candidates", candidates), ("checked", checked)):
        check_whole(name, value, 1)
    if not 0.0 < missed < 1.0:
        refuse("missed", "be between 0 and 1", missed)
    random, ends = generator(key), scaled_ends(surrogate, simulator.ends)
    seeds = random.integers(1 << 62, size=-(-candidates // _POOL))
    began = time.perf_counter()
    p = np.concatenate([chances(surrogate, _pool(seeds, k, candidates, simulator), ends) for k in range(len(seeds))])
    seconds = time.perf_counter() - began
    threshold = _threshold(p, missed)
    chosen, below = np.flatnonzero(p >= threshold), np.flatnonzero(p < threshold)
    attempts = Attempts(simulator.criteria, size=candidates, most=candidates, progress=progress)
    for start in range(0, len(chosen), _BATCH):
        attempts.simulate(_taken(seeds, chosen[start : start + _BATCH], candidates, simulator))
    q = np.maximum(p[below], _FLOOR)
    q = q / q.sum() if len(below) else q
    drawn = random.choice(len(below), size=min(checked, len(below)), p=q) if len(below) else np.zeros(0, int)
    lost = 0.0
    if len(drawn):
        judged = attempts.simulate(_taken(seeds, below[drawn], candidates, simulator), kept=False)
        lost = float(np.sum(judged.inside / q[drawn]) / len(drawn))
    attempts.size = max(attempts.found, 1)
    attempts.missed = lost / max(lost + attempts.found, 1.0)
    made = attempts.simulations + surrogate.simulations
    population = result_of(simulator.criteria, attempts) if attempts.found else None
    return Screening(population, candidates, len(chosen), made, attempts.missed, seconds)


def _pool(seeds: np.ndarray, k: int, candidates: int, simulator: Plausibility) -> np.ndarray:
    """Return the candidates of a pool, which are made again where they are needed again."""
    count = min(_POOL, candidates - k * _POOL)
    return np.random.default_rng(seeds[k]).random((count, len(simulator.inputs)))


def _taken(seeds: np.ndarray, which: np.ndarray, candidates: int, simulator: Plausibility) -> np.ndarray:
    """Return some of the candidates, by their numbers."""
    points = np.empty((len(which), len(simulator.inputs)))
    for k in np.unique(which // _POOL):
        own = which // _POOL == k
        points[own] = _pool(seeds, k, candidates, simulator)[which[own] - k * _POOL]
    return points


def _threshold(p: np.ndarray, missed: float) -> float:
    """Return the probability below which the candidates have no more than a part of all probability."""
    ascending = np.sort(p)
    below = np.cumsum(ascending) <= missed * ascending.sum()
    return float(ascending[min(int(below.sum()), len(ascending) - 1)])
