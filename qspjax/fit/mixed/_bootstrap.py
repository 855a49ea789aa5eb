"""The nonparametric bootstrap of a mixed-effects fit: subjects drawn with replacement.

The objective is a sum over subjects, so a replicate is the same sum in which subject i counts n_i times,

    O*(x) = sum_i n_i o_i(x),   n ~ Multinomial(N; 1/N, ..., 1/N)

with the same program as the fit: nothing is compiled again. All replicates begin at the estimate, where the objectives
of all subjects and their slopes are already known.

References: Efron, Ann Stat 1979;7:1, doi:10.1214/aos/1176344552; Thai, Mentre, Holford, Veyrat-Follet and Comets,
J Pharmacokinet Pharmacodyn 2014;41:15, doi:10.1007/s10928-013-9343-z.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from qspjax._checks import check_instance, check_one_of, check_whole, refuse
from qspjax._extras import require
from qspjax._fingerprint import fingerprint
from qspjax._progress import Progress
from qspjax._random import generator, seed_of
from qspjax._types import Key
from qspjax.fit.mixed._approximations import ITERATIONS, AbstractApproximation
from qspjax.fit.mixed._nlme import DescentRun
from qspjax.fit.mixed._result import MixedFit
from qspjax.fit.search._checkpoint import loaded, save

if TYPE_CHECKING:
    import pandas

PERCENTILES = (2.5, 50.0, 97.5)


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """Estimates of data sets whose subjects are drawn with replacement.

    Attributes:
        found: The fit.
        counts: How many times each subject is in each replicate, shape (replicates, subjects).
        x: The estimates on the scale of the search, shape (replicates, names); NaN for a replicate that failed.
        objectives: Their objectives, shape (replicates,).
        status: How each search ended.
        seconds: The time it took.
        reasons: Which subjects are in no replicate, and why.

    Example:
        >>> import numpy as np, qspjax as qsp
        >>> from qspjax.fit import FO, Additive, Experiment, Free, Measurements, MixedModel, Output, RandomEffects, nlme
        >>> times = np.array([1.0, 4.0, 8.0])
        >>> def subject(CL):
        ...     data = Measurements(times, 10.0 * np.exp(-CL / 30.0 * times), output="c")
        ...     return Experiment(data, qsp.bolus(300.0, to="central"))
        >>> mixed = MixedModel(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
        ...     {f"{i}": subject(CL) for i, CL in enumerate([2.0, 2.5, 3.1, 3.9])},
        ...     {"c": Output("concentration", Additive(0.2))},
        ...     parameters={"tCL": Free(2.8)},
        ...     individual={"CL": "tCL * exp(eta_CL)"},
        ...     random=[RandomEffects({"eta_CL": 0.1})],
        ... )
        >>> fit = nlme(mixed)  # doctest: +SKIP
        >>> u, each = np.array([[-1.2], [-0.3], [0.4], [1.3]]), np.ones(4, bool)  # what it finds
        >>> start, none = mixed.start, np.zeros(1)
        >>> fit = MixedFit(mixed, FO(), start, u, np.zeros(4), each, (), each, none, start[None], "converged", 1.0)
        >>> counts = np.array([[1.0, 1.0, 2.0, 0.0], [0.0, 2.0, 1.0, 1.0]])  # of each subject in each replicate
        >>> result = Bootstrap(fit, counts, np.array([fit.x - 0.1, fit.x + 0.1]), np.zeros(2), ("converged",) * 2, 1.0)
        >>> result.values.shape, list(result.table())
        ((2, 2), ['REPLICATE', 'STATUS', 'CONVERGED', 'OBJECTIVE', 'tCL', 'var(eta_CL)'])
    """

    found: MixedFit
    counts: np.ndarray
    x: np.ndarray
    objectives: np.ndarray
    status: tuple[str, ...]
    seconds: float
    reasons: tuple[str, ...] = ()

    @property
    def converged(self) -> np.ndarray:
        """Which replicates converged, shape (replicates,)."""
        return np.array([status == "converged" for status in self.status])

    @property
    def values(self) -> np.ndarray:
        """The natural values of all estimates, shape (replicates, names)."""
        return np.asarray(jax.vmap(self.found.mixed.natural)(jnp.asarray(self.x)))

    def table(self) -> dict[str, np.ndarray]:
        """Return a table with one row per replicate: REPLICATE, STATUS, CONVERGED, OBJECTIVE and the estimates."""
        named = dict(zip(self.found.mixed.names, self.values.T, strict=True))
        return {
            "REPLICATE": np.arange(len(self.status)),
            "STATUS": np.array(self.status, dtype=object),
            "CONVERGED": self.converged,
            "OBJECTIVE": self.objectives,
            **named,
        }

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return a table with one row per estimate, from the replicates that converged.

        Its columns are the estimate, the mean of the replicates, the bias (mean - estimate), the standard error (their
        standard deviation), and the percentiles 2.5, 50 and 97.5: the first and the last are a 95 % interval.
        """
        pandas = require("pandas", extra="data")
        estimates, values = np.array([*self.found.parameters.values()]), self.values[self.converged]
        too_few = len(values) < 2
        percentiles = np.full((3, estimates.size), np.nan) if too_few else np.percentile(values, PERCENTILES, axis=0)
        mean = np.full(estimates.size, np.nan) if too_few else values.mean(axis=0)
        errors = np.full(estimates.size, np.nan) if too_few else values.std(axis=0, ddof=1)
        named = {f"{p:g}%": row for p, row in zip(PERCENTILES, percentiles, strict=True)}
        columns = {"name": [*self.found.parameters], "estimate": estimates, "mean": mean, "bias": mean - estimates}
        return pandas.DataFrame({**columns, "se": errors, **named})

    def __str__(self) -> str:
        lines = [f"{len(self.status)} replicates, {self.converged.sum()} of them converged"]
        others = [status for status in self.status if status != "converged"]
        lines += [f"{others.count(status)} not: {status}" for status in dict.fromkeys(others)]
        return "\n".join([*lines, *self.reasons, self.to_dataframe().to_string(index=False)])


