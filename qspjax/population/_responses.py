"""Responses of the tumours of a trial: best response as an endpoint, and a table of all patients and arms."""

from collections.abc import Mapping
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from qspjax._checks import check_instance, check_one_of, refuse
from qspjax._cohort import as_array
from qspjax._random import check_key
from qspjax._solution import Solution
from qspjax._text import aligned
from qspjax._types import ArrayInput, Key, Scalar
from qspjax.population._conduct import Visits, check_visits
from qspjax.population._endpoints import AbstractEndpoint, Value
from qspjax.population._recist import RECIST, Assessment, Response, assess
from qspjax.population._shares import percent, share
from qspjax.population._survival import Interval, KaplanMeier, kaplan_meier, reached
from qspjax.population._trial import ArmResult, TrialResult


class BestResponse(AbstractEndpoint):
    """The best overall response by RECIST 1.1, as the number of a `Response`: PD 1, SD 2, PR 3, CR 4, none 0.

    Attributes:
        output: Name of the observed value that is the sum of the diameters of target lesions.
        visits: Times of the visits, the baseline first, shape (visits,); those that the solution does not cover are
            missed.
        criteria: What the protocol says.

    Example:
        >>> import qspjax as qsp
        >>> best = qsp.endpoints.BestResponse("diameter", [0.0, 42.0, 84.0], qsp.population.RECIST(stable_after=42.0))
        >>> objective_response = qsp.endpoints.Responder(best, at_least=qsp.population.Response.PR)
    """

    output: str = eqx.field(static=True)
    visits: Float[Array, " visits"] = eqx.field(converter=lambda x: as_array("visits", x).astype(float))
    criteria: RECIST

    def __check_init__(self) -> None:
        check_visits("visits", self.visits)
        check_instance("criteria", self.criteria, RECIST, "criteria such as `RECIST(stable_after=42.0)`")

    def __call__(self, solution: Solution) -> Scalar:
        sums = jnp.stack([Value(self.output, at)(solution) for at in self.visits])
        return assess(self.visits, sums, self.criteria).best.astype(sums.dtype)


class PatientResponse(NamedTuple):
    """One patient of an arm: best response, progression-free survival, and the response, as in `Assessment`.

    Example:
        >>> PatientResponse("10 mg", 3, "PR", 84.0, True, 42.0, 42.0, -0.4).best
        'PR'
    """

    arm: str
    patient: int
    best: str
    time: float
    event: bool
    response_time: float
    duration: float
    deepest: float


class ArmResponses(NamedTuple):
    """The responses in one arm.

    Attributes:
        patients: Numbers of the patients in the cohort; those who failed are left out.
        failed: The number of those who failed.
        times: Times of the visits, shape (visits,) or (patients, visits).
        assessment: Their responses.

    Example:
        >>> criteria, sums = RECIST(stable_after=42.0), [[100.0, 60.0], [80.0, 90.0]]
        >>> arm = ArmResponses(np.array([0, 1]), 0, np.array([0.0, 42.0]), assess([0.0, 42.0], sums, criteria))
        >>> arm.counts()["PR"]
        1
    """

    patients: np.ndarray
    failed: int
    times: np.ndarray
    assessment: Assessment

    def counts(self) -> dict[str, int]:
        """Return the number of patients with each best response, the best first."""
        best = np.asarray(self.assessment.best)
        return {code.name: int((best == code).sum()) for code in reversed(Response)}

    def response(self, *, weights: ArrayInput | None = None) -> Interval:
        """Return the share of patients with CR or PR; `weights` are those of the whole cohort."""
        return share(np.asarray(self.assessment.responded), weights=taken_from(weights, self.patients))

    def progression_free(self, *, weights: ArrayInput | None = None) -> KaplanMeier:
        """Return the Kaplan-Meier estimate of progression-free survival; `weights` are those of the whole cohort."""
        times, events = np.asarray(self.assessment.time), np.asarray(self.assessment.event)
        return kaplan_meier(times, events, weights=taken_from(weights, self.patients))


