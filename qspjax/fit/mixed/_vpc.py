"""Visual predictive checks: quantiles of the measurements, compared with those of data sets simulated from the fit.

With prediction correction, the measurements in a bin are scaled to its typical prediction, so that different doses and
covariates can be shown together:

    pcY = Y median(PRED in the bin and stratum) / PRED

For a mixture, PRED is its mean over the subpopulations, sum_k pi_k PRED_k: the most probable subpopulation of a subject
follows from its measurements, but simulated measurements come from all of them.

What lies below the limit of quantification is included as such, in the data and in each simulated data set alike, and
its share has its own interval. Whether it lies there is judged before the correction: it ranks below all other values,
whatever its corrected limit is, and what was measured may lie below the limit once it is corrected.

References: Bergstrand, Hooker, Wallin and Karlsson, AAPS J 2011;13:143, doi:10.1208/s12248-011-9255-z; for shares,
Bergstrand and Karlsson, AAPS J 2009;11:371, doi:10.1208/s12248-009-9112-5.
"""

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from qspjax._checks import check_number, check_one_of, check_whole, refuse
from qspjax._types import Key
from qspjax.fit.data._output_data import OutputData
from qspjax.fit.mixed._diagnostics import diagnostics, simulated
from qspjax.fit.mixed._mixture import Mixture
from qspjax.fit.search._search import quickly_compiled

if TYPE_CHECKING:
    from qspjax.fit.mixed._result import MixedFit

MOST_VALUES = 6
"""Up to this number of values of a covariate, each value is a stratum; with more, their range is divided."""


@dataclasses.dataclass(frozen=True)
class VisualPredictiveCheck(Mapping):
    """A visual predictive check: columns with one row per stratum, bin and quantile, and the measurements.

    Attributes:
        output: The name of the output.
        table: STRATUM (if there are strata), TIME (the median in the bin), LEFT and RIGHT (its edges), COUNT, QUANTILE,
            OBSERVED, LOWER, MEDIAN and UPPER; and BELOW, BELOW_LOWER, BELOW_MEDIAN and BELOW_UPPER, the share below the
            limit of quantification, observed and simulated, NaN without a limit.
        points: Every measurement, as columns: STRATUM, ID, TIME, VALUE (corrected if the check is; for a censored one
            its limit) and CENSORED.
        corrected: Whether measurements are corrected by their typical prediction.
        reasons: Which subjects are not in it, and why; and whose simulations failed, and how often.

    Example:
        >>> rows = {"TIME": [1.0, 4.0], "LEFT": [0.0, 2.0], "RIGHT": [2.0, 6.0], "COUNT": [9, 9], "QUANTILE": [0.5] * 2}
        >>> rows |= {"OBSERVED": [9.0, 6.1], "LOWER": [8.0, 5.0], "MEDIAN": [9.1, 6.0], "UPPER": [9.9, 7.2]}
        >>> rows |= {"BELOW": [np.nan] * 2, "BELOW_LOWER": [np.nan] * 2}
        >>> rows |= {"BELOW_MEDIAN": [np.nan] * 2, "BELOW_UPPER": [np.nan] * 2}
        >>> table = {name: np.array(values) for name, values in rows.items()}
        >>> check = VisualPredictiveCheck("conc", table, points={}, corrected=False, reasons=())
        >>> check["MEDIAN"].tolist()
        [9.1, 6.0]
    """

    output: str
    table: Mapping[str, np.ndarray]
    points: Mapping[str, np.ndarray]
    corrected: bool
    reasons: tuple[str, ...]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.table[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)

    def __len__(self) -> int:
        return len(self.table)