def bootstrap(
    found: MixedFit,
    *,
    key: Key,
    replicates: int = 200,
    strata: str | None = None,
    iterations: int = ITERATIONS,
    tolerance: float = 1e-4,
    checkpoint: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Bootstrap:
    """Fit data sets whose subjects are drawn with replacement, for standard errors and intervals without a formula.

    $$ x^* = \\arg\\min_x \\sum_i n_i o_i(x), \\quad n \\sim \\mathrm{Multinomial}(N; 1/N, ..., 1/N) $$

    A replicate that does not converge is data: it is in the table with its reason, and left out of the summary.

    Args:
        found: A fit by `FOCEI`, `FOCE`, `FO` or `Laplace`. Subjects that it left out, or that have no
            likelihood at its estimate, are not drawn, but named in `reasons`.
        key: `jax.random.key(seed)`; the draws of a replicate do not depend on the number of replicates.
        replicates: The number of data sets.
        strata: A covariate: subjects are drawn among those with the same initial value of it.
        iterations: The maximum number of iterations of a replicate.
        tolerance: A search ends when the next step should lower the objective by less than this; 1e-4 is a hundredth
            of a standard error.
        checkpoint: A file in which the replicates are saved; if it exists already, the bootstrap continues from it.
        progress: Called after every replicate.

    Returns:
        A `Bootstrap`.

    Raises:
        ValueError: If the fit is by `SAEM`, the covariate is unknown, or the checkpoint is that of another bootstrap.

    Reference: Thai et al., J Pharmacokinet Pharmacodyn 2014;41:15, doi:10.1007/s10928-013-9343-z.

    Example:
        >>> import jax, numpy as np, qspjax as qsp
        >>> from qspjax.fit import (
        ...     Additive, Experiment, FO, Free, Measurements, MixedModel, Output, RandomEffects, bootstrap, nlme,
        ... )
        >>> times = np.array([1.0, 4.0, 8.0])
        >>> def subject(CL):
        ...     data = Measurements(times, 10.0 * np.exp(-CL / 30.0 * times), output="concentration")
        ...     return Experiment(data, qsp.bolus(300.0, to="central"))
        >>> mixed = MixedModel(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
        ...     {f"{i}": subject(CL) for i, CL in enumerate([2.0, 2.5, 3.1, 3.9])},
        ...     {"concentration": Output("concentration", Additive(0.2))},
        ...     parameters={"tCL": Free(3.5)},
        ...     individual={"CL": "tCL * exp(eta_CL)"},
        ...     random=[RandomEffects({"eta_CL": 0.1}, fixed=True)],
        ... )
        >>> result = bootstrap(nlme(mixed, method=FO()), key=jax.random.key(0), replicates=5)
        >>> bool(result.converged.all()), result.values.shape
        (True, (5, 1))
    """
    check_instance("found", found, MixedFit, "a fit that nlme has found")
    check_whole("replicates", replicates, 1)
    check_whole("iterations", iterations, 1)
    if not isinstance(found.method, AbstractApproximation):
        refuse("found", "be a fit by FOCEI, FOCE, FO or Laplace", f"one by {type(found.method).__name__}")
    if strata is not None:
        check_one_of("strata", strata, found.placed.covariates, "a covariate")
    began = time.perf_counter()
    refit = _Refit(found, iterations, tolerance)
    fit_of_drawn = dataclasses.replace(found, kept=refit.kept)
    counts = np.array([_counts(fit_of_drawn, strata, key, k) for k in range(replicates)])
    file, done = None if checkpoint is None else Path(checkpoint), []
    mark = "" if file is None else _mark(found, strata, seed_of(key), iterations, tolerance)
    if file is not None and file.exists():
        saved = loaded(file, mark, "bootstrap")
        done = [*zip(saved["x"], saved["objectives"].tolist(), saved["status"].tolist(), strict=True)][:replicates]
    for k in range(len(done), replicates):
        done.append(refit(counts[k]))
        if file is not None:
            parts = (np.array(part) for part in zip(*done, strict=True))
            save(file, mark, dict(zip(("x", "objectives", "status"), parts, strict=True)))
        if progress is not None:
            converged = sum(status == "converged" for _, _, status in done)
            progress(Progress(len(done), replicates, {"converged": converged}))
    x, objectives, status = zip(*done, strict=True)
    seconds = time.perf_counter() - began
    return Bootstrap(found, counts, np.array(x), np.array(objectives), status, seconds, refit.reasons)


class _Refit:
    """Replicates of a fit, each searched from the estimate."""

    def __init__(self, fit: MixedFit, iterations: int, tolerance: float) -> None:
        if not isinstance(fit.method, AbstractApproximation):
            refuse("found", "be a fit by FOCEI, FOCE, FO or Laplace", f"one by {type(fit.method).__name__}")
        self.method = fit.method
        self.fit, self.iterations, self.tolerance = fit, iterations, tolerance
        self.mixed = fit.mixed
        run = DescentRun(self.mixed, self.method, fit.x)
        self.first, self.kept = run.last, fit.kept & run.kept
        failed = fit.kept & ~run.kept
        self.reasons = (*fit.reasons, *(self.mixed.reasons(failed, fit.x) if failed.any() else ()))

    def __call__(self, counts: np.ndarray) -> tuple[np.ndarray, float, str]:
        """Return the estimate of a replicate, its objective and how the search ended."""
        fit = self.fit
        try:
            run = DescentRun(self.mixed, self.method, fit.x, weights=counts, first=self.first)
            while not run.ended and run.iterations < self.iterations:
                run.advance(self.tolerance)
        except np.linalg.LinAlgError as error:
            return np.full(fit.x.size, np.nan), np.nan, f"broke down: {error}"
        return run.now.x, run.now.value, run.ended or "iterations used up"


def _counts(fit: MixedFit, strata: str | None, key: Key, number: int) -> np.ndarray:
    """Return how many times each subject is in a replicate, shape (subjects,)."""
    random = generator(key, number)
    groups = np.zeros(fit.kept.size) if strata is None else fit.placed.covariates[strata]
    counts = np.zeros(fit.kept.size)
    for value in np.unique(groups[fit.kept]):
        members = np.flatnonzero(fit.kept & (groups == value))
        np.add.at(counts, random.choice(members, members.size), 1.0)
    return counts


def _mark(fit: MixedFit, strata: str | None, *numbers: float) -> str:
    return fingerprint(fit.mixed.content(), fit.method, fit.x, fit.kept, strata, numbers)
