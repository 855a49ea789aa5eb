"""Smooth curves of the outputs of a problem, and states that agree with them: what can be known without simulating."""

import dataclasses
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from qspjax._dosing._regimen import Action, Regimen
from qspjax._model import AbstractModel, as_state, observe
from qspjax._names import state_names
from qspjax._types import State
from qspjax.fit._penalty import SAFE, at_all_points, with_states
from qspjax.fit._problem import Problem
from qspjax.fit._types import Vector
from qspjax.fit.data._output_data import OutputData
from qspjax.fit.training._smooth import smoothed

CLOSE = 0.02
"""How precisely states agree with the smooth curves, relative to the size of an output."""
ROUNDS = 3
"""How often the outputs are linearised in the states."""
LEAST = 0.1
"""The least size of a slope with which a residual is compared, relative to the root mean square of an output's."""


@dataclasses.dataclass(frozen=True, eq=False)
class Curves:
    """Smooth curves of all outputs, and states that agree with them.

    Attributes:
        problem: The problem.
        states: The states at the times of the measurements, shape (experiments, times, states).
        slopes: The slope of the smooth curve at each measurement, output by output, NaN where there is none.
    """

    problem: Problem
    states: Float[Array, "experiments times states"]
    slopes: list[Float[np.ndarray, " rows"]]

    @classmethod
    def of(cls, problem: Problem) -> "Curves":
        """Smooth the data of a problem."""
        pairs = [_smoothed(problem, rows) for rows in problem.rows]
        curves = cls(problem, _simulated(problem), [slope for _, slope in pairs])
        return dataclasses.replace(curves, states=curves._agreeing([value for value, _ in pairs]))

    def predictions(self, x: Vector, states: Array) -> list[Float[Array, " rows"]]:
        """Return the prediction of each measurement, from the states at its time."""
        layout = self.problem.layout
        numbers, known = self.problem.pooled(x)

        def observed(model: AbstractModel, t: Array, y: State) -> dict[str, Array]:
            flat = ravel_pytree(y)[0]
            values = {**dict(zip(state_names(y), flat, strict=True)), **observe(model, t, y)}
            return {name: values[name] for name in layout.stages.save}

        values = at_all_points(layout.stages, numbers, states, observed)
        return [rows.predicted(numbers, values, known)[0] for rows in self.problem.rows]

    def residuals(self, x: Vector) -> Float[Array, " residuals"]:
        """Return what the model lacks of the slopes of the curves, relative to them."""
        numbers, _ = self.problem.pooled(x)
        moves = at_all_points(
            self.problem.layout.stages, numbers, self.states, lambda m, t, y: ravel_pytree(m.vector_field(t, y))[0]
        )
        predicted = jax.jvp(lambda y: self.predictions(x, y), (self.states,), (moves,))[1]
        parts = []
        for slope, of_model in zip(self.slopes, predicted, strict=True):
            has = np.isfinite(slope)
            least = LEAST * np.sqrt(np.mean(slope[has] ** 2)) if has.any() else 1.0
            parts.append((of_model[has] - slope[has]) / np.maximum(np.abs(slope[has]), least))
        return jnp.concatenate(parts)

    def _agreeing(self, values: Sequence[Float[np.ndarray, " rows"]]) -> Float[Array, "experiments times states"]:
        """Return the states nearest to those simulated with which the outputs are those of the curves."""
        x, before = self.problem.start, np.asarray(self.states)
        count = before.shape[-1]
        size = np.maximum(np.max(np.abs(before), axis=(0, 1)), 1e-12)
        positive = (before >= 0.0).all(axis=(0, 1))

        @eqx.filter_jit
        def linearised(states: Array) -> tuple[list[Array], list[Array]]:
            def along(direction: Array) -> list[Array]:
                tangent = jnp.broadcast_to(direction, states.shape)
                return jax.jvp(lambda y: self.predictions(x, y), (states,), (tangent,))[1]

            return self.predictions(x, states), jax.vmap(along, out_axes=-1)(jnp.diag(size))

        moved = np.zeros_like(before)  # in units of the sizes
        for _ in range(ROUNDS):
            states = np.where(positive, np.maximum(before + size * moved, 0.0), before + size * moved)
            squares = np.broadcast_to(np.eye(count), (*before.shape, count)).copy()
            right = np.zeros_like(before)
            for rows, curve, value, slopes in zip(
                self.problem.rows, values, *map(list, linearised(jnp.asarray(states))), strict=True
            ):
                has = np.isfinite(curve)
                scale = CLOSE * np.maximum(np.abs(curve), 1e-3 * np.nanmax(np.abs(curve), initial=1e-300))
                slope = np.asarray(slopes) / np.where(has, scale, 1.0)[:, None]
                lack = (curve - np.asarray(value)) / scale + np.sum(slope * moved[rows.experiment, rows.place], axis=1)
                where = rows.experiment[has], rows.place[has]
                np.add.at(squares, where, slope[has][:, :, None] * slope[has][:, None, :])
                np.add.at(right, where, slope[has] * lack[has][:, None])
            moved = np.linalg.solve(squares, right[..., None])[..., 0]
        states = before + size * moved
        return jnp.asarray(np.where(positive, np.maximum(states, 0.0), states))


def _simulated(problem: Problem) -> Float[Array, "experiments times states"]:
    """Return the states at the times of the measurements, at the start of the problem."""
    names, layout = state_names(as_state(problem.model, None)), problem.layout
    stages = with_states(layout.stages)
    observed = eqx.filter_jit(lambda x: stages.simulate(problem.pooled(x)[0]).observed)(problem.start)
    states = jnp.stack([observed[name] for name in names], axis=-1)
    seen = np.isfinite(layout.stages.times)[..., None] & jnp.isfinite(states)
    return jnp.where(seen, states, SAFE)


def _smoothed(problem: Problem, rows: OutputData) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Return the smooth curve at each measurement of an output and its slope.

    Where there is none, its value is what was measured, NaN if that is censored; its slope is NaN.
    """
    usable: Bool[np.ndarray, " rows"] = ~np.asarray(rows.censored) & np.isfinite(rows.time)
    values, slopes = np.where(usable, np.asarray(rows.value), np.nan), np.full(rows.value.size, np.nan)
    for number, experiment in enumerate(problem.experiments.values()):
        doses = np.unique(np.asarray(experiment.regimen.time))
        passed = np.searchsorted(doses[np.isfinite(doses)], rows.time, side="right")
        mine = usable & (rows.experiment == number) & ~infusing(experiment.regimen, rows.time)
        for k in np.unique(passed[mine]):
            here = np.flatnonzero(mine & (passed == k))
            if len(np.unique(rows.time[here])) >= 3:
                values[here], slopes[here] = smoothed(rows.time[here], np.asarray(rows.value)[here])
    return values, slopes


def infusing(regimen: Regimen, times: Float[np.ndarray, " times"]) -> np.ndarray:
    """Return at which times an infusion runs, shape (times,)."""
    kinds = np.asarray(regimen.kind)
    start, amount, rate = (np.asarray(column) for column in (regimen.time, regimen.amount, regimen.rate))
    over = np.where(kinds == Action.INFUSION_OVER, np.asarray(regimen.duration), 0.0)
    over = np.where(kinds == Action.INFUSION_RATE, amount / rate, over)
    over = np.where(np.isin(kinds, (Action.INFUSION_MODEL_DURATION, Action.INFUSION_MODEL_RATE)), np.inf, over)
    running = np.isfinite(start) & (over > 0.0)
    inside = (times[:, None] > start[running]) & (times[:, None] < (start + over)[running])
    return np.asarray(inside.any(axis=1))
