"""Doses and outputs of one patient as one sorted list of boundaries, on each of which the integrator lands exactly.

A dose is a jump of a state; an infusion is a rate that starts and stops. Where a boundary is given by a parameter (a
dose time, a lag, the end of an infusion), its time carries the derivative, so moving boundaries are differentiated
exactly. At equal times doses come before outputs, unless an order says otherwise: an output at a dose time is the state
after the dose.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from qspjax._arrays import first_true
from qspjax.solve.dosing._boundary import NONE, Boundary, Factor, effect
from qspjax.solve.dosing._schedule import Schedule, slack


class Timeline(eqx.Module):
    """The boundaries of one patient in the order of time; unused ones have time = inf.

    Attributes:
        boundaries: Their columns, each of shape (boundaries,).
        vectors: What resets and steady states add, None without any.
        protected: The number of last states that resets and steady states do not touch.
    """

    boundaries: Boundary
    vectors: Float[Array, "vectors states"] | None
    protected: int = eqx.field(static=True)

    @property
    def size(self) -> int:
        """The number of boundaries."""
        return self.boundaries.state.size

    @property
    def span(self) -> Float[Array, ""]:
        """The latest time, in absolute value."""
        time = self.boundaries.time
        return jnp.max(jnp.abs(time), initial=0.0, where=jnp.isfinite(time))

    def at(self, index: Int[Array, ""]) -> Boundary:
        """Return a boundary."""
        return jax.tree.map(lambda column: column[index], self.boundaries)

    def effect(self, boundary: Boundary, states: int, landed: bool | Bool[Array, ""] = True) -> tuple[Factor, Array]:
        """Return the factor of the states at a boundary, and what it then adds to them, each of shape (states,)."""
        state, vector = jnp.arange(states), None
        if self.vectors is not None and boundary.vector is not None:
            vector = self.vectors[jnp.maximum(boundary.vector, 0)]
        return effect(boundary, state, state >= states - self.protected, vector, landed)

    def unknown(self) -> Bool[Array, " boundaries"]:
        """Return which boundaries have a time or a dose that is NaN."""
        time, columns = self.boundaries.time, (self.boundaries.add, self.boundaries.keep, self.boundaries.rate_change)
        undefined = jnp.isnan(sum(column for column in columns if column is not None))
        vector = self.boundaries.vector
        if self.vectors is not None and vector is not None:
            undefined |= (vector != NONE) & jnp.isnan(self.vectors).any(axis=1)[jnp.maximum(vector, 0)]
        return jnp.isnan(time) | (jnp.isfinite(time) & undefined)

    def failing_state(self, unknown: Bool[Array, " boundaries"]) -> Int[Array, ""]:
        """Return the index of the state that the first unknown dose changes."""
        boundary = self.at(first_true(unknown))
        state = jnp.maximum(boundary.state, 0)
        if self.vectors is None or boundary.vector is None:
            return state
        undefined = jnp.isnan(self.vectors[jnp.maximum(boundary.vector, 0)])
        return jnp.where(boundary.vector != NONE, first_true(undefined), state)


def timeline(schedule: Schedule, ts: Float[Array, " outputs"]) -> Timeline:
    """Sort the doses and the output times of one patient into boundaries.

    Args:
        schedule: The doses.
        ts: Times of the outputs, not decreasing, then inf.
    """
    outputs, doses = ts.shape[0], schedule.start.size
    last = jnp.max(jnp.where(jnp.isfinite(ts), ts, -jnp.inf))
    stops = 0 if schedule.stop is None else doses
    times = schedule.start
    if schedule.stop is not None:
        times = jnp.concatenate([times, jnp.where(jnp.isfinite(schedule.start), schedule.stop, jnp.inf)])
    nothing = jnp.zeros((stops + outputs,))

    def column(starts: Array | None, ends: Array | None, default: float) -> Array | None:
        """Return a column for doses, for the ends of infusions, and for outputs."""
        if starts is None:
            return None
        of_outputs = jnp.full((outputs,), default, starts.dtype)
        if not stops:
            return jnp.concatenate([starts, of_outputs])
        return jnp.concatenate([starts, jnp.full_like(starts, default) if ends is None else ends, of_outputs])

    rate = schedule.rate
    boundaries = Boundary(
        time=jnp.concatenate([jnp.where(times > last + slack(last), jnp.inf, times), ts]),
        state=jnp.concatenate([schedule.state, *([schedule.state] if stops else []), jnp.full((outputs,), NONE)]),
        keep=column(schedule.keep, None, 1.0),
        add=jnp.concatenate([schedule.add, nothing]),
        vector=column(schedule.vector, None, NONE),
        rate_change=column(rate, None if rate is None else -rate, 0.0),
        output=jnp.concatenate([jnp.full((doses + stops,), NONE), jnp.arange(outputs)]),
    )
    time = boundaries.time
    if schedule.order is None or schedule.output_order is None:
        # a dose that rounding puts just after an output at the same time still comes before it
        early = time - jnp.where(boundaries.output == NONE, slack(time), 0.0)
        sorting = jnp.argsort(jax.lax.stop_gradient(early), stable=True)
    else:
        orders = jnp.concatenate([schedule.order, jnp.full((stops,), -1.0), schedule.output_order])
        sorting = jnp.lexsort((orders, _together(jax.lax.stop_gradient(time), jax.lax.stop_gradient(ts))))
    boundaries = jax.tree.map(lambda column: column[sorting], boundaries)
    return Timeline(boundaries, schedule.vectors, schedule.protected)


def _together(time: Float[Array, " boundaries"], ts: Float[Array, " outputs"]) -> Float[Array, " boundaries"]:
    """Return the times, those within rounding of an output as that output's."""
    after = jnp.clip(jnp.searchsorted(ts, time), 0, ts.size - 1)
    for near in (ts[after], ts[jnp.maximum(after - 1, 0)]):
        time = jnp.where(jnp.abs(time - near) <= slack(near), near, time)
    return time
