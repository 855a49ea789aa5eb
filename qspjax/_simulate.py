"""Simulate one patient or a cohort: the only place where models, methods and executors meet."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from qspjax._arrays import device_floats, floats
from qspjax._baseline import Baselines
from qspjax._checks import (
    check_finite,
    check_increasing,
    check_instance,
    check_number,
    concrete,
    described,
    refuse,
)
from qspjax._cohort import Cohort
from qspjax._declared import declared
from qspjax._dosing._regimen import Regimen, check_regimen
from qspjax._interventions import interventions_of, without_record
from qspjax._lost import lost
from qspjax._made import made
from qspjax._model import AbstractModel, as_state, check_one_patient, observe, state_shape
from qspjax._names import state_names
from qspjax._programs import BRIEFLY, program
from qspjax._remembered import by_structure, reading_once, traced
from qspjax._solution import RESULTS, Labels, Outcome, Save, Solution
from qspjax._tables import ParameterTable
from qspjax._traced import in_the_users_words
from qspjax._types import ArrayInput, Scalar, State
from qspjax.execute import AbstractExecutor, Vmap
from qspjax.execute._executor import AbstractGathering
from qspjax.execute._sketch import AbstractSketch
from qspjax.models import Network
from qspjax.solve import AbstractMethod, MatrixExponential, Rosenbrock
from qspjax.solve._linear import is_linear
from qspjax.solve._posed import Packed, Posed, where
from qspjax.solve.dosing._schedule import SPARE, earlier_doses, schedule_of
from qspjax.solve.dosing._steady import steady_state
from qspjax.solve.dosing._targets import check_modelled, with_targets
from qspjax.solve.dosing._varied import Varied


@in_the_users_words()
@reading_once
def simulate(
    model: AbstractModel,
    regimen: Regimen,
    ts: ArrayInput,
    *,
    initial: State | None = None,
    t0: Scalar | None = None,
    order: ArrayInput | None = None,
    save: Sequence[str] | None = None,
    method: AbstractMethod | None = None,
    throw: bool = True,
) -> Solution:
    """Simulate one patient.

    $$ dy/dt = f(t, y) + \\text{infusions}, \\quad y(t_k^+) = y(t_k^-) + \\text{dose}_k $$

    A step ends exactly at every dose, end of an infusion and output. At a time that equals a dose time the state after
    the dose is reported. Between these times the steps are as long as the error allows, so where your own vector field
    has a short pulse in time, put an output into the pulse.

    The result can be differentiated, in forward and reverse mode, with respect to everything that is an array:
    parameters, doses, times, initial state. At an output that coincides with a dose the derivative with respect to the
    dose's time is one-sided: the dose stays before the output.

    Args:
        model: The patient.
        regimen: The doses; `no_doses()` for none.
        ts: Times to report, shape (times,), not decreasing; trailing inf is padding.
        initial: The state at `t0`, in the model's own structure; by default `model.initial()`.
        t0: Where to start; by default the smallest of 0, the first dose time and the first of `ts`.
        order: What happens first at equal times, shape (times,): an output sees the doses of its own time whose
            `regimen.order` is not greater. By default it sees them all; a data set gives the numbers of its records.
        save: Names of observed values and states to keep; by default all.
        method: How to solve; by default `MatrixExponential()` for a linear model, and `Rosenbrock()` for every other.
        throw: Raise an error if the solve fails; otherwise read `solution.result`.

    Returns:
        A `Solution` with `observed[name]` of shape (times,).

    Raises:
        ValueError: If a dose target, a name or a time is wrong.
        RuntimeError: If the solve fails and `throw` is true (inside `jit`, jax's own error with the same message).

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2)
        >>> solution = qsp.simulate(patient, qsp.bolus(200.0, to="depot"), [0.0, 2.0, 24.0])
        >>> solution.observed["concentration"].round(3)
        Array([0.   , 5.295, 0.66 ], dtype=float64)
    """
    check_instance("model", model, AbstractModel, "a model (an instance of AbstractModel)")
    interventions, model = interventions_of(model), without_record(model)
    ts = _times(ts, ndim=1)
    initial = None if initial is None else as_state(model, initial)
    regimen = _check(model, regimen, ts, t0, goes_on=initial is not None)
    method = _method(method, model, regimen)
    if regimen.rules:
        raise ValueError(
            "Argument `regimen` must have amounts that are numbers, but some depend on covariates: "
            "call regimen.prescribe({'WT': 70.0, ...}) first."
        )
    if any(leaf.ndim > 1 for leaf in jax.tree.leaves(regimen)):
        must = "be that of one patient (for several doses use `.every(24.0, doses=2)`, or add them with `+`)"
        refuse("regimen", must, "one with a row for each of several patients")
    if regimen.static_shape.steady:
        regimen = _with_earlier(regimen, _earlier_doses(model, regimen))
    patient, labels = _prepare(model, save, None, method)
    start = None if t0 is None else device_floats(t0)
    outcome, source = _jitted(patient, model, regimen, ts, initial, _order(order, ts), start)
    solution = Solution.of(ts, outcome, labels, source, interventions)
    return _raise_if_failed(solution, model) if throw else solution


@in_the_users_words()
def simulate_cohort(
    cohort: Cohort,
    regimen: Regimen,
    ts: ArrayInput,
    *,
    initial: State | Baselines | None = None,
    t0: Scalar | None = None,
    order: ArrayInput | None = None,
    save: Sequence[str] | None = None,
    reduce: Callable[[Solution], PyTree] | None = None,
    method: AbstractMethod | None = None,
    executor: AbstractExecutor | None = None,
) -> Solution:
    """Simulate all patients of a cohort; a patient that fails is reported and changes nothing for the others.

    Args:
        cohort: The patients. Amounts that depend on covariates are evaluated for each of them.
        regimen: The doses, the same for all patients or with columns of shape (patients, rows).
        ts: Times to report, shape (times,) or (patients, times), not decreasing; trailing inf is padding.
        initial: State at `t0`; each leaf as in one patient, or with a leading axis of patients. Or the result of
            `population.baselines`: patients without one fail for the reason that it gives.
        t0: Where to start, one time or one per patient; by default the smallest of 0, the first dose time and the first
            of `ts` of each patient.
        order: What happens first at equal times, of the shape of `ts`; see `simulate`.
        save: Names of observed values and states to keep; by default all. `save=()` keeps no trajectories.
        reduce: A function of one patient's `Solution` (with everything in it), whose results are kept as `reduced`; or
            of these results, `execute.Quantiles` or an `execute.Histogram`.
        method: How to solve; by default the same as for one patient.
        executor: Where to compute; by default `Vmap()`, all at once. `Chunked(1024)` bounds the memory,
            `Stored(folder)` keeps chunks on disk, `Dask(client)` computes them on a cluster.

    Returns:
        A `Solution` with `observed[name]` of shape (patients, times), and `result`, `stats` and `failures()`.

    Raises:
        ValueError: If a dose target, a covariate, a name or a time is wrong.

    Example:
        >>> import jax, qspjax as qsp
        >>> typical = qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2)
        >>> population = qsp.Population(typical, between={"CL": qsp.LogNormal(cv=0.3)})
        >>> cohort = population.sample(key=jax.random.key(0), size=100)
        >>> solution = qsp.simulate_cohort(cohort, qsp.bolus(200.0, to="depot"), [0.0, 2.0, 24.0])
        >>> solution.observed["concentration"].shape, int(solution.failed.sum())
        ((100, 3), 0)
    """
    check_instance("cohort", cohort, Cohort, "a cohort (`Population.sample` draws one, `Cohort.of` makes one)")
    if reduce is not None and not callable(reduce):
        refuse("reduce", "be a function of one patient's solution, such as `qsp.endpoints.Cmax(...)`", reduce)
    executor = Vmap() if executor is None else executor
    check_instance("executor", executor, AbstractExecutor, "an executor such as Vmap() or Chunked(1024)")
    ts = _times(ts, ndim=None)
    interventions = cohort.interventions()
    cohort = cohort.unrecorded()
    first_patient = cohort.patient(0)
    regimen = _check(first_patient, regimen, ts, t0, goes_on=initial is not None).prescribe(cohort.covariates)
    method = _method(method, first_patient, regimen)
    causes = None
    if isinstance(initial, Baselines):
        initial, causes = initial.state, (initial.result, initial.stats["culprit"])
    initial = None if initial is None else as_state(first_patient, initial, batched=True)
    patient, labels = _prepare(first_patient, save, reduce, method)

    models = eqx.partition(cohort.model, cohort.axes_mask())
    regimens = _split(regimen, regimen.ndims(), "regimen", cohort.size)
    if regimen.static_shape.steady:
        regimen = _with_earlier(regimen, _earlier_doses_of_all(models, regimens))
        regimens = _split(regimen, regimen.ndims(), "regimen", cohort.size)
    parts = [
        models,
        regimens,
        _split(ts, 1, "ts", cohort.size),
        _split(initial, jax.tree.map(lambda leaf: leaf.ndim, _about(first_patient).start), "initial", cohort.size),
        _split(_order(order, ts), 1, "order", cohort.size),
        _split(t0, 0, "t0", cohort.size),
        _split(causes, jax.tree.map(lambda _: 0, causes), "initial", cohort.size),
    ]
    each, shared = zip(*parts, strict=True)
    note = "" if interventions is None else str(interventions)
    outcome = executor.map(_PatientFromParts(patient), each, shared, size=cohort.size, note=note)
    return Solution(ts, *outcome, labels=labels, interventions=interventions)


def default_method(model: AbstractModel, regimen: Regimen | None = None) -> AbstractMethod:
    """Return the method used where none is given: the one rule, for one patient and for many.

    A model that is linear with constant coefficients is solved exactly; every other by Rodas5P in the ensemble kernel,
    including one whose parameters the regimen changes, or that has events.
    """
    constant = (regimen is None or not regimen.parameters) and not _about(model).eventful
    return _default(constant and is_linear(model))


@functools.cache
def _default(linear: bool) -> AbstractMethod:
    return MatrixExponential() if linear else Rosenbrock()


class _Patient(eqx.Module):
    """Solve one patient and save what is requested; everything static about a call, so that jit can compare it."""

    method: AbstractMethod
    save: Save = eqx.field(static=True)
    reduce: Callable[[Solution], PyTree] | None
    labels: Labels = eqx.field(static=True)

    def __call__(
        self,
        model: AbstractModel,
        regimen: Regimen,
        ts: jax.Array,
        initial: State | None,
        order: jax.Array | None,
        t0: Scalar | None,
    ) -> Outcome:
        return self.with_source(model, regimen, ts, initial, order, t0)[0]

    def with_source(
        self,
        model: AbstractModel,
        regimen: Regimen,
        ts: jax.Array,
        initial: State | None,
        order: jax.Array | None,
        t0: Scalar | None,
    ) -> tuple[Outcome, Packed | None]:
        """Return the outcome, and what it takes to solve again."""
        sources = jax.tree.map(jnp.asarray, eqx.filter((model, regimen, ts, initial, t0), eqx.is_inexact_array))
        if t0 is None:
            t0 = jax.lax.stop_gradient(jnp.minimum(jnp.minimum(0.0, jnp.min(ts)), jnp.min(regimen.time)))
        if not jax.tree.leaves(model.initial()):
            return self._observed(model, ts), None
        steady = functools.partial(steady_state, self.method, regimen.static_shape)
        schedule = schedule_of(model, regimen, steady, order)
        varied = bool(regimen.parameters)
        if varied:
            model = Varied(model, regimen.parameters)
            initial = model.initial() if initial is None else model.extended(initial)
        posed = Posed(self.method, model, schedule, initial, t0, regimen.decision)
        states, result, stats = solved = posed.solve(ts)
        arrived = posed.arrived(ts, solved)
        observed, states = lost((posed.observed(ts, solved), states), ~arrived & jnp.isfinite(ts), sources)
        if varied:
            states = states.state
            stats["culprit"] = jnp.minimum(stats["culprit"], len(self.labels.states) - 1)
        source = Packed.of(posed)
        full = Solution(ts, observed, states, result, stats, None, self.labels, source)
        reduced = None if self.reduce is None else self.reduce(full)
        return Outcome(*self.save.keep(observed, states), result, stats, reduced), source

    def _observed(self, model: AbstractModel, ts: jax.Array) -> Outcome:
        """Return the outcome of a model without states, for which there is nothing to solve."""
        states, zero = model.initial(), jnp.zeros((), int)
        values = jax.vmap(lambda t: observe(model, t, states))(ts)
        observed = where(jnp.isfinite(ts), values)
        stats = {"steps": zero, "rejected": zero, "last_time": jnp.max(ts), "culprit": zero}
        full = Solution(ts, observed, states, RESULTS.successful, stats, None, self.labels)
        reduced = None if self.reduce is None else self.reduce(full)
        return Outcome(*self.save.keep(observed, states), RESULTS.successful, stats, reduced)


FEW = 8
"""Up to this many states, a patient is solved by matrix exponentials in less time than XLA needs to make it faster."""


class _PatientFromParts(AbstractGathering):
    """Solve one patient given in two parts: the leaves that vary and those that are shared.

    One without a baseline fails for the reason that it gives.
    """

    patient: _Patient

    def __call__(self, each: tuple, shared: tuple) -> Outcome:
        *posed, causes = _combined(each, shared)
        outcome = self.patient(*posed)
        if causes is None:
            return outcome
        result, culprit = causes
        began = result == RESULTS.successful
        stats = outcome.stats | {"culprit": jnp.where(began, outcome.stats["culprit"], culprit)}
        return outcome._replace(result=RESULTS.where(began, outcome.result, result), stats=stats)

    def gathered(self, results: Outcome) -> Outcome:
        reduce = self.patient.reduce
        return results._replace(reduced=reduce.of(results.reduced)) if isinstance(reduce, AbstractSketch) else results


def _is_small(patient: _Patient, *_: PyTree) -> bool:
    """Whether one patient is solved by exponentials of a few states."""
    return isinstance(patient.method, MatrixExponential) and len(patient.labels.states) <= FEW


@functools.partial(program, around=BRIEFLY, small=_is_small)
def _jitted(patient: _Patient, *arguments: PyTree) -> tuple[Outcome, Packed | None]:
    return patient.with_source(*arguments)


class _About(NamedTuple):
    """What depends on the structure of a model alone.

    Attributes:
        start: The initial state, with shapes and types in place of numbers.
        states: The names of all states.
        eventful: Whether there are events.
        delayed: Whether there are delays.
    """

    start: State
    states: tuple[str, ...]
    eventful: bool
    delayed: bool


@by_structure
def _about(model: AbstractModel) -> _About:
    start = state_shape(model)
    events, later = traced(lambda m: (len(declared(m).events()), len(declared(m).echoes().later)), model)
    return _About(start, state_names(start), bool(events), bool(later))


@by_structure
def _everything(model: AbstractModel) -> Save:
    """Return that everything is kept which there is to keep."""
    start = state_shape(model)
    return Save.of(None, observed_names(model, start), start)


def _prepare(
    model: AbstractModel,
    save: Sequence[str] | None,
    reduce: Callable[[Solution], PyTree] | None,
    method: AbstractMethod,
) -> tuple[_Patient, Labels]:
    saved = _everything(model)
    states, description = saved.states, type(method).describe(method)
    if save is not None:
        saved = Save.of(save, saved.observed, _about(model).start)
    full = labels = Labels(states, states, model.units, description)
    if saved.states is not states:
        labels = full._replace(kept_states=saved.states)
    return made(_Patient, {"method": method, "save": saved, "reduce": reduce, "labels": full}), labels


@in_the_users_words()
@by_structure
def observed_names(model: AbstractModel, start: State) -> tuple[str, ...]:
    """Return the names of what a model observes; check that it observes numbers by name."""
    if isinstance(model, Network):
        return model.plan.outputs.ids
    observed = traced(lambda model, y: model.observe(jnp.zeros(()), y), model, start)
    if isinstance(observed, ParameterTable):
        return tuple(observed)
    if not isinstance(observed, dict) or not all(isinstance(name, str) for name in observed):
        is_array = eqx.is_array(observed) or np.isscalar(observed)
        what = described(jnp.asarray(observed)) if is_array else f"a {type(observed).__name__}"
        refuse("model", "observe a dict of numbers by name", f"one that observes {what}")
    for name, value in observed.items():
        if jnp.shape(value) != ():
            check_one_patient(model, jnp.shape(value))
            refuse("model", "observe a number by each name", f"one that observes shape {jnp.shape(value)} as `{name}`")
    return tuple(observed)


def _times(ts: ArrayInput, *, ndim: int | None) -> jax.Array:
    check_number("ts", ts)
    times = ts if isinstance(ts, jax.Array) else floats(ts)
    if ndim is not None and times.ndim != ndim:
        refuse("ts", "have shape (times,)", f"of shape {times.shape}")
    check_increasing("ts", times)
    return device_floats(times)


def _order(order: ArrayInput | None, ts: jax.Array) -> jax.Array | None:
    if order is None:
        return None
    check_number("order", order)
    order = device_floats(order)
    if order.shape != ts.shape:
        refuse("order", f"have the shape of `ts`, {ts.shape}", f"of shape {order.shape}")
    return order


def _method(method: AbstractMethod | None, model: AbstractModel, regimen: Regimen) -> AbstractMethod:
    if method is None:
        return default_method(model, regimen)
    check_instance("method", method, AbstractMethod, "a method such as Diffrax(Rodas5P(), rtol=1e-6)")
    return method


def _with_earlier(regimen: Regimen, needed: jax.Array) -> Regimen:
    """Return the regimen with room for the doses that still run, or are on their way, when a steady state begins."""
    counts = concrete(needed)
    count = SPARE if counts is None else int(counts.max())
    room = 1 << (count - 1).bit_length() if count else 0
    return dataclasses.replace(regimen, static_shape=regimen.static_shape._replace(earlier=room))


def _combined(each: Sequence[PyTree], shared: Sequence[PyTree]) -> list[PyTree]:
    """Merge the leaves of one patient with those that all patients share."""
    return [eqx.combine(varying, common) for varying, common in zip(each, shared, strict=True)]


def _over_patients(function: Callable[..., PyTree], *parts: tuple[PyTree, PyTree]) -> PyTree:
    """Apply a function of one patient to all."""
    each, shared = zip(*parts, strict=True)

    def of_patient(each: tuple) -> PyTree:
        return function(*_combined(each, shared))

    return jax.vmap(of_patient)(each) if jax.tree.leaves(each) else of_patient(each)


@program
def _earlier_doses(model: AbstractModel, regimen: Regimen) -> jax.Array:
    return earlier_doses(model, regimen)


@program
def _earlier_doses_of_all(models: tuple[PyTree, PyTree], regimens: tuple[PyTree, PyTree]) -> jax.Array:
    return _over_patients(earlier_doses, models, regimens)


def _check(model: AbstractModel, regimen: Regimen, ts: jax.Array, t0: Scalar | None, *, goes_on: bool) -> Regimen:
    """Check the arguments of a simulation; return the regimen with the model's dose targets and padded.

    The table is padded to 4, 8, 16, ... rows, so that another regimen seldom compiles again.
    """
    check_regimen(regimen, "a Regimen (from bolus, infusion or no_doses)")
    about = _about(model)
    regimen = with_targets(model, regimen, about.states)
    regimen = Regimen.padded(regimen, max(4, 1 << (regimen.rows - 1).bit_length()))
    check_modelled(model, regimen)
    if about.eventful and (regimen.static_shape.steady or regimen.decision is not None):
        refuse("regimen", "have no steady state and no rule for a model with events", "one that has")
    times, doses = concrete(ts), concrete(regimen.time)
    start_time, first = concrete(t0), None if times is None else times[..., 0]
    doses = None if doses is None else doses.min(axis=-1, initial=np.inf)
    if t0 is not None:
        check_number("t0", t0)
        check_finite("t0", t0)
    for label, time in (("of `ts`", first), ("dose", doses)):
        if start_time is not None and time is not None and (start_time > time).any():
            refuse("t0", f"not be after the first {label} ({time.min():g})", start_time.max())
    if about.delayed:
        for time in (start_time, first, doses):
            if time is not None and ((time < 0.0).any() or (time is start_time and not goes_on and time.any())):
                refuse("t0", "be 0 for a model with delays, whose past is before 0", time.min())
    return regimen


def _split(tree: PyTree, ndims: PyTree, argument: str, size: int) -> tuple[PyTree, PyTree]:
    """Separate the leaves with an axis of patients, one more than `ndims`, from those that all patients share."""
    if tree is None:
        return None, None
    tree = jax.tree.map(lambda leaf: leaf if eqx.is_array(leaf) else jnp.asarray(leaf, dtype=float), tree)
    varies = jax.tree.map(lambda leaf, ndim: leaf.ndim > ndim, tree, ndims)
    each, shared = eqx.partition(tree, varies)
    for leaf in jax.tree.leaves(each):
        if leaf.shape[0] != size:
            refuse(argument, f"have one row per patient ({size})", f"of shape {leaf.shape}")
    return each, shared


def _raise_if_failed(solution: Solution, model: AbstractModel) -> Solution:
    (code,), (success,) = jax.tree.leaves(solution.result), jax.tree.leaves(RESULTS.successful)
    code = concrete(code)
    if code is None:
        stats = solution.result.error_if(solution.stats, solution.failed)
        values = (solution.observed, solution.states, solution.source)
        return eqx.tree_at(
            lambda s: (s.stats, s.observed, s.states, s.source),
            solution,
            (stats, *solution.result.error_if(values, solution.failed)),
            is_leaf=lambda x: x is None,
        )
    if code != success:
        (failure,) = solution.failures()
        nonfinite = solution.result == RESULTS.state_nonfinite
        terms = model.terms(failure.state) if isinstance(model, Network) and nonfinite else ()
        moves = f" ({'; '.join(terms)})" if terms else ""
        raise RuntimeError(
            f"The simulation failed at time {failure.time:g}, in state `{failure.state}`{moves}. {failure.reason}"
        )
    return solution
