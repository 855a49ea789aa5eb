"""Where a trigger turned true within a step: the step is taken again, shorter, until the change is bracketed.

A step that ends after the change is rejected, and its length is the upper end of the bracket; one that ends before it
is accepted and moves the start towards that end. Lengths come from the zero of the line through the gaps at both ends;
every second time they are half as long again, seen from the nearer end, so that both ends close in on the change, and
every fourth time the bracket is halved. All functions work element by element, for one patient or for lanes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qspjax._arrays import argmax_first

NO_EVENT = -1
"""The cause of a step after which no event took place."""


class Bracket(NamedTuple):
    """What is known of a change ahead.

    Attributes:
        upper: The length of a step that ends after it, inf if none is known.
        gaps: The gaps at the end of that step, shape (gaps, ...).
        iterations: Steps since that end was met.
    """

    upper: jax.Array
    gaps: jax.Array
    iterations: jax.Array


def open_bracket(t: jax.Array, gaps: int) -> Bracket:
    """Return a bracket of which nothing is known."""
    return Bracket(jnp.full_like(t, jnp.inf), jnp.zeros((gaps, *t.shape), t.dtype), jnp.zeros(t.shape, jnp.int32))


def precision(bracket: Bracket, gaps: jax.Array, sizes: jax.Array, t: jax.Array, remaining: jax.Array) -> jax.Array:
    """Return the length to which a change is bracketed: rounding error of the time, or of the gap that decides."""
    eps = jnp.finfo(t.dtype).eps
    of_time = 32.0 * eps * jnp.maximum(jnp.abs(t), 1e-3 * jnp.abs(remaining))
    if not gaps.shape[0]:
        return of_time
    bracketed = crossed(gaps, bracket.gaps) & jnp.isfinite(bracket.upper)
    fall = jnp.where(bracketed, jnp.abs(gaps - bracket.gaps), 1.0)
    of_gap = jnp.where(bracketed, 16.0 * eps * sizes / fall, 0.0) * jnp.where(bracketed, bracket.upper, 0.0)
    return jnp.maximum(of_time, jnp.minimum(jnp.max(of_gap, axis=0), bracket.upper))


def crossed(before: jax.Array, after: jax.Array) -> jax.Array:
    """Return which gaps changed their sign."""
    return jnp.sign(before) != jnp.sign(after)


def share(before: jax.Array, after: jax.Array) -> jax.Array:
    """Return the share of a step at which each gap is zero, by a straight line; 1 where it did not change its sign."""
    fall = before - after
    return jnp.where(crossed(before, after), before / jnp.where(fall == 0.0, 1.0, fall), 1.0)


def length(bracket: Bracket, gaps: jax.Array, precise: jax.Array) -> jax.Array:
    """Return the length of the next step towards a change, inf where none is known."""
    shares = jnp.where(crossed(gaps, bracket.gaps), share(gaps, bracket.gaps), jnp.inf)
    nearest = jnp.min(shares, axis=0, initial=jnp.inf)
    nearest = jnp.where(jnp.isfinite(nearest), nearest, 0.5)
    turn = bracket.iterations % 4
    further = jnp.where(nearest < 0.5, 1.5 * nearest, 1.0 - 1.5 * (1.0 - nearest))
    fraction = jnp.where(turn == 3, 0.5, jnp.where(turn % 2 == 1, further, nearest))
    upper = jnp.where(jnp.isfinite(bracket.upper), bracket.upper, 0.0)
    h = jnp.where(upper <= precise, upper, jnp.clip(fraction * upper, 0.5 * precise, upper))
    return jnp.where(jnp.isfinite(bracket.upper), h, jnp.inf)


def narrowed(
    bracket: Bracket, h: jax.Array, gaps: jax.Array, *, met: jax.Array, passed: jax.Array, over: jax.Array
) -> Bracket:
    """Return the bracket after a step of length `h` that went past the change (`met`), or was accepted (`passed`).

    It is reset where the event took place, or the state jumped (`over`).
    """
    bounded = jnp.isfinite(bracket.upper)
    upper = jnp.where(met, h, jnp.where(passed & bounded, bracket.upper - h, bracket.upper))
    iterations = jnp.where(met & ~bounded, 0, bracket.iterations + (met | (passed & bounded)))
    return Bracket(
        jnp.where(over | (upper <= 0.0), jnp.inf, upper),
        jnp.where(met, gaps, bracket.gaps),
        jnp.where(over, 0, iterations).astype(jnp.int32),
    )


INSIDE = np.array([0.0, 0.138197, 0.327103, 0.521437, 0.690983, 0.857864, 1.0])
"""Shares of a step at which gaps that are curved in time are looked at; of no common measure, so that no oscillation
looks the same at all of them."""
RESOLVED = 0.003
"""How far such a gap may be from a cubic polynomial within a step, as a fraction of its range there."""
BRIEF = 1e-4
"""Steps shorter than this fraction of the time to the next boundary are not shortened: what jumps has no better."""


def _off_cubic() -> np.ndarray:
    """Return weights of values at `INSIDE`, shape (3, 7): every second one less the cubic through the others."""
    nodes, weights = np.arange(0, INSIDE.size, 2), np.zeros((3, INSIDE.size))
    for row, point in zip(weights, range(1, INSIDE.size, 2), strict=True):
        row[point] = 1.0
        for j in nodes:
            others = nodes[nodes != j]
            row[j] = -np.prod((INSIDE[point] - INSIDE[others]) / (INSIDE[j] - INSIDE[others]))
    return weights


OFF_CUBIC = _off_cubic()


def resolved(before: jax.Array, values: jax.Array, sizes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return whether a step resolves gaps that are curved in time, and by which factor its length may change.

    It does where each gap is nearly a cubic polynomial within the step, and has one sign there but for one change.

    Args:
        before: The gaps at its start, shape (gaps, ...).
        values: The gaps at `INSIDE`, with the state at its end, shape (7, gaps, ...).
        sizes: What is subtracted in each at the end, shape (gaps, ...).
    """
    spread = jnp.max(values, axis=0) - jnp.min(values, axis=0)
    real = spread > 1e5 * jnp.finfo(values.dtype).eps * sizes
    same = before * values[-1] >= 0.0  # also where it begins at zero
    # a gap that comes near to zero and turns may change twice between two looks
    near = same & (jnp.min(jnp.abs(values[1:-1]), axis=0) < 0.1 * spread)
    off = jnp.max(jnp.abs(jnp.tensordot(OFF_CUBIC.astype(values.dtype), values, axes=1)), axis=0)
    off = off * jnp.where(near, 16.0, 1.0)
    ratio = jnp.max(jnp.where(real, off / jnp.where(real, RESOLVED * spread, 1.0), 0.0), axis=0)
    factor = jnp.where(ratio > 1e-2, 0.9 * jnp.maximum(ratio, 1e-2) ** -0.25, jnp.inf)
    inner = INSIDE[1:-1].reshape(-1, *[1] * (values.ndim - 1))
    hidden = crossed(values[1:-1], values[-1]) & same & real
    first = jnp.min(jnp.where(hidden, inner, jnp.inf), axis=(0, 1))
    return (ratio <= 1.0) & jnp.isinf(first), jnp.minimum(jnp.maximum(factor, 0.1), first)


