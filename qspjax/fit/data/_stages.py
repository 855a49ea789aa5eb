"""What the experiments of a fit need of a simulation, as one cohort: stage after stage, from pooled numbers to outputs.

An experiment begins in its own state or in a steady state, and goes on in stages between changes; all experiments go
through their k-th stage together. Which stage has what is data: tables of places in the table.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree, Real

from qspjax._checks import refuse
from qspjax._cohort import Cohort
from qspjax._declared import assigned_parameters, declared
from qspjax._dosing._regimen import Action, Parameter, Regimen, stacked, table
from qspjax._expression import Expression
from qspjax._model import AbstractModel, as_state, observe
from qspjax._names import at, leaf_names, match, names, state_names
from qspjax._simulate import simulate_cohort
from qspjax._solution import RESULTS, Solution
from qspjax._types import State
from qspjax.equilibrium._steady_state import settled
from qspjax.fit.data._formula import names_in, value_of
from qspjax.fit.data._formula_table import FormulaTable
from qspjax.fit.data._measurements import Change, Experiment, passed
from qspjax.fit.data._trigger_history import WithTriggerHistory, triggers
from qspjax.models.network import Network
from qspjax.solve import AbstractMethod
from qspjax.solve.dosing._schedule import dose_table, slack, with_targets

Result = TypeVar("Result")

NOT_PUT = -1
"""The place of a state that begins where it is."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """The k-th stage of all experiments.

    Attributes:
        start: When it begins, shape (experiments,).
        ts: The times of its measurements, shape (experiments, times), padded with inf; where another stage follows,
            padded with its end instead, and that is the last.
        order: What orders these among what happens at their times, None where each sees all of it.
        sets: By name, places in the table, shape (experiments,).
        puts: By name, places in the table, or `NOT_PUT`.
        later: By experiment, formulas over what is observed at its beginning: (is it a state, name, formula).
        regimen: The doses.
    """

    start: Float[np.ndarray, " experiments"]
    ts: Float[np.ndarray, "experiments times"]
    order: Float[np.ndarray, "experiments times"] | None
    sets: Mapping[str, Int[np.ndarray, " experiments"]]
    puts: Mapping[str, Int[np.ndarray, " experiments"]]
    later: Mapping[int, Sequence[tuple[bool, str, Expression]]]
    regimen: Regimen


@dataclasses.dataclass(frozen=True)
class Equilibrated:
    """The conditions whose steady states experiments begin in: places in the table, and which experiment has which."""

    sets: Mapping[str, Int[np.ndarray, " conditions"]]
    puts: Mapping[str, Int[np.ndarray, " conditions"]]
    of: Int[np.ndarray, " experiments"]
    start: float


@dataclasses.dataclass(frozen=True)
class TimeVaryingParameter:
    """A parameter of the model that changes in steps within a stage.

    Attributes:
        at: When, shape (experiments, changes), padded with inf.
        order: Its places among what happens at these times, of the same shape.
        formula: Its formula, over covariates and numbers of the table.
        places: By name, places in the table, shape (experiments, 1) of what does not change, else (experiments,
            changes + 1).
        covariates: By name, shape (experiments, changes + 1): at the beginning, and after each change.
    """

    at: Float[np.ndarray, "experiments changes"]
    order: Float[np.ndarray, "experiments changes"]
    formula: Expression
    places: Mapping[str, Int[np.ndarray, "experiments _"]]
    covariates: Mapping[str, Float[np.ndarray, "experiments steps"]]

    def values(self, numbers: Float[Array, " numbers"]) -> Float[Array, "experiments steps"]:
        """Return its value at the beginning and after each change."""
        own = {name: numbers[places] for name, places in self.places.items()}
        value = jnp.asarray(value_of(self.formula, {**own, **self.covariates}), float)
        return jnp.broadcast_to(value, (self.at.shape[0], self.at.shape[1] + 1))

    def rows(self, name: str, values: jax.Array) -> Regimen:
        """Return its changes as rows of a regimen."""
        kind = np.full(self.at.shape, Action.SET)
        return table((Parameter(name),), time=self.at, kind=kind, amount=values[:, 1:], order=self.order)


class Outcomes(NamedTuple):
    """What a simulation of all experiments gives: observed values of shape (experiments, times), and how it went."""

    observed: dict[str, Real[Array, "experiments times"]]
    result: RESULTS
    time: Float[Array, " experiments"]


@dataclasses.dataclass(frozen=True)
class Stages:
    """All stages of all experiments.

    Attributes:
        model: The typical model.
        shared: By name, places in the table of parameters that are the same in all experiments.
        stages: The stages.
        equilibrated: The steady states that experiments begin in.
        steady: Which experiments are measured in the steady state that they come to.
        parameters: The parameters of the fit.
        save: What is observed.
        method: How to solve.
        varying: By name, parameters of the model that change within a stage; only where there is one stage.
    """

    model: AbstractModel
    shared: Mapping[str, int]
    stages: tuple[Stage, ...]
    equilibrated: Equilibrated | None
    steady: Bool[np.ndarray, " experiments"]
    parameters: tuple[str, ...]
    save: tuple[str, ...]
    method: AbstractMethod | None
    varying: Mapping[str, TimeVaryingParameter] = dataclasses.field(default_factory=dict)

    def uses(self, table: FormulaTable) -> Bool[np.ndarray, "experiments numbers"]:
        """Return which experiment depends on which value of the table."""
        found = np.zeros((len(self.stages[0].start), table.size), bool)
        found[:, [*self.shared.values()]] = True

        def mark(rows: np.ndarray, places: np.ndarray) -> None:
            found[rows[places >= 0], places[places >= 0]] = True

        for stage in self.stages:
            rows = np.arange(len(stage.start))
            for places in (*stage.sets.values(), *stage.puts.values()):
                mark(rows, places)
            for one in self.varying.values():
                for places in one.places.values():
                    mark(np.repeat(rows, places.shape[1]), places.ravel())
            for row, formulas in stage.later.items():
                used = frozenset().union(*(names_in(formula) for _, _, formula in formulas))
                found[row, [place for place, name in enumerate(table.parameters) if name in used]] = True
        if self.equilibrated is not None:
            for places in (*self.equilibrated.sets.values(), *self.equilibrated.puts.values()):
                for row in np.flatnonzero(self.equilibrated.of >= 0):
                    mark(np.array([row]), places[[self.equilibrated.of[row]]])
        return found

    def simulate(self, numbers: Float[Array, " numbers"]) -> Outcomes:
        """Simulate all experiments.

        Args:
            numbers: The values of the table.
        """
        model = self.model
        known = dict(zip(self.parameters, numbers, strict=False))  # they come first
        for name, place in self.shared.items():
            model = at(model, name).set(numbers[place])
        cohort = states = result = None
        time = jnp.zeros(0)
        parts = []
        varying = {name: one.values(numbers) for name, one in self.varying.items()}
        for number, stage in enumerate(self.stages):
            last = number == len(self.stages) - 1
            cohort, states, began, going = self._through(model, cohort, states, stage, numbers, known, varying)
            regimen = stage.regimen
            for name, values in varying.items():
                regimen = regimen + self.varying[name].rows(name, values)
            keep = self.save if last and not self.steady.any() else (*self.save, *state_names(model.initial()))
            solution = simulate_cohort(
                going,
                regimen,
                stage.ts,
                initial=states,
                t0=stage.start,
                order=stage.order,
                save=keep,
                method=self.method,
            )
            own, when = solution.result, solution.stats["last_time"]
            for item, then in ((began, jnp.asarray(stage.start)), (own, when)):
                if result is None:
                    result, time = item, then
                elif item is not None:
                    time = jnp.where(result == RESULTS.successful, then, time)
                    result = _first_failure(result, item)
            seen = {**_columns(solution), **solution.observed}
            parts.append({name: seen[name] for name in self.save})
            if not last:
                states = _ended(solution.states, states, np.isfinite(stage.ts[:, -1]))
            elif self.steady.any():
                at_rest, rested = self._at_rest(cohort, states)
                parts.append(at_rest)
                result = rested if result is None else _first_failure(result, rested)
        observed = {name: jnp.concatenate([part[name] for part in parts], axis=1) for name in self.save}
        assert result is not None
        return Outcomes(observed, result, time)

    def _through(
        self,
        model: AbstractModel,
        cohort: Cohort | None,
        states: State,
        stage: Stage,
        numbers: Float[Array, " numbers"],
        known: Mapping,
        varying: Mapping[str, jax.Array],
    ) -> tuple[Cohort, State, RESULTS | None, Cohort]:
        """Return cohort and states after a change, how a steady state to begin in was found, and what to simulate."""
        sets = {name: numbers[places] for name, places in stage.sets.items()}
        sets |= {name: values[:, 0] for name, values in varying.items()}
        puts = {name: (places >= 0, numbers[np.maximum(places, 0)]) for name, places in stage.puts.items()}
        began, before, size = None, cohort, len(stage.start)
        if before is None:
            before = Cohort.of(model, sets, size=size)
            states, began = self._begin(model, before, numbers, stage)
        for (is_state, name), (rows, values) in _observed_changes(stage, before, states, known).items():
            if is_state:
                mask, old = puts.get(name, (np.zeros(size, bool), jnp.zeros(size)))
                puts[name] = mask | np.isin(np.arange(size), rows), old.at[rows].set(values)
            else:
                old = sets.get(name, jnp.broadcast_to(at(model, name).get(), (size,)))
                sets[name] = old.at[rows].set(values)
        after = Cohort.of(model, sets, size=size)
        if puts or (cohort is not None and isinstance(model, Network) and sets):
            old, states = states, _placed(after, before, stage.start, states, puts)
        else:
            old = states
        if cohort is None or not declared(model).events():
            return after, states, began, after
        held = _mapped(before, lambda one, t, y: triggers(one, t, y), np.nextafter(stage.start, -np.inf), old)
        within = {f"model.{name}": values for name, values in sets.items()}
        return after, states, began, Cohort.of(WithTriggerHistory(model, held[0]), {**within, "held": held}, size=size)

    def _begin(
        self, model: AbstractModel, cohort: Cohort, numbers: Float[Array, " numbers"], stage: Stage
    ) -> tuple[State, RESULTS | None]:
        """Return the state in which each experiment begins, and how its steady state was found."""
        start = _initial(cohort)
        if self.equilibrated is None:
            return start, None
        conditions, of = self.equilibrated, self.equilibrated.of
        size = int(of.max()) + 1
        own = Cohort.of(model, {name: numbers[places] for name, places in conditions.sets.items()}, size=size)
        states = _initial(own)
        puts = {name: (places >= 0, numbers[np.maximum(places, 0)]) for name, places in conditions.puts.items()}
        if puts:
            states = _placed(own, None, np.full(size, conditions.start), states, puts)
        found = _mapped(own, lambda one, y: settled(one, initial=y, t0=conditions.start, method=self.method), states)
        rows = np.flatnonzero(of >= 0)
        moved = jax.tree.map(lambda mine, rest: mine.at[rows].set(rest[of[rows]]), start, found.state)
        if isinstance(model, Network):
            moved = _placed(cohort, own.take(np.maximum(of, 0)), stage.start, moved, {}) if (of >= 0).all() else moved
        fine = jax.tree.map(lambda code: jnp.broadcast_to(code, of.shape), RESULTS.successful)
        return moved, jax.tree.map(lambda mine, own: mine.at[rows].set(own[of[rows]]), fine, found.result)

    def _at_rest(self, cohort: Cohort, states: State) -> tuple[dict[str, Array], RESULTS]:
        """Return what is observed in the steady state that each experiment comes to, and how it was found."""
        start = self.stages[-1].start

        def one(model: AbstractModel, y: State, t: Array) -> tuple[RESULTS, dict[str, Array]]:
            found = settled(model, initial=y, t0=t, method=self.method)
            flat = ravel_pytree(found.state)[0]
            seen = {**dict(zip(state_names(y), flat, strict=True)), **observe(model, t, found.state)}
            return found.result, {name: seen[name] for name in self.save}

        result, seen = _mapped(cohort, one, states, jnp.asarray(start))
        waits = jnp.asarray(self.steady)
        result = jax.tree.map(lambda code, fine: jnp.where(waits, code, fine), result, RESULTS.successful)
        return {name: jnp.where(waits, value, jnp.nan)[:, None] for name, value in seen.items()}, result


def _observed_changes(
    stage: Stage, before: Cohort, states: State, known: Mapping[str, Array]
) -> dict[tuple[bool, str], tuple[np.ndarray, Array]]:
    """Return the changes that depend on what is observed: by (is it a state, name), experiments and values."""
    found: dict[tuple[bool, str], tuple[list[int], list[Array]]] = {}
    for row, formulas in stage.later.items():
        state = jax.tree.map(lambda leaf, row=row: leaf[row], states)
        model = before.patient(row)
        named = dict(zip(state_names(state), ravel_pytree(state)[0], strict=True))
        seen = {**named, **observe(model, stage.start[row], state), **known}
        for is_state, name, formula in formulas:
            rows, values = found.setdefault((is_state, name), ([], []))
            rows.append(row)
            values.append(jnp.asarray(value_of(formula, seen, stage.start[row]), float))
    return {key: (np.array(rows), jnp.stack(values)) for key, (rows, values) in found.items()}


def _mapped(cohort: Cohort, function: Callable[..., Result], *arguments: PyTree) -> Result:
    """Apply a function of a model, and of arguments with a leading axis, to each patient."""
    each, shared = eqx.partition(cohort.model, cohort.axes_mask())
    if not jax.tree.leaves(each) and not arguments:
        one = function(cohort.model)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (cohort.size, *jnp.shape(leaf))), one)
    return jax.vmap(lambda own, *rest: function(eqx.combine(own, shared), *rest))(each, *arguments)


def _columns(solution: Solution) -> dict[str, jax.Array]:
    """Return the states of a cohort by name, each of shape (patients, times)."""
    leaves = [jnp.moveaxis(leaf.reshape(*leaf.shape[:2], -1), -1, 0) for leaf in jax.tree.leaves(solution.states)]
    columns = [column for leaf in leaves for column in leaf]
    return dict(zip(solution.labels.kept_states, columns, strict=True))


def _first_failure(result: RESULTS, following: RESULTS) -> RESULTS:
    """Return how something went, and where it went well how the next went."""
    fine = result == RESULTS.successful
    return jax.tree.map(lambda code, after: jnp.where(fine, after, code), result, following)


def _initial(cohort: Cohort) -> State:
    return _mapped(cohort, lambda model: as_state(model, None))


def _ended(states: State, before: State, goes_on: Bool[np.ndarray, " experiments"]) -> State:
    """Return the states at the end of a stage; where there is no other stage, as they were before it."""

    def last(leaf: jax.Array, own: jax.Array) -> jax.Array:
        return jnp.where(goes_on.reshape(-1, *[1] * (own.ndim - 1)), leaf[:, -1], own)

    return jax.tree.map(last, states, before)


def _placed(
    cohort: Cohort,
    before: Cohort | None,
    times: Float[np.ndarray, " experiments"],
    states: State,
    puts: Mapping[str, tuple[Array | np.ndarray, Array]],
) -> State:
    """Return states in which some have new values, where the mask says so."""
    wanted = {name: mask for name, (mask, _) in puts.items()}
    values = {name: value for name, (_, value) in puts.items()}
    earlier = cohort if before is None else before
    each, shared = eqx.partition(earlier.model, earlier.axes_mask())

    def one(
        model: AbstractModel,
        y: State,
        t: Array,
        mask: Mapping[str, Array],
        new: Mapping[str, Array],
        own: AbstractModel,
    ) -> State:
        old = eqx.combine(own, shared)
        if isinstance(model, Network) and isinstance(old, Network):
            seen = observe(old, t, y)
            given = {name: jnp.where(mask[name], new[name], seen[name]) for name in new}
            return model.placed(t, y, given, before=old)
        leaves, structure = jax.tree.flatten(y)
        for name, value in new.items():
            leaf, element = place_of(y, name)
            flat = jnp.ravel(leaves[leaf])
            flat = flat.at[element].set(jnp.where(mask[name], value, flat[element]))
            leaves[leaf] = flat.reshape(jnp.shape(leaves[leaf]))
        return jax.tree.unflatten(structure, leaves)

    return _mapped(cohort, one, states, jnp.asarray(times), wanted, values, each)


def place_of(state: State, name: str) -> tuple[int, int]:
    """Return the leaf of a state that a name means, and the element of it."""
    flat = match(name, state_names(state), "put", "a state of the model")
    for leaf, elements in enumerate(leaf_names(state)):
        if flat < len(elements):
            return leaf, flat
        flat -= len(elements)
    raise AssertionError("unreachable")


def windows(
    experiments: Sequence[Experiment], starts: Sequence[float], cuts: Sequence[Sequence[Change]]
) -> list[Regimen]:
    """Return the doses of each stage: those between its start and the change that ends it."""
    found = []
    for k in range(1 + max(map(len, cuts))):
        cut = []
        for one, start, changes in zip(experiments, starts, cuts, strict=True):
            regimen = one.regimen
            if changes:
                stage = passed(changes, np.asarray(regimen.time), np.asarray(regimen.order))
                first = changes[k - 1].at if 0 < k <= len(changes) else start
                time = jnp.where(stage == k, jnp.maximum(regimen.time, first), jnp.inf)
                regimen = eqx.tree_at(lambda r: r.time, regimen, time)
            elif k:
                regimen = eqx.tree_at(lambda r: r.time, regimen, jnp.full_like(regimen.time, jnp.inf))
            cut.append(regimen)
        found.append(cut[0] if len(cut) == 1 else stacked(cut))
    return found


def check_carried(model: AbstractModel, experiments: Sequence[Experiment]) -> None:
    """Check that no experiment has anything that a change in it would forget: a stage hands on the state alone.

    Raises:
        ValueError: If one has: a delayed event, a parameter that an event or the regimen sets, or a dose on its way.
    """
    experiments = [one for one in experiments if one.changes]
    if not experiments:
        return
    if any(event.delay is not None for event in declared(model).events()):
        refuse("model", "have no delayed events where an experiment has changes", "one that has")
    start, echoes = as_state(model, None), declared(model).echoes()
    for name in assigned_parameters(model, start):
        must = "have no event that sets a parameter where an experiment has changes"
        refuse("model", must, f"one whose event sets `{name}`")
    for one in experiments:
        for name in (name for change in one.changes for name in (*change.set, *change.put)):
            if name in echoes.later or name in echoes.lengths:
                refuse("changes", "leave alone what the model has a delay of", f"one that sets `{name}`")
        for name in one.regimen.parameters:
            refuse("regimen", "set no parameter in an experiment with changes", f"one that sets `{name}`")
        aim = with_targets(model, one.regimen, state_names(start))
        given, enters = np.asarray(aim.time), np.asarray(dose_table(model, aim).start)
        for change in one.changes:
            late = (given < change.at) & (enters > change.at + slack(jnp.asarray(change.at))) & np.isfinite(enters)
            if late.any():
                must = "have doses that enter, with their lag, before the next change of an experiment"
                found = f"one with a dose at {given[late][0]:g} that enters at {enters[late][0]:g}"
                refuse("regimen", must, f"{found}, after the change at {change.at:g}")


def lasting(model: AbstractModel, experiments: Sequence[Experiment]) -> bool:
    """Return whether a dose may enter after a change that comes after it, so that no stage has it for itself."""
    doses = [one.regimen for one in experiments if one.changes and np.isfinite(np.asarray(one.regimen.time)).any()]
    if any(regimen.static_shape.infuses or regimen.static_shape.steady or regimen.parameters for regimen in doses):
        return True
    moved = jax.tree.map(lambda leaf: leaf + 1.0 if eqx.is_inexact_array(leaf) else leaf, model)  # a lag may be free
    lags = [one.lag for own in (model, moved) for one in declared(own).deliveries().values()]
    return bool(doses) and any(bool(np.any(np.asarray(lag) != 0.0)) for lag in lags)


def begins(experiment: Experiment) -> float:
    """Return when an experiment begins."""
    if experiment.start is not None:
        return experiment.start
    doses = np.asarray(experiment.regimen.time)
    finite = experiment.measurements.time[np.isfinite(experiment.measurements.time)]
    return float(min(0.0, finite.min(initial=0.0), doses.min(initial=0.0)))


def parameters_of(model: AbstractModel) -> frozenset[str]:
    """Return the names of the parameters of a model, elements of arrays as well."""
    found = set()
    for one in names(model):
        found.add(one.name)
        found |= {f"{one.name}[{i}]" for i in range(np.size(one.value))} if np.ndim(one.value) else set()
    return frozenset(found)
