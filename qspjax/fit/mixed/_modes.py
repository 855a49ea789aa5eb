"""The modes of the random effects of all subjects, side by side.

    u* = argmin -2 log p(y | u) + u^T u

by Marquardt's method, each subject with a damping of its own. What the expected information lacks of the curvature is
learnt from how the slope turns, so that the last steps are as good as Newton's. A trial costs one simulation of the
cohort with its sensitivities; subjects that are done wait for the others. Values scatter by the tolerance of the
solver, and would refuse good steps near the mode: there the slope alone decides, until it no longer falls.

References: More, The Levenberg-Marquardt algorithm, Lecture Notes in Mathematics 1978;630:105, doi:10.1007/BFb0067700;
Dennis, Gay and Welsch, ACM Trans Math Softw 1981;7:348, doi:10.1145/355958.355965 (secants beside known curvature).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from qspjax._solution import RESULTS
from qspjax.fit.mixed._conditional import conditional
from qspjax.fit.mixed._mixed import MixedModel
from qspjax.fit.mixed._symmetric import factorised

MOST = 60
CLOSE = 1e-10
"""A mode is found where the next step would gain no more than this; another step, by Newton, follows elsewhere."""
NEAR = 1e-4
"""A step that should gain less than this is taken without comparing values."""
LEAST = 0.2
"""The least curvature that is believed of a secant: that of the prior is 1."""
FALLS = 0.7
"""What should be gained falls at least by this factor from one such step to the next, or the mode is found."""


class Modes(NamedTuple):
    """Where the subjects are.

    Attributes:
        u: The random effects, shape (subjects, effects).
        value: -2 log p(y | u) + u^T u, shape (subjects,), inf where a subject could not be simulated.
        curvature: The expected information and that of the prior, shape (subjects, effects, effects).
        found: Whether it is the mode.
        trials: How many trials it took.
    """

    u: Array
    value: Array
    curvature: Array
    found: Array
    trials: Array


class _Search(NamedTuple):
    u: Array
    value: Array
    gradient: Array
    curvature: Array
    secant: Array
    damping: Array
    gain: Array
    found: Array
    trials: Array


def modes(mixed: MixedModel, x: Array, start: Array, *, interaction: bool = True, most: int = MOST) -> Modes:
    """Return the modes of the random effects.

    Args:
        mixed: The problem.
        x: The point, shape (names,).
        start: Where to begin, shape (subjects, effects).
        interaction: Whether standard deviations follow the random effects.
        most: Trials until a mode has to be found.
    """
    effects = start.shape[1]
    unit = jnp.eye(effects)
    typical = None if interaction else mixed.expanded(x, jnp.zeros_like(start), 0)

    def at(u: Array) -> tuple[Array, Array, Array]:
        here = mixed.expanded(x, u, 1)
        seen = conditional(mixed, x, u, here, typical)
        value = seen.twice + jnp.sum(u * u, axis=-1)
        fine = (here.result == RESULTS.successful) & jnp.isfinite(value)
        fine &= jnp.isfinite(seen.slope).all(axis=-1) & jnp.isfinite(seen.information).all(axis=(-2, -1))
        gradient = jnp.where(fine[:, None], u - seen.slope, 0.0)
        curvature = jnp.where(fine[:, None, None], seen.information, 0.0) + unit
        return jnp.where(fine, value, jnp.inf), gradient, curvature

    def step(now: _Search) -> _Search:
        whole = now.curvature + now.secant
        convex = factorised(whole - LEAST * unit).positive
        bend = jnp.where(convex[:, None, None], whole, now.curvature)
        move = -factorised(bend * (1.0 + now.damping[:, None, None] * unit)).solve(now.gradient)
        trial = jnp.where(now.found[:, None], now.u, now.u + move)
        value, gradient, curvature = at(trial)
        expected = -jnp.sum(move * (2.0 * now.gradient + jnp.einsum("nab,nb->na", bend, move)), axis=-1)
        begun = jnp.isfinite(now.value)  # the first trial is the start itself
        rounding = 1e-13 * (1.0 + jnp.abs(now.value))
        near = begun & (expected < NEAR)
        better = ((value <= now.value + rounding) | near) & jnp.isfinite(value)
        ratio = jnp.where(begun, (now.value - value) / jnp.maximum(expected, 1e-300), 1.0)
        less = jnp.where(now.damping > 0.05, 0.3 * now.damping, 0.0)
        more = jnp.maximum(2.0 * now.damping, 0.5)
        damping = jnp.where(near | (ratio > 0.75), less, jnp.where(ratio < 0.25, more, now.damping))
        damping = jnp.where(better, damping, jnp.maximum(4.0 * now.damping, 1.0))
        taken = better & ~now.found
        done = (expected < CLOSE) | (near & (expected > FALLS * now.gain))

        def kept(new: Array, old: Array) -> Array:
            return jnp.where(taken.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return _Search(
            kept(trial, now.u),
            kept(value, now.value),
            kept(gradient, now.gradient),
            kept(curvature, now.curvature),
            kept(_with_secant(now.secant, move, gradient - now.gradient, curvature, begun), 0.0 * now.secant),
            jnp.where(now.found, now.damping, damping),
            kept(jnp.where(begun, expected, jnp.inf), now.gain),
            now.found | (taken & begun & done),
            now.trials + ~now.found,
        )

    def going(now: _Search) -> Array:
        return (~now.found & (now.trials < most)).any()

    none = jnp.zeros(mixed.count)
    flat = jnp.broadcast_to(unit, (mixed.count, effects, effects))
    far = none + jnp.inf
    begun = _Search(start, far, jnp.zeros_like(start), flat, 0.0 * flat, none, far, none.astype(bool), none.astype(int))
    now = jax.lax.while_loop(going, step, begun)
    return Modes(now.u, now.value, now.curvature, now.found, now.trials)


def _with_secant(secant: Array, move: Array, turned: Array, curvature: Array, begun: Array) -> Array:
    """Return what the expected information lacks of the curvature, after a step that turned the gradient.

    An update of rank one, of the part that the expected information does not have.
    """
    rest = turned - jnp.einsum("nab,nb->na", curvature + secant, move)
    along = jnp.sum(rest * move, axis=-1)
    length = jnp.linalg.norm(rest, axis=-1) * jnp.linalg.norm(move, axis=-1)
    fine = begun & (jnp.abs(along) > 1e-3 * length)
    update = jnp.einsum("na,nb->nab", rest, rest) / jnp.where(fine, along, 1.0)[:, None, None]
    return secant + jnp.where(fine[:, None, None], update, 0.0)
