"""Visual predictive checks: quantiles of what was measured, among those of data sets that the fit makes.

With prediction correction, measurements of a bin are brought to its typical prediction, so that different doses and
covariates can be looked at together:

    pcY = Y median(PRED in the bin and stratum) / PRED

Of a mixture, PRED is its mean over the subpopulations, sum_k pi_k PRED_k: the one in which a subject most probably is
was chosen by its measurements, and those that are simulated are of others.

Measurements below the limit of quantification take part as such: the share of them has an interval of its own.

References: Bergstrand, Hooker, Wallin and Karlsson, AAPS J 2011;13:143, doi:10.1208/s12248-011-9255-z; of shares,
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

FEW = 6
"""Values of a covariate that are strata each; one with more is divided."""


@dataclasses.dataclass(frozen=True)
class VisualPredictiveCheck(Mapping):
    """A visual predictive check: a mapping of columns with a row a stratum, bin and quantile, and what was measured.

    Attributes:
        output: Which output.
        table: STRATUM (if there are strata), TIME (the median in the bin), LEFT and RIGHT (its edges), COUNT, QUANTILE,
            OBSERVED, LOWER, MEDIAN and UPPER; and BELOW, BELOW_LOWER, BELOW_MEDIAN and BELOW_UPPER, the share below the
            limit of quantification, observed and simulated, NaN without a limit.
        points: Every measurement, as columns: STRATUM, ID, TIME, VALUE (corrected if the check is; of what is censored
            its limit) and CENSORED.
        corrected: Whether measurements are corrected by their typical prediction.
        reasons: Who is not in it, and why; and whose simulations failed, and how often.

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
    """Return quantiles of measurements, and of simulated ones with their interval: the data of `plot.vpc`.

    Args:
        fit: The fit.
        key: `jax.random.key(seed)`.
        output: Which output; by default the first.
        replicates: How many data sets are simulated.
        bins: Edges of bins of time, or their number; by default each time is a bin if there are at most 20 of them,
            else there are 10 of equal size.
        corrected: Whether measurements are corrected by their typical prediction.
        quantiles: Which quantiles.
        interval: How much of the simulated quantiles their interval holds.
        after_dose: Whether times are those after the last dose.
        strata: A covariate, or a value of each subject, shape (subjects,): each of its values is a check of its own.
        cuts: Where strata of numbers are divided; by default at the median, if there are more than 6 of them.

    Returns:
        The check. A quantile that lies beyond a limit of quantification is NaN: where records have limits of their own,
        beyond the narrowest. Subjects that the fit left out are left out, and named in `reasons`.

    Raises:
        ValueError: If the output or the covariate is not known, or a number is out of range.

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
    place = names.index(output)
    rows = mixed.rows[place]
    labels, named = _labels(fit, strata, cuts)
    labels = labels[rows.experiment]
    table = diagnostics(fit)
    mine = table["OUTPUT"] == output
    time, whole = table["TAD" if after_dose else "TIME"][mine], fit.mixed
    pred = _expected(whole, fit.x)[place] if corrected and isinstance(whole, Mixture) else table["PRED"][mine]
    made = simulated(fit.mixed, fit.x, key=key, replicates=replicates)[place]
    low, high = rows.limits if rows.censored.any() else (-np.inf, np.inf)
    seen = np.where(rows.side > 0, -np.inf, np.where(rows.side < 0, np.inf, rows.value))
    seen, made = (np.where(y < low, -np.inf, np.where(y > high, np.inf, y)) for y in (seen, made))
    there, factors = fit.kept[rows.experiment] & np.isfinite(time), np.ones(time.size)
    found: dict[str, list] = {}
    for begins, inside in _bins(time, labels, named, there, bins):
        if corrected:  # where nothing is predicted, as before a dose, there is nothing to correct
            known = np.flatnonzero(inside & (pred != 0.0))
            factors[known] = np.median(pred[inside]) / pred[known]
        below = _share(seen[inside], made[:, inside], interval, known=np.isfinite(low))
        for quantile in quantiles:
            band = _interval(_quantile(made[:, inside] * factors[inside], quantile, rows), interval)
            observed = _quantile(seen[inside] * factors[inside], quantile, rows)
            row = {**begins, "QUANTILE": quantile, "OBSERVED": observed, **_named("", band), **below}
            for name, value in row.items():
                found.setdefault(name, []).append(value)
    shown = np.where(rows.side > 0, rows.upper, np.where(rows.side < 0, rows.lower, rows.value))
    columns = {"STRATUM": labels, "ID": table["ID"][mine], "TIME": time, "VALUE": shown * factors}
    return VisualPredictiveCheck(
        output,
        {name: np.array(values) for name, values in found.items() if name != "STRATUM" or strata is not None},
        {name: values[there] for name, values in (columns | {"CENSORED": np.asarray(rows.censored)}).items()},
        corrected,
        (*fit.reasons, *_failed(fit, rows, made)),
    )


def _bins(
    time: np.ndarray, labels: np.ndarray, named: Sequence[str], there: np.ndarray, bins: int | Sequence[float] | None
) -> Iterator[tuple[dict[str, object], np.ndarray]]:
    """Yield the columns of each stratum and bin that has measurements, and which these are."""
    left, right = _edges(time[there], bins)
    for label in named:
        for k, (first, last) in enumerate(zip(left, right, strict=True)):
            until = (time < last) if k < len(left) - 1 else (time <= last)
            inside = there & (labels == label) & (time >= first) & until
            if inside.any():
                own = {"TIME": np.median(time[inside]), "LEFT": first, "RIGHT": last, "COUNT": int(inside.sum())}
                yield {"STRATUM": label, **own}, inside


def _labels(
    fit: "MixedFit", strata: str | Sequence[object] | None, cuts: Sequence[float] | None
) -> tuple[np.ndarray, list[str]]:
    """Return the stratum of each subject, in words, and all of them in order."""
    count = fit.mixed.count
    if strata is None:
        return np.full(count, "", dtype=object), [""]
    name = strata if isinstance(strata, str) else ""
    if name:
        check_one_of("strata", name, fit.placed.covariates, "a covariate")
    values = np.asarray(fit.placed.covariates[name] if name else strata)
    if values.shape != (count,):
        refuse("strata", f"be a covariate, or have a value a subject ({count})", f"of shape {values.shape}")
    if values.dtype.kind not in "fiu":
        words, place = np.unique(values.astype(str), return_inverse=True)
    elif cuts is None and np.unique(values[fit.kept]).size <= FEW:
        each, place = np.unique(values, return_inverse=True)
        words = [f"{name} = {value:g}" if name else f"{value:g}" for value in each]
    else:
        edges = np.array([np.median(values[fit.kept])]) if cuts is None else np.asarray(cuts, float)
        if edges.ndim != 1 or not edges.size or not (np.diff(edges) > 0).all():
            refuse("cuts", "be increasing numbers", cuts)
        what, inner = name or "value", zip(edges[:-1], edges[1:], strict=True)
        words = [
            f"{what} <= {edges[0]:g}",
            *(f"{low:g} < {what} <= {high:g}" for low, high in inner),
            f"{what} > {edges[-1]:g}",
        ]
        place = np.searchsorted(edges, values)
    return np.array(words, dtype=object)[place], [str(word) for word in words]


def _share(seen: np.ndarray, made: np.ndarray, interval: float, *, known: bool) -> dict[str, float]:
    """Return the share below the limit, observed and simulated, NaN where there is no limit."""
    share = float(np.isneginf(seen).mean()) if known else np.nan
    counts = np.maximum((~np.isnan(made)).sum(axis=1), 1)
    band = _interval(np.isneginf(made).sum(axis=1) / counts, interval) if known else [np.nan] * 3
    return {"BELOW": share, **_named("BELOW_", band)}


def _named(what: str, band: Sequence[float] | np.ndarray) -> dict[str, float]:
    return dict(zip((f"{what}LOWER", f"{what}MEDIAN", f"{what}UPPER"), band, strict=True))


def _interval(values: np.ndarray, interval: float) -> Sequence[float] | np.ndarray:
    """Return the interval of replicates about their median, and it, NaN where none has a value."""
    known = values[np.isfinite(values)]
    return np.quantile(known, [0.5 - interval / 2.0, 0.5, 0.5 + interval / 2.0]) if known.size else [np.nan] * 3


def _failed(fit: "MixedFit", rows: OutputData, made: np.ndarray) -> list[str]:
    """Say whose simulations failed, and how often."""
    lost = np.isnan(made)
    found = []
    for i in np.unique(rows.experiment[lost.any(axis=0)]):
        if fit.kept[i]:
            times = int(lost[:, rows.experiment == i].any(axis=1).sum())
            found.append(
                f"Subject `{fit.mixed.subject_names[i]}`: its simulation has no values of `{rows.name}` in {times} of "
                f"{len(made)} replicates, where it is left out."
            )
    return found


def _expected(mixture: Mixture, x: np.ndarray) -> list[np.ndarray]:
    """Return the mean over the subpopulations of each typical prediction, output by output."""
    copies = mixture.copies
    u = jnp.zeros((copies.count, len(copies.effects)))

    def typical(x: jax.Array) -> list[jax.Array]:
        shares = jnp.exp(mixture.log_shares(x))
        predicted = copies.predicted(x, u, copies.expanded(x, u, 0))
        return [shares @ own.reshape(shares.size, -1) for own, _ in predicted]

    program = copies.program("typical", lambda: quickly_compiled(typical))
    return [np.asarray(own) for own in program(jnp.asarray(x))]


def _quantile(values: np.ndarray, quantile: float, rows: OutputData) -> np.ndarray:
    """Return a quantile along the last axis, NaN where it lies beyond a limit of quantification."""
    way = "inverted_cdf" if rows.censored.any() else "linear"
    # a subject whose simulation failed is left out of the replicate
    take = np.nanquantile if np.isnan(values).any() else np.quantile
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        found = take(values, quantile, axis=-1, method=way)
    return np.where(np.isfinite(found), found, np.nan)


def _edges(time: np.ndarray, bins: int | Sequence[float] | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the left and the right edges of bins."""
    known = time[np.isfinite(time)]
    times = np.unique(known)
    if bins is None and times.size <= 20:
        middle = 0.5 * (times[1:] + times[:-1])
        return np.concatenate([times[:1], middle]), np.concatenate([middle, times[-1:]])
    if bins is None or isinstance(bins, int):
        count = 10 if bins is None else bins
        check_whole("bins", count, 1)
        edges = np.unique(np.quantile(known, np.linspace(0.0, 1.0, count + 1)))
    else:
        edges = np.asarray(bins, float)
        if edges.ndim != 1 or edges.size < 2 or not (np.diff(edges) > 0).all():
            refuse("bins", "be increasing edges", bins)
    return edges[:-1], edges[1:]