def visual_predictive_check(
    fit: "MixedFit",
    *,
    key: Key,
    output: str | None = None,
    replicates: int = 500,
    bins: int | Sequence[float] | None = None,
    corrected: bool = True,
    quantiles: Sequence[float] = (0.05, 0.5, 0.95),
    interval: float = 0.95,
    after_dose: bool = False,
    strata: str | Sequence[object] | None = None,
    cuts: Sequence[float] | None = None,
) -> VisualPredictiveCheck:
    """Return quantiles of measurements, and those of simulated ones with intervals: the data of `plot.vpc`.

    Args:
        fit: The fit.
        key: `jax.random.key(seed)`.
        output: The output; by default the first.
        replicates: The number of data sets that are simulated.
        bins: Edges of bins of time, or the number of bins; by default each time is a bin if there are at most 20 times,
            otherwise there are 10 bins of equal size.
        corrected: Whether measurements are corrected by their typical prediction.
        quantiles: The quantiles.
        interval: The share of the simulated quantiles that their interval holds.
        after_dose: Whether times are those after the last dose.
        strata: A covariate, or a value of each subject, shape (subjects,): each of its values has a separate check.
        cuts: Where numbers are divided into strata; by default at the median if there are more than 6 values.

    Returns:
        The check. What lies beyond a limit of quantification before the correction, measured or simulated, ranks beyond
        all other values; a quantile or an end of an interval among such values is NaN. If records have different
        limits, the narrowest counts for all. With `M1(limit)` what is simulated below the limit is left out, as the
        measurements are. Subjects that the fit left out are left out, and named in `reasons`.

    Raises:
        ValueError: If the output or the covariate is unknown, or a number is out of range.

    Example:
        >>> import jax, numpy as np, qspjax as qsp
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
        >>> fit = nlme(mixed, method=FO(), iterations=0)
        >>> check = visual_predictive_check(fit, key=jax.random.key(0), replicates=20)
        >>> "TIME" in check
        True
    """
    mixed = fit.placed
    names = [rows.name for rows in mixed.rows]
    output = names[0] if output is None else output
    check_one_of("output", output, names, "an output that is measured")
    check_whole("replicates", replicates, 2)
    check_number("interval", interval)
    if not 0.0 < interval < 1.0:
        refuse("interval", "lie between 0 and 1", interval)
    index = names.index(output)
    rows = mixed.rows[index]
    labels, names_of_strata = _labels(fit, strata, cuts)
    labels = labels[rows.experiment]
    table = diagnostics(fit)
    of_output = table["OUTPUT"] == output
    time, model = table["TAD" if after_dose else "TIME"][of_output], fit.mixed
    pred = _expected(model, fit.x)[index] if corrected and isinstance(model, Mixture) else table["PRED"][of_output]
    simulations = simulated(fit.mixed, fit.x, key=key, replicates=replicates)[index]
    (low, high), failures = rows.limits, _failed(fit, rows, simulations)
    if rows.output.below is not None and not rows.output.below.keeps():
        simulations, low = np.where(simulations < low, np.nan, simulations), -np.inf
    limited = bool(np.isfinite([low, high]).any())
    measurements = np.where(rows.side > 0, -np.inf, np.where(rows.side < 0, np.inf, rows.value))
    measurements, simulations = (
        np.where(y < low, -np.inf, np.where(y > high, np.inf, y)) for y in (measurements, simulations)
    )
    included, factors = fit.kept[rows.experiment] & np.isfinite(time), np.ones(time.size)
    result: dict[str, list] = {}
    for bin_columns, in_bin in _bins(time, labels, names_of_strata, included, bins):
        if corrected:  # measurements with a prediction of 0, as before a dose, are not corrected
            predicted = np.flatnonzero(in_bin & (pred != 0.0))
            factors[predicted] = np.median(pred[in_bin]) / pred[predicted]
        below = _share(measurements[in_bin], simulations[:, in_bin], interval, has_limit=bool(np.isfinite(low)))
        for quantile in quantiles:
            found, expected = (
                _quantile(np.where(np.isinf(y), y, y * factors[in_bin]), quantile, limited)
                for y in (measurements[in_bin], simulations[:, in_bin])
            )
            observed, band = np.where(np.isfinite(found), found, np.nan), _interval(expected, interval)
            row = {**bin_columns, "QUANTILE": quantile, "OBSERVED": observed, **_band_columns("", band), **below}
            for name, value in row.items():
                result.setdefault(name, []).append(value)
    values = np.where(rows.side > 0, rows.upper, np.where(rows.side < 0, rows.lower, rows.value))
    columns = {"STRATUM": labels, "ID": table["ID"][of_output], "TIME": time, "VALUE": values * factors}
    return VisualPredictiveCheck(
        output,
        {name: np.array(values) for name, values in result.items() if name != "STRATUM" or strata is not None},
        {name: values[included] for name, values in (columns | {"CENSORED": np.asarray(rows.censored)}).items()},
        corrected,
        (*fit.reasons, *failures),
    )


def _bins(
    time: np.ndarray,
    labels: np.ndarray,
    strata: Sequence[str],
    included: np.ndarray,
    bins: int | Sequence[float] | None,
) -> Iterator[tuple[dict[str, object], np.ndarray]]:
    """Yield the columns of each stratum and bin with measurements, and which measurements are in it."""
    left, right = _edges(time[included], bins)
    for label in strata:
        for k, (first, last) in enumerate(zip(left, right, strict=True)):
            before_end = (time < last) if k < len(left) - 1 else (time <= last)
            in_bin = included & (labels == label) & (time >= first) & before_end
            if in_bin.any():
                columns = {"TIME": np.median(time[in_bin]), "LEFT": first, "RIGHT": last, "COUNT": int(in_bin.sum())}
                yield {"STRATUM": label, **columns}, in_bin


