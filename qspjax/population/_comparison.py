"""Differences between arms with bootstrap intervals, and the power of trials repeated from simulated patients."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from qspjax._checks import check_instance, check_one_of, check_whole, refuse
from qspjax._progress import Progress
from qspjax._random import generator
from qspjax._text import aligned
from qspjax._types import ArrayInput, Key
from qspjax.population._shares import percent, share
from qspjax.population._survival import Interval, check_level
from qspjax.population._trial import ArmResult, TrialResult


class Difference(NamedTuple):
    """The difference of a statistic between two arms.

    Attributes:
        difference: Arm minus reference, with the interval of the percentiles of its bootstrap.
        paired: Whether the same patients were in both arms and were drawn together.
        patients: The number of patients in the arm and in the reference, those without a value left out.

    Example:
        >>> Difference(Interval(2.0, 1.0, 3.0), True, (50, 50)).paired
        True
    """

    difference: Interval
    paired: bool
    patients: tuple[int, int]


def difference(
    result: TrialResult,
    endpoint: str,
    *,
    arm: str,
    reference: str,
    key: Key,
    statistic: Callable[[np.ndarray], float] = np.mean,
    replicates: int = 2000,
    level: float = 0.95,
) -> Difference:
    """Return the difference of an endpoint between two arms of a trial, with a bootstrap interval.

    Patients who are in both arms are drawn with both their values, so that only the treatment differs; a patient
    without a value in one arm is then left out of both. Patients of different arms are drawn by themselves.

    Args:
        result: The trial.
        endpoint: The name of the endpoint.
        arm: The arm.
        reference: The arm that it is compared with.
        key: `jax.random.key(seed)`.
        statistic: What is compared, a function of the values of one arm, shape (patients,): `np.mean`, `np.median`.
        replicates: Number of bootstrap samples.
        level: The level of the interval.

    Reference: Efron and Tibshirani, Stat Sci 1986;1:54, doi:10.1214/ss/1177013815.

    Example:
        >>> import jax, qspjax as qsp
        >>> cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": [20.0, 25.0, 30.0, 40.0, 50.0]})
        >>> arms = [qsp.Arm(f"{dose:g} mg", qsp.bolus(dose, to="central")) for dose in (30.0, 60.0)]
        >>> trial = qsp.Trial(arms, [0.0], endpoints={"peak": qsp.endpoints.Value("concentration", at=0.0)})
        >>> found = difference(
        ...     qsp.simulate_trial(trial, cohort), "peak", arm="60 mg", reference="30 mg", key=jax.random.key(1)
        ... )
        >>> found.paired, found.difference.low < found.difference.estimate < found.difference.high
        (True, True)
    """
    check_instance("result", result, TrialResult, "what `simulate_trial` returns")
    check_one_of("endpoint", endpoint, result.trial.endpoint_names, "an endpoint of the trial")
    check_whole("replicates", replicates, 2)
    check_level(level)
    first, second = (_arm(result, argument, name) for argument, name in (("arm", arm), ("reference", reference)))
    one, other = (np.asarray(each.endpoints[endpoint], float) for each in (first, second))
    paired = np.array_equal(first.members, second.members)
    if paired:
        known = ~(np.isnan(one) | np.isnan(other))
        one, other = one[known], other[known]
    else:
        one, other = one[~np.isnan(one)], other[~np.isnan(other)]
    if not one.size or not other.size:
        return Difference(Interval(math.nan, math.nan, math.nan), paired, (one.size, other.size))
    draw, drawn = generator(key), np.empty(replicates)
    for k in range(replicates):
        rows = draw.integers(one.size, size=one.size)
        others = rows if paired else draw.integers(other.size, size=other.size)
        drawn[k] = statistic(one[rows]) - statistic(other[others])
    low, high = np.quantile(drawn, [0.5 - level / 2.0, 0.5 + level / 2.0])
    estimate = float(statistic(one) - statistic(other))
    return Difference(Interval(estimate, float(low), float(high)), paired, (one.size, other.size))


def _arm(result: TrialResult, argument: str, name: str) -> ArmResult:
    check_one_of(argument, name, [arm.name for arm in result.arms], "an arm of the trial")
    return result.arm(name)


@dataclasses.dataclass(frozen=True)
class PowerCurve:
    """The power of trials of different sizes.

    Attributes:
        sizes: Patients in each arm.
        power: The share of the repeated trials that succeed, with Wilson's interval.

    Example:
        >>> curve = PowerCurve((20, 40), (Interval(0.6, 0.5, 0.7), Interval(0.85, 0.8, 0.9)))
        >>> curve.size(0.8)
        40
    """

    sizes: tuple[int, ...]
    power: tuple[Interval, ...]

    def __str__(self) -> str:
        rows = [["patients in each arm", "power", "95 % interval"]]
        rows += [[str(size), *percent(found)] for size, found in zip(self.sizes, self.power, strict=True)]
        return aligned(rows)

    def size(self, power: float = 0.8) -> int | None:
        """Return the smallest of the sizes from which on the power is reached; None where the last does not."""
        enough = None
        for size, found in sorted(zip(self.sizes, self.power, strict=True), reverse=True):
            if found.estimate < power:
                return enough
            enough = size
        return enough


def power(
    patients: Mapping[str, ArrayInput] | Sequence[ArrayInput],
    test: Callable[..., float],
    sizes: Sequence[int],
    *,
    key: Key,
    replicates: int = 1000,
    significance: float = 0.05,
    paired: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> PowerCurve:
    """Repeat a trial with patients drawn from simulated ones, and return how often it succeeds.

    The patients are simulated once, as many as one likes, under each treatment; each repeated trial draws `size` of
    them for each arm, with replacement.

    Args:
        patients: The outcomes of the patients under each treatment, arrays of shape (patients, ...): an endpoint of an
            arm, or columns of times and events.
        test: A function of the outcomes that were drawn, one array for each arm, that returns a p value.
        sizes: Numbers of patients in each arm.
        key: `jax.random.key(seed)`.
        replicates: Number of trials of each size.
        significance: A trial succeeds where the p value is below.
        paired: Whether the same patients are drawn for all arms, as in a crossover trial.
        progress: Called after every size and every hundred trials.

    Raises:
        ValueError: If outcomes are NaN, there are none, or paired arms differ in their number.

    Example:
        >>> import jax
        >>> from scipy import stats
        >>> draw = np.random.default_rng(0)
        >>> placebo, drug = draw.normal(0.0, 1.0, 5000), draw.normal(0.5, 1.0, 5000)
        >>> curve = power([placebo, drug], lambda a, b: stats.ttest_ind(a, b).pvalue, [32, 64], key=jax.random.key(0))
        >>> [round(x.estimate, 1) for x in curve.power]  # 0.50 and 0.80 by the formula
        [0.5, 0.8]
    """
    check_level(significance, "significance")
    check_whole("replicates", replicates, 1)
    pools = [np.asarray(pool, float) for pool in (patients.values() if isinstance(patients, Mapping) else patients)]
    if not pools or any(not pool.ndim or not len(pool) or np.isnan(pool).any() for pool in pools):
        refuse("patients", "have numbers of patients in every arm (leave those who failed out)", "without, or with NaN")
    if paired and len({len(pool) for pool in pools}) > 1:
        refuse("patients", "have the same patients in every arm if paired", [len(pool) for pool in pools])
    sizes = np.asarray(sizes).tolist()
    if not isinstance(sizes, list) or not sizes:
        refuse("sizes", "be numbers of patients, one at least", sizes)
    found = []
    for place, size in enumerate(sizes):
        check_whole(f"sizes[{place}]", size, 1)
        draw, succeeded = generator(key, size), np.empty(replicates, bool)
        for k in range(replicates):
            rows = [draw.integers(len(pool), size=size) for pool in (pools[:1] if paired else pools)]
            chosen = rows * len(pools) if paired else rows
            succeeded[k] = test(*(pool[drawn] for pool, drawn in zip(pools, chosen, strict=True))) < significance
            if progress is not None and ((k + 1) % 100 == 0 or k + 1 == replicates):
                done = place * replicates + k + 1
                figures = {"size": float(size), "power": float(succeeded[: k + 1].mean())}
                progress(Progress(done, len(sizes) * replicates, figures))
        found.append(share(succeeded))
    return PowerCurve(tuple(sizes), tuple(found))
