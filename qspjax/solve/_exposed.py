"""What is measured of a patient while it is solved: states beside those of the model, which change nothing of it.

An area is an integral, area' = z(t, y). An extreme of an output between two jumps is where its slope along the solution
changes its sign, and the time above a level goes on from one crossing to the next: both are events, located to rounding
error, and so differentiated as every event is. What is measured stands behind the model's own states, where neither
doses nor resets reach it, and the error control holds it to the tolerance of the method.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from qspjax._declared import AbstractWrapper, Declared, declared, mass_of
from qspjax._events import Event
from qspjax._jaxpr._sparsity import jacobian_pattern
from qspjax._model import AbstractModel, as_state
from qspjax._names import state_names
from qspjax._types import Observed, Scalar, State
from qspjax.solve._dense import factorise
from qspjax.solve.dosing._boundary import NONE
from qspjax.solve.dosing._schedule import Schedule

States = Float[Array, " states"]

FLAT = 1e-8
"""An output that would change by less than this part of itself over the whole window has no extreme."""
ROUNDING = 256 * float(np.finfo(float).eps)
"""Nor has one whose slope is smaller than this part of its terms."""


class Peak(NamedTuple):
    """The greatest of the local extremes so far: its value, its time, and 1 if there was one."""

    value: Scalar
    time: Scalar
    found: Scalar


class Above(NamedTuple):
    """Whether an output is above a level now, 1 or 0, and how long it has been."""

    now: Scalar
    time: Scalar


class TurnOf(eqx.Module):
    """Where an output turns; `span` is the length of the window, by which its slope is judged."""

    output: str = eqx.field(static=True)
    span: Scalar


class PeakOf(eqx.Module):
    """The greatest local maximum of an output in a window, or with sign -1 the least minimum."""

    output: str = eqx.field(static=True)
    sign: int = eqx.field(static=True)
    start: Scalar
    stop: Scalar


class AboveOf(eqx.Module):
    """The time that an output is above a level, or with sign -1 below it."""

    output: str = eqx.field(static=True)
    sign: int = eqx.field(static=True)
    level: Scalar


class Measures(eqx.Module):
    """What is measured: areas of outputs, extremes and times above a level of outputs whose turns are known."""

    areas: tuple[str, ...] = eqx.field(static=True)
    turns: tuple[TurnOf, ...] = ()
    peaks: tuple[PeakOf, ...] = ()
    aboves: tuple[AboveOf, ...] = ()


class ExposedState(NamedTuple):
    """The states of a model, what is measured of it, and the rates of infusion into states that are observed.

    `rising` tells of each output that turns whether it rises, 1 or 0.
    """

    state: State
    areas: tuple[Scalar, ...]
    rising: tuple[Scalar, ...]
    peaks: tuple[Peak, ...]
    aboves: tuple[Above, ...]
    rates: tuple[Scalar, ...]


class Exposed(AbstractWrapper):
    """A model with what is measured of it as further states.

    Attributes:
        model: The model.
        measures: What is measured.
        infused: The numbers of the states whose rates of infusion are states as well, so that slopes are known.
    """

    model: AbstractModel
    measures: Measures
    infused: tuple[int, ...] = eqx.field(static=True, default=())

    def initial(self) -> ExposedState:
        return self.extended(self.model.initial())

    def extended(self, state: State) -> ExposedState:
        """Return a state of the model with nothing measured yet."""
        zero, measures = jnp.zeros(()), self.measures
        return ExposedState(
            state,
            tuple(zero for _ in measures.areas),
            tuple(zero for _ in measures.turns),
            tuple(Peak(zero, zero, zero) for _ in measures.peaks),
            tuple(Above(zero, zero) for _ in measures.aboves),
            tuple(zero for _ in self.infused),
        )

    def vector_field(self, t: Scalar, y: ExposedState) -> ExposedState:
        zero = jnp.zeros(())
        seen = self.model.observe(t, y.state) if self.measures.areas else {}
        return ExposedState(
            self.model.vector_field(t, y.state),
            tuple(jnp.asarray(seen[output], float) for output in self.measures.areas),
            tuple(zero for _ in y.rising),
            tuple(Peak(zero, zero, zero) for _ in y.peaks),
            tuple(Above(zero, above.now) for above in y.aboves),
            tuple(zero for _ in y.rates),
        )

    def observe(self, t: Scalar, y: ExposedState) -> Observed:
        return self.model.observe(t, y.state)

    def declared(self) -> Declared:
        inner = declared(self.model).under("state", self.model.initial)
        return inner._replace(events=lambda: self._with_measures(inner.events()))

    def _with_measures(self, inner: tuple[Event, ...]) -> tuple[Event, ...]:
        """Return the events of the model among those that measure it."""
        before = [self._beside(event, _first) for event in inner] if self.measures.peaks else []
        after = [self._beside(event, None) for event in inner] if self.measures.peaks else []
        turns = [self._turn(i, turn) for i, turn in enumerate(self.measures.turns)]
        aboves = [self._crossing(i, above) for i, above in enumerate(self.measures.aboves)]
        return (*before, *inner, *after, *turns, *aboves)

    def _beside(self, event: Event, priority: Callable[[Scalar, ExposedState], Scalar] | None) -> Event:
        """Return an event at the moments of another, before or after it, that looks at the extremes."""

        def assign(t: Scalar, y: ExposedState) -> dict[str, Array]:
            return self._looked(t, y, self.measures.peaks)

        return dataclasses.replace(event, assign=assign, priority=priority, from_trigger_time=False)

    def _looked(self, t: Scalar, y: ExposedState, wanted: Sequence[PeakOf]) -> dict[str, Array]:
        """Return some of the extremes after a look at the outputs now."""
        new: dict[str, Array] = {}
        seen = self.model.observe(t, y.state)
        for number, (peak, old) in enumerate(zip(self.measures.peaks, y.peaks, strict=True)):
            if not any(peak is one for one in wanted):
                continue
            value = jnp.asarray(seen[peak.output], float)
            inside = (t > peak.start) & (t < peak.stop)
            further = inside & ((old.found == 0.0) | (peak.sign * value > peak.sign * old.value))
            now = Peak(
                jnp.where(further, value, old.value), jnp.where(further, t, old.time), jnp.where(inside, 1.0, old.found)
            )
            new |= {f"peaks.{number}.{name}": own for name, own in now._asdict().items()}
        return new

    def _turn(self, number: int, turn: TurnOf) -> Event:
        """Return the event of an output that turns: a look at its extremes, and at the levels between two crossings."""

        def trigger(t: Scalar, y: ExposedState) -> Bool[Array, ""] | Bool[np.ndarray, ""]:
            seen, slope = self._course(turn.output, t, y)
            terms = jax.lax.stop_gradient(self._terms(turn.output, t, y) + jnp.abs(slope))
            flat = FLAT * jax.lax.stop_gradient(jnp.abs(seen)) / turn.span + ROUNDING * terms
            rises = y.rising[number] > 0.0
            # both sides with the terms of the slope: its rounding error is in proportion, and a turn no better known
            return (rises & (slope + terms < terms - flat)) | (~rises & (slope + terms > terms + flat))

        def assign(t: Scalar, y: ExposedState) -> dict[str, Array]:
            seen, slope = self._course(turn.output, t, y)
            new = self._looked(t, y, [peak for peak in self.measures.peaks if peak.output == turn.output])
            for i, above in enumerate(self.measures.aboves):
                if above.output == turn.output:
                    new[f"aboves.{i}.now"] = _number(above.sign * (seen - above.level) > 0.0)
            return new | {f"rising.{number}": _number(slope > 0.0)}

        return Event(trigger, assign, initial_value=False, from_trigger_time=False)

    def _crossing(self, number: int, above: AboveOf) -> Event:
        """Return the event of an output that crosses a level."""

        def beyond(t: Scalar, y: ExposedState) -> Bool[Array, ""]:
            seen = jnp.asarray(self.model.observe(t, y.state)[above.output], float)
            return above.sign * (seen - above.level) > 0.0

        return Event(
            lambda t, y: beyond(t, y) != (y.aboves[number].now > 0.0),
            lambda t, y: {f"aboves.{number}.now": _number(beyond(t, y))},
            initial_value=False,
            from_trigger_time=False,
        )

    def _course(self, output: str, t: Scalar, y: ExposedState) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Return an output and its slope along the solution."""
        flat, unravel = ravel_pytree(y.state)
        moved = self.model.vector_field(t, y.state)
        moved = jax.tree.map(lambda own, leaf: jnp.broadcast_to(own, jnp.shape(leaf)), moved, y.state)
        slope = ravel_pytree(moved)[0].astype(flat.dtype)
        for place, rate in zip(self.infused, y.rates, strict=True):
            slope = slope.at[place].add(rate)
        t = jnp.asarray(t, flat.dtype)
        fixed = np.flatnonzero(mass_of(self.model, state_names(y.state)) == 0)
        if fixed.size:
            slope = self._consistent(t, flat, slope.at[fixed].set(0.0), fixed)

        def seen(t: Scalar, flat: States) -> Float[Array, ""]:
            return jnp.asarray(self.model.observe(t, unravel(flat))[output], flat.dtype)

        return jax.jvp(seen, (t, flat), (jnp.ones_like(t), slope))

    def _terms(self, output: str, t: Scalar, y: ExposedState) -> Float[Array, ""]:
        """Return the size of what the slope of an output sums up: how it changes where all states grow alike."""
        return jnp.abs(
            jax.jvp(lambda own: self._course(output, t, y._replace(state=own))[1], (y.state,), (y.state,))[1]
        )

    def _consistent(self, t: Scalar, flat: States, slope: States, fixed: Int[np.ndarray, " algebraic"]) -> States:
        """Return the slope with that of the algebraic states, such that their equations go on to hold.

        $$ g_z z' = -(g_t + g_y y') $$

        by least squares, whose matrix is positive definite, so that it needs no pivots.
        """
        _, unravel = ravel_pytree(self.model.initial())

        def residual(t: Scalar, flat: States) -> Float[Array, " algebraic"]:
            return ravel_pytree(self.model.vector_field(t, unravel(flat)))[0][fixed]

        left = -jax.jvp(residual, (t, flat), (jnp.ones_like(t), slope))[1]
        unit = np.eye(flat.size)[fixed]
        columns = [jax.jvp(lambda y: residual(t, y), (flat,), (jnp.asarray(row),))[1] for row in unit]
        normal = [jnp.stack([jnp.dot(one, other) for one in columns]) for other in columns]
        solved = factorise(normal)(jnp.stack([jnp.dot(column, left) for column in columns]))
        return slope.at[fixed].set(solved)


