"""Sequential Monte Carlo over the measurements of one patient.

    p_t(z) ~ p_t-1(z) p(y_t | z),    log p(y_t | y_1 ... y_t-1) = sum_k log sum_i W_i p(y_t | z_i)^(d_k)

Draws are weighed by each new measurement. Where their effective sample size falls too low, or one measurement says so
much that weighing alone would leave few of them, they approach it by powers d_1 + d_2 + ... = 1 of its density, are
resampled, and move by Metropolis steps that leave p_t as it is, whose proposals are normal about the mean m of all
draws, with their covariance S:

    z' = m + r (z - m) + sqrt(1 - r^2) S^(1/2) e,   e ~ N(0, 1),   r uniform between 0 and 1

References: Chopin, Biometrika 2002;89:539, doi:10.1093/biomet/89.3.539 (iterated batch importance sampling); Del Moral,
Doucet and Jasra, J R Stat Soc B 2006;68:411, doi:10.1111/j.1467-9868.2006.00553.x (powers); Rudolf and Sprungk, Found
Comput Math 2018;18:309, doi:10.1007/s10208-016-9340-x (proposals).
"""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array

from qspjax._checks import check_number, check_whole, refuse
from qspjax._programs import BRIEFLY, program
from qspjax._random import check_key, generator
from qspjax._types import Key
from qspjax.fit._types import Data
from qspjax.fit.twin._history import Table
from qspjax.fit.twin._posterior import AbstractPosterior
from qspjax.fit.twin._prior import Draws, Likelihood, Prior, likelihood

HALVINGS = 50
"""The number of bisections for the next power."""


