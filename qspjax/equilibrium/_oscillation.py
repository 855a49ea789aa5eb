"""Whether a time course oscillates, and its period: from the times at which a state rises through its middle."""

import jax
import jax.numpy as jnp

RISES = 4
"""The least number of times that a state must rise through its middle."""
REGULAR = 1.2
"""The longest period is at most this many times the shortest."""
SUSTAINED = 0.97
"""An oscillation dies out if the range of its later half is less than this share of that of its earlier half."""


def period_of(times: jax.Array, states: jax.Array, least: jax.Array) -> jax.Array:
    """Return the period of the state that oscillates most regularly, NaN if none does.

    Args:
        times: Increasing, shape (times,).
        states: Shape (times, states).
        least: The least range of each state that counts as an oscillation, shape (states,).
    """
    periods, spread = jax.vmap(_period_and_spread, in_axes=(None, 1, 0))(times, states, least)
    return periods[jnp.argmin(spread)]


def _period_and_spread(times: jax.Array, x: jax.Array, least: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the period of one state, and its longest over its shortest, inf if it does not oscillate."""
    middle = 0.5 * (jnp.min(x) + jnp.max(x))
    before, after = x[:-1], x[1:]
    rises = (before < middle) & (after >= middle)
    share = (middle - before) / jnp.where(rises, after - before, 1.0)
    crossings = jnp.sort(jnp.where(rises, times[:-1] + share * jnp.diff(times), jnp.inf))
    count = jnp.sum(rises)
    between = jnp.arange(crossings.size - 1) < count - 1
    gaps = jnp.where(between, jnp.diff(jnp.where(jnp.isfinite(crossings), crossings, 0.0)), 0.0)
    longest, shortest = jnp.max(gaps), jnp.min(jnp.where(between, gaps, jnp.inf))
    half = x.size // 2
    early, late = (jnp.max(part) - jnp.min(part) for part in (x[:half], x[half:]))
    oscillates = (count >= RISES) & (longest <= REGULAR * shortest) & (late >= SUSTAINED * early) & (late > least)
    mean = jnp.sum(gaps) / jnp.maximum(count - 1, 1)
    return jnp.where(oscillates, mean, jnp.nan), jnp.where(oscillates, longest / shortest, jnp.inf)
