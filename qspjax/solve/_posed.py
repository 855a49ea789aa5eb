"""A patient and its doses as a method takes them: everything needed to solve, and to solve again."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from qspjax._dosing._adaptive import Decision
from qspjax._model import AbstractModel, as_state, observe
from qspjax._solution import RESULTS
from qspjax._types import Observed, Scalar, State
from qspjax.solve._constant import stop_gradient_where
from qspjax.solve._method import AbstractMethod, Trajectory
from qspjax.solve.dosing._schedule import Schedule
from qspjax.solve.dosing._visits import solve_in_visits
from qspjax.solve.native._mapped import natively


class Posed(eqx.Module):
    """What is to be solved for one patient.

    Attributes:
        method: The method.
        model: The patient; parameters that change are states of it.
        schedule: The doses.
        initial: The state at `t0`, or None for the model's own.
        t0: Where to start.
        decision: When and how doses are adapted, or None.
    """

    method: AbstractMethod
    model: AbstractModel
    schedule: Schedule
    initial: State | None
    t0: Scalar
    decision: Decision | None

    def solve(self, ts: jax.Array) -> Trajectory:
        """Return the states at the times, shape (times,), padded with inf."""
        arguments = (self.model, self.schedule, ts, self.initial, self.t0)
        if self.decision is None:
            states, result, stats = self.method.solve(*arguments)
        else:
            states, result, stats = solve_in_visits(self.method, *arguments, self.decision)
        failed = self.schedule.steady_state_failed
        return Trajectory(states, RESULTS.where(failed, RESULTS.steady_state_not_found, result), stats)

    def arrived(self, ts: jax.Array, trajectory: Trajectory) -> jax.Array:
        """Return which of the times the solve reached."""
        reached = jax.vmap(_reached)(ts, trajectory.states)
        return jax.lax.optimization_barrier(reached)  # or else XLA computes it again wherever it is used

    def observed(self, ts: jax.Array, trajectory: Trajectory) -> Observed:
        """Return what is observed at the times, NaN where the solve did not arrive.

        At those times a harmless state of a constant model is observed, so that other derivatives stay finite.
        """

        def observed(model: AbstractModel, start: State, t0: Scalar, t: jax.Array, y: State) -> Observed:
            reached = _reached(t, y)
            safe = jax.tree.map(functools.partial(jnp.where, reached), y, start)
            values = observe(stop_gradient_where(~reached, model), jnp.where(reached, t, t0), safe)
            return jax.tree.map(lambda x: jnp.where(reached, x, jnp.nan), values)

        always = self.model, as_state(self.model, self.initial), self.t0
        return jax.vmap(lambda *at: natively(observed, *always, *at))(ts, trajectory.states)


def _reached(t: jax.Array, y: State) -> jax.Array:
    """Return whether a solve reached a time, from the state that it found there."""
    finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(y)]
    return functools.reduce(jnp.logical_and, finite, jnp.isfinite(t))


class Packed(eqx.Module):
    """A value of any kind as a pytree of arrays alone, so that it may leave `jit` and `vmap`; the rest is static."""

    arrays: list
    static: PyTree = eqx.field(static=True)

    @classmethod
    def of(cls, value: object) -> "Packed":
        """Pack a value."""
        leaves, structure = jax.tree.flatten(value)
        arrays, others = eqx.partition(leaves, eqx.is_array)
        return cls(arrays, (structure, tuple(others)))

    @property
    def value(self) -> PyTree:
        """The value."""
        structure, others = self.static
        return jax.tree.unflatten(structure, eqx.combine(self.arrays, list(others)))


def where(arrived: jax.Array, observed: Observed) -> Observed:
    """Return what is observed, NaN at the times that were not reached."""
    return jax.tree.map(lambda x: jnp.where(arrived.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.nan), observed)
