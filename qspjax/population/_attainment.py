"""The probability of target attainment: which share of patients reaches a target at each dose."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from qspjax._checks import ArgumentError, check_instance, check_one_of
from qspjax._cohort import Cohort
from qspjax._dosing._regimen import Regimen
from qspjax._text import aligned
from qspjax._types import ArrayInput
from qspjax.execute import AbstractExecutor
from qspjax.population._endpoints import Responder
from qspjax.population._shares import percent, share
from qspjax.population._survival import Interval
from qspjax.population._trial import Arm, Trial, simulate_trial
from qspjax.solve import AbstractMethod


class Attained(NamedTuple):
    """The share of patients who reach a target at a dose, with its interval; those who failed are left out of it.

    Example:
        >>> Attained("1 g", "MIC 2", Interval(0.9, 0.8, 0.95), 100, 0).share.estimate
        0.9
    """

    dose: str
    target: str
    share: Interval
    patients: int
    failed: int


class Attainment(NamedTuple):
    """The probability of target attainment of all doses and targets, one row each.

    Example:
        >>> print(Attainment((Attained("1 g", "MIC 2", Interval(0.9, 0.8, 0.95), 100, 0),)))
        dose  target  patients  failed   share   95 % interval
        1 g   MIC 2        100       0  90.0 %  80.0 to 95.0 %
    """

    rows: tuple[Attained, ...]

    def __str__(self) -> str:
        table = [["dose", "target", "patients", "failed", "share", "95 % interval"]]
        for row in self.rows:
            table.append([row.dose, row.target, str(row.patients), str(row.failed), *percent(row.share)])
        return aligned(table)

    def least(self, target: str, *, share: float = 0.9) -> str | None:
        """Return the first dose at which a share of patients reaches a target; None where no dose does."""
        check_one_of("target", target, {row.target for row in self.rows}, "a target")
        return next((row.dose for row in self.rows if row.target == target and row.share.estimate >= share), None)

    def expected(self, dose: str, frequencies: Mapping[str, float]) -> float:
        """Return the share expected where targets differ in frequency, as the MICs of bacteria do.

        Args:
            dose: The dose.
            frequencies: How frequent each target is; only their ratios matter (the cumulative fraction of response).
        """
        shares = {row.target: row.share.estimate for row in self.rows if row.dose == dose}
        unknown = [name for name in frequencies if name not in shares]
        if unknown or not shares:
            raise ArgumentError("frequencies", f"must name targets of the dose `{dose}`, but name {unknown}.")
        if not sum(frequencies.values()) > 0.0:
            raise ArgumentError("frequencies", "must have a positive sum, but have none.")
        return sum(shares[name] * part for name, part in frequencies.items()) / sum(frequencies.values())


def target_attainment(
    cohort: Cohort,
    doses: Mapping[str, Regimen],
    targets: Mapping[str, Responder],
    ts: ArrayInput,
    *,
    weights: ArrayInput | None = None,
    method: AbstractMethod | None = None,
    executor: Callable[[str], AbstractExecutor] | AbstractExecutor | None = None,
) -> Attainment:
    """Return the share of patients who reach each target at each dose; the same patients get all doses.

    Args:
        cohort: The patients.
        doses: Regimens by name, the smallest dose first.
        targets: By name, for example `Responder(TimeAbove("free", threshold=mic, between=(0.0, 24.0)), at_least=12.0)`.
        ts: Times at which patients are observed, shape (times,).
        weights: Weights of the patients, shape (patients,); only their ratios matter.
        method: As in `simulate`.
        executor: As in `simulate_trial`.

    Reference: Mouton et al., J Antimicrob Chemother 2005;55:601, doi:10.1093/jac/dki079 (terms).

    Example:
        >>> import qspjax as qsp
        >>> cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"CL": [2.0, 3.0, 6.0, 9.0]})
        >>> doses = {f"{x:g} mg": qsp.bolus(x, to="central") for x in (30.0, 120.0, 480.0)}
        >>> above = qsp.endpoints.TimeAbove("concentration", threshold=1.0, between=(0.0, 24.0))
        >>> targets = {"MIC 1": qsp.endpoints.Responder(above, at_least=12.0)}
        >>> attained = target_attainment(cohort, doses, targets, [0.0, 24.0])
        >>> [row.share.estimate for row in attained.rows], attained.least("MIC 1", share=0.7)
        ([0.0, 0.5, 0.75], '480 mg')
    """
    check_instance("doses", doses, Mapping, "a mapping of names to regimens")
    check_instance("targets", targets, Mapping, "a mapping of names to responders")
    for name, target in targets.items():
        check_instance(f'targets["{name}"]', target, Responder, "a `Responder`")
    trial = Trial([Arm(name, regimen) for name, regimen in doses.items()], ts, endpoints=targets)
    result = simulate_trial(trial, cohort, save=(), method=method, executor=executor)
    rows = []
    for target in targets:
        for arm in result.arms:
            reached = np.asarray(arm.endpoints[target])
            failed = int(np.asarray(arm.solution.failed).sum())
            rows.append(Attained(arm.name, target, share(reached, weights=weights), cohort.size, failed))
    return Attainment(tuple(rows))
