"""Markov chains of the random effects of all subjects, several per subject, side by side.

The state of a chain is psi = eta + weight^T s (see `References`). Two moves alternate: an independent draw from a t
distribution about the mode of the subject, with the width that the information there gives, and a random walk of the
same shape, whose width is adapted to the share of accepted moves.

Reference: Karimi, Lavielle and Moulines, f-SAEM, Comput Stat Data Anal 2020;141:123, doi:10.1016/j.csda.2019.07.001.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from qspjax.fit.mixed._conditional import observed_at, twice_and_effects_of
from qspjax.fit.mixed._mixed import MixedModel
from qspjax.fit.mixed._modes import Modes, modes
from qspjax.fit.mixed._symmetric import backward, factorised, forward

DF = 5.0
"""Degrees of freedom of the independent draws."""
ACCEPTED = 0.35
"""The share of moves of the random walk that should be accepted."""
INDEPENDENT, WALK = range(2)


class Proposal(NamedTuple):
    """The distribution that new points of the chains of each subject are proposed from.

    Attributes:
        middle: Its centre, as psi, shape (subjects, effects).
        spread: The Cholesky factor of its covariance, shape (subjects, effects, effects).
        width: That of the random walk, relative to `spread`, shape (subjects,).
    """

    middle: Array
    spread: Array
    width: Array


class Chains(NamedTuple):
    """The state of the chains.

    Attributes:
        psi: Shape (chains, subjects, effects).
        observed: The observed values there by name, shape (chains, subjects, times); NaN where they have not been, or
            cannot be, simulated.
    """

    psi: Array
    observed: dict[str, Array]


class _Moving(NamedTuple):
    at: Chains
    density: Array
    accepted: Array


def initial_chains(mixed: MixedModel, psi: Array) -> Chains:
    """Return chains that begin at psi, where nothing has been simulated yet."""
    shapes = jax.eval_shape(lambda u: observed_at(mixed, jnp.asarray(mixed.start), u), psi[0])
    return Chains(psi, {name: jnp.full((len(psi), *value.shape), jnp.nan) for name, value in shapes.items()})


def proposal(mixed: MixedModel, x: Array, mean: Array, start: Array, width: Array, most: int) -> tuple[Proposal, Modes]:
    """Return the proposal about the modes, and the modes.

    Args:
        mixed: The problem.
        x: The point, shape (names,).
        mean: The mean of psi, shape (subjects, effects).
        start: Random effects u from which the modes are searched, shape (subjects, effects).
        width: That of the random walk, shape (subjects,).
        most: The maximum number of trials of that search.
    """
    factor = mixed.factor(x)
    mode = modes(mixed, x, start, most=most)
    root = factor @ backward(factorised(mode.curvature).root, jnp.eye(start.shape[1]))
    spread = factorised(root @ jnp.swapaxes(root, -1, -2)).root
    return Proposal(mean + mode.u @ factor.T, spread, width), mode


def swept(
    mixed: MixedModel, x: Array, mean: Array, chains: Chains, around: Proposal, keys: Array, *, sweeps: int, again: bool
) -> tuple[Chains, Proposal]:
    """Return the chains after some sweeps, and the proposal with its width adapted.

    Args:
        mixed: The problem.
        x: The point, shape (names,).
        mean: The mean of psi, shape (subjects, effects).
        chains: Their state.
        around: The proposal.
        keys: A random key for each subject, so that its chains do not depend on the other subjects.
        sweeps: How many times both moves are made.
        again: Whether the chains have to be simulated again first, since simulations depend on more than psi.
    """
    count, _, effects = chains.psi.shape
    whiten, back = (forward(lower, jnp.eye(effects)) for lower in (mixed.factor(x), around.spread))

    def simulated(psi: Array) -> Chains:
        u = (psi - mean) @ whiten.T
        return Chains(psi, jax.vmap(lambda u: observed_at(mixed, x, u))(u))

    def density(at: Chains) -> Array:
        u = (at.psi - mean) @ whiten.T
        return -0.5 * jax.vmap(lambda u, observed: twice_and_effects_of(mixed, x, u, observed))(u, at.observed)

    def log_t(psi: Array) -> Array:
        distance = jnp.einsum("nab,knb->kna", back, psi - around.middle)
        return -0.5 * (DF + effects) * jnp.log1p(jnp.sum(distance**2, axis=-1) / DF)

    def drawn(key: Array) -> tuple[Array, Array, Array]:
        normal, spread, chance = jax.random.split(key, 3)
        heavy = jnp.sqrt(DF / (2.0 * jax.random.gamma(spread, 0.5 * DF, (count,))))
        return jax.random.normal(normal, (count, effects)), heavy, jax.random.uniform(chance, (count,))

    def move(now: _Moving, kind_and_keys: tuple[Array, Array]) -> tuple[_Moving, None]:
        kind, keys = kind_and_keys
        psi = now.at.psi
        normal, heavy, chance = jax.vmap(drawn, out_axes=1)(keys)
        z = jnp.einsum("nab,knb->kna", around.spread, normal)
        independent = kind == INDEPENDENT
        trial = simulated(jnp.where(independent, around.middle + heavy[..., None] * z, psi + around.width[:, None] * z))
        value = density(trial)
        gain = value - now.density + jnp.where(independent, log_t(psi) - log_t(trial.psi), 0.0)
        # a chain at a point that has not been, or cannot be, simulated accepts any other point
        accept = (jnp.log(chance) < gain) | ~jnp.isfinite(now.density)
        accept &= jnp.isfinite(value)
        accepted = now.accepted + jnp.where(independent, 0.0, accept.mean(axis=0))
        chains = jax.tree.map(lambda new, old: jnp.where(accept[..., None], new, old), trial, now.at)
        return _Moving(chains, jnp.where(accept, value, now.density), accepted), None

    if again:
        chains = simulated(chains.psi)
    kinds = jnp.array([INDEPENDENT, WALK] * sweeps)
    now = _Moving(chains, density(chains), jnp.zeros(chains.psi.shape[1]))
    keys_of_moves = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, kinds.size))(keys), 0, 1)
    ended, _ = jax.lax.scan(move, now, (kinds, keys_of_moves))
    width = around.width * jnp.exp(ended.accepted / sweeps - ACCEPTED)
    return ended.at, around._replace(width=jnp.clip(width, 1e-3, 10.0))