class StepHorizon(NamedTuple):
    """What is known ahead of a step.

    Attributes:
        gaps: The gaps at its start.
        scheduled: The time to the next change whose time is known in advance.
        leaves: Whether the step starts at such a change.
        switch: The time to the next change of the vector field.
        gap: The index of its gap.
        precise: The length to which a change is bracketed.
        limit: The longest step.
    """

    gaps: jax.Array
    scheduled: jax.Array
    leaves: jax.Array
    switch: jax.Array
    gap: jax.Array
    precise: jax.Array
    limit: jax.Array


def horizon_of(
    gaps: jax.Array,
    sizes: jax.Array,
    ahead: Sequence[jax.Array],
    bracket: Bracket,
    t: jax.Array,
    remaining: jax.Array,
) -> StepHorizon:
    """Return what is known ahead of a step.

    Args:
        gaps: The gaps at its start.
        sizes: What is subtracted in each.
        ahead: `scheduled`, `leaves`, `switch` and `gap` of `StepHorizon`.
        bracket: What is known of a change ahead whose time is not.
        t: The time at its start.
        remaining: The time to the next boundary.
    """
    precise = precision(bracket, gaps, sizes, t, remaining)
    scheduled, leaves, switch, gap = ahead
    limit = jnp.minimum(scheduled, length(bracket, gaps, precise))
    return StepHorizon(gaps, scheduled, leaves, switch, gap, precise, limit)


class StepOutcome(NamedTuple):
    """What happened in a step.

    Attributes:
        met: Whether it went past a change, and has to be taken again.
        happens: Whether it ends where an event takes place.
        switches: Whether it ends where the vector field compares with the time, and no event takes place.
        cause: The gap that passed through zero there; their number if none did; 1 + their number + the gap where the
            vector field switches; `NO_EVENT` otherwise.
    """

    met: jax.Array
    happens: jax.Array
    switches: jax.Array
    cause: jax.Array


def classify_step(
    horizon: StepHorizon,
    h: jax.Array,
    gaps: jax.Array,
    *,
    n_triggers: int,
    good: jax.Array,
    fires: jax.Array,
    before: jax.Array,
) -> StepOutcome:
    """Return what happened in a step of length `h`.

    Args:
        horizon: What was known ahead of it.
        h: Its length.
        gaps: The gaps at its end.
        n_triggers: How many of them, the first ones, are those of triggers.
        good: Whether its error is small enough.
        fires: Whether something is due at its end.
        before: Whether that was so already just before its end.
    """
    # a step that lands on a boundary may be longer than its limit, by the precision
    exact = (h <= 2.0 * horizon.precise) | ((horizon.scheduled <= h + horizon.precise) & ~before)
    happens = good & fires & exact
    number = gaps.shape[0]
    if not number:
        cause = jnp.where(happens, 0, NO_EVENT).astype(jnp.int32)
        return StepOutcome(good & fires & ~exact, happens, jnp.zeros_like(happens), cause)
    passed = crossed(horizon.gaps, gaps)
    # where two comparisons changed, a trigger may have held in between: resolve them one after the other
    window = good & ~fires & (h > 2.0 * horizon.precise) & (passed[:n_triggers].sum(axis=0) > 1)
    shares = jnp.where(passed, share(horizon.gaps, gaps), jnp.inf)
    gap = jnp.where(passed.any(axis=0), argmax_first(-shares, axis=0), number)
    met = (good & fires & ~exact) | window
    switches = good & ~met & ~happens & (h > 2.0 * horizon.precise) & (horizon.switch <= h + horizon.precise)
    cause = jnp.where(happens, gap, jnp.where(switches, 1 + number + horizon.gap, NO_EVENT))
    return StepOutcome(met, happens, switches, cause.astype(jnp.int32))