def _labels(
    fit: "MixedFit", strata: str | Sequence[object] | None, cuts: Sequence[float] | None
) -> tuple[np.ndarray, list[str]]:
    """Return the name of the stratum of each subject, and all names in order."""
    count = fit.mixed.count
    if strata is None:
        return np.full(count, "", dtype=object), [""]
    name = strata if isinstance(strata, str) else ""
    if name:
        check_one_of("strata", name, fit.placed.covariates, "a covariate")
    values = np.asarray(fit.placed.covariates[name] if name else strata)
    if values.shape != (count,):
        refuse("strata", f"be a covariate, or have one value per subject ({count})", f"of shape {values.shape}")
    if values.dtype.kind not in "fiu":
        words, index = np.unique(values.astype(str), return_inverse=True)
    elif cuts is None and np.unique(values[fit.kept]).size <= MOST_VALUES:
        distinct, index = np.unique(values, return_inverse=True)
        words = [f"{name} = {value:g}" if name else f"{value:g}" for value in distinct]
    else:
        edges = np.array([np.median(values[fit.kept])]) if cuts is None else np.asarray(cuts, float)
        if edges.ndim != 1 or not edges.size or not (np.diff(edges) > 0).all():
            refuse("cuts", "be increasing numbers", cuts)
        quantity, inner = name or "value", zip(edges[:-1], edges[1:], strict=True)
        words = [
            f"{quantity} <= {edges[0]:g}",
            *(f"{low:g} < {quantity} <= {high:g}" for low, high in inner),
            f"{quantity} > {edges[-1]:g}",
        ]
        index = np.searchsorted(edges, values)
    return np.array(words, dtype=object)[index], [str(word) for word in words]


def _share(measurements: np.ndarray, simulations: np.ndarray, interval: float, *, has_limit: bool) -> dict[str, float]:
    """Return the share below the limit, observed and simulated, NaN where there is no limit."""
    share = float(np.isneginf(measurements).mean()) if has_limit else np.nan
    counts = (~np.isnan(simulations)).sum(axis=1)
    shares = np.isneginf(simulations).sum(axis=1)[counts > 0] / counts[counts > 0]
    band = _interval(shares, interval) if has_limit else [np.nan] * 3
    return {"BELOW": share, **_band_columns("BELOW_", band)}


def _band_columns(prefix: str, band: Sequence[float] | np.ndarray) -> dict[str, float]:
    return dict(zip((f"{prefix}LOWER", f"{prefix}MEDIAN", f"{prefix}UPPER"), band, strict=True))


def _interval(values: np.ndarray, interval: float) -> Sequence[float] | np.ndarray:
    """Return the lower end, the median and the upper end of the interval of replicates.

    Replicates beyond a limit, -inf or inf, have their rank, and what lies among them is NaN; those without
    a value (NaN) are left out.
    """
    ranked = np.sort(values[~np.isnan(values)])
    if not ranked.size:
        return [np.nan] * 3
    place = ((ranked.size - 1) * np.array([0.5 - interval / 2.0, 0.5, 0.5 + interval / 2.0])).round(9)
    below, above = (ranked[whole(place).astype(int)] for whole in (np.floor, np.ceil))
    known = np.isfinite(below) & np.isfinite(above)
    below, above = np.where(known, below, np.nan), np.where(known, above, np.nan)
    return below + (place - np.floor(place)) * (above - below)


def _failed(fit: "MixedFit", rows: OutputData, simulations: np.ndarray) -> list[str]:
    """Say whose simulations failed, and how often."""
    failed = np.isnan(simulations)
    lines = []
    for i in np.unique(rows.experiment[failed.any(axis=0)]):
        if fit.kept[i]:
            times = int(failed[:, rows.experiment == i].any(axis=1).sum())
            lines.append(
                f"Subject `{fit.mixed.subject_names[i]}`: its simulation has no values of `{rows.name}` in {times} of "
                f"{len(simulations)} replicates, where it is left out."
            )
    return lines


def _expected(mixture: Mixture, x: np.ndarray) -> list[np.ndarray]:
    """Return the mean over the subpopulations of each typical prediction, output by output."""
    copies = mixture.copies
    u = jnp.zeros((copies.count, len(copies.effects)))

    def typical(x: jax.Array) -> list[jax.Array]:
        shares = jnp.exp(mixture.log_shares(x))
        predicted = copies.predicted(x, u, copies.expanded(x, u, 0))
        return [shares @ prediction.reshape(shares.size, -1) for prediction, _ in predicted]

    program = copies.program("typical", lambda: quickly_compiled(typical, short=True))
    return [np.asarray(prediction) for prediction in program(jnp.asarray(x))]


def _quantile(values: np.ndarray, quantile: float, limited: bool) -> np.ndarray:
    """Return a quantile along the last axis, infinite where it lies beyond a limit of quantification."""
    interpolation = "inverted_cdf" if limited else "linear"
    # subjects whose simulation failed are left out of the replicate
    quantile_of = np.nanquantile if np.isnan(values).any() else np.quantile
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        return np.asarray(quantile_of(values, quantile, axis=-1, method=interpolation))


def _edges(time: np.ndarray, bins: int | Sequence[float] | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the left and the right edges of bins."""
    finite = time[np.isfinite(time)]
    times = np.unique(finite)
    if bins is None and times.size <= 20:
        middle = 0.5 * (times[1:] + times[:-1])
        return np.concatenate([times[:1], middle]), np.concatenate([middle, times[-1:]])
    if bins is None or isinstance(bins, int):
        count = 10 if bins is None else bins
        check_whole("bins", count, 1)
        edges = np.unique(np.quantile(finite, np.linspace(0.0, 1.0, count + 1)))
    else:
        edges = np.asarray(bins, float)
        if edges.ndim != 1 or edges.size < 2 or not (np.diff(edges) > 0).all():
            refuse("bins", "be increasing edges", bins)
    return edges[:-1], edges[1:]
