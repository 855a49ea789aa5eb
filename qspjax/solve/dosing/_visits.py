"""Adaptive dosing: the solve goes from visit to visit, and at each a rule decides about the doses that follow.

A dose at the time of a visit is given after the decision; a dose keeps the factor that held when it started, even an
infusion that continues past a visit. All intervals between visits share one program, under `scan`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from qspjax._dosing._adaptive import Decision
from qspjax._model import AbstractModel, as_state
from qspjax._names import state_names
from qspjax._solution import RESULTS
from qspjax._types import Scalar, State
from qspjax.solve._exposed import Exposed
from qspjax.solve._method import AbstractMethod, Trajectory
from qspjax.solve.dosing._schedule import Schedule, slack
from qspjax.solve.dosing._varied import Varied


def solve_in_visits(
    method: AbstractMethod,
    model: AbstractModel,
    schedule: Schedule,
    ts: jax.Array,
    initial: State | None,
    t0: Scalar,
    decision: Decision,
) -> Trajectory:
    """Solve one patient whose doses are adapted; `stats` also has `factors`, that after each visit.

    Args:
        method: How to solve from visit to visit.
        model: The patient.
        schedule: The doses, with `adapts` for those that the factor multiplies.
        ts: Times to report, padded with inf.
        initial: The state at `t0`, or None for the model's own.
        t0: Where to start.
        decision: The rule, and the times of the visits in order.
    """
    start = as_state(model, initial)
    visits = decision.at
    first = jnp.asarray(t0, ts.dtype)
    begins = jnp.concatenate([first[None], visits])
    ends = jnp.concatenate([visits, jnp.full((1,), jnp.inf)])
    ones = jnp.ones(schedule.start.shape)

    def interval(carry: tuple, span: tuple) -> tuple:
        y, factor, memory, factors, result, stats = carry
        begin, end = span
        starts = (schedule.start >= begin - slack(begin)) & (schedule.start < end - slack(end))
        factors = jnp.where(starts & schedule.adapts, factor, factors)
        # a visit that is padding is after everything: nothing happens, and time stands still
        real = jnp.isfinite(begin)
        output_times = jnp.where((ts >= begin - slack(begin)) & (ts < end - slack(end)) & real, ts, jnp.inf)
        times = jnp.concatenate([output_times, end[None]])
        order = jnp.argsort(jax.lax.stop_gradient(times), stable=True)
        inverse = jnp.argsort(order)
        solved = method.solve(
            model,
            _within(schedule, begin, starts & real, factors, order),
            times[order],
            y,
            jnp.where(real, begin, 0.0),
        )
        states = jax.tree.map(lambda leaf: leaf[inverse], solved.states)
        succeeded = result == RESULTS.successful
        reported = jax.tree.map(lambda leaf: jnp.where(succeeded, leaf[:-1], jnp.nan), states)
        # after a failure the patient does not change
        decides = jnp.isfinite(end) & succeeded & (solved.result == RESULTS.successful)
        last = jax.tree.map(lambda leaf, old: jnp.where(decides, leaf[-1], old), states, y)
        now = jnp.where(decides, end, 0.0)
        new, remembered = decision.rule(now, _observed(model, now, last), factor, memory)
        factor = jnp.where(decides, new, factor)
        memory = jax.tree.map(lambda new, old: jnp.where(decides, new, old), remembered, memory)
        stats = _added(stats, solved.stats, succeeded & real)
        result = RESULTS.where(succeeded, solved.result, result)
        return (last, factor, memory, factors, result, stats), (reported, jnp.isfinite(output_times), factor)

    zero = jnp.zeros((), dtype=int)
    stats = {"steps": zero, "rejected": zero, "last_time": first, "culprit": zero}
    memory = jax.tree.map(jnp.asarray, decision.rule.initial())
    carry = (start, jnp.ones(()), memory, ones, RESULTS.successful, stats)
    (*_, result, stats), (states, is_output, factors) = jax.lax.scan(interval, carry, (begins, ends))

    def gathered(leaf: jax.Array) -> jax.Array:
        mask = is_output.reshape(*is_output.shape, *[1] * (leaf.ndim - 2))
        return jnp.where(mask.any(axis=0), jnp.where(mask, leaf, 0.0).sum(axis=0), jnp.nan)

    return Trajectory(jax.tree.map(gathered, states), result, {**stats, "factors": factors[:-1]})


def _observed(model: AbstractModel, t: jax.Array, y: State) -> dict[str, jax.Array]:
    """Return the states by name, and what is observed of them."""
    state, inner = y, model
    while isinstance(inner, (Varied, Exposed)):
        state, inner = state.state, inner.model
    flat, _ = ravel_pytree(state)
    return dict(zip(state_names(state), flat, strict=True)) | dict(model.observe(t, y))


def _within(schedule: Schedule, begin: jax.Array, starts: jax.Array, factors: jax.Array, order: jax.Array) -> Schedule:
    """Return the doses that start in an interval, and the infusions that still run when it begins."""
    start = jnp.where(starts, schedule.start, jnp.inf)
    changes: dict[str, jax.Array] = {"add": schedule.add * factors}
    if schedule.stop is not None and schedule.infused is not None and schedule.rate is not None:
        runs = ~starts & schedule.infused & (schedule.start < begin) & (schedule.stop > begin)
        start = jnp.where(runs, begin, start)
        changes["rate"] = schedule.rate * factors
    if schedule.output_order is not None:
        changes["output_order"] = jnp.append(schedule.output_order, jnp.inf)[order]
    return dataclasses.replace(schedule, start=start, **changes)


def _added(before: dict, now: dict, goes_on: jax.Array) -> dict:
    """Return what is known of the solve so far, after another interval."""
    counts = {name: before[name] + jnp.where(goes_on, now[name], 0) for name in ("steps", "rejected")}
    latest = {name: jnp.where(goes_on, now[name], before[name]) for name in ("last_time", "culprit")}
    return counts | latest
