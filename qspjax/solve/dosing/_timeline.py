"""Doses and outputs of one patient as one sorted list of boundaries, each of which the integrator lands on exactly.

A dose is a jump of a state; an infusion is a rate that starts and stops. Where a boundary is given by a parameter (a
dose time, a lag, the end of an infusion), its time carries the derivative, so moving boundaries are differentiated
exactly. At equal times doses come before outputs, unless an order says otherwise: an output at a dose time is the state
after the dose.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from qspjax._arrays import first_true
from qspjax.solve.dosing._schedule import Schedule, slack


class Timeline(eqx.Module):
    """Boundaries in the order of time, each array of shape (boundaries,); unused ones have time = inf.

    Attributes:
        time: When.
        entry: What a dose enters, see `Schedule`.
        jump: What is added to that state, or its new value.
        rate: The change of the rate into that state, None without infusions.
        running: +1 where an infusion starts, -1 where one stops, else 0; None without infusions.
        output: Which output is due, or the number of outputs if none.
        vectors: What resets and steady states put or add, see `Schedule`.
        sets: Whether an entry may give a state a value.
        held: How many of the last states resets and steady states do not touch.
    """

    time: jax.Array
    entry: jax.Array
    jump: jax.Array
    rate: jax.Array | None
    running: jax.Array | None
    output: jax.Array
    vectors: jax.Array | None
    sets: bool = eqx.field(static=True)
    held: int = eqx.field(static=True)

    def unknown(self) -> jax.Array:
        """Return which boundaries have a time or a dose that is NaN."""
        dose = self.jump if self.rate is None else self.jump + self.rate
        if self.vectors is not None:
            n = self.vectors.shape[1]
            lost = jnp.isnan(self.vectors).any(axis=1)
            dose = jnp.where((self.entry >= 2 * n) & lost[(self.entry - 2 * n) % lost.size], jnp.nan, dose)
        return jnp.isnan(self.time) | (jnp.isfinite(self.time) & jnp.isnan(dose))

    def culprit(self, unknown: jax.Array, states: int) -> jax.Array:
        """Return the number of the state that the first unknown dose enters."""
        entry = self.entry[first_true(unknown)]
        if self.vectors is None:
            return entry % states
        lost = jnp.isnan(self.vectors[jnp.maximum(entry - 2 * states, 0) % self.vectors.shape[0]])
        return jnp.where(entry >= 2 * states, first_true(lost), entry % states)


def timeline(schedule: Schedule, ts: jax.Array) -> Timeline:
    """Sort the doses and the output times of one patient into boundaries.

    Args:
        schedule: The doses.
        ts: Times of the outputs, not decreasing, then inf.
    """
    outputs = ts.shape[0]
    last = jnp.max(jnp.where(jnp.isfinite(ts), ts, -jnp.inf))
    none = jnp.zeros((outputs,))
    times, entered, jumps = [schedule.start], [schedule.entry], [schedule.jump]
    rate = running = None
    if schedule.stop is not None:
        times += [jnp.where(jnp.isfinite(schedule.start), schedule.stop, jnp.inf)]
        entered += [schedule.entry]
        jumps += [jnp.zeros_like(schedule.jump)]
        begins = schedule.infused.astype(int)
        rate = jnp.concatenate([schedule.rate, -schedule.rate, none])
        running = jnp.concatenate([begins, -begins, none.astype(int)])
    doses = jnp.concatenate(times)
    whole = Timeline(
        time=jnp.concatenate([jnp.where(doses > last + slack(last), jnp.inf, doses), ts]),
        entry=jnp.concatenate([*entered, jnp.zeros((outputs,), dtype=int)]),
        jump=jnp.concatenate([*jumps, none]),
        rate=rate,
        running=running,
        output=jnp.concatenate([jnp.full((doses.size,), outputs), jnp.arange(outputs)]),
        vectors=None,
        sets=schedule.sets,
        held=schedule.held,
    )
    if schedule.order is None or schedule.seen is None:
        # a dose that rounding puts just after an output at the same time still comes before it
        dose = jnp.arange(whole.time.size) < doses.size
        early = whole.time - jnp.where(dose, slack(whole.time), 0.0)
        by = jnp.argsort(jax.lax.stop_gradient(early), stable=True)
    else:
        ends = [jnp.full((doses.size - schedule.start.size,), -1.0)]
        orders = jnp.concatenate([schedule.order, *ends, schedule.seen])
        by = jnp.lexsort((orders, _together(jax.lax.stop_gradient(whole.time), jax.lax.stop_gradient(ts))))
    whole = jax.tree.map(lambda column: column[by], whole)
    return eqx.tree_at(lambda t: t.vectors, whole, schedule.vectors, is_leaf=lambda x: x is None)


def _together(time: jax.Array, ts: jax.Array) -> jax.Array:
    """Return the times, those within rounding of an output as that output's."""
    after = jnp.clip(jnp.searchsorted(ts, time), 0, ts.size - 1)
    for near in (ts[after], ts[jnp.maximum(after - 1, 0)]):
        time = jnp.where(jnp.abs(time - near) <= slack(near), near, time)
    return time


def rates_after(
    timeline: Timeline, boundary: jax.Array, rate: jax.Array, running: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the rates of infusion after a boundary, and how many run; a rate that stops is exactly zero."""
    if timeline.rate is None or timeline.running is None:
        return rate, running
    here = jnp.arange(rate.size) == timeline.entry[boundary]
    running = running + jnp.where(here, timeline.running[boundary], 0)
    changed = jnp.where(running == 0, 0.0, rate + timeline.rate[boundary])
    return jnp.where(here, changed, rate), running


def put_down(timeline: Timeline, boundary: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return which share of each state a boundary keeps (1 or 0), and what it adds; shape (states,) each."""
    entry, jump, n = timeline.entry[boundary], timeline.jump[boundary], y.size
    place = jnp.arange(n)
    keep, added = jnp.ones_like(y), jnp.where(place == entry, jump, 0.0)
    if timeline.sets:
        here = place == entry - n
        keep, added = jnp.where(here, 0.0, keep), jnp.where(here, jump, added)
    if timeline.vectors is not None:
        many, number = timeline.vectors.shape[0], entry - 2 * n
        here = (number >= 0) & (place < n - timeline.held)
        keep = jnp.where(here & (number < many), 0.0, keep)
        added = jnp.where(here, timeline.vectors[jnp.maximum(number, 0) % many], added)
    return keep, added
