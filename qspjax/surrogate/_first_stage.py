"""A surrogate of a log density, learnt where the posterior is.

Not the density is emulated, but the predictions that it follows from (and the standard deviations of the error model),
as functions of standardised points, w = L^-1 (z - m):

    log p*(z) = log p(y | predictions*(z)) + log p(z) - max(|w| - R, 0)^2 / 2

Far from all simulations, beyond R, the density falls, since nothing is known there. The design is normal about the mode
and twice as wide as the curvature there says; further simulations are at draws from the surrogate itself.

Reference: Christen and Fox, J Comput Graph Stat 2005;14:795, doi:10.1198/106186005X76983.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from qspjax._random import generator
from qspjax._types import Key
from qspjax.fit.bayes._density import Density
from qspjax.fit.bayes._metric import local
from qspjax.fit.data._dependence import log_densities
from qspjax.fit.search._search import quickly_compiled
from qspjax.surrogate._contract import AbstractEmulator, AbstractPredictor
from qspjax.surrogate._designs import Sobol
from qspjax.surrogate._scale import OutputScale

_RANGE = 7.0
"""Standardised points from -3.5 to 3.5 are between 0 and 1 for the emulator."""
_WIDE = 2.0
"""How much wider than the posterior the first design is."""
_AROUND = 0.5
"""The standard deviation of further simulations about draws of the surrogate, in parts of the posterior's."""
_NEWTON = 12
"""The maximum number of steps to the mode."""
_WALKERS, _MOVES, _BLOCKS = 64, 200, 4
"""The walkers that explore a surrogate, their moves from one place that is kept to the next, and these places."""


class FirstStage(eqx.Module):
    """A surrogate of a log density.

    Attributes:
        predictor: The emulator of all predictions.
        scale: Their scale.
        centre: m, shape (size,).
        factor: L, lower triangular.
        radius: R.
    """

    predictor: AbstractPredictor
    scale: OutputScale
    centre: np.ndarray
    factor: np.ndarray
    radius: np.ndarray

    def standardised(self, z: Array) -> Array:
        """Return w."""
        return jax.scipy.linalg.solve_triangular(jnp.asarray(self.factor), z - self.centre, lower=True)

    def log_density(self, z: Array, density: Density) -> Array:
        """Return the surrogate of the log density at z, without a constant."""
        w = self.standardised(z)
        mean = self.predictor.mean((0.5 + w / _RANGE)[None])[0]
        predictors = _whole(density, self.scale.inverse(mean))
        densities = log_densities(density.likelihood.rows, predictors)
        likelihood = jnp.sum(jnp.stack([jnp.sum(part) for part in densities]))
        beyond = jnp.maximum(jnp.sqrt(jnp.sum(w**2) + 1e-12) - self.radius, 0.0)
        value = likelihood + density.log_prior(z) - 0.5 * beyond**2
        return jnp.where(jnp.isfinite(value), value, -1e30)


class Explored(NamedTuple):
    """A surrogate of a log density, and where it says that the posterior is.

    Attributes:
        stage: The surrogate.
        starts: Draws from it, shape (draws, size).
        step: The factor of the steps of random walks, shape (size, size).
        simulations: The number of simulations that it was learnt from, those on the way to the mode included.
    """

    stage: FirstStage
    starts: np.ndarray
    step: np.ndarray
    simulations: int


