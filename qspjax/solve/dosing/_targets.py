"""Which state each dose of a regimen goes to: by the name of a delivery, or by the name or the number of a state."""

from itertools import chain
from typing import NamedTuple

import jax
import numpy as np

from qspjax._arrays import namespace
from qspjax._checks import check_minimum, concrete, refuse
from qspjax._declared import assigned_parameters, declared, mass_of
from qspjax._dosing._regimen import Action, Echo, Level, Parameter, Regimen, Target, changed, name_of
from qspjax._model import AbstractModel
from qspjax._names import in_full, match, state_names
from qspjax._remembered import by_structure, traced
from qspjax.solve.dosing._varied import parameters_now


def with_targets(model: AbstractModel, regimen: Regimen, states: tuple[str, ...]) -> Regimen:
    """Return the regimen with all dose targets of the model as its targets, so that each of them shares a program.

    A target is a delivery by name, or a state by name or number; a state that has a delivery is dosed through it. The
    number 0 is the model's default: its first delivery, or else its first state. The parameters that the regimen, or an
    event of the model, changes come last. What goes to a state or a parameter whose past the model needs has additional
    rows for its echoes.

    Raises:
        ValueError: If the model has neither a delivery nor a state of that name, or no such parameter.
    """
    targets, indices, echoes, delayed = _aimed(model, regimen.targets, states)
    if delayed:
        _check_echoed(model, regimen)
    if regimen.targets == targets:
        return regimen
    xp = namespace(regimen.index)
    index = xp.asarray(indices, dtype=int)[xp.asarray(regimen.index)] if indices else regimen.index
    regimen = changed(regimen, index=index, targets=targets)
    return regimen.echoed(echoes) if any(echoes) else regimen


class _Aims(NamedTuple):
    """All dose targets of a model; which of them those of a regimen are; the echoes of each; whether any could be."""

    targets: tuple[Target, ...]
    indices: tuple[int, ...]
    echoes: tuple[tuple[int, ...], ...]
    delayed: bool


@by_structure
def _aimed(model: AbstractModel, wanted: tuple[Target, ...], states: tuple[str, ...]) -> _Aims:
    """Return what the targets of a regimen are in a model.

    Raises:
        ValueError: If the model has neither a delivery nor a state of that name, or no such parameter.
    """
    return traced(lambda model: _aims(model, wanted, states), model)


def _aims(model: AbstractModel, wanted: tuple[Target, ...], states: tuple[str, ...]) -> _Aims:
    deliveries, later = declared(model).deliveries(), declared(model).echoes().later
    past = {copy for copies in later.values() for copy in copies}
    now = tuple(name for name in states if name not in past)
    by_state = {in_full(delivery.state, states): name for name, delivery in deliveries.items()}
    doses = (*deliveries, *(name for name in now if name not in by_state and name not in deliveries))
    parameters = tuple(target.name for target in wanted if isinstance(target, Parameter))
    parameters_now(model, parameters)
    changing = [target for target in wanted if isinstance(target, Parameter) and target.name not in past]
    changing += [Parameter(name) for name in assigned_parameters(model, model.initial())]
    changing = [*dict.fromkeys(changing)]
    entered = {name: in_full(deliveries[name].state, states) if name in deliveries else name for name in doses}
    scaled = (target for target in wanted if isinstance(target, Level))
    levels = {level: Level(_state(model, level.name, now, "state", "a state of the model")) for level in scaled}
    echoes: dict[Target, tuple[Target, ...]] = {
        **{name: tuple(Echo(name, copy) for copy in later.get(entered[name], ())) for name in doses},
        **{target: tuple(Parameter(copy) for copy in later.get(target.name, ())) for target in changing},
    }
    of_doses, of_changing = (chain.from_iterable(echoes[target] for target in some) for some in (doses, changing))
    targets = (*doses, *of_doses, *dict.fromkeys(levels.values()), *changing, *of_changing)
    for name in past.intersection(parameters) if wanted != targets else ():
        refuse("name", "be a parameter of the model, not one of the past", name)

    def resolved(target: Target) -> Target:
        if isinstance(target, Parameter | Echo):
            return target
        return levels[target] if isinstance(target, Level) else _target(model, target, by_state, doses, now)

    indices = range(len(wanted)) if wanted == targets else [targets.index(resolved(target)) for target in wanted]
    echoed = (tuple(targets.index(echo) for echo in echoes.get(target, ())) for target in targets)
    return _Aims(targets, tuple(indices), tuple(echoed), bool(later))


