"""A virtual trial: arms, patients and endpoints."""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from qspjax._baseline import AbstractBaseline, Baselines, baselines, check_baseline
from qspjax._checks import (
    ArgumentError,
    check_above,
    check_increasing,
    check_instance,
    check_number,
    check_one_of,
    check_whole,
    refuse,
)
from qspjax._cohort import Cohort, as_array
from qspjax._dosing._regimen import Regimen, check_regimen, of_patients
from qspjax._exposure import together
from qspjax._files import as_file_name
from qspjax._parameters import as_parameter
from qspjax._random import check_key, generator
from qspjax._simulate import simulate_cohort
from qspjax._solution import Solution
from qspjax._text import aligned, number
from qspjax._types import ArrayInput, Key, Scalar, Times
from qspjax.execute import AbstractExecutor, Stored
from qspjax.population._conduct import Adherence, Dropout, Enrolment
from qspjax.population._endpoints import AbstractEndpoint
from qspjax.solve import AbstractMethod


class Arm(eqx.Module):
    """An arm of a trial: a name and a regimen, the same for all or with a row for each patient of the cohort.

    Example:
        >>> import qspjax as qsp
        >>> qsp.Arm("100 mg", qsp.bolus(100.0, to="central")).name
        '100 mg'
    """

    name: str = eqx.field(static=True)
    regimen: Regimen

    def __check_init__(self) -> None:
        check_instance("name", self.name, str, "a name in quotes")
        check_regimen(self.regimen)


class AbstractAllocation(eqx.Module):
    """The allocation of patients to arms.

    Example:
        >>> import qspjax as qsp
        >>> [members.tolist() for members in qsp.SamePatients().members(3, 2, key=None)]
        [[0, 1, 2], [0, 1, 2]]
    """

    @abc.abstractmethod
    def members(self, size: int, arms: int, *, key: Key | None) -> list[np.ndarray]:
        """Return the numbers of the patients in each arm."""


class SamePatients(AbstractAllocation):
    """Every patient is in every arm: the difference between arms is the treatment alone.

    Example:
        >>> import qspjax as qsp
        >>> [members.tolist() for members in qsp.SamePatients().members(3, 2, key=None)]
        [[0, 1, 2], [0, 1, 2]]
    """

    def members(self, size: int, arms: int, *, key: Key | None) -> list[np.ndarray]:
        del key
        return [np.arange(size)] * arms


class Randomised(AbstractAllocation):
    """Each patient is in one arm, by random permutation, in the given ratio (1:1:... by default).

    Example:
        >>> import jax, qspjax as qsp
        >>> [len(members) for members in qsp.Randomised([2, 1]).members(9, 2, key=jax.random.key(0))]
        [6, 3]
    """

    ratio: tuple[int, ...] | None = eqx.field(
        default=None, static=True, converter=lambda x: tuple(x) if isinstance(x, list) else x
    )

    def __check_init__(self) -> None:
        _check_ratio(self.ratio)

    def members(self, size: int, arms: int, *, key: Key | None) -> list[np.ndarray]:
        if key is None:
            raise ValueError("Argument `key` must be given to randomise patients, but is None.")
        check_key(key)
        ratio = self.ratio or (1,) * arms
        if len(ratio) != arms:
            refuse("ratio", f"have one number per arm ({arms})", ratio)
        edges = np.round(np.cumsum((0, *ratio)) / sum(ratio) * size).astype(int)
        shuffled = np.asarray(jax.random.permutation(key, size))
        return [np.sort(shuffled[first:last]) for first, last in zip(edges[:-1], edges[1:], strict=True)]