def taken_from(weights: ArrayInput | None, patients: np.ndarray) -> np.ndarray | None:
    """Return the weights of some patients of a cohort from those of all."""
    if weights is None:
        return None
    values = np.asarray(weights, float)
    if values.ndim != 1 or patients.max(initial=-1) >= values.size:
        refuse("weights", "have a number for each patient of the cohort", f"of shape {values.shape}")
    return values[patients]


class TumourResponses(NamedTuple):
    """The responses of the patients of a trial, by arm.

    Example:
        >>> criteria, sums = RECIST(stable_after=42.0), [[100.0, 60.0, 90.0], [80.0, 90.0, 90.0]]
        >>> visits = np.array([0.0, 42.0, 84.0])
        >>> arm = ArmResponses(np.array([0, 1]), 0, visits, assess(visits, sums, criteria))
        >>> print(TumourResponses({"10 mg": arm}))
        arm    patients  failed  CR  PR  SD  PD  NE  CR + PR     95 % interval  median PFS
        10 mg         2       0   0   1   1   0   0   50.0 %  9.5 to 90.5 %             84
    """

    arms: Mapping[str, ArmResponses]

    def __str__(self) -> str:
        head = ["arm", "patients", "failed", *(code.name for code in reversed(Response))]
        rows = [[*head, "CR + PR", "95 % interval", "median PFS"]]
        for name, arm in self.arms.items():
            median = arm.progression_free().median.estimate if arm.patients.size else np.inf
            rows.append(
                [
                    name,
                    *map(str, (arm.patients.size, arm.failed, *arm.counts().values())),
                    *percent(arm.response()),
                    reached(median),
                ]
            )
        return aligned(rows)

    def first(self, count: int) -> "TumourResponses":
        """Return the responses of at most so many patients of each arm, those with the lowest numbers."""

        def of(arm: ArmResponses) -> ArmResponses:
            assessment = jax.tree.map(lambda column: column[:count], arm.assessment)
            times = arm.times[:count] if arm.times.ndim == 2 else arm.times
            return ArmResponses(arm.patients[:count], arm.failed, times, assessment)

        return TumourResponses({name: of(arm) for name, arm in self.arms.items()})

    def patients(self) -> list[PatientResponse]:
        """Return one row for each patient and arm."""
        rows = []
        for name, arm in self.arms.items():
            a = arm.assessment
            columns = (a.best, a.time, a.event, a.response_time, a.duration, a.deepest)
            for patient, best, *numbers in zip(
                arm.patients.tolist(), *(np.asarray(column).tolist() for column in columns), strict=True
            ):
                rows.append(PatientResponse(name, patient, Response(best).name, *numbers))
        return rows


def tumour_responses(
    result: TrialResult,
    output: str,
    criteria: RECIST,
    *,
    visits: ArrayInput | Visits | None = None,
    key: Key | None = None,
    death: Mapping[str, ArrayInput] | None = None,
) -> TumourResponses:
    """Judge the tumours of all patients of a trial by RECIST 1.1.

    Nobody has a visit after he died, dropped out or the trial ended; who would have entered after that is left out.

    Args:
        result: The trial.
        output: Name of the observed value that is the sum of the diameters of target lesions.
        criteria: What the protocol says.
        visits: Times of the visits, the baseline first, all among the times of the trial; by default all of these.
            Or `Visits` that are not on time, are missed, or measure with an error.
        key: `jax.random.key(seed)`, for `Visits`: a patient has the same in every arm.
        death: By arm, the time of death since entry of each patient of the cohort, shape (patients,); inf for the
            living: `Events.deaths`. Death ends progression-free survival.

    Raises:
        ValueError: If the trial has no such output or no such times.

    Example:
        >>> import qspjax as qsp
        >>> tumour = qsp.models.OneCompartment(CL=1.0, V=100.0)  # shrinks by 1 % a day
        >>> cohort = qsp.Cohort.of(tumour, {"CL": [0.2, 1.0]})
        >>> trial = qsp.Trial([qsp.Arm("drug", qsp.bolus(8e3, to="central"))], [0.0, 42.0, 84.0])
        >>> responses = tumour_responses(qsp.simulate_trial(trial, cohort), "concentration", RECIST(stable_after=42.0))
        >>> [(row.patient, row.best) for row in responses.patients()]
        [(0, 'SD'), (1, 'PR')]
    """
    check_instance("result", result, TrialResult, "what `simulate_trial` returns")
    check_one_of("output", output, result.arms[0].solution.observed, "an observed value of the trial")
    dies = _deaths(result, death)
    if isinstance(visits, Visits):
        drawn = check_key(key)
        arms = {arm.name: _seen(result, arm, output, criteria, visits, drawn, dies[arm.name]) for arm in result.arms}
        return TumourResponses(arms)
    planned = np.asarray(result.trial.ts if visits is None else as_array("visits", visits), float)
    check_visits("visits", planned)
    judged = {arm.name: _judged(result, arm, output, criteria, planned, dies[arm.name]) for arm in result.arms}
    return TumourResponses(judged)


