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
    """Where the chains of each subject are expected to be.

    Attributes:
        middle: psi, shape (subjects, effects).
        spread: Its Cholesky factor there, shape (subjects, effects, effects).
        width: Of the random walk, relative to `spread`, shape (subjects,).
    """

    middle: Array
    spread: Array
    width: Array


class Chains(NamedTuple):
    """Where the chains are.

    Attributes:
        psi: Shape (chains, subjects, effects).
        observed: By name, what is observed there, shape (chains, subjects, times); NaN where that is not known yet, or
            cannot be simulated.
    """

    psi: Array
    observed: dict[str, Array]


class _Moving(NamedTuple):
    at: Chains
    density: Array
    accepted: Array


def begun(mixed: MixedModel, psi: Array) -> Chains:
    """Return chains that begin at psi, where nothing has been simulated yet."""
    like = jax.eval_shape(lambda u: observed_at(mixed, jnp.asarray(mixed.start), u), psi[0])
    return Chains(psi, {name: jnp.full((len(psi), *one.shape), jnp.nan) for name, one in like.items()})


def proposal(mixed: MixedModel, x: Array, mean: Array, start: Array, width: Array, most: int) -> tuple[Proposal, Modes]:
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
    root = factor @ backward(factorised(found.curvature).root, jnp.eye(start.shape[1]))
    spread = factorised(root @ jnp.swapaxes(root, -1, -2)).root
    return Proposal(mean + found.u @ factor.T, spread, width), found


def moved(
    mixed: MixedModel, x: Array, mean: Array, chains: Chains, around: Proposal, keys: Array, *, sweeps: int, again: bool
) -> tuple[Chains, Proposal]:
    """Return the chains after some sweeps, and the proposal with a better width.

    Args:
        mixed: The problem.
        x: The point, shape (names,).
        mean: The mean of psi, shape (subjects, effects).
        chains: Where they are.
        around: The proposal.
        keys: A random key for each subject, so that its chains do not depend on who else is there.
        sweeps: How often both moves are made.
        again: Whether what was observed has to be simulated again, as it depends on more than psi.
    """
    count, _, effects = chains.psi.shape
    whiten, back = (forward(lower, jnp.eye(effects)) for lower in (mixed.factor(x), around.spread))

    def simulated(psi: Array) -> Chains:
        u = (psi - mean) @ whiten.T
        return Chains(psi, jax.vmap(lambda u: observed_at(mixed, x, u))(u))

    def density(at: Chains) -> Array:
        u = (at.psi - mean) @ whiten.T
        return -0.5 * jax.vmap(lambda u, seen: twice_and_effects_of(mixed, x, u, seen))(u, at.observed)

    def log_t(psi: Array) -> Array:
        away = jnp.einsum("nab,knb->kna", back, psi - around.middle)
        return -0.5 * (DF + effects) * jnp.log1p(jnp.sum(away**2, axis=-1) / DF)

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
        # a chain that stands where nothing has been, or can be, simulated takes any other place
        taken = (jnp.log(chance) < gain) | ~jnp.isfinite(now.density)
        taken &= jnp.isfinite(value)
        accepted = now.accepted + jnp.where(independent, 0.0, taken.mean(axis=0))
        at = jax.tree.map(lambda new, old: jnp.where(taken[..., None], new, old), trial, now.at)
        return _Moving(at, jnp.where(taken, value, now.density), accepted), None

    if again:
        chains = simulated(chains.psi)
    kinds = jnp.array([INDEPENDENT, WALK] * sweeps)
    now = _Moving(chains, density(chains), jnp.zeros(chains.psi.shape[1]))
    each = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, kinds.size))(keys), 0, 1)
    ended, _ = jax.lax.scan(move, now, (kinds, each))
    width = around.width * jnp.exp(ended.accepted / sweeps - ACCEPTED)
    return ended.at, around._replace(width=jnp.clip(width, 1e-3, 10.0))