class Stratified(AbstractAllocation):
    """Each patient is in one arm, randomised within strata by permuted blocks, so that arms are alike in each stratum.

    A block holds each arm as often as the ratio says; what is left over in a stratum is part of a block.

    Attributes:
        strata: The stratum of each patient, shape (patients,): texts or numbers, such as a covariate of the cohort.
        ratio: Whole numbers, one per arm; 1:1:... by default.

    Example:
        >>> import jax, qspjax as qsp
        >>> allocation = qsp.population.Stratified(["f", "m", "f", "m", "f", "f"])
        >>> [len(members) for members in allocation.members(6, 2, key=jax.random.key(0))]
        [3, 3]
    """

    strata: tuple[object, ...] = eqx.field(static=True, converter=lambda x: tuple(np.asarray(x).ravel().tolist()))
    ratio: tuple[int, ...] | None = eqx.field(
        default=None, static=True, converter=lambda x: tuple(x) if isinstance(x, list) else x
    )

    def __check_init__(self) -> None:
        _check_ratio(self.ratio)

    def members(self, size: int, arms: int, *, key: Key | None) -> list[np.ndarray]:
        draw = generator(check_key(key))
        ratio = self.ratio or (1,) * arms
        if len(ratio) != arms:
            refuse("ratio", f"have one number per arm ({arms})", ratio)
        if len(self.strata) != size:
            raise ArgumentError("strata", f"must have one label for each patient ({size}), but has {len(self.strata)}.")
        block, chosen = np.repeat(np.arange(arms), ratio), np.empty(size, int)
        labels, stratum = np.unique(np.array(self.strata), return_inverse=True)  # those without a number are one
        for code in range(labels.size):
            patients = np.flatnonzero(stratum == code)
            blocks = [draw.permutation(block) for _ in range(-(-patients.size // block.size))]
            chosen[draw.permutation(patients)] = np.concatenate(blocks)[: patients.size]
        return [np.flatnonzero(chosen == arm) for arm in range(arms)]


BASELINE = "baseline"
"""What the baselines of a trial are called where arms have their names."""


class Trial(eqx.Module):
    """A trial protocol: arms, times, endpoints, and the allocation of patients to arms.

    Attributes:
        arms: The arms, with different names.
        ts: Times at which patients are observed, shape (times,).
        endpoints: The endpoints by name.
        allocation: `SamePatients()` (common random numbers), `Randomised()` or `Stratified(strata)`.
        adherence: Which doses patients miss or take late, the same ones in every arm; None where they take all.
        baseline: The state in which every arm of a patient begins, at time 0: `equilibrium.SteadyState()`, or that at
            diagnosis, `GrowUntil("diameter", 20.0, at_most=3650.0)`; None for the initial state of the model.
        enrolment: When patients enter; None where all enter at 0.
        dropout: When patients leave; None where all stay.
        cutoff: Time since the first could enter at which the trial ends for all; None for no end.

    Who leaves is simulated to the end all the same: trajectories and endpoints are those of all patients. What is seen
    of them, `tumour_responses` and `event_times`, ends where `TrialResult.until` says.

    Example:
        >>> import qspjax as qsp
        >>> arms = [qsp.Arm("none", qsp.no_doses()), qsp.Arm("100 mg", qsp.bolus(100.0, to="central"))]
        >>> trial = qsp.Trial(arms, [0.0, 8.0], endpoints={"C8": qsp.endpoints.Value("concentration", at=8.0)})
        >>> trial.endpoint_names
        ('C8',)
    """

    arms: tuple[Arm, ...]
    ts: Times
    endpoints: tuple[AbstractEndpoint, ...]
    endpoint_names: tuple[str, ...] = eqx.field(static=True)
    allocation: AbstractAllocation
    adherence: Adherence | None
    baseline: AbstractBaseline | None
    enrolment: Enrolment | None
    dropout: Dropout | None
    cutoff: Scalar | None

    def __init__(
        self,
        arms: Sequence[Arm],
        ts: ArrayInput,
        *,
        endpoints: Mapping[str, AbstractEndpoint] | None = None,
        allocation: AbstractAllocation | None = None,
        adherence: Adherence | None = None,
        baseline: AbstractBaseline | None = None,
        enrolment: Enrolment | None = None,
        dropout: Dropout | None = None,
        cutoff: Scalar | None = None,
    ):
        """Collect the parts; `allocation` is `SamePatients()` unless given."""
        endpoints = {} if endpoints is None else endpoints
        _check_arms(arms)
        _check_endpoints(endpoints)
        self.arms = tuple(arms)
        self.ts = as_array("ts", ts).astype(float)
        self.endpoints, self.endpoint_names = tuple(endpoints.values()), tuple(endpoints)
        self.allocation = SamePatients() if allocation is None else allocation
        self.adherence, self.baseline = adherence, baseline
        self.enrolment, self.dropout = enrolment, dropout
        self.cutoff = None if cutoff is None else as_parameter(cutoff)

    def __check_init__(self) -> None:
        if self.ts.ndim != 1:
            refuse("ts", "have shape (times,)", f"of shape {self.ts.shape}")
        check_increasing("ts", self.ts)
        check_instance("allocation", self.allocation, AbstractAllocation, "`SamePatients()` or `Randomised()`")
        if self.adherence is not None:
            check_instance("adherence", self.adherence, Adherence, "an adherence such as `Adherence(missed=0.1)`")
        if self.baseline is not None:
            check_baseline(self.baseline)
            if BASELINE in [arm.name for arm in self.arms]:
                refuse("arms", f"have other names than `{BASELINE}`, which is what the arms begin with", BASELINE)
        if self.enrolment is not None:
            check_instance("enrolment", self.enrolment, Enrolment, "an enrolment such as `Enrolment(over=180.0)`")
        if self.dropout is not None:
            check_instance("dropout", self.dropout, Dropout, "a dropout such as `Dropout(scale=365.0)`")
        if self.cutoff is not None:
            check_number("cutoff", self.cutoff)
            check_above("cutoff", self.cutoff, 0.0)


class ArmResult(eqx.Module):
    """The result of one arm.

    Attributes:
        name: The arm.
        members: Numbers of its patients in the cohort, shape (patients,).
        solution: The simulation of its patients.
        endpoints: Values by name, shape (patients,); NaN where a patient failed or the endpoint is not defined.

    Example:
        >>> import qspjax as qsp
        >>> cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": [30.0, 60.0]})
        >>> trial = qsp.Trial([qsp.Arm("30 mg", qsp.bolus(30.0, to="central"))], [0.0])
        >>> qsp.simulate_trial(trial, cohort).arm("30 mg").solution.observed["concentration"]
        Array([[1. ],
               [0.5]], dtype=float64)
    """

    name: str = eqx.field(static=True)
    members: np.ndarray
    solution: Solution
    endpoints: dict[str, PyTree]


class TrialResult(eqx.Module):
    """The result of a trial: the protocol, the patients, one result per arm, and the baselines if there are any.

    Attributes:
        trial: The protocol.
        cohort: The patients.
        arms: The results of the arms.
        until: Time since entry up to which each patient of the cohort is seen, shape (patients,): where he drops out or
            the trial ends; inf for all without either, not above 0 for those who would have entered after the end.

    Example:
        >>> import qspjax as qsp
        >>> cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": [30.0, 60.0]})
        >>> arms = [qsp.Arm("30 mg", qsp.bolus(30.0, to="central"))]
        >>> trial = qsp.Trial(arms, [0.0], endpoints={"C0": qsp.endpoints.Value("concentration", at=0.0)})
        >>> print(qsp.simulate_trial(trial, cohort))
        arm    patients  failed  C0, median
        30 mg         2       0        0.75
    """

    trial: Trial
    cohort: Cohort
    arms: tuple[ArmResult, ...]
    baselines: Baselines | None
    until: Float[np.ndarray, " patients"]

    def __str__(self) -> str:
        rows = [["arm", "patients", "failed", *(f"{name}, median" for name in self.trial.endpoint_names)]]
        for arm in self.arms:
            values = (np.asarray(arm.endpoints[name]) for name in self.trial.endpoint_names)
            middles = [number(np.median(known)) if (known := x[np.isfinite(x)]).size else "-" for x in values]
            failed = int(np.asarray(arm.solution.failed).sum())
            rows.append([arm.name, str(arm.members.size), str(failed), *middles])
        done = self.cohort.interventions()
        return aligned(rows) if done is None else f"{aligned(rows)}\n{done}"

    def arm(self, name: str) -> ArmResult:
        """Return the result of the arm with this name."""
        by_name = {arm.name: arm for arm in self.arms}
        check_one_of("name", name, by_name, "an arm of the trial")
        return by_name[name]


def simulate_trial(
    trial: Trial,
    cohort: Cohort,
    *,
    key: Key | None = None,
    save: Sequence[str] | None = None,
    method: AbstractMethod | None = None,
    executor: Callable[[str], AbstractExecutor] | AbstractExecutor | None = None,
) -> TrialResult:
    """Run a virtual trial.

    Args:
        trial: The protocol.
        cohort: The patients of all arms.
        key: `jax.random.key(seed)`, for a randomised trial, or one with adherence, enrolment or dropout.
        save: Names of observed values and states to keep; by default all.
        method: As in `simulate`.
        executor: As in `simulate_cohort`; `Stored(folder)` has a folder in this folder for each arm, and one for the
            baselines. Or a function that returns the executor for the arm of a given name, or for the `"baseline"`.

    Returns:
        A `TrialResult` with one `ArmResult` per arm; `summarise` and `summary_text` turn it into tables.

    Example:
        >>> import jax, qspjax as qsp
        >>> population = qsp.Population(
        ...     qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2), between={"CL": qsp.LogNormal(cv=0.3)}
        ... )
        >>> trial = qsp.Trial(
        ...     [qsp.Arm("100 mg", qsp.bolus(100.0, to="depot")), qsp.Arm("200 mg", qsp.bolus(200.0, to="depot"))],
        ...     ts=[0.0, 1.0, 2.0, 4.0, 8.0, 24.0],
        ...     endpoints={"Cmax": qsp.endpoints.Cmax("concentration")},
        ... )
        >>> result = qsp.simulate_trial(trial, population.sample(key=jax.random.key(1), size=50))
        >>> bool((result.arm("200 mg").endpoints["Cmax"] > result.arm("100 mg").endpoints["Cmax"]).all())
        True
    """
    check_instance("trial", trial, Trial, "a trial")
    check_instance("cohort", cohort, Cohort, "a cohort (`Population.sample` draws one)")
    rows = max(arm.regimen.rows for arm in trial.arms)
    groups = trial.allocation.members(cohort.size, len(trial.arms), key=key)
    for arm, members in zip(trial.arms, groups, strict=True):
        if not members.size:
            refuse("allocation", "put at least one patient in every arm", f"without one in arm `{arm.name}`")
    begun = None
    if trial.baseline is not None:
        begun = baselines(cohort, trial.baseline, method=method, executor=_executor(executor, BASELINE))
    results = []
    for arm, members in zip(trial.arms, groups, strict=True):
        everyone = members.size == cohort.size
        solution = simulate_cohort(
            cohort if everyone else cohort.take(members),
            _taken(trial, arm, rows, cohort.size, members, key),
            trial.ts,
            initial=begun if begun is None or everyone else begun.take(members),
            save=save,
            reduce=Endpoints(trial.endpoint_names, trial.endpoints),
            method=method,
            executor=_executor(executor, arm.name),
        )
        endpoints = {name: solution.reduced[name] for name in trial.endpoint_names}
        solution = eqx.tree_at(lambda s: s.reduced, solution, None, is_leaf=lambda x: x is None)
        results.append(ArmResult(arm.name, members, solution, endpoints))
    return TrialResult(trial, cohort, tuple(results), begun, _until(trial, cohort.size, key))


def _executor(
    executor: Callable[[str], AbstractExecutor] | AbstractExecutor | None, name: str
) -> AbstractExecutor | None:
    """Return the executor of an arm, or of the baselines."""
    if isinstance(executor, Stored):
        return dataclasses.replace(executor, folder=Path(executor.folder) / as_file_name(name))
    return executor if executor is None or isinstance(executor, AbstractExecutor) else executor(name)


def _until(trial: Trial, size: int, key: Key | None) -> Float[np.ndarray, " patients"]:
    """Return the time since entry up to which each patient is seen, the same in every arm."""
    until = np.full(size, np.inf)
    if trial.dropout is not None:
        until = trial.dropout.times(size, key=jax.random.fold_in(check_key(key), 2))
    if trial.cutoff is not None:
        until = np.minimum(until, float(trial.cutoff) - _entry(trial.enrolment, size, key))
    return until


def _entry(enrolment: Enrolment | None, size: int, key: Key | None) -> Float[np.ndarray, " patients"]:
    """Return when each patient enters, at 0 unless a trial enrols over time."""
    if enrolment is None:
        return np.zeros(size)
    return enrolment.times(size, key=jax.random.fold_in(check_key(key), 3))


def _taken(trial: Trial, arm: Arm, rows: int, size: int, members: np.ndarray, key: Key | None) -> Regimen:
    """Return the doses that the patients of an arm take, drawn for the whole cohort so that arms do not matter."""
    regimen = arm.regimen.padded(rows)
    if trial.adherence is not None:
        regimen = trial.adherence.apply(regimen, size, key=jax.random.fold_in(check_key(key), 1))
    return of_patients(regimen, members, size)


def _check_ratio(ratio: tuple[int, ...] | None) -> None:
    if ratio is not None:
        check_instance("ratio", ratio, tuple, "a list of whole numbers, one per arm")
        for i, part in enumerate(ratio):
            check_whole(f"ratio[{i}]", part, 1)


def _check_arms(arms: Sequence[Arm]) -> None:
    check_instance("arms", arms, (list, tuple), "a list of arms")
    for i, arm in enumerate(arms):
        check_instance(f"arms[{i}]", arm, Arm, "an arm")
    names = [arm.name for arm in arms]
    if not names:
        raise ArgumentError("arms", "must have at least one arm, but is empty.")
    if len(set(names)) != len(names):
        refuse("arms", "have different names", ", ".join(names))


def _check_endpoints(endpoints: Mapping[str, AbstractEndpoint]) -> None:
    check_instance("endpoints", endpoints, Mapping, "a mapping of names to endpoints")
    for name, endpoint in endpoints.items():
        check_instance(f'endpoints["{name}"]', endpoint, AbstractEndpoint, "an endpoint")


class Endpoints(eqx.Module):
    """Endpoints of one patient by name, all by one solve; NaN where the patient failed."""

    names: tuple[str, ...] = eqx.field(static=True)
    endpoints: tuple[AbstractEndpoint, ...]

    def __call__(self, solution: Solution) -> dict[str, PyTree]:
        return together(self._each, solution)

    def _each(self, solution: Solution) -> dict[str, PyTree]:
        succeeded = ~solution.failed
        return {
            name: jnp.where(succeeded, endpoint(solution), jnp.nan)
            for name, endpoint in zip(self.names, self.endpoints, strict=True)
        }