def _check_echoed(model: AbstractModel, regimen: Regimen) -> None:
    """Check that a regimen can be echoed.

    Raises:
        ValueError: If it is not.
    """
    later, lengths = declared(model).echoes()
    for name in regimen.parameters:
        if name in lengths:
            refuse("name", "not be a parameter that the length of a delay depends on", name)
    for copies in later.values():
        for copy, length in copies.items():
            check_minimum(f"delay of {copy.partition('@')[0]}", length, 0.0)
    if regimen.static_shape.resets or regimen.static_shape.steady or regimen.decision is not None:
        refuse("regimen", "have no reset, no steady state and no rule for a model with delays", "one that has")
    if regimen.levels:
        refuse("regimen", "scale no state of a model with delays", f"one that scales `{name_of(regimen.levels[0])}`")


def check_modelled(model: AbstractModel, regimen: Regimen) -> None:
    """Check that the model declares the durations and rates that a regimen leaves to it, and can take its doses.

    Raises:
        ValueError: If it does not, or a dose is given to an algebraic state; the dose target is named.
    """
    kind, index, time = concrete(regimen.kind), concrete(regimen.index), concrete(regimen.time)
    deliveries, solved = _entries(model)
    if solved and kind is not None and index is not None and time is not None:
        kinds, indices, times = np.broadcast_arrays(kind, index, time)
        changes = (kinds != Action.RESET) & (kinds != Action.SET) & np.isfinite(times)
        for target in np.unique(indices[changes]):
            name = name_of(regimen.targets[target])
            if isinstance(regimen.targets[target], Level) and name in solved:
                refuse("regimen", "scale states that are not algebraic", f"one that scales `{name}`")
            if name in solved if name not in deliveries else deliveries[name].state in solved:
                refuse("regimen", "give doses to states that are not algebraic", f"one with a dose to `{name}`")
    for action, name in ((Action.INFUSION_MODEL_DURATION, "duration"), (Action.INFUSION_MODEL_RATE, "rate")):
        if kind is None or index is None or not (kind == action).any():
            continue
        for target in np.unique(np.broadcast_arrays(index, kind)[0][np.broadcast_arrays(kind, index)[0] == action]):
            dosed = regimen.targets[target]
            delivery = deliveries.get(dosed.target if isinstance(dosed, Echo) else str(dosed))
            if delivery is None or not getattr(delivery, name):
                must = f"have a delivery with a `{name}` for the target of an infusion that leaves it to the model"
                refuse("model", must, f"one that has none for `{dosed}`")


class _Entry(NamedTuple):
    """Where a delivery leads, and whether it has a duration and a rate."""

    state: str
    duration: bool
    rate: bool


@by_structure
def _entries(model: AbstractModel) -> tuple[dict[str, _Entry], frozenset[str]]:
    """Return the deliveries of a model by name, and its algebraic states."""

    def entries(model: AbstractModel) -> tuple[dict[str, _Entry], frozenset[str]]:
        states = state_names(model.initial())
        solved = (name for name, mass in zip(states, mass_of(model, states), strict=True) if mass == 0)
        deliveries = declared(model).deliveries()
        given = {
            name: _Entry(delivery.state, delivery.duration is not None, delivery.rate is not None)
            for name, delivery in deliveries.items()
        }
        return given, frozenset(solved)

    return traced(entries, model)


def _target(
    model: AbstractModel, target: str | int, by_state: dict[str, str], targets: tuple[str, ...], states: tuple[str, ...]
) -> str:
    if target == 0:
        return targets[0]
    if isinstance(target, int):
        name = _state(model, target, states, "to", "a dose target of the model")
    elif target in targets:
        return target
    else:
        candidates = tuple(dict.fromkeys((*targets, *by_state)))
        name = candidates[match(target, candidates, "to", "a dose target of the model")]
    return by_state.get(name, name)


def _state(model: AbstractModel, state: str | int, states: tuple[str, ...], argument: str, description: str) -> str:
    """Return the name of a state that is given by its name or number."""
    paths, _ = jax.tree_util.tree_flatten_with_path(model.initial())
    if isinstance(state, int) and any(isinstance(key, jax.tree_util.DictKey) for path, _ in paths for key in path):
        refuse(argument, "be a name for a model whose state is a dict, which has no order", state)
    return states[match(state, states, argument, description)]
