"""Measures of a patient while it is solved: states in addition to those of the model, which they do not affect.

An area is an integral, area' = z(t, y). An extreme of an output between two jumps is where its slope along the solution
changes its sign, and the time above a level runs from one crossing to the next: both are events, located to rounding
error and differentiated like every event. The measures come after the model's own states, where neither doses nor
resets reach them, and the error control keeps them to the tolerance of the method.
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
"""An output that would change by less than this fraction of itself over the whole window has no extreme."""
ROUNDING = 256 * float(np.finfo(float).eps)
"""Nor has one whose slope is smaller than this fraction of its terms."""


class Peak(NamedTuple):
    """The greatest of the local extremes so far: its value, its time, and 1 if there was one."""

    value: Scalar
    time: Scalar
    exists: Scalar


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
    """The states of a model, its measures, and the rates of infusion into states that are observed.

    `rising` is 1 for each output with turns while it rises, else 0.
    """

    state: State
    areas: tuple[Scalar, ...]
    rising: tuple[Scalar, ...]
    peaks: tuple[Peak, ...]
    aboves: tuple[Above, ...]
    rates: tuple[Scalar, ...]


class Exposed(AbstractWrapper):
    """A model with its measures as further states.

    Attributes:
        model: The model.
        measures: The measures.
        infused: The indices of the states whose rates of infusion are states as well, so that slopes are known.
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
        observed = self.model.observe(t, y.state) if self.measures.areas else {}
        return ExposedState(
            self.model.vector_field(t, y.state),
            tuple(jnp.asarray(observed[output], float) for output in self.measures.areas),
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
        """Return the events of the model together with those of its measures."""
        before = [self._beside(event, _first) for event in inner] if self.measures.peaks else []
        after = [self._beside(event, None) for event in inner] if self.measures.peaks else []
        turns = [self._turn(i, turn) for i, turn in enumerate(self.measures.turns)]
        aboves = [self._crossing(i, above) for i, above in enumerate(self.measures.aboves)]
        return (*before, *inner, *after, *turns, *aboves)

    def _beside(self, event: Event, priority: Callable[[Scalar, ExposedState], Scalar] | None) -> Event:
        """Return an event at the times of another, before or after it, that updates the extremes."""

        def assign(t: Scalar, y: ExposedState) -> dict[str, Array]:
            return self._updated_peaks(t, y, self.measures.peaks)

        return dataclasses.replace(event, assign=assign, priority=priority, from_trigger_time=False)

    def _updated_peaks(self, t: Scalar, y: ExposedState, peaks: Sequence[PeakOf]) -> dict[str, Array]:
        """Return some of the extremes, updated by the outputs now."""
        new: dict[str, Array] = {}
        observed = self.model.observe(t, y.state)
        for number, (peak, old) in enumerate(zip(self.measures.peaks, y.peaks, strict=True)):
            if not any(peak is other for other in peaks):
                continue
            value = jnp.asarray(observed[peak.output], float)
            inside = (t > peak.start) & (t < peak.stop)
            further = inside & ((old.exists == 0.0) | (peak.sign * value > peak.sign * old.value))
            updated = Peak(
                jnp.where(further, value, old.value),
                jnp.where(further, t, old.time),
                jnp.where(inside, 1.0, old.exists),
            )
            new |= {f"peaks.{number}.{name}": x for name, x in updated._asdict().items()}
        return new

    def _turn(self, number: int, turn: TurnOf) -> Event:
        """Return the event of an output that turns: it updates its extremes, and whether it is above its levels."""

        def trigger(t: Scalar, y: ExposedState) -> Bool[Array, ""] | Bool[np.ndarray, ""]:
            value, slope = self._course(turn.output, t, y)
            terms = jax.lax.stop_gradient(self._terms(turn.output, t, y) + jnp.abs(slope))
            flat = FLAT * jax.lax.stop_gradient(jnp.abs(value)) / turn.span + ROUNDING * terms
            rises = y.rising[number] > 0.0
            # the terms of the slope on both sides: its rounding error, and that of a turn, is proportional to them
            return (rises & (slope + terms < terms - flat)) | (~rises & (slope + terms > terms + flat))

        def assign(t: Scalar, y: ExposedState) -> dict[str, Array]:
            value, slope = self._course(turn.output, t, y)
            new = self._updated_peaks(t, y, [peak for peak in self.measures.peaks if peak.output == turn.output])
            for i, above in enumerate(self.measures.aboves):
                if above.output == turn.output:
                    new[f"aboves.{i}.now"] = _number(above.sign * (value - above.level) > 0.0)
            return new | {f"rising.{number}": _number(slope > 0.0)}

        return Event(trigger, assign, initial_value=False, from_trigger_time=False)

    def _crossing(self, number: int, above: AboveOf) -> Event:
        """Return the event of an output that crosses a level."""

        def beyond(t: Scalar, y: ExposedState) -> Bool[Array, ""]:
            value = jnp.asarray(self.model.observe(t, y.state)[above.output], float)
            return above.sign * (value - above.level) > 0.0

        return Event(
            lambda t, y: beyond(t, y) != (y.aboves[number].now > 0.0),
            lambda t, y: {f"aboves.{number}.now": _number(beyond(t, y))},
            initial_value=False,
            from_trigger_time=False,
        )

    def _course(self, output: str, t: Scalar, y: ExposedState) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Return an output and its slope along the solution."""
        flat, unravel = ravel_pytree(y.state)
        dydt = self.model.vector_field(t, y.state)
        dydt = jax.tree.map(lambda row, leaf: jnp.broadcast_to(row, jnp.shape(leaf)), dydt, y.state)
        slope = ravel_pytree(dydt)[0].astype(flat.dtype)
        for index, rate in zip(self.infused, y.rates, strict=True):
            slope = slope.at[index].add(rate)
        t = jnp.asarray(t, flat.dtype)
        algebraic = np.flatnonzero(mass_of(self.model, state_names(y.state)) == 0)
        if algebraic.size:
            slope = self._consistent(t, flat, slope.at[algebraic].set(0.0), algebraic)

        def observed(t: Scalar, flat: States) -> Float[Array, ""]:
            return jnp.asarray(self.model.observe(t, unravel(flat))[output], flat.dtype)

        return jax.jvp(observed, (t, flat), (jnp.ones_like(t), slope))

    def _terms(self, output: str, t: Scalar, y: ExposedState) -> Float[Array, ""]:
        """Return the size of the terms of the slope of an output: its derivative where all states grow alike."""
        return jnp.abs(
            jax.jvp(lambda state: self._course(output, t, y._replace(state=state))[1], (y.state,), (y.state,))[1]
        )

    def _consistent(self, t: Scalar, flat: States, slope: States, fixed: Int[np.ndarray, " algebraic"]) -> States:
        """Return the slope with that of the algebraic states, such that their equations continue to hold.

        $$ g_z z' = -(g_t + g_y y') $$

        by least squares, whose matrix is positive definite, so that it needs no pivots.
        """
        _, unravel = ravel_pytree(self.model.initial())

        def residual(t: Scalar, flat: States) -> Float[Array, " algebraic"]:
            return ravel_pytree(self.model.vector_field(t, unravel(flat)))[0][fixed]

        drift = -jax.jvp(residual, (t, flat), (jnp.ones_like(t), slope))[1]
        unit = np.eye(flat.size)[fixed]
        columns = [jax.jvp(lambda y: residual(t, y), (flat,), (jnp.asarray(row),))[1] for row in unit]
        normal = [jnp.stack([jnp.dot(column, other) for column in columns]) for other in columns]
        solved = factorise(normal)(jnp.stack([jnp.dot(column, drift) for column in columns]))
        return slope.at[fixed].set(solved)


def _first(t: Scalar, y: ExposedState) -> Scalar:
    """Return the priority of an event that comes before all others."""
    del t, y
    return jnp.inf


def _number(truth: Bool[Array, ""]) -> Float[Array, ""]:
    return jnp.where(truth, 1.0, 0.0)


def exposed(
    model: AbstractModel, schedule: Schedule, initial: State | None, measures: Measures, *, adapts: bool
) -> tuple[Exposed, Schedule, ExposedState | None]:
    """Return a model with its measures, its doses, and its state at the start.

    Args:
        model: The patient.
        schedule: Its doses.
        initial: Its state at the start, or None for the model's own.
        measures: The measures.
        adapts: Whether doses are adapted.
    """
    start = as_state(model, initial)
    states = sum(leaf.size for leaf in jax.tree.leaves(start))
    outputs = tuple(turn.output for turn in measures.turns)
    infused: tuple[int, ...] = ()
    if outputs and schedule.stop is not None:
        infused = tuple(np.flatnonzero(observed_states(model, start, outputs)).tolist())
    exposed_model = Exposed(model, measures, infused)
    extra = len(jax.tree.leaves(exposed_model.initial())) - len(jax.tree.leaves(start))
    schedule = _widened(schedule, extra)
    if infused:
        schedule = _with_rates(schedule, states + extra, infused, adapts=adapts)
    return exposed_model, schedule, None if initial is None else exposed_model.extended(initial)


def observed_states(model: AbstractModel, start: State, outputs: tuple[str, ...]) -> Bool[np.ndarray, " states"]:
    """Return which states the outputs depend on."""
    arrays, static = eqx.partition(model, eqx.is_array)

    def observe(y: State, t: Scalar, arrays: AbstractModel) -> list[Array]:
        observed = eqx.combine(arrays, static).observe(t, y)
        return [observed[output] for output in outputs]

    return np.asarray(jacobian_pattern(observe, start, jnp.zeros(()), arrays).any(axis=0))


def _widened(schedule: Schedule, extra: int) -> Schedule:
    """Return the doses of a model that gets extra states after its own."""
    vectors = None if schedule.vectors is None else jnp.pad(schedule.vectors, ((0, 0), (0, extra)))
    return dataclasses.replace(schedule, vectors=vectors, protected=schedule.protected + extra)


def _with_rates(schedule: Schedule, total: int, infused: tuple[int, ...], *, adapts: bool) -> Schedule:
    """Return the doses and, as jumps of the last states, the rates of infusion into some of the others."""
    index_of_rate = np.full(total, NONE)
    index_of_rate[list(infused)] = total - len(infused) + np.arange(len(infused))
    state = jnp.asarray(index_of_rate)[schedule.state]
    if schedule.infused is None or schedule.stop is None or schedule.rate is None:
        return schedule
    runs = schedule.infused & (schedule.state != NONE) & (state != NONE) & jnp.isfinite(schedule.start)
    begins, ends = (jnp.where(runs, time, jnp.inf) for time in (schedule.start, schedule.stop))
    ones = jnp.ones_like(schedule.start)
    # the factor of an adapted infusion at its end may differ: its rate is set to zero
    end_add, end_keep = (jnp.zeros_like(ones), jnp.zeros_like(ones)) if adapts else (-schedule.rate, ones)
    rows = schedule.start.size
    never, false, zero = jnp.full((2 * rows,), jnp.inf), jnp.zeros((2 * rows,), bool), jnp.zeros((2 * rows,))
    keep = ones if adapts and schedule.keep is None else schedule.keep

    def extended(column: Array | None, *more: Array | None) -> Array | None:
        return None if column is None else jnp.concatenate([x for x in (column, *more) if x is not None])

    return dataclasses.replace(
        schedule,
        start=extended(schedule.start, begins, ends),
        state=extended(schedule.state, state, state),
        keep=extended(keep, ones, end_keep),
        add=extended(schedule.add, schedule.rate, end_add),
        vector=extended(schedule.vector, jnp.full((2 * rows,), NONE)),
        stop=extended(schedule.stop, never),
        infused=extended(schedule.infused, false),
        rate=extended(schedule.rate, zero),
        adapts=extended(schedule.adapts, schedule.adapts, schedule.adapts),
        order=extended(schedule.order, schedule.order, jnp.full((rows,), -1.0)),
    )
