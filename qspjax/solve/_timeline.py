"""Doses and outputs of one patient as one sorted list of boundaries, each of which the integrator lands on exactly.

A dose is a jump of a state; an infusion is a rate that starts and stops. Where a boundary is given by a parameter (a
dose time, a lag, the end of an infusion), its time carries the derivative, so moving boundaries are differentiated
exactly. At equal times doses come before outputs: an output at a dose time is the state after the dose.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp

from qspjax._checks import refuse
from qspjax._model import AbstractModel, Delivery, deliveries_of
from qspjax._names import match
from qspjax._regimen import Action, Regimen
from qspjax._types import State


class Timeline(eqx.Module):
    """Boundaries in the order of time, each array of shape (boundaries,); unused ones have time = inf.

    Attributes:
        time: When.
        state: The number of the state that a dose enters.
        jump: What is added to that state.
        rate: The change of the rate into that state.
        running: +1 where an infusion starts, -1 where one stops, else 0.
        output: Which output is due, or the number of outputs if none.
    """

    time: jax.Array
    state: jax.Array
    jump: jax.Array
    rate: jax.Array
    running: jax.Array
    output: jax.Array


def aimed(model: AbstractModel, regimen: Regimen, states: tuple[str, ...]) -> Regimen:
    """Return the regimen with all dose targets of the model as its targets, so that none of them compiles anew.

    A target is a delivery by name, or a state by name or number; a state that has a delivery is dosed through it.

    Raises:
        ValueError: If the model has neither a delivery nor a state of that name.
    """
    deliveries = deliveries_of(model)
    by_state = {delivery.state: name for name, delivery in deliveries.items()}
    targets = (*deliveries, *(name for name in states if name not in by_state and name not in deliveries))
    if regimen.targets == targets:
        return regimen
    numbers = [targets.index(_target(model, target, by_state, targets, states)) for target in regimen.targets]
    index = jnp.asarray(numbers, dtype=int)[regimen.index] if numbers else regimen.index
    return dataclasses.replace(regimen, index=index, targets=targets)


def _target(
    model: AbstractModel, target: str | int, by_state: dict[str, str], targets: tuple[str, ...], states: tuple[str, ...]
) -> str:
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


def timeline(model: AbstractModel, regimen: Regimen, ts: jax.Array, states: tuple[str, ...]) -> Timeline:
    """Sort the doses of a regimen and the output times of one patient into boundaries.

    With bioavailability F, scale s and lag L of the target: a bolus adds F s amount at time + L; an infusion over a
    duration D runs at F s amount / D; an infusion at rate R runs at s R for F amount / R.
    """
    regimen = aimed(model, regimen, states)
    declared = deliveries_of(model)
    deliveries = [declared.get(target, Delivery(str(target))) for target in regimen.targets]
    entries = [match(delivery.state, states, "state", "a state of the model") for delivery in deliveries]
    entry = jnp.asarray(entries, dtype=int)[regimen.index]
    scale, lag, bioavailability = (
        jnp.stack([getattr(delivery, name) for delivery in deliveries])[regimen.index]
        for name in ("scale", "lag", "bioavailability")
    )
    over, by_rate = regimen.kind == Action.INFUSION_OVER, regimen.kind == Action.INFUSION_RATE
    entering = bioavailability * scale * regimen.amount
    lasting = jnp.where(over, regimen.duration, bioavailability * regimen.amount / regimen.rate)
    rate = jnp.where(over, entering / regimen.duration, jnp.where(by_rate, scale * regimen.rate, 0.0))
    starts = regimen.time + lag
    stops = jnp.where(over | by_rate, starts + lasting, jnp.inf)
    jump = jnp.where(over | by_rate, 0.0, entering)

    rows, outputs = regimen.rows, ts.shape[0]
    last = jnp.max(jnp.where(jnp.isfinite(ts), ts, -jnp.inf))
    infused = (over | by_rate).astype(int)
    none, off = jnp.zeros((outputs,)), jnp.zeros((rows,))
    times, entered, jumps, rates, runs = [starts], [entry], [jump], [rate], [infused]
    if regimen.infuses:
        times, entered, jumps = [*times, stops], [*entered, entry], [*jumps, off]
        rates, runs = [*rates, -rate], [*runs, -infused]
    doses = jnp.concatenate(times)
    whole = Timeline(
        time=jnp.concatenate([jnp.where(doses > last + _slack(last), jnp.inf, doses), ts]),
        state=jnp.concatenate([*entered, jnp.zeros((outputs,), dtype=int)]),
        jump=jnp.concatenate([*jumps, none]),
        rate=jnp.concatenate([*rates, none]),
        running=jnp.concatenate([*runs, none.astype(int)]),
        output=jnp.concatenate([jnp.full((doses.size,), outputs), jnp.arange(outputs)]),
    )
    # a dose that rounding puts just after an output at the same time still comes before it
    early = whole.time - jnp.where(jnp.arange(whole.time.size) < doses.size, _slack(whole.time), 0.0)
    order = jnp.argsort(jax.lax.stop_gradient(early), stable=True)
    return jax.tree.map(lambda column: column[order], whole)


def _slack(time: jax.Array) -> jax.Array:
    return 1e-12 * jnp.abs(jnp.where(jnp.isfinite(time), time, 0.0))