class Particles(eqx.Module):
    """Sequential Monte Carlo: weighted draws follow the posterior from one measurement to the next.

    $$ p(z | y_1 ... y_t) \\propto p(z | y_1 ... y_{t-1}) \\, p(y_t | z) $$

    Args:
        count: The number of draws.
        share: They are resampled and moved where their effective sample size falls below this share of them.
        moves: The number of Metropolis steps of each draw then.
        key: `jax.random.key(seed)`.

    Raises:
        ValueError: If a number is out of range.

    References: Chopin, Biometrika 2002;89:539, doi:10.1093/biomet/89.3.539; Del Moral, Doucet and Jasra, J R Stat Soc B
    2006;68:411, doi:10.1111/j.1467-9868.2006.00553.x.

    Example:
        >>> import jax
        >>> from qspjax.fit import Particles
        >>> Particles(2000, key=jax.random.key(0)).share
        0.5
    """

    count: int = eqx.field(default=1000, static=True)
    share: float = eqx.field(default=0.5, static=True, kw_only=True)
    moves: int = eqx.field(default=3, static=True, kw_only=True)
    key: Key = eqx.field(kw_only=True)

    def __check_init__(self) -> None:
        check_whole("count", self.count, 10)
        check_whole("moves", self.moves, 1)
        check_key(self.key)
        check_number("share", self.share)
        if not 0.0 < self.share < 1.0:
            refuse("share", "lie between 0 and 1", self.share)

    def begin(self, coordinates: int) -> "Swarm":
        """Return draws from the prior."""
        z = generator(self.key).standard_normal((self.count, coordinates))
        return Swarm(self, z, np.full(self.count, 1.0 / self.count), 0.0, 0, 1.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Swarm(AbstractPosterior):
    """Weighted draws.

    Attributes:
        method: How they are moved.
        z: The draws, shape (draws, coordinates).
        weight: Their weights, which add up to 1.
        log_evidence: See `AbstractPosterior`.
        failed: See `AbstractPosterior`.
        accepted: The share of the last moves that were accepted.
    """

    method: Particles
    z: np.ndarray
    weight: np.ndarray
    log_evidence: float
    failed: int
    accepted: float

    @property
    def effective(self) -> float:
        return float(1.0 / np.sum(self.weight**2))

    def weighed(self) -> tuple[np.ndarray, np.ndarray]:
        return self.z, self.weight

    def drawn(self, size: int, random: np.random.Generator) -> np.ndarray:
        return self.z[_systematic(self.weight, size, random)]

    def updated(self, prior: Prior, table: Table, number: int) -> tuple["Swarm", dict[str, np.ndarray]]:
        method, random = self.method, generator(self.method.key, number + 1)
        z, weight, evidence, accepted = self.z, self.weight, self.log_evidence, 1.0
        found, below = likelihood(prior, z, table)
        below = {name: np.einsum("n,nkr->kr", weight, column) for name, column in below.items()}
        density = np.asarray(found.new)
        failed = int(np.sum(~np.isfinite(density)))
        if not (np.isfinite(density) & (weight > 0)).any():
            raise RuntimeError(f"No draw has a likelihood. The first: {prior.why(z, table)}")
        power = 0.0
        while power < 1.0:
            step = _step(weight, density, 1.0 - power, method.share)
            power = 1.0 if step >= 1.0 - power else power + step
            grown = weight * np.exp(np.where(np.isfinite(density), step * (density - density.max()), -np.inf))
            evidence += float(np.log(grown.sum()) + step * density.max())
            weight = grown / grown.sum()
            if power == 1.0 and 1.0 / np.sum(weight**2) >= method.share * weight.size:
                break
            centre, factor = _spread(z, weight)
            chosen = _systematic(weight, weight.size, random)
            z, found = z[chosen], Likelihood(*(part[chosen] for part in found))
            weight = np.full(weight.size, 1.0 / weight.size)
            noise = random.standard_normal((method.moves, *z.shape))
            uniform = random.uniform(size=(2, method.moves, weight.size))
            z, found, share = moved(prior, z, found, table, np.asarray(power), (centre, factor), (noise, *uniform))
            z, density, accepted = np.asarray(z), np.asarray(found.new), float(share)
        return Swarm(method, z, weight, evidence, failed, accepted), below


@functools.partial(program, around=BRIEFLY)
def moved(
    prior: Prior,
    z: Draws,
    found: Likelihood,
    table: Table,
    power: Data,
    about: tuple[Data, Data],
    random: tuple[Data, Data, Data],
) -> tuple[Array, Likelihood, Array]:
    """Return draws after Metropolis steps, their likelihood, and the share of steps that were accepted.

    Args:
        prior: The prior.
        z: The draws, shape (draws, coordinates).
        found: Their likelihood.
        table: The doses and measurements.
        power: The power of the density of new measurements.
        about: The centre of proposals, and the Cholesky factor of their covariance.
        random: Normal numbers, shape (moves, draws, coordinates); how much of a draw a proposal keeps, and uniform
            numbers, shape (moves, draws).
    """
    centre, factor = about
    z = jnp.asarray(z)

    def target(z: Array, found: Likelihood) -> Array:
        return found.old + power * found.new - 0.5 * jnp.sum(z * z, axis=1)

    def reference(z: Array) -> Array:
        return -0.5 * jnp.sum(solve_triangular(factor, (z - centre).T, lower=True) ** 2, axis=0)

    def move(state: tuple, random: tuple) -> tuple[tuple, Array]:
        z, found = state
        noise, kept, uniform = random
        kept = kept[:, None]
        proposal = centre + kept * (z - centre) + jnp.sqrt(1.0 - kept**2) * (noise @ factor.T)
        there, _ = prior.likelihood(proposal, table)
        ratio = target(proposal, there) - target(z, found) + reference(z) - reference(proposal)
        accepted = jnp.log(uniform) < jnp.where(jnp.isfinite(there.new), ratio, -jnp.inf)
        found = jax.tree.map(lambda one, other: jnp.where(accepted, one, other), there, found)
        return (jnp.where(accepted[:, None], proposal, z), found), accepted.mean()

    (z, found), accepted = jax.lax.scan(move, (z, found), random)
    return z, found, accepted.mean()


def _step(weight: np.ndarray, density: np.ndarray, remaining: float, share: float) -> float:
    """Return the greatest step of the power for which the new weights, relative to the old ones, are even enough.

    Their conditional effective sample size is (sum W w)^2 / sum W w^2 (Zhou, Johansen and Aston, J Comput Graph Stat
    2016;25:701, doi:10.1080/10618600.2015.1060885).
    """
    finite = np.isfinite(density) & (weight > 0)
    weight, density = weight[finite] / weight[finite].sum(), density[finite] - density[finite].max()

    def is_enough(step: float) -> bool:
        ratio = np.exp(step * density)
        return bool((weight @ ratio) ** 2 >= share * (weight @ ratio**2))

    if is_enough(remaining):
        return remaining
    low, high = 0.0, remaining
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if is_enough(middle) else (low, middle)
    return low


def _systematic(weight: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """Return the numbers of draws, each as often as its weight says, up to one."""
    edges = np.cumsum(weight)
    places = (random.uniform() + np.arange(size)) / size * edges[-1]
    return np.minimum(np.searchsorted(edges, places, side="right"), weight.size - 1)


def _spread(z: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of weighted draws, and the Cholesky factor of their covariance."""
    centre = weight @ z
    distance = z - centre
    covariance = np.einsum("n,na,nb->ab", weight, distance, distance)
    return centre, np.linalg.cholesky(0.99 * covariance + np.diag(0.01 * np.diag(covariance) + 1e-12))
