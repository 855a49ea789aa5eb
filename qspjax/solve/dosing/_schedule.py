"""What a regimen means for one patient: when how much of which dose enters which state.

With bioavailability F, scale s and lag L of the target, a bolus adds F s amount at time + L; an infusion over a
duration D runs at F s amount / D; an infusion at a rate R runs at s R for F amount / R. A reset, and a steady state
that replaces what is there, cut what was ordered before: infusions end, and doses that are still to come are cancelled.
Two rows at one time are in the order of the table. These are the rules of NONMEM's PREDPP (users' guide VI).

The steady states themselves are found in `solve._steady`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from qspjax._arrays import place_of_greatest
from qspjax._checks import check_minimum, concrete, refuse
from qspjax._declared import Delivery, assigned_parameters, declared, mass_of
from qspjax._dosing._regimen import Action, Echo, Parameter, Regimen
from qspjax._model import AbstractModel, as_state
from qspjax._names import in_full, match, state_names
from qspjax._types import Scalar, State
from qspjax.solve.dosing._varied import parameters_now, with_parameters

SPARE = 4
"""Earlier doses provided for at a steady state where lags, bioavailabilities or durations are not known in advance."""


class Schedule(eqx.Module):
    """The doses of one patient, each array of shape (doses,); unused ones start at inf.

    Attributes:
        start: When a dose enters, or an infusion starts.
        entry: With n states: i < n adds to state i, n + i gives state i the value, 2 n + k and 2 n + m + k put all
            states to the k-th of m vectors, or add it to them.
        jump: What is added to the state, or its new value.
        stop: When an infusion that starts stops, inf if never; None without infusions.
        infused: Which doses are infusions; None without infusions.
        rate: The rate of an infusion into the state; None without infusions.
        adapts: Which doses adaptive dosing multiplies, None without.
        order: What orders doses at equal times, None where doses come before outputs.
        seen: What orders the outputs, shape (outputs,): each sees the doses of its own time up to this order.
        vectors: States after a reset and at steady states, shape (m, n), or None.
        lost: Whether a steady state was not found.
        sets: Whether an entry may give a state a value.
        held: How many of the last states resets and steady states do not touch.
    """

    start: jax.Array
    entry: jax.Array
    jump: jax.Array
    stop: jax.Array | None = None
    infused: jax.Array | None = None
    rate: jax.Array | None = None
    adapts: jax.Array | None = None
    order: jax.Array | None = None
    seen: jax.Array | None = None
    vectors: jax.Array | None = None
    lost: jax.Array = eqx.field(default=False, converter=jnp.asarray)
    sets: bool = eqx.field(static=True, default=False)
    held: int = eqx.field(static=True, default=0)


class Pattern(NamedTuple):
    """The doses of one steady state, each of shape (members,), from the time of the first of them.

    Attributes:
        begins: The time of the first dose, shape ().
        interval: The time after which they repeat, or 0 for a constant infusion, shape ().
        shift: When each enters, after `begins`, with its lag; inf if unused.
        infused: Whether each is an infusion.
        lasts: How long each infusion lasts, 0 for a bolus.
        entry: The state that each enters.
        jump: What each bolus adds.
        rate: The rate of each infusion.
    """

    begins: jax.Array
    interval: jax.Array
    shift: jax.Array
    infused: jax.Array
    lasts: jax.Array
    entry: jax.Array
    jump: jax.Array
    rate: jax.Array

    @property
    def near(self) -> jax.Array:
        """How far two times of the pattern may be apart that rounding alone separates, shape ()."""
        return slack(jnp.abs(self.begins) + self.interval)


SteadyState = Callable[[AbstractModel, Pattern], tuple[jax.Array, jax.Array]]
"""Finds the steady state of a model under a pattern of doses, flat; returns also whether it was found."""


class Resolved(NamedTuple):
    """The rows of a regimen with the numbers of the model, before anything is cut."""

    start: jax.Array
    infused: jax.Array
    lasts: jax.Array
    entry: jax.Array
    jump: jax.Array
    rate: jax.Array
    parameters: Any


def aimed(model: AbstractModel, regimen: Regimen, states: tuple[str, ...]) -> Regimen:
    """Return the regimen with all dose targets of the model as its targets, so that none of them compiles anew.

    A target is a delivery by name, or a state by name or number; a state that has a delivery is dosed through it. The
    number 0 is the model's default: its first delivery, or else its first state. Last stand the parameters that the
    regimen, or an event of the model, changes. What goes to a state or a parameter of which the model needs the past
    has rows of its own for that.

    Raises:
        ValueError: If the model has neither a delivery nor a state of that name, or no such parameter.
    """
    deliveries, later = declared(model).deliveries(), declared(model).echoes().later
    past = {copy for copies in later.values() for copy in copies}
    now = tuple(name for name in states if name not in past)
    by_state = {in_full(delivery.state, states): name for name, delivery in deliveries.items()}
    doses = (*deliveries, *(name for name in now if name not in by_state and name not in deliveries))
    parameters_now(model, regimen.parameters)
    changing = [target for target in regimen.targets if isinstance(target, Parameter) and target.name not in past]
    changing += [Parameter(name) for name in assigned_parameters(model, model.initial())]
    changing = [*dict.fromkeys(changing)]
    entered = {name: in_full(deliveries[name].state, states) if name in deliveries else name for name in doses}
    own: dict[Any, tuple] = {name: tuple(Echo(name, copy) for copy in later.get(entered[name], ())) for name in doses}
    own |= {target: tuple(Parameter(copy) for copy in later.get(target.name, ())) for target in changing}
    of_doses, of_changing = (chain.from_iterable(own[target] for target in some) for some in (doses, changing))
    targets = (*doses, *of_doses, *changing, *of_changing)
    if later:
        _check_echoed(model, regimen)
    if regimen.targets == targets:
        return regimen
    for name in past.intersection(regimen.parameters):
        refuse("name", "be a parameter of the model, not one of the past", name)
    numbers = [
        targets.index(target if isinstance(target, Parameter) else _target(model, target, by_state, doses, now))
        for target in regimen.targets
    ]
    index = jnp.asarray(numbers, dtype=int)[regimen.index] if numbers else regimen.index
    found = dataclasses.replace(regimen, index=index, targets=targets)
    return found.echoed([[targets.index(echo) for echo in own.get(target, ())] for target in targets])


def _check_echoed(model: AbstractModel, regimen: Regimen) -> None:
    """Check that a regimen is one that can be echoed.

    Raises:
        ValueError: If it is not.
    """
    later, lengths = declared(model).echoes()
    for name in regimen.parameters:
        if name in lengths:
            refuse("name", "not be a parameter that the length of a delay is made of", name)
    for copies in later.values():
        for copy, length in copies.items():
            check_minimum(f"delay of {copy.partition('@')[0]}", length, 0.0)
    if regimen.extent.resets or regimen.extent.steady or regimen.decision is not None:
        refuse("regimen", "have no reset, no steady state and no rule for a model with delays", "one that has")


def check_modelled(model: AbstractModel, regimen: Regimen) -> None:
    """Check that the model says the durations and rates that an aimed regimen leaves to it, and can take its doses.

    Raises:
        ValueError: If it does not, or a dose is given to an algebraic state; the dose target is named.
    """
    kind, index, time = concrete(regimen.kind), concrete(regimen.index), concrete(regimen.time)
    deliveries = declared(model).deliveries()
    states = state_names(model.initial())
    solved = {name for name, mass in zip(states, mass_of(model, states), strict=True) if mass == 0}
    if solved and not any(x is None for x in (kind, index, time)):
        kinds, places, times = np.broadcast_arrays(kind, index, time)
        for target in np.unique(places[(kinds < Action.RESET) & np.isfinite(times)]):
            name = str(regimen.targets[target])
            if deliveries.get(name, Delivery(name)).state in solved:
                refuse("regimen", "give doses to states that are not algebraic", f"one with a dose to `{name}`")
    for action, name in ((Action.INFUSION_MODEL_DURATION, "duration"), (Action.INFUSION_MODEL_RATE, "rate")):
        if kind is None or index is None or not (kind == action).any():
            continue
        for target in np.unique(np.broadcast_arrays(index, kind)[0][np.broadcast_arrays(kind, index)[0] == action]):
            aim = regimen.targets[target]
            delivery = deliveries.get(aim.target if isinstance(aim, Echo) else str(aim))
            if delivery is None or getattr(delivery, name) is None:
                must = f"have a delivery with a `{name}` for the target of an infusion that leaves it to the model"
                refuse("model", must, f"one that has none for `{aim}`")


def _target(
    model: AbstractModel, target: str | int, by_state: dict[str, str], targets: tuple[str, ...], states: tuple[str, ...]
) -> str:
    if target == 0:
        return targets[0]
    if isinstance(target, int):
        if any(isinstance(key, jax.tree_util.DictKey) for key in _keys(model.initial())):
            refuse("to", "be a name for a model whose state is a dict, which has no order", target)
        name = states[match(target, states, "to", "a dose target of the model")]
    elif target in targets:
        return target
    else:
        known = tuple(dict.fromkeys((*targets, *by_state)))
        name = known[match(target, known, "to", "a dose target of the model")]
    return by_state.get(name, name)


def _keys(state: State) -> list:
    return [key for path, _ in jax.tree_util.tree_flatten_with_path(state)[0] for key in path]


def resolved(model: AbstractModel, regimen: Regimen) -> Resolved:
    """Return what each row of an aimed regimen does in the model, with the parameters that hold at its time."""
    start = as_state(model, None)
    states, names = state_names(start), regimen.parameters
    doses = [target for target in regimen.targets if not isinstance(target, Parameter)]

    def numbers(model: AbstractModel) -> dict[str, jax.Array]:
        """Return the numbers of every delivery, shape (targets,); a parameter is given as it is."""
        each, late = _deliveries(model, doses), _lengths(model)
        ends = {"scale": 1.0, "lag": 0.0, "bioavailability": 1.0, "duration": jnp.nan, "rate": jnp.nan}
        return {
            name: jnp.stack(
                [
                    *(jnp.asarray(none if (x := getattr(delivery, name)) is None else x, float) for delivery in each),
                    *(jnp.asarray(late.get(one, none) if name == "lag" else none, float) for one in names),
                ]
            )
            for name, none in ends.items()
        }

    parameters = None
    if names:
        parameters = _in_force(model, regimen, names)
        table = jax.vmap(lambda values: numbers(with_parameters(model, names, values)))(parameters)
        here = {name: jnp.take_along_axis(x, regimen.index[:, None], axis=1)[:, 0] for name, x in table.items()}
    else:
        here = {name: x[regimen.index] for name, x in numbers(model).items()}

    entries = [match(one.state, states, "state", "a state of the model") for one in _deliveries(model, doses)]
    total = len(states) + len(names)
    entry = jnp.asarray([*entries, *range(len(states), total)], dtype=int)[regimen.index]
    kind = regimen.kind
    duration = jnp.where(kind == Action.INFUSION_MODEL_DURATION, here["duration"], regimen.duration)
    rate = jnp.where(kind == Action.INFUSION_MODEL_RATE, here["rate"], regimen.rate)
    over = (kind == Action.INFUSION_OVER) | (kind == Action.INFUSION_MODEL_DURATION)
    by_rate = (kind == Action.INFUSION_RATE) | (kind == Action.INFUSION_MODEL_RATE)
    entering = here["bioavailability"] * here["scale"] * regimen.amount
    by_duration = here["bioavailability"] * regimen.amount / rate
    sets = kind == Action.SET
    return Resolved(
        start=jnp.where(kind == Action.RESET, jnp.inf, regimen.time + here["lag"]),
        infused=over | by_rate,
        lasts=jnp.where(over, duration, jnp.where(by_rate, by_duration, 0.0)),
        entry=jnp.where(sets, total + entry, entry),
        jump=jnp.where(over | by_rate, 0.0, jnp.where(sets, regimen.amount, entering)),
        rate=jnp.where(over, entering / duration, jnp.where(by_rate, here["scale"] * rate, 0.0)),
        parameters=parameters,
    )


def _lengths(model: AbstractModel) -> dict[str, Scalar]:
    """Return how much later each echo is."""
    return {name: length for copies in declared(model).echoes().later.values() for name, length in copies.items()}


def _deliveries(model: AbstractModel, targets: Sequence[str | Echo]) -> list[Delivery]:
    """Return the delivery of each dose target; that of an echo is the one that it echoes, later."""
    deliveries, late = declared(model).deliveries(), _lengths(model)
    found = []
    for target in targets:
        name = target.target if isinstance(target, Echo) else str(target)
        one = deliveries.get(name, Delivery(name))
        if isinstance(target, Echo):
            one = dataclasses.replace(one, state=target.state, lag=one.lag + late[target.state])
        found.append(one)
    return found


def _in_force(model: AbstractModel, regimen: Regimen, names: tuple[str, ...]) -> tuple[jax.Array, ...]:
    """Return the value of each parameter at every row, shape (rows,) each."""
    time, order, rows = regimen.time, regimen.order, jnp.arange(regimen.rows)
    first = len(regimen.targets) - len(names)
    near = slack(time)
    now = jnp.where(jnp.isfinite(time), time, 0.0)
    before = (time[None] < (time - near)[:, None]) | (
        (jnp.abs(now[None] - now[:, None]) <= near[:, None]) & (order[None] <= order[:, None])
    )
    # the last that was set: the latest time, then the greatest order, then the lowest row
    rank = jnp.argsort(jnp.lexsort((rows, order, jax.lax.stop_gradient(time))))
    found = []
    for k, value in enumerate(parameters_now(model, names)):
        mine = (regimen.index == first + k) & jnp.isfinite(time)
        sets, runs = mine & (regimen.kind == Action.SET), mine & (regimen.kind == Action.INFUSION_OVER)
        last = place_of_greatest(jnp.where(before & sets, rank + 1, 0), axis=1)
        known = (before & sets).any(axis=1)
        share = (now[:, None] - now[None]) / regimen.duration
        share = jnp.where(share >= 1.0, 1.0, jnp.where(share > 0.0, share, 0.0))
        since = before & runs & (rank[None] > jnp.where(known, rank[last], -1)[:, None])
        climbed = jnp.sum(jnp.where(since, share * regimen.amount, 0.0), axis=1)
        found.append(jnp.where(known, regimen.amount[last], value) + climbed)
    return tuple(found)


def earlier_doses(model: AbstractModel, regimen: Regimen) -> jax.Array:
    """Return how many doses before a steady state still run, or are on their way, when it begins."""
    one = resolved(model, regimen)
    rows = jnp.arange(regimen.rows)
    first = regimen.time[jnp.clip(rows + regimen.group, 0, regimen.rows - 1)]
    late = one.start + one.lasts - first
    near = slack(jnp.abs(first) + regimen.interval)
    interval = jnp.where(regimen.interval > 0, regimen.interval, 1.0)
    repeated = jnp.where(one.infused, jnp.ceil((late - near) / interval) - 1.0, jnp.floor((late + near) / interval))
    many = jnp.where(regimen.interval > 0, repeated, late > 0)
    return jnp.max(jnp.where((regimen.steady > 0) & jnp.isfinite(late), many, 0.0))


def slack(time: jax.Array) -> jax.Array:
    """Return how far two times may be apart that rounding alone separates."""
    return 1e-12 * jnp.abs(jnp.where(jnp.isfinite(time), time, 0.0))


def not_below_zero(time: jax.Array) -> jax.Array:
    """Return a time that is zero but for rounding, or above, and not below zero; its derivative stays what it is."""
    return time - jax.lax.stop_gradient(jnp.where(time < 0.0, time, 0.0))


class Cuts(NamedTuple):
    """What cuts: its time, row, and whether it is there, each of shape (cuts,)."""

    time: jax.Array
    row: jax.Array
    there: jax.Array


def first_cut(cuts: Cuts, ordered: jax.Array, row: jax.Array) -> jax.Array:
    """Return when each dose is first cut, inf if never."""
    near = slack(cuts.time)
    apart = cuts.time[None] - ordered[:, None]
    after = (apart > near[None]) | ((jnp.abs(apart) <= near[None]) & (cuts.row[None] > row[:, None]))
    return jnp.min(jnp.where(after & cuts.there[None], cuts.time[None], jnp.inf), axis=1, initial=jnp.inf)


def chosen(mask: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    """Return the numbers of the first rows where a mask is true, at most so many, and which of them are such rows."""
    rows = jnp.argsort(~mask, stable=True)[:most]
    return rows, mask[rows]


class Doses(NamedTuple):
    """What enters when, each of shape (doses,): the columns of a `Schedule`, and what it takes to cut them.

    `ordered` is when a dose was ordered, and `row` where it stands in the table.
    """

    start: jax.Array
    stop: jax.Array
    infused: jax.Array
    entry: jax.Array
    jump: jax.Array
    rate: jax.Array
    adapts: jax.Array
    order: jax.Array
    ordered: jax.Array
    row: jax.Array

    def beside(self, other: "Doses") -> "Doses":
        """Return both, one after the other."""
        return jax.tree.map(lambda *columns: jnp.concatenate(columns), self, other)

    def cut(self, cuts: Cuts, states: int) -> "Doses":
        """Return the doses without what is cut; only what enters a state, not a parameter, can be."""
        first = jnp.where(self.entry < states, first_cut(cuts, self.ordered, self.row), jnp.inf)
        start = jnp.where(self.start >= first - slack(first), jnp.inf, self.start)
        return self._replace(start=start, stop=jnp.where(self.stop <= first, self.stop, first))


def schedule_of(
    model: AbstractModel, regimen: Regimen, steady_state: SteadyState | None = None, seen: jax.Array | None = None
) -> Schedule:
    """Return the schedule of one patient.

    Args:
        model: The patient.
        regimen: Its regimen, aimed at the model.
        steady_state: Finds a steady state, where the regimen has one.
        seen: What orders the outputs at times of doses, shape (outputs,), None where they come after the doses.
    """
    extent, names = regimen.extent, regimen.parameters
    one = resolved(model, regimen)
    doses = Doses(
        start=one.start,
        stop=jnp.where(one.infused, one.start + one.lasts, jnp.inf),
        infused=one.infused,
        entry=one.entry,
        jump=one.jump,
        rate=one.rate,
        adapts=regimen.adapts > 0,
        order=regimen.order,
        ordered=regimen.ordered,
        row=jnp.arange(regimen.rows),
    )
    vectors, lost = None, jnp.zeros((), bool)
    if extent.resets or extent.steady:
        doses, vectors, lost = _with_moments(model, regimen, one, doses, steady_state)
        vectors = jnp.pad(vectors, ((0, 0), (0, len(names))))
    return Schedule(
        start=doses.start,
        entry=doses.entry,
        jump=doses.jump,
        stop=doses.stop if extent.infuses else None,
        infused=doses.infused if extent.infuses else None,
        rate=doses.rate if extent.infuses else None,
        adapts=None if regimen.decision is None else doses.adapts,
        order=None if seen is None else doses.order,
        seen=seen,
        vectors=vectors,
        lost=lost,
        sets=bool(names),
        held=len(names),
    )


def _with_moments(
    model: AbstractModel, regimen: Regimen, one: Resolved, doses: Doses, steady_state: SteadyState | None
) -> tuple[Doses, jax.Array, jax.Array]:
    """Return the doses with resets and steady states before them, their vectors, and whether one was not found."""
    extent, names, live = regimen.extent, regimen.parameters, jnp.isfinite(regimen.time)
    resets, is_reset = chosen((regimen.kind == Action.RESET) & live, extent.resets)
    begins, is_steady = chosen((regimen.steady > 0) & (regimen.group == 0) & live, extent.steady)
    replaces = regimen.steady[begins] == 1
    row, there = jnp.concatenate([resets, begins]), jnp.concatenate([is_reset, is_steady])
    time = jnp.where(there, regimen.time[row], jnp.inf)
    cuts = Cuts(time, row, there & jnp.concatenate([jnp.ones_like(is_reset), replaces]))

    def model_at(row: jax.Array) -> AbstractModel:
        return with_parameters(model, names, [x[row] for x in one.parameters]) if names else model

    vectors = jax.vmap(lambda row: ravel_pytree(as_state(model_at(row), None))[0])(row)
    states, lost = vectors.shape[1], jnp.zeros((), bool)
    if extent.steady and steady_state is not None:
        patterns = jax.vmap(lambda row: _pattern(regimen, one, row))(begins)
        found, fine = jax.vmap(lambda row, pattern: steady_state(model_at(row), pattern))(begins, patterns)
        untreated = vectors[extent.resets :]
        found = jnp.where(replaces[:, None], found, found - untreated)
        earlier, enough = _earlier(patterns, is_steady, begins, extent.earlier)
        doses = doses.beside(earlier)
        lost = (is_steady & ~fine).any() | ~enough
        vectors = jnp.concatenate([vectors[: extent.resets], found])
        vectors = jnp.where(enough, jnp.where(there[:, None], vectors, 0.0), jnp.nan)

    number, none = jnp.arange(row.size), jnp.zeros(row.shape)
    total, no = states + len(names), jnp.zeros_like(there)
    adds = jnp.concatenate([jnp.zeros_like(is_reset), ~replaces])
    moments = Doses(
        # a moment that a later row at the same time undoes does not come
        start=jnp.where(first_cut(cuts, time, row) <= time + slack(time), jnp.inf, time),
        stop=jnp.full_like(none, jnp.inf),
        infused=no,
        entry=2 * total + jnp.where(adds, row.size + number, number),
        jump=none,
        rate=none,
        adapts=no,
        order=regimen.order[row],
        ordered=time,
        row=row,
    )
    return moments.beside(doses.cut(cuts, states)), vectors, lost


def _pattern(regimen: Regimen, one: Resolved, begins: jax.Array) -> Pattern:
    """Return the pattern of doses whose first row is given."""
    rows = jnp.arange(regimen.rows)
    mine = (regimen.steady > 0) & (rows + regimen.group == begins) & jnp.isfinite(regimen.time)
    member, there = chosen(mine, regimen.extent.members)
    first = regimen.time[begins]
    first = jnp.where(jnp.isfinite(first), first, 0.0)
    shift = jnp.where(there, one.start[member] - first, jnp.inf)
    values = (x[member] for x in (one.infused, one.lasts, one.entry, one.jump, one.rate))
    return Pattern(first, regimen.interval[begins], shift, *values)


def _earlier(patterns: Pattern, there: jax.Array, row: jax.Array, most: int) -> tuple[Doses, jax.Array]:
    """Return the doses before each steady state that still run or are on their way, and whether these are all."""
    back = 1.0 + jnp.arange(most + 1)
    interval = patterns.interval[:, None, None]
    begins = patterns.begins[:, None, None]
    infused = patterns.infused[..., None]
    shift = jnp.where(jnp.isfinite(patterns.shift), patterns.shift, 0.0)[..., None]
    # a constant infusion ran all the time, and ends with the lag
    enters = jnp.where(interval > 0, shift - back * interval, 0.0)
    ends = jnp.where(interval > 0, enters + patterns.lasts[..., None], jnp.where(back == 1.0, shift, 0.0))
    near = patterns.near[:, None, None]
    going = jnp.where(infused, ends > near, enters >= -near)
    going &= there[:, None, None] & jnp.isfinite(patterns.shift)[..., None]
    enough = ~going[..., most:].any()
    start = jnp.where(going, begins + jnp.where(enters >= -near, not_below_zero(enters), 0.0), jnp.inf)
    stop = jnp.where(going & infused, begins + ends, jnp.inf)

    def flat(values: jax.Array) -> jax.Array:
        return jnp.broadcast_to(values, going.shape)[..., :most].ravel()

    entry, jump, rate = (getattr(patterns, name)[..., None] for name in ("entry", "jump", "rate"))
    no, before = jnp.zeros((), bool), jnp.asarray(-1.0)
    columns = (start, stop, infused, entry, jump, rate, no, before, begins, row[:, None, None])
    return Doses(*map(flat, columns)), enough
