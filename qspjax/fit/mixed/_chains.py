"""Markov chains of the random effects of all subjects, several of each, side by side.

The state of a chain is psi = eta + weight^T s (see `References`). Two moves take turns: an independent draw from a t
distribution about the mode of the subject, as wide as the information there says, and a random walk of the same shape,
whose width follows the share of accepted moves.

Reference: Karimi, Lavielle and Moulines, f-SAEM, Comput Stat Data Anal 2020;141:123, doi:10.1016/j.csda.2019.07.001.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from qspjax.fit.mixed._conditional import conditional, twice_and_effects
from qspjax.fit.mixed._mixed import Mixed
from qspjax.fit.mixed._modes import Modes, modes

DF = 5.0
"""Degrees of freedom of the independent draws."""
ACCEPTED = 0.35
"""The share of moves of the random walk that should be accepted."""
STAY, INDEPENDENT, WALK = range(3)


class Proposal(NamedTuple):
    """Where the chains of each subject are expected to be.

    Attributes:
        middle: psi, shape (subjects, effects).
        spread: Its Cholesky factor there, shape (subjects, effects, effects).
        width: Of the random walk, relative to `spread`, shape (subjects,).
    """

    middle: Array
    spread: Array
    width: Array


class _Chain(NamedTuple):
    psi: Array
    density: Array
    accepted: Array


def proposal(mixed: Mixed, x: Array, mean: Array, start: Array, width: Array, most: int) -> tuple[Proposal, Modes]:
    """Return where the chains are expected to be, and the modes there.

    Args:
        mixed: The problem.
        x: The point, shape (names,).
        mean: The mean of psi, shape (subjects, effects).
        start: Random effects u where the modes are looked for, shape (subjects, effects).
        width: Of the random walk, shape (subjects,).
        most: Trials of the search for the modes.
    """
    factor = mixed.factor(x)
    found = modes(mixed, x, start, most=most)
    here = mixed.expanded(x, found.u, 1)
    precision = conditional(mixed, x, found.u, here, None).information + jnp.eye(start.shape[1])
    fine = jnp.isfinite(found.value)
    root = jnp.linalg.cholesky(jnp.where(fine[:, None, None], precision, jnp.eye(start.shape[1])))
    unit = jnp.broadcast_to(jnp.eye(start.shape[1]), root.shape)
    inverse = jax.scipy.linalg.solve_triangular(root, unit, lower=True)
    spread = factor @ jnp.swapaxes(inverse, -1, -2)
    return Proposal(mean + found.u @ factor.T, spread, width), found


def moved(
    mixed: Mixed, x: Array, mean: Array, psi: Array, around: Proposal, key: Array, sweeps: int
) -> tuple[Array, Proposal]:
    """Return the chains after some sweeps, and the proposal with a better width.

    Args:
        mixed: The problem.
        x: The point, shape (names,).
        mean: The mean of psi, shape (subjects, effects).
        psi: The chains, shape (chains, subjects, effects).
        around: The proposal.
        key: A random key.
        sweeps: How often both moves are made.
    """
    effects = psi.shape[2]
    whiten = jax.scipy.linalg.solve_triangular(mixed.factor(x), jnp.eye(effects), lower=True)
    back = jnp.linalg.inv(around.spread)

    def density(psi: Array) -> Array:
        u = (psi - mean) @ whiten.T
        return -0.5 * jax.vmap(lambda u: twice_and_effects(mixed, x, u))(u)

    def log_t(psi: Array) -> Array:
        away = jnp.einsum("nab,knb->kna", back, psi - around.middle)
        return -0.5 * (DF + effects) * jnp.log1p(jnp.sum(away**2, axis=-1) / DF)

    def move(now: _Chain, kind_and_key: tuple[Array, Array]) -> tuple[_Chain, None]:
        kind, key = kind_and_key
        normal, spread, chance = jax.random.split(key, 3)
        z = jnp.einsum("nab,knb->kna", around.spread, jax.random.normal(normal, psi.shape))
        heavy = jnp.sqrt(DF / (2.0 * jax.random.gamma(spread, 0.5 * DF, psi.shape[:2])))[..., None]
        drawn = around.middle + heavy * z
        walked = now.psi + around.width[:, None] * z
        trial = jnp.where(kind == INDEPENDENT, drawn, jnp.where(kind == WALK, walked, now.psi))
        value = density(trial)
        gain = value - now.density + jnp.where(kind == INDEPENDENT, log_t(now.psi) - log_t(trial), 0.0)
        # the first visit has no density yet; a chain that stands where nothing can be simulated takes any other place
        taken = (jnp.log(jax.random.uniform(chance, gain.shape)) < gain) & jnp.isfinite(value)
        taken |= (kind == STAY) | (~jnp.isfinite(now.density) & jnp.isfinite(value))
        accepted = now.accepted + jnp.where(kind == WALK, taken.mean(axis=0), 0.0)
        return _Chain(jnp.where(taken[..., None], trial, now.psi), jnp.where(taken, value, now.density), accepted), None

    kinds = jnp.array([STAY, *[INDEPENDENT, WALK] * sweeps])
    begun = _Chain(psi, jnp.full(psi.shape[:2], -jnp.inf), jnp.zeros(psi.shape[1]))
    ended, _ = jax.lax.scan(move, begun, (kinds, jax.random.split(key, kinds.size)))
    width = around.width * jnp.exp(ended.accepted / sweeps - ACCEPTED)
    return ended.psi, around._replace(width=jnp.clip(width, 1e-3, 10.0))