def _first(t: Scalar, y: ExposedState) -> Scalar:
    """Return the priority of what comes before all else."""
    del t, y
    return jnp.inf


def _number(truth: Bool[Array, ""]) -> Float[Array, ""]:
    return jnp.where(truth, 1.0, 0.0)


def exposed(
    model: AbstractModel, schedule: Schedule, initial: State | None, measures: Measures, *, adapts: bool
) -> tuple[Exposed, Schedule, ExposedState | None]:
    """Return a model with what is measured of it, its doses, and its state at the start.

    Args:
        model: The patient.
        schedule: Its doses.
        initial: Its state at the start, or None for the model's own.
        measures: What is measured.
        adapts: Whether doses are adapted.
    """
    start = as_state(model, initial)
    states = sum(leaf.size for leaf in jax.tree.leaves(start))
    outputs = tuple(turn.output for turn in measures.turns)
    infused: tuple[int, ...] = ()
    if outputs and schedule.stop is not None:
        infused = tuple(np.flatnonzero(_seen_directly(model, start, outputs)).tolist())
    whole = Exposed(model, measures, infused)
    more = len(jax.tree.leaves(whole.initial())) - len(jax.tree.leaves(start))
    schedule = _widened(schedule, more)
    if infused:
        schedule = _with_rates(schedule, states + more, infused, adapts=adapts)
    return whole, schedule, None if initial is None else whole.extended(initial)