def seen_at_all(result: TrialResult, arm: ArmResult) -> Bool[np.ndarray, " patients"]:
    """Return which patients of an arm did not fail, and entered before the trial ended."""
    return ~np.asarray(arm.solution.failed) & (result.until[arm.members] > 0.0)


def _deaths(result: TrialResult, death: Mapping[str, ArrayInput] | None) -> dict[str, np.ndarray]:
    """Return the time of death of each patient of the cohort, by arm."""
    names, size = [arm.name for arm in result.arms], result.cohort.size
    if death is None:
        return {name: np.full(size, np.inf) for name in names}
    check_instance("death", death, Mapping, "the times of death by arm")
    for name in death:
        check_one_of("death", name, names, "an arm of the trial")
    times = {name: np.asarray(death.get(name, np.full(size, np.inf)), float) for name in names}
    for name, values in times.items():
        if values.shape != (size,) or np.isnan(values).any():
            refuse(f'death["{name}"]', f"have a number for each patient of the cohort ({size})", f"of {values.shape}")
    return times


def _assessed(
    result: TrialResult, patients: np.ndarray, times: np.ndarray, sums: np.ndarray, criteria: RECIST, dies: np.ndarray
) -> Assessment:
    """Judge patients by the visits before they died or left."""
    since = np.broadcast_to(times - times[..., :1], sums.shape)
    last = np.minimum(result.until, dies)[patients]
    seen = np.where(since <= last[:, None], sums, np.nan)
    death = np.where(dies <= result.until, dies, np.inf)[patients]
    return assess(times, seen, criteria, death=death + np.broadcast_to(times, sums.shape)[:, 0])


def _seen(
    result: TrialResult, arm: ArmResult, output: str, criteria: RECIST, visits: Visits, key: Key, dies: np.ndarray
) -> ArmResponses:
    """Judge an arm by visits that are drawn for the whole cohort."""
    values = np.asarray(arm.solution.observed[output])
    everyone = np.full((result.cohort.size, values.shape[1]), np.nan)
    everyone[arm.members] = values
    kept = seen_at_all(result, arm)
    drawn = visits.measured(result.trial.ts, everyone, key=key)
    patients, failed = arm.members[kept], int(np.asarray(arm.solution.failed).sum())
    times, sums = (x[patients] for x in drawn)
    return ArmResponses(patients, failed, times, _assessed(result, patients, times, sums, criteria, dies))


def _judged(
    result: TrialResult, arm: ArmResult, output: str, criteria: RECIST, visits: np.ndarray, dies: np.ndarray
) -> ArmResponses:
    times, values = np.asarray(result.trial.ts), np.asarray(arm.solution.observed[output])
    near = np.abs(times[:, None] - visits) <= 1e-9 * np.abs(times).max(initial=1.0)
    if not near.any(0).all():
        refuse("visits", "be among the times of the trial", visits[~near.any(0)].tolist())
    kept = seen_at_all(result, arm)
    patients, failed = arm.members[kept], int(np.asarray(arm.solution.failed).sum())
    sums = values[kept][:, near.argmax(0)]
    return ArmResponses(patients, failed, visits, _assessed(result, patients, visits, sums, criteria, dies))
