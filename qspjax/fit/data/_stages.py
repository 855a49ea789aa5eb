"""The simulation of all experiments of a fit as one cohort, stage after stage, from numbers of the table to outputs.

An experiment begins in its own state or in a steady state, and goes on in stages between changes; all experiments go
through their k-th stage together. The contents of a stage are data: arrays of indices into the table.
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
from qspjax.fit._weights import Blocks
from qspjax.fit.data._formula import NOW, Named, gathered, names_in, value_of
from qspjax.fit.data._formula_table import FormulaTable
from qspjax.fit.data._measurements import Change, Experiment, passed
from qspjax.fit.data._trigger_history import WithTriggerHistory, triggers
from qspjax.models.network import Network
from qspjax.solve import AbstractMethod
from qspjax.solve.dosing._schedule import dose_table, slack
from qspjax.solve.dosing._targets import with_targets

Result = TypeVar("Result")

NOT_PUT = -1
"""The index of a state or of a parameter that keeps its value."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """The k-th stage of all experiments.

    Attributes:
        start: The times at which it begins, shape (experiments,).
        ts: The times of its measurements, shape (experiments, times), padded with inf; where another stage follows,
            padded with its end instead, which is the last.
        order: The order of these among what happens at their times, None where each sees it all.
        sets: By name, indices in the table, or `NOT_PUT` after a value that was observed, shape (experiments,).
        puts: By name, indices in the table, or `NOT_PUT`.
        later: By experiment, formulas over values observed at its beginning: (is it a state, name, formula).
        regimen: The doses.
    """

    start: Float[np.ndarray, " experiments"]
    ts: Float[Array | np.ndarray, "experiments times"]
    order: Float[np.ndarray, "experiments times"] | None
    sets: Mapping[str, Int[np.ndarray, " experiments"]]
    puts: Mapping[str, Int[np.ndarray, " experiments"]]
    later: Mapping[int, Sequence[tuple[bool, str, Expression]]]
    regimen: Regimen


@dataclasses.dataclass(frozen=True)
class Equilibrated:
    """The conditions in whose steady states experiments begin: indices in the table, and the one of each experiment."""

    sets: Mapping[str, Int[np.ndarray, " conditions"]]
    puts: Mapping[str, Int[np.ndarray, " conditions"]]
    of: Int[np.ndarray, " experiments"]
    start: float


@dataclasses.dataclass(frozen=True)
class TimeVaryingParameter:
    """A parameter of the model that changes in steps within a stage.

    Attributes:
        at: The times of its changes, shape (experiments, changes), padded with inf.
        order: Their order among what happens at these times, of the same shape.
        formula: Its formula, over covariates and numbers of the table.
        places: By name, indices in the table, shape (experiments, 1) of numbers that do not change, else (experiments,
            changes + 1).
        covariates: Covariates by name, shape (experiments, changes + 1): at the beginning, and after each change.
    """

    at: Float[np.ndarray, "experiments changes"]
    order: Float[np.ndarray, "experiments changes"]
    formula: Expression
    places: Mapping[str, Int[np.ndarray, "experiments _"]]
    covariates: Mapping[str, Float[np.ndarray, "experiments steps"]]

    def values(self, numbers: Float[Array, " numbers"]) -> Float[Array, "experiments steps"]:
        """Return its value at the beginning and after each change."""
        values = {name: numbers[indices] for name, indices in self.places.items()}
        value = jnp.asarray(value_of(self.formula, {**values, **self.covariates}), float)
        return jnp.broadcast_to(value, (self.at.shape[0], self.at.shape[1] + 1))

    def rows(self, name: str, values: jax.Array) -> Regimen:
        """Return its changes as rows of a regimen."""
        kind = np.full(self.at.shape, Action.SET)
        return table((Parameter(name),), time=self.at, kind=kind, amount=values[:, 1:], order=self.order)


class Outcomes(NamedTuple):
    """The outcome of a simulation of all experiments: observed values of shape (experiments, times), and its result."""

    observed: dict[str, Real[Array, "experiments times"]]
    result: RESULTS
    time: Float[Array, " experiments"]


@dataclasses.dataclass(frozen=True)
class Stages:
    """All stages of all experiments.

    Attributes:
        model: The typical model.
        shared: By name, indices in the table of parameters that are the same in all experiments.
        stages: The stages.
        equilibrated: The steady states in which experiments begin.
        steady: Which experiments are measured in the steady state that they reach.
        parameters: The parameters of the fit.
        save: The names of the values that are observed.
        method: How to solve.
        varying: By name, parameters of the model that change within a stage; only where there is one stage.
        weights: The weights that are estimated, which come after the numbers of the table.
    """

    model: AbstractModel
    shared: Mapping[str, int]
    stages: tuple[Stage, ...]
    equilibrated: Equilibrated | None
    steady: Bool[np.ndarray, " experiments"]
    parameters: tuple[str, ...]
    save: tuple[str, ...]
    method: AbstractMethod | None
    varying: Mapping[str, TimeVaryingParameter]
    weights: Blocks

    def uses(self, table: FormulaTable) -> Bool[np.ndarray, "experiments numbers"]:
        """Return which experiment depends on which value of the table."""
        uses = np.zeros((len(self.stages[0].start), table.size), bool)
        uses[:, [*self.shared.values()]] = True

        def mark(rows: np.ndarray, indices: np.ndarray) -> None:
            uses[rows[indices >= 0], indices[indices >= 0]] = True

        for stage in self.stages:
            rows = np.arange(len(stage.start))
            for indices in (*stage.sets.values(), *stage.puts.values()):
                mark(rows, indices)
            for parameter in self.varying.values():
                for indices in parameter.places.values():
                    mark(np.repeat(rows, indices.shape[1]), indices.ravel())
            for row, formulas in stage.later.items():
                used = frozenset().union(*(names_in(formula) for _, _, formula in formulas))
                uses[row, [index for index, name in enumerate(table.parameters) if name in used]] = True
        if self.equilibrated is not None:
            for indices in (*self.equilibrated.sets.values(), *self.equilibrated.puts.values()):
                for row in np.flatnonzero(self.equilibrated.of >= 0):
                    mark(np.array([row]), indices[[self.equilibrated.of[row]]])
        return uses

    @property
    def times(self) -> Float[np.ndarray, "experiments times"]:
        """The times of what is observed, stage after stage, inf where there is none."""
        rest = [np.full((len(self.steady), 1), np.inf)] if self.steady.any() else []
        return np.concatenate([*(np.asarray(stage.ts) for stage in self.stages), *rest], axis=1)

    def until(self, times: Float[Array, " experiments"]) -> "Stages":
        """Return the same simulations, each only up to a time; before its start it costs nothing.

        Args:
            times: The time after which nothing of an experiment is needed, -inf where nothing is.
        """
        cut = [dataclasses.replace(s, ts=jnp.where(s.ts <= times[:, None], s.ts, jnp.inf)) for s in self.stages]
        return dataclasses.replace(self, stages=tuple(cut))

    def cohorts(self, numbers: Float[Array, " numbers"]) -> list[Cohort]:
        """Return the models of all experiments in each stage.

        Parameters that follow from observed values have those of the model, and those that change within a stage their
        first ones.

        Args:
            numbers: As for `simulate`.
        """
        model, sets, cohorts = self._with_shared(numbers), {}, []
        varying = {name: parameter.values(numbers)[:, 0] for name, parameter in self.varying.items()}
        for stage in self.stages:
            sets = _carried(sets, stage, numbers) | varying
            cohorts.append(Cohort.of(model, sets, size=len(stage.start)))
        return cohorts

    def _with_shared(self, numbers: Float[Array, " numbers"]) -> AbstractModel:
        """Return the model with the weights, and the parameters that are the same in all experiments."""
        model = self.weights.placed(self.model, numbers[numbers.size - self.weights.size :])
        shared = gathered(numbers, [np.array(index) for index in self.shared.values()])
        for name, value in zip(self.shared, shared, strict=True):
            model = at(model, name).set(value)
        return model

    def simulate(self, numbers: Float[Array, " numbers"]) -> Outcomes:
        """Simulate all experiments.

        Args:
            numbers: The values of the table, and the weights.
        """
        model = self._with_shared(numbers)
        functions = self.weights.callables(numbers[numbers.size - self.weights.size :])
        known = Named(self.parameters, numbers, functions)  # parameters come first
        cohort = states = result = None
        sets: dict[str, Array] = {}
        time = jnp.zeros(0)
        parts = []
        varying = {name: parameter.values(numbers) for name, parameter in self.varying.items()}
        for number, stage in enumerate(self.stages):
            last = number == len(self.stages) - 1
            sets = _carried(sets, stage, numbers) | {name: values[:, 0] for name, values in varying.items()}
            cohort, states, start_result, simulated = self._through(model, cohort, states, stage, numbers, known, sets)
            regimen = stage.regimen
            for name, values in varying.items():
                regimen = regimen + self.varying[name].rows(name, values)
            keep = self.save if last and not self.steady.any() else (*self.save, *state_names(model.initial()))
            solution = simulate_cohort(
                simulated,
                regimen,
                stage.ts,
                initial=states,
                t0=stage.start,
                order=stage.order,
                save=keep,
                method=self.method,
            )
            stage_result, last_time = solution.result, solution.stats["last_time"]
            for item, then in ((start_result, jnp.asarray(stage.start)), (stage_result, last_time)):
                if result is None:
                    result, time = item, then
                elif item is not None:
                    time = jnp.where(result == RESULTS.successful, then, time)
                    result = _first_failure(result, item)
            columns = {**columns_of(solution), **solution.observed}
            parts.append({name: columns[name] for name in self.save})
            if not last:
                states = _ended(solution.states, states, jnp.isfinite(stage.ts[:, -1]))
            elif self.steady.any():
                at_rest, rest_result = self._at_rest(cohort, states)
                parts.append(at_rest)
                result = rest_result if result is None else _first_failure(result, rest_result)
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
        sets: dict[str, Array],
    ) -> tuple[Cohort, State, RESULTS | None, Cohort]:
        """Return cohort and states after a change, the result of the initial steady state, and what to simulate.

        The values that follow from observed ones are added to `sets`.
        """
        puts = {name: (indices >= 0, numbers[np.maximum(indices, 0)]) for name, indices in stage.puts.items()}
        start_result, before, size = None, cohort, len(stage.start)
        if before is None:
            before = Cohort.of(model, sets, size=size)
            states, start_result = self._begin(model, before, numbers, stage)
        for (is_state, name), (rows, values) in _observed_changes(stage, before, states, known).items():
            if is_state:
                mask, old = puts.get(name, (np.zeros(size, bool), jnp.zeros(size)))
                puts[name] = mask | np.isin(np.arange(size), rows), old.at[rows].set(values)
            else:
                old = sets.get(name, jnp.broadcast_to(at(model, name).get(), (size,)))
                sets[name] = old.at[rows].set(values)
        after = Cohort.of(model, sets, size=size)
        if puts or (cohort is not None and isinstance(model, Network) and sets):
            old, states = states, _put_states(after, before, stage.start, states, puts)
        else:
            old = states
        if cohort is None or not declared(model).events():
            return after, states, start_result, after
        was_true = _mapped(
            before, lambda patient, t, y: triggers(patient, t, y), np.nextafter(stage.start, -np.inf), old
        )
        within = {f"model.{name}": values for name, values in sets.items()}
        return (
            after,
            states,
            start_result,
            Cohort.of(WithTriggerHistory(model, was_true[0]), {**within, "held": was_true}, size=size),
        )

    def _begin(
        self, model: AbstractModel, cohort: Cohort, numbers: Float[Array, " numbers"], stage: Stage
    ) -> tuple[State, RESULTS | None]:
        """Return the state in which each experiment begins, and the result of its steady state."""
        start = _initial(cohort)
        if self.equilibrated is None:
            return start, None
        conditions, of = self.equilibrated, self.equilibrated.of
        size = int(of.max()) + 1
        equilibrating = Cohort.of(
            model, {name: numbers[indices] for name, indices in conditions.sets.items()}, size=size
        )
        states = _initial(equilibrating)
        puts = {name: (indices >= 0, numbers[np.maximum(indices, 0)]) for name, indices in conditions.puts.items()}
        if puts:
            states = _put_states(equilibrating, None, np.full(size, conditions.start), states, puts)
        steady = _mapped(
            equilibrating,
            lambda patient, y: settled(patient, initial=y, t0=conditions.start, method=self.method),
            states,
        )
        rows = np.flatnonzero(of >= 0)
        initial = jax.tree.map(lambda leaf, new: leaf.at[rows].set(new[of[rows]]), start, steady.state)
        if isinstance(model, Network):
            initial = (
                _put_states(cohort, equilibrating.take(np.maximum(of, 0)), stage.start, initial, {})
                if (of >= 0).all()
                else initial
            )
        succeeded = jax.tree.map(lambda code: jnp.broadcast_to(code, of.shape), RESULTS.successful)
        return initial, jax.tree.map(lambda code, new: code.at[rows].set(new[of[rows]]), succeeded, steady.result)

    def _at_rest(self, cohort: Cohort, states: State) -> tuple[dict[str, Array], RESULTS]:
        """Return the values observed in the steady state that each experiment reaches, and its result."""
        start = self.stages[-1].start

        def observe_rest(model: AbstractModel, y: State, t: Array) -> tuple[RESULTS, dict[str, Array]]:
            steady = settled(model, initial=y, t0=t, method=self.method)
            flat = ravel_pytree(steady.state)[0]
            observed = {**dict(zip(state_names(y), flat, strict=True)), **observe(model, t, steady.state)}
            return steady.result, {name: observed[name] for name in self.save}

        result, observed = _mapped(cohort, observe_rest, states, jnp.asarray(start))
        waits = jnp.asarray(self.steady)
        result = jax.tree.map(lambda code, success: jnp.where(waits, code, success), result, RESULTS.successful)
        return {name: jnp.where(waits, value, jnp.nan)[:, None] for name, value in observed.items()}, result


def _observed_changes(
    stage: Stage, before: Cohort, states: State, known: Mapping[str, Array]
) -> dict[tuple[bool, str], tuple[np.ndarray, Array]]:
    """Return the changes that depend on observed values: by (is it a state, name), experiments and values."""
    changes: dict[tuple[bool, str], tuple[list[int], list[Array]]] = {}
    for row, formulas in stage.later.items():
        state = jax.tree.map(lambda leaf, row=row: leaf[row], states)
        model = before.patient(row)
        named = dict(zip(state_names(state), ravel_pytree(state)[0], strict=True))
        environment = {**named, **observe(model, stage.start[row], state), **known}
        for is_state, name, formula in formulas:
            others = names_in(formula) - environment.keys()
            environment |= {used: at(model, used.removesuffix(NOW)).get() for used in others}
            rows, values = changes.setdefault((is_state, name), ([], []))
            rows.append(row)
            values.append(jnp.asarray(value_of(formula, environment, stage.start[row]), float))
    return {key: (np.array(rows), jnp.stack(values)) for key, (rows, values) in changes.items()}


def _carried(sets: Mapping[str, Array], stage: Stage, numbers: Float[Array, " numbers"]) -> dict[str, Array]:
    """Return the parameters that a stage sets; one that followed from observed values keeps its value."""
    values = gathered(numbers, [np.maximum(indices, 0) for indices in stage.sets.values()])
    carried = dict(zip(stage.sets, values, strict=True))
    for name, indices in stage.sets.items():
        if name in sets:
            carried[name] = jnp.where(indices >= 0, carried[name], sets[name])
    return carried


def _mapped(cohort: Cohort, function: Callable[..., Result], *arguments: PyTree) -> Result:
    """Apply a function of a model, and of arguments with a leading axis, to each patient."""
    each, shared = eqx.partition(cohort.model, cohort.axes_mask())
    if not jax.tree.leaves(each) and not arguments:
        value = function(cohort.model)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (cohort.size, *jnp.shape(leaf))), value)
    return jax.vmap(lambda individual, *rest: function(eqx.combine(individual, shared), *rest))(each, *arguments)


def columns_of(solution: Solution) -> dict[str, jax.Array]:
    """Return the states of a cohort by name, each of shape (patients, times)."""
    leaves = [jnp.moveaxis(leaf.reshape(*leaf.shape[:2], -1), -1, 0) for leaf in jax.tree.leaves(solution.states)]
    columns = [column for leaf in leaves for column in leaf]
    return dict(zip(solution.labels.kept_states, columns, strict=True))


def _first_failure(result: RESULTS, following: RESULTS) -> RESULTS:
    """Return a result, and where it is successful the one that follows."""
    succeeded = result == RESULTS.successful
    return jax.tree.map(lambda code, after: jnp.where(succeeded, after, code), result, following)


def _initial(cohort: Cohort) -> State:
    return _mapped(cohort, lambda model: as_state(model, None))


def _ended(states: State, before: State, goes_on: Bool[Array, " experiments"]) -> State:
    """Return the states at the end of a stage; where there is no other stage, as they were before it."""

    def last(leaf: jax.Array, earlier: jax.Array) -> jax.Array:
        return jnp.where(goes_on.reshape(-1, *[1] * (earlier.ndim - 1)), leaf[:, -1], earlier)

    return jax.tree.map(last, states, before)


def _put_states(
    cohort: Cohort,
    before: Cohort | None,
    times: Float[np.ndarray, " experiments"],
    states: State,
    puts: Mapping[str, tuple[Array | np.ndarray, Array]],
) -> State:
    """Return states with new values of some of them, where the mask is true."""
    masks = {name: mask for name, (mask, _) in puts.items()}
    values = {name: value for name, (_, value) in puts.items()}
    earlier = cohort if before is None else before
    each, shared = eqx.partition(earlier.model, earlier.axes_mask())

    def put(
        model: AbstractModel,
        y: State,
        t: Array,
        mask: Mapping[str, Array],
        new: Mapping[str, Array],
        individual: AbstractModel,
    ) -> State:
        old = eqx.combine(individual, shared)
        if isinstance(model, Network) and isinstance(old, Network):
            observed = observe(old, t, y)
            replaced = {name: jnp.where(mask[name], new[name], observed[name]) for name in new}
            return model.placed(t, y, replaced, before=old)
        leaves, structure = jax.tree.flatten(y)
        for name, value in new.items():
            leaf, element = leaf_and_element(y, name)
            flat = jnp.ravel(leaves[leaf])
            flat = flat.at[element].set(jnp.where(mask[name], value, flat[element]))
            leaves[leaf] = flat.reshape(jnp.shape(leaves[leaf]))
        return jax.tree.unflatten(structure, leaves)

    return _mapped(cohort, put, states, jnp.asarray(times), masks, values, each)


def leaf_and_element(state: State, name: str) -> tuple[int, int]:
    """Return the leaf of a state to which a name refers, and the element of that leaf."""
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
    regimens = []
    for k in range(1 + max(map(len, cuts))):
        cut = []
        for experiment, start, changes in zip(experiments, starts, cuts, strict=True):
            regimen = experiment.regimen
            if changes:
                stage = passed(changes, np.asarray(regimen.time), np.asarray(regimen.order))
                first = changes[k - 1].at if 0 < k <= len(changes) else start
                time = jnp.where(stage == k, jnp.maximum(regimen.time, first), jnp.inf)
                regimen = eqx.tree_at(lambda r: r.time, regimen, time)
            elif k:
                regimen = eqx.tree_at(lambda r: r.time, regimen, jnp.full_like(regimen.time, jnp.inf))
            cut.append(regimen)
        regimens.append(cut[0] if len(cut) == 1 else stacked(cut))
    return regimens


def check_carried(model: AbstractModel, experiments: Sequence[Experiment]) -> None:
    """Check that no experiment has anything that is lost at a change: a stage hands on only the state.

    Raises:
        ValueError: If one has a delayed event, a parameter that an event or the regimen sets, or a delayed dose.
    """
    experiments = [experiment for experiment in experiments if experiment.changes]
    if not experiments:
        return
    if any(event.delay is not None for event in declared(model).events()):
        refuse("model", "have no delayed events where an experiment has changes", "one that has")
    start, echoes = as_state(model, None), declared(model).echoes()
    for name in assigned_parameters(model, start):
        must = "have no event that sets a parameter where an experiment has changes"
        refuse("model", must, f"one whose event sets `{name}`")
    for experiment in experiments:
        for name in (name for change in experiment.changes for name in (*change.set, *change.put)):
            if name in echoes.later or name in echoes.lengths:
                refuse("changes", "leave alone what the model has a delay of", f"one that sets `{name}`")
        for name in experiment.regimen.parameters:
            refuse("regimen", "set no parameter in an experiment with changes", f"one that sets `{name}`")
        targeted = with_targets(model, experiment.regimen, state_names(start))
        times, enters = np.asarray(targeted.time), np.asarray(dose_table(model, targeted).start)
        for change in experiment.changes:
            late = (times < change.at) & (enters > change.at + slack(jnp.asarray(change.at))) & np.isfinite(enters)
            if late.any():
                must = "have doses that enter, with their lag, before the next change of an experiment"
                case = f"one with a dose at {times[late][0]:g} that enters at {enters[late][0]:g}"
                refuse("regimen", must, f"{case}, after the change at {change.at:g}")


def doses_outlast_stages(model: AbstractModel, experiments: Sequence[Experiment]) -> bool:
    """Return whether a dose may enter after a later change, so that it belongs to no single stage."""
    doses = [
        experiment.regimen
        for experiment in experiments
        if experiment.changes and np.isfinite(np.asarray(experiment.regimen.time)).any()
    ]
    if any(regimen.static_shape.infuses or regimen.static_shape.steady or regimen.parameters for regimen in doses):
        return True
    shifted = jax.tree.map(lambda leaf: leaf + 1.0 if eqx.is_inexact_array(leaf) else leaf, model)  # a lag may be free
    lags = [delivery.lag for variant in (model, shifted) for delivery in declared(variant).deliveries().values()]
    return bool(doses) and any(bool(np.any(np.asarray(lag) != 0.0)) for lag in lags)


def begins(experiment: Experiment) -> float:
    """Return when an experiment begins."""
    if experiment.start is not None:
        return experiment.start
    doses = np.asarray(experiment.regimen.time)
    finite = experiment.measurements.time[np.isfinite(experiment.measurements.time)]
    return float(min(0.0, finite.min(initial=0.0), doses.min(initial=0.0)))


def parameters_of(model: AbstractModel) -> frozenset[str]:
    """Return the names of the parameters of a model and of the elements of those that are arrays."""
    parameters = set()
    for parameter in names(model):
        parameters.add(parameter.name)
        parameters |= (
            {f"{parameter.name}[{i}]" for i in range(np.size(parameter.value))} if np.ndim(parameter.value) else set()
        )
    return frozenset(parameters)
