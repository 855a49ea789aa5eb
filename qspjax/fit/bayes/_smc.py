"""Sequential Monte Carlo from the prior to the posterior, by powers of the likelihood.

    p_k(z) ~ p(z) p(y | z)^lambda_k,   0 = lambda_0 < ... < lambda_K = 1
    log p(y) = sum_k log mean_i p(y | z_i)^(lambda_k - lambda_k-1)

Each power is the greatest at which the effective sample size of the weights is still a given share of the particles.
Particles are then resampled by their weights, and moved by Hamiltonian Monte Carlo.

Reference: Del Moral, Doucet and Jasra, J R Stat Soc B 2006;68:411, doi:10.1111/j.1467-9868.2006.00553.x.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from numpy.typing import ArrayLike

from qspjax._checks import check_number, check_whole, refuse
from qspjax._extras import require
from qspjax._progress import Progress
from qspjax._random import check_key
from qspjax._types import Key
from qspjax.fit.bayes._density import Density, Start
from qspjax.fit.bayes._sampler import AbstractRun, AbstractSampler, Draws

ACCEPTED = 0.8
"""The mean acceptance to which the step of the moves is adapted."""
HALVINGS = 60
"""The number of bisections for the next power."""


class SMC(AbstractSampler):
    """Tempered sequential Monte Carlo: particles from the prior become draws of the posterior, and give its evidence.

    It finds several modes, and costs many more simulations than `NUTS`.

    Args:
        particles: The number of particles of each run.
        runs: The number of independent runs, side by side; R-hat and the spread of the evidence show how they agree.
        share: The effective sample size of the weights from one power of the likelihood to the next, as a share of the
            particles.
        moves: The number of moves of each particle at each power.
        steps: The number of leapfrog steps of a move.
        key: `jax.random.key(seed)`.

    Raises:
        ValueError: If a number is out of range.

    Reference: Del Moral, Doucet and Jasra, J R Stat Soc B 2006;68:411, doi:10.1111/j.1467-9868.2006.00553.x.

    Example:
        >>> import jax
        >>> from qspjax.fit import SMC
        >>> SMC(particles=1000, key=jax.random.key(0)).runs
        4
    """

    particles: int = eqx.field(default=500, static=True)
    runs: int = eqx.field(default=4, static=True, kw_only=True)
    share: float = eqx.field(default=0.5, static=True, kw_only=True)
    moves: int = eqx.field(default=4, static=True, kw_only=True)
    steps: int = eqx.field(default=8, static=True, kw_only=True)
    key: Key = eqx.field(kw_only=True)

    def __check_init__(self) -> None:
        for name, value, least in (
            ("particles", self.particles, 10),
            ("runs", self.runs, 1),
            ("moves", self.moves, 1),
            ("steps", self.steps, 1),
        ):
            check_whole(name, value, least)
        check_key(self.key)
        check_number("share", self.share)
        if not 0.0 < self.share < 1.0:
            refuse("share", "lie between 0 and 1", self.share)

    def begin(self, density: Density, start: Start | None) -> AbstractRun:
        if start is not None:
            refuse("start", "be left out with SMC(), which begins with draws from the prior", "given")
        return _Particles(density, self)


class _Swarm(NamedTuple):
    """The particles of a run.

    Attributes:
        z: Their points, shape (particles, size).
        likelihood: The log likelihoods there.
        power: The power of the likelihood.
        evidence: The log evidence so far.
        step: The logarithm of the step of the moves.
        accepted: The mean acceptance of the last moves.
    """

    z: Array
    likelihood: Array
    power: Array
    evidence: Array
    step: Array
    accepted: Array


class _Particles(AbstractRun):
    """All runs side by side."""

    def __init__(self, density: Density, method: SMC) -> None:
        self.density, self.method, self.done = density, method, 0
        for_start, self.key = jax.random.split(method.key)
        keys = jax.random.split(for_start, (method.runs, method.particles))
        z = jax.jit(jax.vmap(jax.vmap(density.drawn)))(keys)
        likelihood = jax.jit(jax.vmap(jax.vmap(density.log_likelihood)))(z)
        if not np.isfinite(likelihood).any(axis=1).all():
            raise RuntimeError("The likelihood is not finite at any draw from the prior.")
        zero = jnp.zeros(method.runs)
        longest = math.log(0.5 * math.pi / method.steps)
        self.now = _Swarm(z, likelihood, zero, zero, zero + longest, zero)
        program = _step(density, method, longest)
        self.program = jax.jit(jax.vmap(program))

    @property
    def standing(self) -> Progress:
        return Progress(self.done, 0, {"divergences": 0, "temperature": float(self.now.power.min())})

    @property
    def going(self) -> bool:
        return float(self.now.power.min()) < 1.0

    def advance(self) -> None:
        key = jax.random.fold_in(self.key, self.done)
        self.now = self.program(jax.random.split(key, self.method.runs), self.now)
        self.done += 1

    def draws(self) -> Draws:
        z = np.asarray(self.now.z)
        prior = np.asarray(jax.jit(jax.vmap(jax.vmap(self.density.log_prior)))(self.now.z))
        accepted = np.broadcast_to(np.asarray(self.now.accepted)[:, None], z.shape[:2])
        stats = {"lp": prior + np.asarray(self.now.likelihood), "acceptance_rate": accepted}
        return Draws(z, stats, np.asarray(self.now.evidence))

    def state(self) -> dict[str, ArrayLike | str]:
        return {"done": self.done, **{name: np.asarray(part) for name, part in self.now._asdict().items()}}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        self.done = int(state["done"])
        self.now = _Swarm(*(jnp.asarray(state[name]) for name in _Swarm._fields))


def _step(density: Density, method: SMC, longest: float) -> Callable[[Array, _Swarm], _Swarm]:
    """Return a function that advances a run to its next power of the likelihood; at 1 particles only move."""
    mcmc = require("blackjax.mcmc.hmc", extra="bayes")
    systematic = require("blackjax.smc.resampling", extra="bayes").systematic
    kernel = mcmc.build_kernel()

    def moved(key: Array, z: Array, power: Array, step: Array, metric: Array) -> tuple[Array, Array]:
        def tempered(z: Array) -> Array:
            value = density.log_likelihood(z)
            return density.log_prior(z) + jnp.where(jnp.isfinite(value), power * value, -jnp.inf)

        def move(state: PyTree, key: Array) -> tuple[PyTree, Array]:
            for_step, for_move = jax.random.split(key)
            size = step * jax.random.uniform(for_step, minval=0.5, maxval=1.0)
            state, info = kernel(for_move, state, tempered, size, metric, method.steps)
            return state, info.acceptance_rate

        state, accepted = jax.lax.scan(move, mcmc.init(z, tempered), jax.random.split(key, method.moves))
        return state.position, accepted.mean()

    def advanced(key: Array, now: _Swarm) -> _Swarm:
        power = _next_power(now, method.share)
        weight = (power - now.power) * _finite(now.likelihood)
        evidence = now.evidence + jax.nn.logsumexp(weight) - math.log(method.particles)
        weight = jax.nn.softmax(weight)
        metric = _metric(now.z, weight)
        for_indices, for_moves = jax.random.split(key)
        indices = systematic(for_indices, weight, method.particles)
        keys = jax.random.split(for_moves, method.particles)
        z, accepted = jax.vmap(lambda key, z: moved(key, z, power, jnp.exp(now.step), metric))(keys, now.z[indices])
        step = jnp.minimum(now.step + 2.0 * (accepted.mean() - ACCEPTED), longest)
        likelihood = jax.vmap(density.log_likelihood)(z)
        return _Swarm(z, likelihood, power, evidence, step, accepted.mean())

    return advanced


def _finite(likelihood: Array) -> Array:
    return jnp.where(jnp.isfinite(likelihood), likelihood, -1e300)


def _next_power(now: _Swarm, share: float) -> Array:
    """Return the greatest power, at most 1, at which the effective sample size is that share of the particles."""
    value = now.likelihood
    value = jnp.where(jnp.isfinite(value), value - jnp.max(jnp.where(jnp.isfinite(value), value, -jnp.inf)), -jnp.inf)
    finite = jnp.isfinite(value)

    def is_enough(step: Array) -> Array:
        weight = jnp.where(finite, jnp.exp(step * jnp.where(finite, value, 0.0)), 0.0)
        return jnp.sum(weight) ** 2 / jnp.sum(weight**2) >= share * jnp.sum(finite)

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        sufficient = is_enough(middle)
        return jnp.where(sufficient, middle, low), jnp.where(sufficient, high, middle)

    remaining = 1.0 - now.power
    low, _ = jax.lax.fori_loop(0, HALVINGS, halve, (jnp.zeros(()), remaining))
    return jnp.where(is_enough(remaining), 1.0, now.power + low)


def _metric(z: Array, weight: Array) -> Array:
    """Return the covariance of the particles, the inverse of the mass; only its diagonal if there are few particles."""
    count, size = z.shape
    deviation = z - weight @ z
    variance = weight @ deviation**2 + 1e-12
    if count < 10 * size:
        return variance
    return 0.95 * jnp.einsum("n,na,nb->ab", weight, deviation, deviation) + 0.05 * jnp.diag(variance)
