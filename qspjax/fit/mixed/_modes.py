"""The modes of the random effects of all subjects, side by side.

    u* = argmin -2 log p(y | u) + u^T u

by Marquardt's method, each subject with its own damping. The part of the curvature that the expected information lacks
is estimated from changes of the slope, so that the last steps converge like Newton's. A trial costs one simulation of
the cohort with its sensitivities; subjects that are done wait for the others. Values are exact only to the tolerance
of the solver, and would reject good steps near the mode: there the slope alone decides, until it no longer falls.

References: More, The Levenberg-Marquardt algorithm, Lecture Notes in Mathematics 1978;630:105, doi:10.1007/BFb0067700;
Dennis, Gay and Welsch, ACM Trans Math Softw 1981;7:348, doi:10.1145/355958.355965 (secants added to known curvature).
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
"""A mode is found when the next step would gain no more than this; a Newton step follows in `subject_objectives`."""
NEAR = 1e-4
"""A step that should gain less than this is accepted without comparing values."""
LEAST = 0.2
"""The least curvature that a secant may lead to; that of the prior is 1."""
FALLS = 0.7
"""The expected gain falls at least by this factor from one such step to the next, or the mode is found."""


class Modes(NamedTuple):
    """The modes of the random effects, or where the search for them ended.

    Attributes:
        u: The random effects, shape (subjects, effects).
        value: -2 log p(y | u) + u^T u, shape (subjects,), inf where a subject could not be simulated.
        curvature: The expected information plus that of the prior, shape (subjects, effects, effects).
        found: Whether the mode was found, shape (subjects,).
        trials: How many trials it took, shape (subjects,).
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
        start: The random effects to begin from, shape (subjects, effects).
        interaction: Whether standard deviations depend on the random effects.
        most: The maximum number of trials.
    """
    effects = start.shape[1]
    unit = jnp.eye(effects)
    typical = None if interaction else mixed.expanded(x, jnp.zeros_like(start), 0)

    def evaluated(u: Array) -> tuple[Array, Array, Array]:
        expansion = mixed.expanded(x, u, 1)
        subjects = conditional(mixed, x, u, expansion, typical)
        value = subjects.twice + jnp.sum(u * u, axis=-1)
        succeeded = (expansion.result == RESULTS.successful) & jnp.isfinite(value)
        succeeded &= jnp.isfinite(subjects.slope).all(axis=-1) & jnp.isfinite(subjects.information).all(axis=(-2, -1))
        gradient = jnp.where(succeeded[:, None], u - subjects.slope, 0.0)
        curvature = jnp.where(succeeded[:, None, None], subjects.information, 0.0) + unit
        return jnp.where(succeeded, value, jnp.inf), gradient, curvature

    def step(now: _Search) -> _Search:
        full = now.curvature + now.secant
        convex = factorised(full - LEAST * unit).positive
        bend = jnp.where(convex[:, None, None], full, now.curvature)
        move = -factorised(bend * (1.0 + now.damping[:, None, None] * unit)).solve(now.gradient)
        trial = jnp.where(now.found[:, None], now.u, now.u + move)
        value, gradient, curvature = evaluated(trial)
        expected = -jnp.sum(move * (2.0 * now.gradient + jnp.einsum("nab,nb->na", bend, move)), axis=-1)
        started = jnp.isfinite(now.value)  # the first trial is the start itself
        rounding = 1e-13 * (1.0 + jnp.abs(now.value))
        near = started & (expected < NEAR)
        better = ((value <= now.value + rounding) | near) & jnp.isfinite(value)
        ratio = jnp.where(started, (now.value - value) / jnp.maximum(expected, 1e-300), 1.0)
        less = jnp.where(now.damping > 0.05, 0.3 * now.damping, 0.0)
        more = jnp.maximum(2.0 * now.damping, 0.5)
        damping = jnp.where(near | (ratio > 0.75), less, jnp.where(ratio < 0.25, more, now.damping))
        damping = jnp.where(better, damping, jnp.maximum(4.0 * now.damping, 1.0))
        accept = better & ~now.found
        done = (expected < CLOSE) | (near & (expected > FALLS * now.gain))

        def accepted(new: Array, old: Array) -> Array:
            return jnp.where(accept.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return _Search(
            accepted(trial, now.u),
            accepted(value, now.value),
            accepted(gradient, now.gradient),
            accepted(curvature, now.curvature),
            accepted(_with_secant(now.secant, move, gradient - now.gradient, curvature, started), 0.0 * now.secant),
            jnp.where(now.found, now.damping, damping),
            accepted(jnp.where(started, expected, jnp.inf), now.gain),
            now.found | (accept & started & done),
            now.trials + ~now.found,
        )

    def going(now: _Search) -> Array:
        return (~now.found & (now.trials < most)).any()

    none = jnp.zeros(mixed.count)
    flat = jnp.broadcast_to(unit, (mixed.count, effects, effects))
    far = none + jnp.inf
    initial = _Search(
        start, far, jnp.zeros_like(start), flat, 0.0 * flat, none, far, none.astype(bool), none.astype(int)
    )
    now = jax.lax.while_loop(going, step, initial)
    return Modes(now.u, now.value, now.curvature, now.found, now.trials)


def _with_secant(secant: Array, move: Array, slope_change: Array, curvature: Array, started: Array) -> Array:
    """Return the part of the curvature that the expected information lacks, given the change of the gradient in a step.

    It is updated by a matrix of rank one.
    """
    residual = slope_change - jnp.einsum("nab,nb->na", curvature + secant, move)
    along = jnp.sum(residual * move, axis=-1)
    length = jnp.linalg.norm(residual, axis=-1) * jnp.linalg.norm(move, axis=-1)
    usable = started & (jnp.abs(along) > 1e-3 * length)
    update = jnp.einsum("na,nb->nab", residual, residual) / jnp.where(usable, along, 1.0)[:, None, None]
    return secant + jnp.where(usable[:, None, None], update, 0.0)