def explored(
    density: Density, start: Array, method: AbstractEmulator, simulations: int, rounds: int, key: Key
) -> Explored:
    """Learn a surrogate of a log density.

    Args:
        density: The density.
        start: Where the way to the mode begins.
        method: The emulator.
        simulations: The number of simulations.
        rounds: In how many parts they are made: all but the first are at draws from the surrogate.
        key: `jax.random.key(seed)`.

    Raises:
        RuntimeError: If most of the simulations fail.
    """
    from scipy.special import ndtri

    mode, covariance, taken = _mode(density, start)
    size, each = density.size, -(-simulations // rounds)
    random, simulated = generator(key), quickly_compiled(jax.vmap(lambda z: _flat(density, z)))
    normal = ndtri(np.clip(Sobol(each).points(size, random), 1e-6, 1.0 - 1e-6))
    frame = mode, np.linalg.cholesky(covariance)
    points = mode + _WIDE * normal @ frame[1].T
    values = np.asarray(simulated(jnp.asarray(points)))
    stage = _learnt(density, points, values, each, frame, method, key)
    draws = _walked(density, stage, key)
    for k in range(1, rounds):
        frame = draws.mean(axis=0), _factor(draws, frame[1])
        more = draws[random.permutation(len(draws))[:each]]
        more = more + _AROUND * random.standard_normal(more.shape) @ frame[1].T
        points = np.concatenate([points, more])
        values = np.concatenate([values, np.asarray(simulated(jnp.asarray(more)))])
        own = jax.random.fold_in(key, k)
        stage = _learnt(density, points, values, each, frame, method, own)
        draws = _walked(density, stage, own)
    return Explored(stage, draws, _factor(draws, frame[1]), taken + len(points))


def _learnt(
    density: Density,
    points: np.ndarray,
    values: np.ndarray,
    even: int,
    frame: tuple[np.ndarray, np.ndarray],
    method: AbstractEmulator,
    key: Key,
) -> FirstStage:
    """Return the surrogate that follows from simulations, of which the first are even, in a frame (m, L)."""
    good = np.asarray(np.isfinite(values).all(axis=1))
    if good.sum() < max(8, 2 * density.size):
        raise RuntimeError(f"No surrogate can be learnt: {int((~good).sum())} of {len(good)} simulations failed.")
    scale, (centre, factor) = OutputScale.of(values[good]), frame
    seen = 0.5 + np.linalg.solve(factor, (points[good] - centre).T).T / _RANGE
    first = np.flatnonzero(good) < even
    learnt = method.learn(seen, np.asarray(scale.forward(values[good])), first, key)
    radius = np.asarray(_WIDE * np.sqrt(density.size) + 1.0)
    return FirstStage(learnt.predictor, scale, centre, factor, radius)


def _factor(draws: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Return the Cholesky factor of the covariance of draws, kept from vanishing."""
    covariance = np.cov(draws.T).reshape(before.shape) + 1e-4 * before @ before.T
    return np.linalg.cholesky(covariance)


def _mode(density: Density, start: Array) -> tuple[np.ndarray, np.ndarray, int]:
    """Return a point near the mode, the covariance there, and the number of simulations: steps of Gauss and Newton."""
    program = eqx.filter_jit(lambda z: local(density, z, None))
    here, taken = program(start), 1
    z = start
    for _ in range(_NEWTON):
        move, share = here.covariance @ here.slope, 1.0
        if float(move @ here.slope) < 0.1:  # the expected gain, in units of the log density
            break
        for _ in range(6):
            there = program(z + share * move)
            taken += 1
            if bool(there.value > here.value):
                break
            share *= 0.3
        else:
            break
        z, here = z + share * move, there
    return np.asarray(z), np.asarray(here.covariance), taken


def _flat(density: Density, z: Array) -> Array:
    """Return all predictions at z in a row, NaN where a simulation fails."""
    predictors, succeeded = density.likelihood.predictors(*density.parts(z))
    flat = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(predictors)])
    return jnp.where(succeeded, flat, jnp.nan)


def _whole(density: Density, flat: Array) -> PyTree:
    """Return predictions from a row."""
    shapes, _ = jax.eval_shape(lambda z: density.likelihood.predictors(*density.parts(z)), density.start)
    leaves, structure = jax.tree.flatten(shapes)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    parts = [part.reshape(leaf.shape) for part, leaf in zip(jnp.split(flat, ends), leaves, strict=True)]
    return jax.tree.unflatten(structure, parts)


def _walked(density: Density, stage: FirstStage, key: Key) -> np.ndarray:
    """Return draws from a surrogate: the last places of many random walks."""
    for_start, for_walk = jax.random.split(key)
    factor = jnp.asarray(stage.factor)
    z = jnp.asarray(stage.centre) + jax.random.normal(for_start, (_WALKERS, density.size)) @ factor.T

    @eqx.filter_jit
    def walk(stage: FirstStage, z: Array, key: Array) -> Array:
        keys = jax.random.split(key, len(z))
        return jax.vmap(lambda z, key: walked(density, stage, z, factor, _MOVES, key)[0])(z, keys)

    rounds = []
    for k in range(_BLOCKS):
        z = walk(stage, z, jax.random.fold_in(for_walk, k))
        rounds.append(np.asarray(z))
    return np.concatenate(rounds[1:])


def walked(
    density: Density, stage: FirstStage, z: Array, factor: Array, moves: int, key: Array
) -> tuple[Array, Array, Array]:
    """Return where a random walk over the surrogate ends, and the surrogate's log density at both ends."""
    size = 2.38 / np.sqrt(density.size)
    first = stage.log_density(z, density)

    def move(carry: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], None]:
        z, value = carry
        for_step, for_choice, for_size = jax.random.split(key, 3)
        scale = size * jnp.exp(jax.random.uniform(for_size, minval=-1.5, maxval=0.5))
        there = z + scale * (factor @ jax.random.normal(for_step, z.shape))
        other = stage.log_density(there, density)
        moved = jnp.log(jax.random.uniform(for_choice)) < other - value
        return (jnp.where(moved, there, z), jnp.where(moved, other, value)), None

    (z, last), _ = jax.lax.scan(move, (z, first), jax.random.split(key, moves))
    return z, first, last
