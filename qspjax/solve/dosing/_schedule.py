"""What a regimen means for one patient: which doses enter which states, when, and how much of each.

With bioavailability F, scale s and lag L of the target, a bolus adds F s amount at time + L; an infusion over a
duration D runs at F s amount / D; an infusion at a rate R runs at s R for F amount / R. A reset, and a steady state
that replaces the state, cut what was ordered before: infusions end, and doses that are still to come are cancelled.
Two rows at one time are in the order of the table. These are the rules of NONMEM's PREDPP (users' guide VI).

The steady states themselves are found in `_steady`; what happens at a time is a `Boundary`.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from qspjax._arrays import argmax_first
from qspjax._declared import Delivery, declared
from qspjax._dosing._regimen import Action, Echo, Level, Parameter, Regimen, Target, name_of
from qspjax._model import AbstractModel, as_state
from qspjax._names import match, state_names
from qspjax._types import Scalar
from qspjax.solve.dosing._boundary import NONE
from qspjax.solve.dosing._varied import parameters_now, with_parameters

SPARE = 4
"""Earlier doses provided for at a steady state where lags, bioavailabilities or durations are not known in advance."""


class Schedule(eqx.Module):
    """The doses of one patient; unused ones start at inf.

    Attributes:
        start: When a dose enters, or an infusion starts.
        state: Which state it changes, see `Boundary`.
        add: What it adds to that state.
        keep: The factor by which it first multiplies that state, None if always 1.
        vector: Which of the vectors it adds, None without vectors.
        stop: When an infusion that starts stops, inf if never; None without infusions.
        infused: Which doses are infusions; None without infusions.
        rate: The rate of an infusion into the state; None without infusions.
        adapts: Which doses adaptive dosing multiplies, None without.
        order: What orders doses at equal times, None where doses come before outputs.
        output_order: What orders the outputs: each sees the doses of its own time up to this order.
        vectors: What resets and steady states add to the states, None without any.
        steady_state_failed: Whether a steady state was not found.
        protected: The number of last states that resets and steady states do not touch.
    """

    start: Float[Array, " doses"]
    state: Int[Array, " doses"]
    add: Float[Array, " doses"]
    keep: Float[Array, " doses"] | None = None
    vector: Int[Array, " doses"] | None = None
    stop: Float[Array, " doses"] | None = None
    infused: Bool[Array, " doses"] | None = None
    rate: Float[Array, " doses"] | None = None
    adapts: Bool[Array, " doses"] | None = None
    order: Float[Array, " doses"] | None = None
    output_order: Float[Array, " outputs"] | None = None
    vectors: Float[Array, "vectors states"] | None = None
    steady_state_failed: Bool[Array, ""] = eqx.field(default=False, converter=jnp.asarray)
    protected: int = eqx.field(static=True, default=0)


class Pattern(NamedTuple):
    """The doses of one steady state, from the time of the first of them.

    Attributes:
        begins: The time of the first dose.
        interval: The time after which they repeat, or 0 for a constant infusion.
        shift: When each enters, after `begins`, with its lag; inf if unused.
        infused: Whether each is an infusion.
        lasts: How long each infusion lasts, 0 for a bolus.
        state: The state that each enters.
        add: What each bolus adds.
        rate: The rate of each infusion.
    """

    begins: Float[Array, "..."]
    interval: Float[Array, "..."]
    shift: Float[Array, "... members"]
    infused: Bool[Array, "... members"]
    lasts: Float[Array, "... members"]
    state: Int[Array, "... members"]
    add: Float[Array, "... members"]
    rate: Float[Array, "... members"]

    @property
    def near(self) -> Float[Array, "..."]:
        """How far apart two times of the pattern may be that only rounding separates."""
        return slack(jnp.abs(self.begins) + self.interval)


SteadyState = Callable[[AbstractModel, Pattern], tuple[Float[Array, " states"], Bool[Array, ""]]]
"""Finds the steady state of a model under a pattern of doses, flat; returns also whether it was found."""


class DoseTable(NamedTuple):
    """The rows of a regimen with the numbers of the model, before anything is cut.

    Attributes:
        start: When each enters, inf for a reset.
        infused: Whether it is an infusion.
        lasts: How long it lasts, 0 if it does not.
        state: Which state it changes, or which of the parameters that follow the states.
        keep: The factor by which it first multiplies that.
        add: What it then adds.
        rate: The rate of an infusion.
        parameters: The values at its time of the parameters that change.
    """

    start: Float[Array, " rows"]
    infused: Bool[Array, " rows"]
    lasts: Float[Array, " rows"]
    state: Int[Array, " rows"]
    keep: Float[Array, " rows"]
    add: Float[Array, " rows"]
    rate: Float[Array, " rows"]
    parameters: tuple[Float[Array, " rows"], ...]


def dose_table(model: AbstractModel, regimen: Regimen) -> DoseTable:
    """Return what each row of a regimen with the targets of the model does, with the parameters of its time."""
    start = as_state(model, None)
    states, names = state_names(start), regimen.parameters
    doses = [target for target in regimen.targets if not isinstance(target, Parameter)]

    def numbers(model: AbstractModel, deliveries: Sequence[Delivery | _Plain]) -> dict[str, Float[Array, " targets"]]:
        """Return the numbers of every delivery; a parameter is given as it is."""
        lengths = _lengths(model)
        defaults = {"scale": 1.0, "lag": 0.0, "bioavailability": 1.0, "duration": math.nan, "rate": math.nan}
        return {
            name: _stacked(
                [
                    *(default if (x := getattr(d, name)) is None else x for d in deliveries),
                    *(lengths.get(p, default) if name == "lag" else default for p in names),
                ]
            )
            for name, default in defaults.items()
        }

    parameters, deliveries = (), _deliveries(model, doses)
    if names:
        parameters = _in_force(model, regimen, names)

        def now(values: tuple[jax.Array, ...]) -> dict[str, Float[Array, " targets"]]:
            changed = with_parameters(model, names, values)
            return numbers(changed, _deliveries(changed, doses))

        table = jax.vmap(now)(parameters)
        row = {name: jnp.take_along_axis(x, regimen.index[:, None], axis=1)[:, 0] for name, x in table.items()}
    else:
        row = {name: x[regimen.index] for name, x in numbers(model, deliveries).items()}

    entered = [match(d.state, states, "state", "a state of the model") for d in deliveries]
    total = len(states) + len(names)
    kind = regimen.kind
    duration = jnp.where(kind == Action.INFUSION_MODEL_DURATION, row["duration"], regimen.duration)
    rate = jnp.where(kind == Action.INFUSION_MODEL_RATE, row["rate"], regimen.rate)
    over = (kind == Action.INFUSION_OVER) | (kind == Action.INFUSION_MODEL_DURATION)
    by_rate = (kind == Action.INFUSION_RATE) | (kind == Action.INFUSION_MODEL_RATE)
    entering = row["bioavailability"] * row["scale"] * regimen.amount
    by_duration = row["bioavailability"] * regimen.amount / rate
    sets, scales = kind == Action.SET, kind == Action.SCALE
    adds = jnp.where(sets, regimen.amount, jnp.where(scales | over | by_rate, 0.0, entering))
    return DoseTable(
        start=jnp.where(kind == Action.RESET, jnp.inf, regimen.time + row["lag"]),
        infused=over | by_rate,
        lasts=jnp.where(over, duration, jnp.where(by_rate, by_duration, 0.0)),
        state=jnp.asarray([*entered, *range(len(states), total)], dtype=int)[regimen.index],
        keep=jnp.where(scales, regimen.amount, jnp.where(sets, 0.0, 1.0)),
        add=adds,
        rate=jnp.where(over, entering / duration, jnp.where(by_rate, row["scale"] * rate, 0.0)),
        parameters=parameters,
    )


def _stacked(numbers: Sequence[ArrayLike]) -> Float[Array, " targets"]:
    """Return numbers as one array: those that are known are written into it, without an operation for each."""
    dtype = jax.dtypes.canonicalize_dtype(float)
    if all(isinstance(x, (int, float)) for x in numbers):
        return jnp.asarray(np.array(numbers, dtype))
    return jnp.stack([np.asarray(x, dtype) if isinstance(x, (int, float)) else jnp.asarray(x, float) for x in numbers])


def _lengths(model: AbstractModel) -> dict[str, Scalar]:
    """Return the delay of each echo."""
    return {name: length for copies in declared(model).echoes().later.values() for name, length in copies.items()}


class _Plain(NamedTuple):
    """The delivery into a state of which the model says nothing: what is given enters it at once."""

    state: str
    scale: float = 1.0
    lag: float = 0.0
    bioavailability: float = 1.0
    duration: None = None
    rate: None = None


def _deliveries(model: AbstractModel, targets: Sequence[Target]) -> list[Delivery | _Plain]:
    """Return the delivery of each dose target; that of an echo is that of its original, delayed."""
    deliveries, lengths = declared(model).deliveries(), _lengths(model)

    def delivery(target: Target) -> Delivery | _Plain:
        name = name_of(target)
        if isinstance(target, Level):
            return _Plain(name)
        if not isinstance(target, Echo):
            return deliveries[name] if name in deliveries else _Plain(name)
        original = deliveries.get(target.target, Delivery(target.target))
        return dataclasses.replace(original, state=target.state, lag=original.lag + lengths[target.state])

    return [delivery(target) for target in targets]


def _in_force(model: AbstractModel, regimen: Regimen, names: tuple[str, ...]) -> tuple[Float[Array, " rows"], ...]:
    """Return the value of each parameter at every row."""
    time, order, rows = regimen.time, regimen.order, jnp.arange(regimen.rows)
    offset = len(regimen.targets) - len(names)
    near = slack(time)
    now = jnp.where(jnp.isfinite(time), time, 0.0)
    before = (time[None] < (time - near)[:, None]) | (
        (jnp.abs(now[None] - now[:, None]) <= near[:, None]) & (order[None] <= order[:, None])
    )
    # the last that was set: the latest time, then the greatest order, then the lowest row
    rank = jnp.argsort(jnp.lexsort((rows, order, jax.lax.stop_gradient(time))))
    values = []
    for k, value in enumerate(parameters_now(model, names)):
        of_parameter = (regimen.index == offset + k) & jnp.isfinite(time)
        sets, runs = of_parameter & (regimen.kind == Action.SET), of_parameter & (regimen.kind == Action.INFUSION_OVER)
        last = argmax_first(jnp.where(before & sets, rank + 1, 0), axis=1)
        was_set = (before & sets).any(axis=1)
        share = (now[:, None] - now[None]) / regimen.duration
        share = jnp.where(share >= 1.0, 1.0, jnp.where(share > 0.0, share, 0.0))
        since = before & runs & (rank[None] > jnp.where(was_set, rank[last], -1)[:, None])
        change = jnp.sum(jnp.where(since, share * regimen.amount, 0.0), axis=1)
        values.append(jnp.where(was_set, regimen.amount[last], value) + change)
    return tuple(values)


def earlier_doses(model: AbstractModel, regimen: Regimen) -> Float[Array, ""]:
    """Return how many doses before a steady state still run, or are on their way, when it begins."""
    doses = dose_table(model, regimen)
    rows = jnp.arange(regimen.rows)
    begin = regimen.time[jnp.clip(rows + regimen.group, 0, regimen.rows - 1)]
    late = doses.start + doses.lasts - begin
    near = slack(jnp.abs(begin) + regimen.interval)
    interval = jnp.where(regimen.interval > 0, regimen.interval, 1.0)
    repeated = jnp.where(doses.infused, jnp.ceil((late - near) / interval) - 1.0, jnp.floor((late + near) / interval))
    count = jnp.where(regimen.interval > 0, repeated, late > 0)
    return jnp.max(jnp.where((regimen.steady > 0) & jnp.isfinite(late), count, 0.0))


def slack(time: jax.Array) -> jax.Array:
    """Return how far apart two times may be that only rounding separates."""
    return 1e-12 * jnp.abs(jnp.where(jnp.isfinite(time), time, 0.0))


def not_below_zero(time: jax.Array) -> jax.Array:
    """Return a time, raised to zero where rounding put it below; its derivative does not change."""
    return time - jax.lax.stop_gradient(jnp.where(time < 0.0, time, 0.0))


class Cuts(NamedTuple):
    """What cuts doses: its time, its row, and whether it is present."""

    time: Float[Array, " cuts"]
    row: Int[Array, " cuts"]
    present: Bool[Array, " cuts"]


def first_cut(cuts: Cuts, ordered: Float[Array, " doses"], row: Int[Array, " doses"]) -> Float[Array, " doses"]:
    """Return when each dose is first cut, inf if never."""
    near = slack(cuts.time)
    difference = cuts.time[None] - ordered[:, None]
    after = (difference > near[None]) | ((jnp.abs(difference) <= near[None]) & (cuts.row[None] > row[:, None]))
    return jnp.min(jnp.where(after & cuts.present[None], cuts.time[None], jnp.inf), axis=1, initial=jnp.inf)


def first_rows(mask: Bool[Array, " rows"], count: int) -> tuple[Int[Array, " count"], Bool[Array, " count"]]:
    """Return the indices of the first `count` rows where a mask is true, and for which of these it is."""
    rows = jnp.argsort(~mask, stable=True)[:count]
    return rows, mask[rows]


class Doses(NamedTuple):
    """What enters when, each of shape (doses,): the columns of a `Schedule`, and what is needed to cut them.

    `ordered` is when a dose was ordered, and `row` its row in the table.
    """

    start: Float[Array, " doses"]
    stop: Float[Array, " doses"]
    infused: Bool[Array, " doses"]
    state: Int[Array, " doses"]
    keep: Float[Array, " doses"]
    add: Float[Array, " doses"]
    vector: Int[Array, " doses"]
    rate: Float[Array, " doses"]
    adapts: Bool[Array, " doses"]
    order: Float[Array, " doses"]
    ordered: Float[Array, " doses"]
    row: Int[Array, " doses"]

    def followed_by(self, other: "Doses") -> "Doses":
        """Return both, one after the other."""
        return jax.tree.map(lambda *columns: jnp.concatenate(columns), self, other)

    def cut(self, cuts: Cuts, states: int) -> "Doses":
        """Return the doses without what is cut; only what enters a state, not a parameter, can be cut."""
        first = jnp.where(self.state < states, first_cut(cuts, self.ordered, self.row), jnp.inf)
        start = jnp.where(self.start >= first - slack(first), jnp.inf, self.start)
        return self._replace(start=start, stop=jnp.where(self.stop <= first, self.stop, first))


def schedule_of(
    model: AbstractModel,
    regimen: Regimen,
    steady_state: SteadyState | None = None,
    output_order: Float[Array, " outputs"] | None = None,
) -> Schedule:
    """Return the schedule of one patient.

    Args:
        model: The patient.
        regimen: Its regimen, with the targets of the model.
        steady_state: Finds a steady state, where the regimen has one.
        output_order: What orders the outputs at times of doses, None where they come after the doses.
    """
    shape, names = regimen.static_shape, regimen.parameters
    table = dose_table(model, regimen)
    doses = Doses(
        start=table.start,
        stop=jnp.where(table.infused, table.start + table.lasts, jnp.inf),
        infused=table.infused,
        state=table.state,
        keep=table.keep,
        add=table.add,
        vector=jnp.full(table.state.shape, NONE),
        rate=table.rate,
        adapts=regimen.adapts > 0,
        order=regimen.order,
        ordered=regimen.ordered,
        row=jnp.arange(regimen.rows),
    )
    vectors, failed = None, jnp.zeros((), bool)
    if shape.resets or shape.steady:
        doses, vectors, failed = _with_moments(model, regimen, table, doses, steady_state)
        vectors = jnp.pad(vectors, ((0, 0), (0, len(names))))
    return Schedule(
        start=doses.start,
        state=doses.state,
        add=doses.add,
        keep=doses.keep if names or regimen.levels or vectors is not None else None,
        vector=None if vectors is None else doses.vector,
        stop=doses.stop if shape.infuses else None,
        infused=doses.infused if shape.infuses else None,
        rate=doses.rate if shape.infuses else None,
        adapts=None if regimen.decision is None else doses.adapts,
        order=None if output_order is None else doses.order,
        output_order=output_order,
        vectors=vectors,
        steady_state_failed=failed,
        protected=len(names),
    )


def _with_moments(
    model: AbstractModel, regimen: Regimen, table: DoseTable, doses: Doses, steady_state: SteadyState | None
) -> tuple[Doses, Float[Array, "vectors states"], Bool[Array, ""]]:
    """Return the doses with resets and steady states before them, their vectors, and whether one was not found."""
    shape, names, live = regimen.static_shape, regimen.parameters, jnp.isfinite(regimen.time)
    resets, is_reset = first_rows((regimen.kind == Action.RESET) & live, shape.resets)
    begins, is_steady = first_rows((regimen.steady > 0) & (regimen.group == 0) & live, shape.steady)
    replaces = regimen.steady[begins] == 1
    row, present = jnp.concatenate([resets, begins]), jnp.concatenate([is_reset, is_steady])
    time = jnp.where(present, regimen.time[row], jnp.inf)
    cuts = Cuts(time, row, present & jnp.concatenate([jnp.ones_like(is_reset), replaces]))

    def model_at(row: Int[Array, ""]) -> AbstractModel:
        return with_parameters(model, names, [x[row] for x in table.parameters]) if names else model

    vectors = jax.vmap(lambda row: ravel_pytree(as_state(model_at(row), None))[0])(row)
    states, failed = vectors.shape[1], jnp.zeros((), bool)
    if shape.steady and steady_state is not None:
        patterns = jax.vmap(lambda row: _pattern(regimen, table, row))(begins)
        steady, ok = jax.vmap(lambda row, pattern: steady_state(model_at(row), pattern))(begins, patterns)
        untreated = vectors[shape.resets :]
        steady = jnp.where(replaces[:, None], steady, steady - untreated)
        earlier, enough = _earlier(patterns, is_steady, begins, shape.earlier)
        doses = doses.followed_by(earlier)
        failed = (is_steady & ~ok).any() | ~enough
        vectors = jnp.concatenate([vectors[: shape.resets], steady])
        vectors = jnp.where(enough, jnp.where(present[:, None], vectors, 0.0), jnp.nan)

    zero, false = jnp.zeros(row.shape), jnp.zeros_like(present)
    adds = jnp.concatenate([jnp.zeros_like(is_reset), ~replaces])
    moments = Doses(
        # a moment that a later row at the same time undoes is dropped
        start=jnp.where(first_cut(cuts, time, row) <= time + slack(time), jnp.inf, time),
        stop=jnp.full_like(zero, jnp.inf),
        infused=false,
        state=jnp.full(row.shape, NONE),
        keep=jnp.where(adds, 1.0, 0.0),
        add=zero,
        vector=jnp.arange(row.size),
        rate=zero,
        adapts=false,
        order=regimen.order[row],
        ordered=time,
        row=row,
    )
    return moments.followed_by(doses.cut(cuts, states)), vectors, failed


def _pattern(regimen: Regimen, table: DoseTable, begins: Int[Array, ""]) -> Pattern:
    """Return the pattern of doses that begins with a row."""
    rows = jnp.arange(regimen.rows)
    belongs = (regimen.steady > 0) & (rows + regimen.group == begins) & jnp.isfinite(regimen.time)
    member, present = first_rows(belongs, regimen.static_shape.members)
    begin = regimen.time[begins]
    begin = jnp.where(jnp.isfinite(begin), begin, 0.0)
    shift = jnp.where(present, table.start[member] - begin, jnp.inf)
    values = (x[member] for x in (table.infused, table.lasts, table.state, table.add, table.rate))
    return Pattern(begin, regimen.interval[begins], shift, *values)


def _earlier(
    patterns: Pattern, present: Bool[Array, " patterns"], row: Int[Array, " patterns"], room: int
) -> tuple[Doses, Bool[Array, ""]]:
    """Return the doses before each steady state that still run or are on their way, and whether these are all."""
    back = 1.0 + jnp.arange(room + 1)
    interval = patterns.interval[:, None, None]
    begins = patterns.begins[:, None, None]
    infused = patterns.infused[..., None]
    shift = jnp.where(jnp.isfinite(patterns.shift), patterns.shift, 0.0)[..., None]
    # a constant infusion ran all the time, and ends with the lag
    enters = jnp.where(interval > 0, shift - back * interval, 0.0)
    ends = jnp.where(interval > 0, enters + patterns.lasts[..., None], jnp.where(back == 1.0, shift, 0.0))
    near = patterns.near[:, None, None]
    going = jnp.where(infused, ends > near, enters >= -near)
    going &= present[:, None, None] & jnp.isfinite(patterns.shift)[..., None]
    enough = ~going[..., room:].any()
    start = jnp.where(going, begins + jnp.where(enters >= -near, not_below_zero(enters), 0.0), jnp.inf)
    stop = jnp.where(going & infused, begins + ends, jnp.inf)

    def flat(values: Array) -> Array:
        return jnp.broadcast_to(values, going.shape)[..., :room].ravel()

    columns = Doses(
        start=start,
        stop=stop,
        infused=infused,
        state=patterns.state[..., None],
        keep=jnp.asarray(1.0),
        add=patterns.add[..., None],
        vector=jnp.asarray(NONE),
        rate=patterns.rate[..., None],
        adapts=jnp.zeros((), bool),
        order=jnp.asarray(-1.0),
        ordered=begins,
        row=row[:, None, None],
    )
    return jax.tree.map(flat, columns), enough
