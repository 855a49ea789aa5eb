"""Models of the same data side by side: likelihood ratios and information criteria.

    delta = -2 log L - (-2 log L_first),   AIC = -2 log L + 2 p,   BIC = -2 log L + p log n

References: Akaike, IEEE Trans Autom Control 1974;19:716, doi:10.1109/TAC.1974.1100705; Schwarz, Ann Stat 1978;6:461,
doi:10.1214/aos/1176344136; Stram and Lee, Biometrics 1994;50:1171, doi:10.2307/2533455.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import equinox as eqx
import numpy as np

from qspjax._checks import ArgumentError, check_instance
from qspjax._extras import require
from qspjax.fit.data._output_data import OutputData
from qspjax.fit.mixed._mixed import without_constant
from qspjax.fit.mixed._result import MixedFit

if TYPE_CHECKING:
    import pandas


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Fits of the same data side by side.

    Attributes:
        table: Columns with one row per fit: MODEL, ESTIMATES (how many), OBJECTIVE, DELTA (its difference from the
            first fit), DF (how many more estimates than the first), TEST (the distribution under the smaller model),
            P, AIC, BIC and STATUS.

    Example:
        >>> rows = {"MODEL": ["one", "two"], "ESTIMATES": [2, 3], "OBJECTIVE": [52.1, 41.7], "DELTA": [0.0, -10.4]}
        >>> rows |= {"DF": [0, 1], "TEST": ["", "chi2(1)"], "P": [np.nan, 0.00126], "AIC": [56.1, 47.7]}
        >>> rows |= {"BIC": [57.0, 49.0], "STATUS": ["converged", "converged"]}
        >>> print(Comparison({name: np.array(values) for name, values in rows.items()}))
        MODEL  ESTIMATES  OBJECTIVE    DELTA  DF  TEST           P     AIC     BIC  STATUS
        one            2     52.100   +0.000  +0                    56.100  57.000  converged
        two            3     41.700  -10.400  +1  chi2(1)  0.00126  47.700  49.000  converged
    """

    table: dict[str, np.ndarray]

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return the table."""
        return require("pandas", extra="data").DataFrame(self.table)

    def __str__(self) -> str:
        heads = ("MODEL", "ESTIMATES", "OBJECTIVE", "DELTA", "DF", "TEST", "P", "AIC", "BIC", "STATUS")
        formats = {
            "OBJECTIVE": "{:.3f}",
            "DELTA": "{:+.3f}",
            "DF": "{:+d}",
            "P": "{:.3g}",
            "AIC": "{:.3f}",
            "BIC": "{:.3f}",
        }
        rows: list[tuple[str, ...]] = [heads]
        for values in zip(*(self.table[head] for head in heads), strict=True):
            cells = [formats.get(head, "{}").format(value) for head, value in zip(heads, values, strict=True)]
            rows.append(tuple("" if cell in ("nan", "+nan") else cell for cell in cells))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        aligned = [
            [
                cell.ljust(width) if head in ("MODEL", "TEST", "STATUS") else cell.rjust(width)
                for head, cell, width in each
            ]
            for each in (zip(heads, row, widths, strict=True) for row in rows)
        ]
        return "\n".join("  ".join(row).rstrip() for row in aligned)


class AbstractSampleSize(eqx.Module):
    """What the sample size n of the BIC counts.

    Example:
        >>> import qspjax as qsp
        >>> isinstance(qsp.fit.SubjectCount(), qsp.fit.AbstractSampleSize)
        True
    """

    @abc.abstractmethod
    def of(self, fit: MixedFit) -> int:
        """Return n for a fit."""


class SubjectCount(AbstractSampleSize):
    """The sample size n of the BIC is the number of subjects in a fit.

    Example:
        >>> import qspjax as qsp
        >>> table = qsp.fit.compare(fits, sample_size=qsp.fit.SubjectCount()).table  # doctest: +SKIP
    """

    def of(self, fit: MixedFit) -> int:
        return int(fit.kept.sum())


class MeasurementCount(AbstractSampleSize):
    """The sample size n of the BIC is the number of measurements in a fit.

    Example:
        >>> import qspjax as qsp
        >>> table = qsp.fit.compare(fits, sample_size=qsp.fit.MeasurementCount()).table  # doctest: +SKIP
    """

    def of(self, fit: MixedFit) -> int:
        return sum(int(_in_fit(fit, rows).sum()) for rows in fit.placed.rows)


SUBJECT_COUNT = SubjectCount()


def compare(fits: Mapping[str, MixedFit], *, sample_size: AbstractSampleSize = SUBJECT_COUNT) -> Comparison:
    """Compare fits of the same data: likelihood-ratio tests against the first, AIC and BIC.

    $$ P = P(\\chi^2_k > -\\Delta), \\quad \\mathrm{AIC} = -2 \\log L + 2 p, \\quad
       \\mathrm{BIC} = -2 \\log L + p \\log n $$

    P is valid only for nested models; whether they are nested is not checked. Where the larger model
    has exactly one more random effect (its variance, and perhaps its covariances with the q others of its block), the
    variance is at its bound 0 in the smaller one, and P is that of the even mixture of chi-squared distributions with q
    and q + 1 degrees of freedom. Where the models differ in more than that, P is that of the chi-squared distribution
    with all additional degrees of freedom, which is too large for variances. There is no P between fits with equally
    many estimates, or with different numbers of subpopulations.

    OBJECTIVE is that of the data: without priors, and without the constant n log 2 pi of normal measurements, which AIC
    and BIC include.

    Args:
        fits: By name; the others are compared with the first.
        sample_size: What n of the BIC counts, `SubjectCount()` or `MeasurementCount()`.

    Raises:
        ValueError: If the fits differ in their data, their subjects, or how the likelihood is approximated.

    Reference: Stram and Lee, Biometrics 1994;50:1171, doi:10.2307/2533455.

    Example:
        >>> import numpy as np, qspjax as qsp
        >>> from qspjax.fit import (
        ...     Additive, Experiment, FO, Free, Measurements, MixedModel, Output, RandomEffects, compare, nlme,
        ... )
        >>> times = np.array([1.0, 4.0, 8.0])
        >>> def subject(CL):
        ...     data = Measurements(times, 10.0 * np.exp(-CL / 30.0 * times), output="concentration")
        ...     return Experiment(data, qsp.bolus(300.0, to="central"))
        >>> mixed = MixedModel(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
        ...     {f"{i}": subject(CL) for i, CL in enumerate([2.0, 2.5, 3.1, 3.9])},
        ...     {"concentration": Output("concentration", Additive(0.2))},
        ...     parameters={"tCL": Free(3.0)},
        ...     individual={"CL": "tCL * exp(eta_CL)"},
        ...     random=[RandomEffects({"eta_CL": 0.1}, fixed=True)],
        ... )
        >>> start, end = nlme(mixed, method=FO(), iterations=0), nlme(mixed, method=FO())
        >>> table = compare({"start": start, "end": end}).table
        >>> bool(table["DELTA"][1] < 0), table["DF"].tolist()
        (True, [0, 0])
    """
    check_instance("sample_size", sample_size, AbstractSampleSize, "a sample size such as SubjectCount()")
    if not fits:
        raise ArgumentError("fits", "must hold at least one fit, but hold none.")
    for name, fit in fits.items():
        check_instance(f'fits["{name}"]', fit, MixedFit, "a fit that nlme has found")
    (first_name, first), *_ = fits.items()
    for name, fit in fits.items():
        _check_comparable(first_name, first, name, fit)
    rows = [_row(name, fit, first, sample_size) for name, fit in fits.items()]
    return Comparison({column: np.array([row[column] for row in rows]) for column in rows[0]})


def _row(name: str, fit: MixedFit, first: MixedFit, sample_size: AbstractSampleSize) -> dict[str, object]:
    count, twice = len(fit.mixed.names), _twice(fit)
    delta, more = twice - _twice(first), count - len(first.mixed.names)
    smaller, larger, gain = (first, fit, -delta) if more > 0 else (fit, first, delta)
    test, p = ("", float("nan")) if fit is first else _tested(smaller, larger, gain)
    return {
        "MODEL": name,
        "ESTIMATES": count,
        "OBJECTIVE": float(fit.subject_objectives[fit.kept].sum()),
        "DELTA": delta,
        "DF": more,
        "TEST": test,
        "P": p,
        "AIC": twice + 2.0 * count,
        "BIC": twice + count * np.log(sample_size.of(fit)),
        "STATUS": fit.status,
    }


def _tested(smaller: MixedFit, larger: MixedFit, gain: float) -> tuple[str, float]:
    """Return the distribution of a likelihood ratio under the smaller model, and its probability beyond `gain`."""
    from scipy import stats

    df = len(larger.mixed.names) - len(smaller.mixed.names)
    if df == 0 or len(smaller.memberships) != len(larger.memberships):
        return "", float("nan")
    if _is_one_effect_more(smaller, larger):
        name = f"chi2({df - 1}):chi2({df})"
        lower = float(gain <= 0) if df == 1 else stats.chi2.sf(max(gain, 0.0), df - 1)
        return name, 0.5 * float(lower) + 0.5 * float(stats.chi2.sf(max(gain, 0.0), df))
    return f"chi2({df})", float(stats.chi2.sf(max(gain, 0.0), df))


def _is_one_effect_more(smaller: MixedFit, larger: MixedFit) -> bool:
    """Whether the larger model has one more random effect, with or without covariances, and nothing else."""
    names, effects = {*smaller.mixed.names}, {name for block in smaller.placed.random for name in block.names}
    new = [name for block in larger.placed.random for name in block.names if name not in effects]
    if len(new) != 1 or not names <= {*larger.mixed.names}:
        return False
    added = {*larger.mixed.names} - names
    covariances = {name for name in added if name.startswith("cov(") and new[0] in name[4:-1].split(", ")}
    return added == {f"var({new[0]})", *covariances}


def _twice(fit: MixedFit) -> float:
    """Return -2 log L of the data, with all constants."""
    constant = sum(float(without_constant(rows)[_in_fit(fit, rows)].sum()) for rows in fit.placed.rows)
    return float(fit.subject_objectives[fit.kept].sum()) + constant


def _in_fit(fit: MixedFit, rows: OutputData) -> np.ndarray:
    return fit.kept[rows.experiment]


def _check_comparable(first_name: str, first: MixedFit, name: str, fit: MixedFit) -> None:
    """Check that two fits have the same data, and objectives of the same kind."""
    difference = f"but those of `{first_name}` and `{name}` differ."
    if type(fit.method) is not type(first.method):
        methods = f"{type(first.method).__name__} and {type(fit.method).__name__}"
        raise ArgumentError("fits", f"must approximate the likelihood in one way, {difference[:-1]}: {methods}.")
    subjects = [np.array(member.mixed.subject_names, dtype=object)[member.kept].tolist() for member in (first, fit)]
    if subjects[0] != subjects[1]:
        raise ArgumentError("fits", f"must have the same subjects, {difference}")
    if _data(first) != _data(fit):
        raise ArgumentError("fits", f"must have the same measurements, {difference}")


def _data(fit: MixedFit) -> dict[str, list[tuple[str, float, float, float, float]]]:
    """Return the measurements by output: subject, time, value (0 where censored) and bounds where censored."""
    measurements = {}
    for rows in fit.placed.rows:
        value = np.where(rows.censored, 0.0, rows.value)
        columns = (column.tolist() for column in (rows.experiment, rows.time, value, rows.lower, rows.upper))
        in_fit = _in_fit(fit, rows)
        measurements[rows.name] = [
            (fit.mixed.subject_names[i], *row) for keep, i, *row in zip(in_fit, *columns, strict=True) if keep
        ]
    return measurements
