"""Visual predictive checks: quantiles of what was measured, among those of data sets that the fit makes.

With prediction correction, measurements of a bin are brought to its typical prediction, so that different doses and
covariates can be looked at together:

    pcY = Y median(PRED in the bin) / PRED

Of a mixture, PRED is its mean over the subpopulations, sum_k pi_k PRED_k: the one in which a subject most probably is
was chosen by its measurements, and those that are simulated are of others.

Reference: Bergstrand, Hooker, Wallin and Karlsson, AAPS J 2011;13:143, doi:10.1208/s12248-011-9255-z.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from qspjax._checks import check_number, check_one_of, check_whole, refuse
from qspjax.fit._rows import Rows
from qspjax.fit._search import quickly_compiled
from qspjax.fit.mixed._diagnostics import diagnostics, simulated
from qspjax.fit.mixed._mixture import Mixture, whole_of

if TYPE_CHECKING:
    from qspjax.fit.mixed._result import MixedFit


def visual_predictive_check(
    fit: "MixedFit",
    *,
    output: str | None = None,
    replicates: int = 500,
    bins: int | Sequence[float] | None = None,
    corrected: bool = True,
    quantiles: Sequence[float] = (0.05, 0.5, 0.95),
    interval: float = 0.95,
    after_dose: bool = False,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Return quantiles of measurements, and of simulated ones with their interval, as columns: the data of `plot.vpc`.

    Args:
        fit: The fit.
        output: Which output; by default the first.
        replicates: How many data sets are simulated.
        bins: Edges of bins of time, or their number; by default each time is a bin if there are at most 20 of them,
            else there are 10 of equal size.
        corrected: Whether measurements are corrected by their typical prediction.
        quantiles: Which quantiles.
        interval: How much of the simulated quantiles their interval holds.
        after_dose: Whether times are those after the last dose.
        seed: Of the simulation.

    Returns:
        TIME (the median in the bin), LEFT and RIGHT (its edges), COUNT, QUANTILE, OBSERVED, LOWER, MEDIAN and UPPER. A
        quantile that lies beyond a limit of quantification is NaN: where records have limits of their own, beyond the
        narrowest. Subjects that the fit left out are left out.

    Raises:
        ValueError: If the output is not known, or a number is out of range.
    """
    mixed = fit.mixed
    names = [rows.name for rows in mixed.rows]
    output = names[0] if output is None else output
    check_one_of("output", output, names, "an output that is measured")
    check_whole("replicates", replicates, 2)
    check_number("interval", interval)
    if not 0.0 < interval < 1.0:
        refuse("interval", "lie between 0 and 1", interval)
    place = names.index(output)
    rows = mixed.rows[place]
    table = diagnostics(fit)
    mine = table["OUTPUT"] == output
    time, whole = table["TAD" if after_dose else "TIME"][mine], whole_of(mixed)
    pred = _expected(whole, fit.x)[place] if corrected and isinstance(whole, Mixture) else table["PRED"][mine]
    made = simulated(mixed, fit.x, replicates=replicates, seed=seed)[place]
    low, high = rows.limits if rows.censored.any() else (-np.inf, np.inf)
    seen = np.where(rows.side > 0, -np.inf, np.where(rows.side < 0, np.inf, rows.value))
    seen, made = (np.where(y < low, -np.inf, np.where(y > high, np.inf, y)) for y in (seen, made))
    there = fit.kept[rows.experiment]
    left, right = _edges(time[there], bins)
    found: dict[str, list] = {}
    for k, (first, last) in enumerate(zip(left, right, strict=True)):
        inside = there & (time >= first) & ((time < last) if k < len(left) - 1 else (time <= last))
        if not inside.any():
            continue
        factor = np.ones(inside.sum())
        if corrected:  # where nothing is predicted, as before a dose, there is nothing to correct
            np.divide(np.median(pred[inside]), pred[inside], out=factor, where=pred[inside] != 0.0)
        for quantile in quantiles:
            simulated_quantiles = _quantile(made[:, inside] * factor, quantile, rows)
            low, middle, high = (
                np.nanquantile(simulated_quantiles, [0.5 - interval / 2.0, 0.5, 0.5 + interval / 2.0])
                if np.isfinite(simulated_quantiles).any()
                else [np.nan] * 3
            )
            row = {
                "TIME": np.median(time[inside]),
                "LEFT": first,
                "RIGHT": last,
                "COUNT": int(inside.sum()),
                "QUANTILE": quantile,
                "OBSERVED": _quantile(seen[inside] * factor, quantile, rows),
                "LOWER": low,
                "MEDIAN": middle,
                "UPPER": high,
            }
            for name, value in row.items():
                found.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in found.items()}


def _expected(mixture: Mixture, x: np.ndarray) -> list[np.ndarray]:
    """Return the mean over the subpopulations of each typical prediction, output by output."""
    u = jnp.zeros((mixture.count, len(mixture.effects)))

    def typical(x: jax.Array) -> list[jax.Array]:
        shares = jnp.exp(mixture.log_shares(x))
        predicted = mixture.predicted(x, u, mixture.expanded(x, u, 0))
        return [shares @ own.reshape(shares.size, -1) for own, _ in predicted]

    program = mixture.program("typical", lambda: quickly_compiled(typical))
    return [np.asarray(own) for own in program(jnp.asarray(x))]


def _quantile(values: np.ndarray, quantile: float, rows: Rows) -> np.ndarray:
    """Return a quantile along the last axis, NaN where it lies beyond a limit of quantification."""
    way = "inverted_cdf" if rows.censored.any() else "linear"
    found = np.quantile(values, quantile, axis=-1, method=way)
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
