"""The losses of a training at a point: of what counts, and of what is held out; who fails costs nobody else anything.

A subject whose simulation fails, or whose measurements have no density there, contributes neither value nor gradient:
its observed values are replaced before anything is computed from them, so that no NaN comes back.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from qspjax._solution import RESULTS
from qspjax.fit._penalty import SAFE
from qspjax.fit._problem import Problem
from qspjax.fit._types import Vector
from qspjax.fit.data._dependence import log_densities


class Losses(NamedTuple):
    """The losses at a point.

    Attributes:
        training: The negative log likelihood of the measurements that count, each with its weight.
        each: The same for each unit of weight.
        held_out: The mean negative log likelihood of a measurement that is held out, 0 without any, inf if one fails.
        penalty: What the penalties add.
        failing: Which experiments fail, shape (experiments,).
    """

    training: Float[Array, ""]
    each: Float[Array, ""]
    held_out: Float[Array, ""]
    penalty: Float[Array, ""]
    failing: Bool[Array, " experiments"]


def losses(
    problem: Problem, x: Vector, weights: Sequence[Float[Array, " rows"]], watched: Sequence[Bool[Array, " rows"]]
) -> Losses:
    """Return the losses at a point; experiments of which nothing counts are not simulated.

    Args:
        problem: The problem.
        x: The point.
        weights: The factor of the log likelihood of each measurement, for each of `problem.layout.joined`.
        watched: Which measurements are held out and looked at, in the same way.
    """
    layout, rows = problem.layout, problem.layout.joined
    needed = [(weight > 0.0) | seen for weight, seen in zip(weights, watched, strict=True)]
    until = jnp.full(len(problem.experiments), -jnp.inf)
    for data, need in zip(rows, needed, strict=True):
        until = until.at[data.experiment].max(jnp.where(need, data.time, -jnp.inf))
    numbers, known = problem.pooled(x)
    shortened = dataclasses.replace(layout, stages=layout.stages.until(until))
    outcomes = problem.differentiated_by.simulate(shortened, numbers)
    failing = outcomes.result != RESULTS.successful
    reached = jnp.asarray(layout.stages.times) <= until[:, None]

    def densities(failing: Array, observed: dict[str, Array]) -> list[Array]:
        seen = reached & ~failing[:, None]
        safe = {name: jnp.where(seen, value, SAFE) for name, value in observed.items()}
        return log_densities(rows, [data.predicted(numbers, safe, known)[1] for data in rows])

    for data, need, density in zip(
        rows, needed, densities(failing, jax.lax.stop_gradient(outcomes.observed)), strict=True
    ):
        failing = failing.at[data.experiment].max(need & ~jnp.isfinite(jax.lax.stop_gradient(density)))
    total = each = held = jnp.zeros(())
    count = jnp.zeros(())
    for data, weight, seen, density in zip(rows, weights, watched, densities(failing, outcomes.observed), strict=True):
        weight = jnp.where(failing[data.experiment], 0.0, weight)
        total -= jnp.sum(jnp.where(weight > 0.0, weight * density, 0.0))
        each += jnp.sum(weight)
        held -= jnp.sum(jnp.where(seen, jnp.where(failing[data.experiment], -jnp.inf, density), 0.0))
        count += jnp.sum(seen)
    held_out = jnp.where(count > 0, held / jnp.maximum(count, 1), 0.0)
    penalty = problem.penalty(x, outcomes.observed, jnp.asarray(reached & ~failing[:, None]))
    return Losses(total, total / jnp.maximum(each, 1e-300), held_out, penalty, failing)
