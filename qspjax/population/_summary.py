"""Tables of a trial: first the median and the spread of patients, then the mean with its confidence interval."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from qspjax.population._endpoints import Responder
from qspjax.population._shares import percent, share
from qspjax.population._survival import Interval
from qspjax.population._trial import TrialResult


class Row(NamedTuple):
    """One endpoint in one arm.

    `median`, `p5` and `p95` describe the patients; `mean_low` and `mean_high` are the 95 % confidence interval of the
    mean (for a responder endpoint `mean` is the share, with Wilson's interval). `undefined` counts patients who did
    not fail but have no value.

    Example:
        >>> import qspjax as qsp
        >>> cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": [30.0, 60.0]})
        >>> arms = [qsp.Arm("30 mg", qsp.bolus(30.0, to="central"))]
        >>> trial = qsp.Trial(arms, [0.0], endpoints={"C0": qsp.endpoints.Value("concentration", at=0.0)})
        >>> row = qsp.summarise(qsp.simulate_trial(trial, cohort))[0]
        >>> row.arm, row.patients, float(row.median)
        ('30 mg', 2, 0.75)
    """

    endpoint: str
    arm: str
    patients: int
    failed: int
    undefined: int
    median: float
    p5: float
    p95: float
    mean: float
    mean_low: float
    mean_high: float
    responder: bool


def summarise(result: TrialResult) -> list[Row]:
    """Summarise every endpoint in every arm.

    Reference: Wilson, J Am Stat Assoc 1927;22:209, doi:10.1080/01621459.1927.10502953 (interval of a share).

    Example:
        >>> import qspjax as qsp
        >>> cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": [30.0, 60.0]})
        >>> arms = [qsp.Arm("30 mg", qsp.bolus(30.0, to="central"))]
        >>> trial = qsp.Trial(arms, [0.0], endpoints={"C0": qsp.endpoints.Value("concentration", at=0.0)})
        >>> [float(row.mean) for row in qsp.summarise(qsp.simulate_trial(trial, cohort))]
        [0.75]
    """
    rows = []
    for name, endpoint in zip(result.trial.endpoint_names, result.trial.endpoints, strict=True):
        for arm in result.arms:
            values = np.asarray(arm.endpoints[name])
            failed = int(np.asarray(arm.solution.failed).sum())
            defined = values[np.isfinite(values)]
            responder = isinstance(endpoint, Responder)
            p5, median, p95 = np.percentile(defined, [5, 50, 95]) if defined.size else [math.nan] * 3
            low, high = share(defined)[1:] if responder else _mean_interval(defined)
            mean = defined.mean() if defined.size else math.nan
            undefined = values.size - defined.size - failed
            counts = (values.size, failed, undefined)
            rows.append(Row(name, arm.name, *counts, median, p5, p95, mean, low, high, responder))
    return rows


def summary_text(result: TrialResult, *, units: Mapping[str, str] | None = None) -> str:
    """Return the summary of a trial as text, with a block per endpoint and a line per arm.

    Args:
        result: The trial.
        units: The unit of each endpoint by name, where it has one.

    Example:
        >>> import qspjax as qsp
        >>> cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": [30.0, 60.0]})
        >>> arms = [qsp.Arm("30 mg", qsp.bolus(30.0, to="central"))]
        >>> trial = qsp.Trial(arms, [0.0], endpoints={"C0": qsp.endpoints.Value("concentration", at=0.0)})
        >>> print(qsp.summary_text(qsp.simulate_trial(trial, cohort), units={"C0": "mg/L"}).splitlines()[0])
        30 mg  2 patients, 0 failed
    """
    width = max(len(arm.name) for arm in result.arms) + 2
    lines = []
    for arm in result.arms:
        failed = int(np.asarray(arm.solution.failed).sum())
        lines.append(f"{arm.name:<{width}}{arm.members.size} patients, {failed} failed")
    done = result.cohort.interventions()
    lines += [] if done is None else [str(done)]
    rows = summarise(result)
    for name in result.trial.endpoint_names:
        unit = (units or {}).get(name)
        endpoint_rows = [row for row in rows if row.endpoint == name]
        block = _share_block if endpoint_rows[0].responder else _number_block
        lines += ["", f"{name} ({unit})" if unit else name, *block(endpoint_rows, width)]
    return "\n".join(lines) + "\n"


def _share_block(rows: list[Row], width: int) -> Iterator[str]:
    yield f"{'':<{width}}{'share':>8}   95 % confidence interval of the share"
    for row in rows:
        estimate, interval = percent(Interval(row.mean, row.mean_low, row.mean_high))
        yield f"{row.arm:<{width}}{estimate:>8}   {interval}{_note(row)}"


def _number_block(rows: list[Row], width: int) -> Iterator[str]:
    spread = "5th to 95th percentile of patients"
    yield f"{'':<{width}}{'median':>10}   {spread:<36}mean (95 % confidence interval of the mean)"
    for row in rows:
        spread = f"{_number(row.p5)} to {_number(row.p95)}"
        mean = f"{_number(row.mean)} ({_number(row.mean_low)} to {_number(row.mean_high)})"
        yield f"{row.arm:<{width}}{_number(row.median):>10}   {spread:<36}{mean}{_note(row)}"


def _note(row: Row) -> str:
    return f"   {row.undefined} undefined" if row.undefined else ""


def _number(x: float) -> str:
    return "-" if math.isnan(x) else f"{x:.4g}"


def _mean_interval(values: np.ndarray) -> tuple[float, float]:
    if values.size < 2:
        return math.nan, math.nan
    from scipy import stats  # half a second to import, which users who only draw patients do not need

    half = stats.t.ppf(0.975, values.size - 1) * values.std(ddof=1) / math.sqrt(values.size)
    return values.mean() - half, values.mean() + half