def _seen_directly(model: AbstractModel, start: State, outputs: tuple[str, ...]) -> Bool[np.ndarray, " states"]:
    """Return on which states outputs depend."""
    arrays, static = eqx.partition(model, eqx.is_array)

    def seen(y: State, t: Scalar, arrays: AbstractModel) -> list[Array]:
        observed = eqx.combine(arrays, static).observe(t, y)
        return [observed[output] for output in outputs]

    return np.asarray(jacobian_pattern(seen, start, jnp.zeros(()), arrays).any(axis=0))


def _widened(schedule: Schedule, more: int) -> Schedule:
    """Return the doses of a model that gets more states behind its own."""
    vectors = None if schedule.vectors is None else jnp.pad(schedule.vectors, ((0, 0), (0, more)))
    return dataclasses.replace(schedule, vectors=vectors, protected=schedule.protected + more)


def _with_rates(schedule: Schedule, total: int, infused: tuple[int, ...], *, adapts: bool) -> Schedule:
    """Return the doses and, as jumps of the last states, the rates of infusion into some of the others."""
    index_of_rate = np.full(total, NONE)
    index_of_rate[list(infused)] = total - len(infused) + np.arange(len(infused))
    state = jnp.asarray(index_of_rate)[schedule.state]
    if schedule.infused is None or schedule.stop is None or schedule.rate is None:
        return schedule
    runs = schedule.infused & (schedule.state != NONE) & (state != NONE) & jnp.isfinite(schedule.start)
    begins, ends = (jnp.where(runs, time, jnp.inf) for time in (schedule.start, schedule.stop))
    one = jnp.ones_like(schedule.start)
    # the factor of an adapted infusion at its end may be another one: what ran then stops as a whole
    left, stays = (jnp.zeros_like(one), jnp.zeros_like(one)) if adapts else (-schedule.rate, one)
    rows = schedule.start.size
    never, no, none = jnp.full((2 * rows,), jnp.inf), jnp.zeros((2 * rows,), bool), jnp.zeros((2 * rows,))
    keep = one if adapts and schedule.keep is None else schedule.keep

    def joined(column: Array | None, *more: Array | None) -> Array | None:
        return None if column is None else jnp.concatenate([x for x in (column, *more) if x is not None])

    return dataclasses.replace(
        schedule,
        start=joined(schedule.start, begins, ends),
        state=joined(schedule.state, state, state),
        keep=joined(keep, one, stays),
        add=joined(schedule.add, schedule.rate, left),
        vector=joined(schedule.vector, jnp.full((2 * rows,), NONE)),
        stop=joined(schedule.stop, never),
        infused=joined(schedule.infused, no),
        rate=joined(schedule.rate, none),
        adapts=joined(schedule.adapts, schedule.adapts, schedule.adapts),
        order=joined(schedule.order, schedule.order, jnp.full((rows,), -1.0)),
    )
