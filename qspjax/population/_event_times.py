"""Overall survival and the like: times to an event of the patients of a trial, and their table by arm."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from qspjax._checks import check_instance, check_one_of, refuse
from qspjax._random import generator
from qspjax._text import aligned, number
from qspjax._types import ArrayInput, Key
from qspjax.population._hazard_ratio import HazardRatio, hazard_ratio
from qspjax.population._responses import TumourResponses, seen_at_all, taken_from
from qspjax.population._survival import KaplanMeier, kaplan_meier, log_rank, reached
from qspjax.population._trial import TrialResult


class ArmEvents(NamedTuple):
    """The times of one arm: `patients` are numbers in the cohort, those who failed left out; all of shape (patients,).

    Example:
        >>> ArmEvents(np.arange(2), np.array([5.0, 8.0]), np.array([True, False])).curve().median.estimate
        5.0
    """

    patients: np.ndarray
    times: Float[np.ndarray, " patients"]
    events: Bool[np.ndarray, " patients"]

    def curve(self, *, weights: ArrayInput | None = None) -> KaplanMeier:
        """Return the Kaplan-Meier estimate; `weights` are those of the whole cohort."""
        return kaplan_meier(self.times, self.events, weights=taken_from(weights, self.patients))


class Events(NamedTuple):
    """The times to an event of the patients of a trial, by arm.

    Example:
        >>> first = ArmEvents(np.arange(3), np.array([2.0, 4.0, 5.0]), np.array([True, True, True]))
        >>> second = ArmEvents(np.arange(3), np.array([3.0, 7.0, 9.0]), np.array([True, True, False]))
        >>> print(Events({"control": first, "drug": second}))
        arm      patients  events  median  95 % interval  hazard ratio     95 % interval  log-rank p
        control         3       3       4         2 to 5             -                 -           -
        drug            3       2       7         3 to -         0.248  0.02531 to 2.429      0.1966
    """

    arms: Mapping[str, ArmEvents]

    def __str__(self) -> str:
        head = ["arm", "patients", "events", "median", "95 % interval", "hazard ratio", "95 % interval", "log-rank p"]
        rows, sizes = [head], [arm.patients.size for arm in self.arms.values()]
        for place, (name, arm) in enumerate(self.arms.items()):
            row = [name, str(sizes[place]), str(int(arm.events.sum()))]
            if sizes[place]:
                median = arm.curve().median
                row += [reached(median.estimate), f"{reached(median.low)} to {reached(median.high)}"]
            if place and sizes[place] and sizes[0]:
                ratio, p = self.compared(name)
                row += [reached(ratio.ratio), f"{reached(ratio.low)} to {reached(ratio.high)}", number(p)]
            rows.append([*row, *["-"] * (len(head) - len(row))])
        return aligned(rows)

    def curves(self, *, weights: ArrayInput | None = None) -> dict[str, KaplanMeier]:
        """Return the Kaplan-Meier estimate of each arm; `weights` are those of the whole cohort."""
        return {name: arm.curve(weights=weights) for name, arm in self.arms.items()}

    def deaths(self, size: int) -> dict[str, Float[np.ndarray, " patients"]]:
        """Return by arm the time of the event of each patient of a cohort of a size, inf where it was not seen."""
        dies = {}
        for name, arm in self.arms.items():
            dies[name] = np.full(size, np.inf)
            dies[name][arm.patients[arm.events]] = arm.times[arm.events]
        return dies

    def compared(self, arm: str, reference: str | None = None) -> tuple[HazardRatio, float]:
        """Return the hazard ratio of an arm to another, by default the first, and the p value of the log-rank test.

        Both take the patients of the arms for different ones: let trials of events be randomised.
        """
        names = (next(iter(self.arms)) if reference is None else reference, arm)
        for argument, name in zip(("reference", "arm"), names, strict=True):
            check_one_of(argument, name, self.arms, "an arm of the trial")
        both = [self.arms[name] for name in names]
        times, events = (np.concatenate([each[k] for each in both]) for k in (1, 2))
        treated = np.repeat([False, True], [each.patients.size for each in both])
        return hazard_ratio(times, events, treated), log_rank(times, events, treated).p


def event_times(result: TrialResult, cumulative_hazard: str, *, key: Key) -> Events:
    """Draw the time of an event, such as death, for each patient of a trial whose model has its cumulative hazard.

    With H(t) the cumulative hazard since the first time of the trial and u uniform between 0 and 1, the event is where
    H(t) = -log u; patients who do not get there are censored at the last time, and those who drop out where they do. A
    patient has the same u in every arm, and the hazard is constant between the times of the trial.

    Args:
        result: The trial.
        cumulative_hazard: Name of the observed value that is the cumulative hazard.
        key: `jax.random.key(seed)`.

    Raises:
        ValueError: If the trial has no such output, or it falls.

    Reference: Bender et al., Stat Med 2005;24:1713, doi:10.1002/sim.2059.

    Example:
        >>> import jax, qspjax as qsp
        >>> model = qsp.models.OneCompartment(CL=1e-9, V=1.0)  # what is infused adds up
        >>> cohort = qsp.Cohort.of(model, {"V": [1.0, 2.0, 4.0]})
        >>> arms = [qsp.Arm("0.1 a day", qsp.infusion(10.0, to="central", rate=0.1))]
        >>> result = qsp.simulate_trial(qsp.Trial(arms, [0.0, 50.0, 100.0]), cohort)
        >>> event_times(result, "concentration", key=jax.random.key(0)).arms["0.1 a day"].times.shape
        (3,)
    """
    check_instance("result", result, TrialResult, "what `simulate_trial` returns")
    check_one_of("cumulative_hazard", cumulative_hazard, result.arms[0].solution.observed, "an observed value")
    reached = -np.log1p(-generator(key).uniform(size=result.cohort.size))
    arms = {}
    for arm in result.arms:
        kept = seen_at_all(result, arm)
        patients, hazards = arm.members[kept], np.asarray(arm.solution.observed[cumulative_hazard])[kept]
        if (np.diff(hazards, axis=1) < -1e-6 * np.abs(hazards).max(initial=0.0)).any():
            refuse("cumulative_hazard", "never fall", f"`{cumulative_hazard}`, which does")
        times = np.asarray(result.trial.ts)
        since = np.maximum.accumulate(hazards - hazards[:, :1], axis=1)
        targets = reached[patients]
        drawn = [np.interp(target, row, times) for target, row in zip(targets, since, strict=True)]
        events = since[:, -1] >= targets
        happens = np.where(events, drawn, times[-1]) - times[0]
        until = result.until[patients]
        arms[arm.name] = ArmEvents(patients, np.minimum(happens, until), events & (happens <= until))
    return Events(arms)


def progression_free(responses: TumourResponses) -> Events:
    """Return the times to progression or death of what `tumour_responses` returns.

    Example:
        >>> from qspjax.population import ArmResponses, RECIST, assess
        >>> visits, criteria = np.array([0.0, 42.0, 84.0]), RECIST(stable_after=42.0)
        >>> arm = ArmResponses(np.arange(1), 0, visits, assess(visits, [[100.0, 60.0, 90.0]], criteria))
        >>> progression_free(TumourResponses({"10 mg": arm})).arms["10 mg"].times
        array([84.])
    """
    check_instance("responses", responses, TumourResponses, "what `tumour_responses` returns")
    return Events(
        {
            name: ArmEvents(arm.patients, np.asarray(arm.assessment.time), np.asarray(arm.assessment.event))
            for name, arm in responses.arms.items()
        }
    )
