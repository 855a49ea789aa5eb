"""The results of a mixed-effects fit as a directory of files, written whole or not at all."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Required, TypedDict

import numpy as np
from jaxtyping import Float

from qspjax._extras import require, version
from qspjax._files import replaced_directory
from qspjax._transform import Identity, Logit
from qspjax.fit import FOCE, FOCEI, SAEM, AbstractCovariance, Hessian, Marginal, MixedFit, save
from qspjax.fit._wald import wald_intervals
from qspjax.fit.mixed._mixed import without_constant
from qspjax.io._directory import write_csv
from qspjax.io.fit._mixed_file import MixedFile, covariance_word

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIXED_FILES = (
    "summary.txt",
    "result.fit",
    "estimates.csv",
    "correlation.csv",
    "individuals.csv",
    "diagnostics.csv",
    "iterations.csv",
    "vpc.csv",
    "goodness_of_fit.png",
    "random_effects.png",
    "vpc.png",
    "convergence.png",
    "covariates.png",
    "individual_fits.png",
)
"""The files that a directory of the results of a mixed-effects fit may hold."""

MIXED_MARKERS = ("summary.txt", "estimates.csv")


@dataclasses.dataclass(frozen=True)
class Estimates:
    """The estimates of a mixed-effects fit with their uncertainty.

    Attributes:
        table: Columns, with one row per estimate and one per fixed number.
        correlation: The correlation of the estimates, shape (names, names); NaN where it is not known.
        condition: The condition number of the correlation.
        trouble: Why there are no standard errors, else empty.

    Example:
        >>> estimates = Estimates.of(qsp.fit.nlme(mixed), qsp.fit.Hessian())  # doctest: +SKIP
        >>> estimates = Estimates({"name": np.array(["tV", "var(eta_V)"])}, np.eye(2), 1.0, "")
        >>> estimates.table["name"].tolist()
        ['tV', 'var(eta_V)']
    """

    table: dict[str, np.ndarray]
    correlation: Float[np.ndarray, "names names"]
    condition: float
    trouble: str

    @classmethod
    def of(cls, fit: MixedFit, covariance: AbstractCovariance) -> "Estimates":
        """Return the estimates of a fit.

        Args:
            fit: The fit.
            covariance: The covariance of the estimates, see `MixedFit.covariance_of_estimates`.
        """
        count, trouble = len(fit.mixed.names), ""
        matrix, correlation, condition = *np.full((2, count, count), np.nan), np.nan
        try:
            matrix = fit.covariance_of_estimates(covariance)
            correlation, condition = fit.correlation_of_estimates(covariance), fit.condition_number(covariance)
        except np.linalg.LinAlgError:
            trouble = "the data say nothing about some direction of the estimates"
        variances = dict(zip(fit.mixed.names, np.diag(matrix), strict=True))
        if any(variance < 0 for variance in variances.values()):
            trouble = "the objective has no minimum in some direction of the estimates"
        if shares := _shares(fit):
            indices = [fit.mixed.names.index(name) for name in shares[:-1]]
            variances[shares[-1]] = matrix[np.ix_(indices, indices)].sum()
        errors = {name: np.sqrt(variance) if variance >= 0 else np.nan for name, variance in variances.items()}
        return cls(_table(fit, errors), correlation, condition, trouble)


def _shares(fit: MixedFit) -> list[str]:
    """Return the names of the probabilities of subpopulations, including the last, which follows from the others."""
    return [f"P({name})" for name in fit.memberships]


class _Row(TypedDict, total=False):
    """A row of the table of estimates, with the columns that apply to it."""

    name: Required[str]
    kind: Required[str]
    estimate: Required[float]
    fixed: bool
    se: float
    rse_percent: float
    lower: float
    upper: float
    sd: float
    cv_percent: float
    correlation: float
    shrinkage_sd_percent: float
    shrinkage_var_percent: float


_COLUMNS = ("name", "kind", "fixed", "estimate", "se", "rse_percent", "lower", "upper", "sd", "cv_percent") + (
    ("correlation", "shrinkage_sd_percent", "shrinkage_var_percent")
)


def _table(fit: MixedFit, errors: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Return one row per parameter and element of Omega, estimated or fixed."""
    mixed, known, shares = fit.mixed, fit.parameters, _shares(fit)
    known |= {name: 1.0 - sum(known[other] for other in shares[:-1]) for name in shares[-1:]}
    rows: list[_Row] = [
        *({"name": name, "kind": "parameter", "estimate": known[name]} for name in mixed.free if name not in shares),
        *({"name": name, "kind": "parameter", "estimate": float(value)} for name, value in mixed.fixed.items()),
        *({"name": name, "kind": "probability", "estimate": known[name]} for name in shares),
        *_omega_rows(fit),
    ]
    scales = dict(zip(mixed.names, mixed.scales(fit.x), strict=True)) | dict.fromkeys(shares, Logit())
    for row in rows:
        error, value = errors.get(row["name"], np.nan), row["estimate"]
        row["fixed"] = row["name"] not in errors
        row["se"], row["rse_percent"] = error, 100.0 * error / abs(value) if value else np.nan
        scale, bounds = scales.get(row["name"], Identity()), mixed.free.get(row["name"])
        ends = np.ravel(wald_intervals([scale], np.array([value]), np.array([error]), 0.95))
        ends = ends if bounds is None else np.clip(ends, bounds.lower, bounds.upper)
        row["lower"], row["upper"] = ends.tolist()
    return {column: np.array([row.get(column, np.nan) for row in rows]) for column in _COLUMNS}


def _omega_rows(fit: MixedFit) -> Iterator[_Row]:
    """Yield the variances and covariances of the random effects, block by block."""
    omega, variation, shrinkage = fit.covariance, fit.coefficients_of_variation, fit.shrinkage
    for block in fit.mixed.blocks:
        start, names = block.effects[0].start, block.random.names
        for i, name in enumerate(names, start=start):
            by_sd, by_variance = shrinkage[name]
            yield {
                "name": f"var({name})",
                "kind": "variance",
                "estimate": omega[i, i],
                "sd": np.sqrt(omega[i, i]),
                "cv_percent": variation.get(name, np.nan),
                "shrinkage_sd_percent": by_sd,
                "shrinkage_var_percent": by_variance,
            }
        for i, name in enumerate(names, start=start) if block.random.full else ():
            for j in range(start, i):
                yield {
                    "name": f"cov({name}, {names[j - start]})",
                    "kind": "covariance",
                    "estimate": omega[i, j],
                    "correlation": omega[i, j] / np.sqrt(omega[i, i] * omega[j, j]),
                }


def write_mixed(
    path: Path,
    summary: str,
    fit: MixedFit,
    estimates: Estimates,
    tables: Mapping[str, Mapping[str, np.ndarray]],
    figures: Mapping[str, "Figure"],
) -> None:
    """Write the results of a mixed-effects fit; an earlier result in the directory is replaced at the very end.

    Args:
        path: The directory.
        summary: The results as text.
        fit: The fit.
        estimates: The estimates with their uncertainty.
        tables: Tables as columns by name, by the names of their files.
        figures: Figures of matplotlib, by the names of their files.

    Raises:
        OSError: If it cannot be written. Nothing is left half-written.

    Example:
        >>> import pathlib, tempfile, qspjax as qsp
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "data.csv").write_text("ID,TIME,AMT,DV\\n1,0,100,.\\n1,2,.,3.1\\n2,0,100,.\\n2,2,.,3.4\\n")
        >>> _ = (folder / "fit.toml").write_text(
        ...     'data = "data.csv"\\n'
        ...     'model = { name = "OneCompartment", parameters = { CL = 3, V = 30 } }\\n'
        ...     'parameters = { tV = { start = 30 }, cv = { fixed = 0.1 } }\\n'
        ...     'individual = { V = "tV * exp(eta_V)" }\\n'
        ...     'random = [{ variances = { eta_V = 0.1 } }]\\n'
        ...     'outputs = { concentration = { error = "proportional", cv = "cv" } }\\n'
        ... )
        >>> file = qsp.io.read_fit(folder / "fit.toml")
        >>> found = qsp.fit.nlme(file.mixed)  # doctest: +SKIP
        >>> x, u, each = file.mixed.start, np.array([[0.3], [-0.2]]), np.ones(2, bool)  # what it finds
        >>> found = MixedFit(file.mixed, FOCE(), x, u, u[:, 0], each, (), each, u[0], x[None], "converged", 1.0)
        >>> estimates = Estimates.of(found, qsp.fit.Hessian())  # doctest: +SKIP
        >>> estimates = Estimates({"name": np.array(["tV", "var(eta_V)"])}, np.eye(2), 1.0, "")
        >>> write_mixed(folder / "results", "a summary", found, estimates, {"individuals.csv": found.individuals()}, {})
        >>> sorted(path.name for path in (folder / "results").iterdir())[:3]
        ['correlation.csv', 'estimates.csv', 'individuals.csv']
    """
    pandas = require("pandas", extra="data")

    def write(to: Path) -> None:
        (to / "summary.txt").write_text(summary, encoding="utf-8")
        save(to / "result.fit", fit)
        write_csv(to / "estimates.csv", estimates.table)
        correlation = pandas.DataFrame(estimates.correlation, columns=list(fit.mixed.names))
        correlation.insert(0, "name", fit.mixed.names)
        write_csv(to / "correlation.csv", correlation)
        for name, table in tables.items():
            write_csv(to / name, table)
        for name, figure in figures.items():
            figure.savefig(to / name, dpi=200, metadata={"Software": None})

    replaced_directory(path, write)


def mixed_summary(file: MixedFile, fit: MixedFit, estimates: Estimates, integrated: Marginal | None) -> str:
    """Return the results of a mixed-effects fit as text.

    Example:
        >>> import pathlib, tempfile, qspjax as qsp
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "data.csv").write_text("ID,TIME,AMT,DV\\n1,0,100,.\\n1,2,.,3.1\\n2,0,100,.\\n2,2,.,3.4\\n")
        >>> _ = (folder / "fit.toml").write_text(
        ...     'data = "data.csv"\\n'
        ...     'model = { name = "OneCompartment", parameters = { CL = 3, V = 30 } }\\n'
        ...     'parameters = { tV = { start = 30 }, cv = { fixed = 0.1 } }\\n'
        ...     'individual = { V = "tV * exp(eta_V)" }\\n'
        ...     'random = [{ variances = { eta_V = 0.1 } }]\\n'
        ...     'outputs = { concentration = { error = "proportional", cv = "cv" } }\\n'
        ... )
        >>> file = qsp.io.read_fit(folder / "fit.toml")
        >>> print(file)
        Fit:        fit
        Data:       2 measurements of 2 subjects
        Estimated:  tV, var(eta_V)
        Covariates: none
        Method:     FOCEI
        >>> found = qsp.fit.nlme(file.mixed)  # doctest: +SKIP
        >>> estimates = Estimates.of(found, qsp.fit.Hessian())  # doctest: +SKIP
        >>> print(mixed_summary(file, found, estimates, None).splitlines()[1])  # doctest: +SKIP
        Data:       2 measurements of 2 subjects
    """
    mixed = fit.placed
    measured = sum(rows.value.size for rows in mixed.rows)
    censored = sum(int(rows.censored.sum()) for rows in mixed.rows)
    below = f", {censored} below the limit of quantification" if censored else ""
    left_out = sum((without_constant(rows) * fit.kept[rows.experiment]).sum() for rows in mixed.rows)
    normal = round(left_out / np.log(2.0 * np.pi))
    prior = -2.0 * float(mixed.prior(fit.x)[0])
    total, count = fit.objective - prior + left_out, len(mixed.names)
    by = "by importance sampling, " if isinstance(fit.method, SAEM) else ""
    convention = f"{by}-2 log L without n log 2 pi of the {normal} normal measurements, as NONMEM has it"
    head = {
        "Fit": file.title,
        "Data": f"{measured} measurements of {mixed.count} subjects{below}",
        "Method": f"{type(fit.method).__name__}: {fit.status}; {len(fit.path) - 1} iterations in {fit.seconds:.1f} s",
        "Objective": f"{fit.objective:.4f} ({convention}{'; with -2 log prior' if prior else ''})",
        "-2 log L": f"{total:.4f} with it; AIC {total + 2 * count:.2f} with {count} estimates",
    }
    if integrated is not None:
        scatter = f", standard error {integrated.standard_error:.2g}" if integrated.standard_error else ""
        head["Integrated"] = (
            f"{integrated.objective:.4f} by {type(file.integral).__name__}{scatter}, in place of the objective"
        )
    errors = estimates.trouble and f"none, since {estimates.trouble}"
    kind, condition = covariance_word(file.covariance), estimates.condition
    head["Errors"] = errors or f"{kind}; condition number of the correlation of estimates {condition:.4g}"
    head["Versions"] = ", ".join(f"{name} {version(name)}" for name in ("qspjax", "jax", "diffrax"))
    lines = [f"{key + ':':<12}{value}" for key, value in head.items()]
    lines += ["", *_printed(estimates.table), ""]
    lines += [
        f"Shrinkage of {name}: {by_sd:.1f} % (SD), {by_variance:.1f} % (variance)"
        for name, (by_sd, by_variance) in fit.shrinkage.items()
    ]
    lines += [f"Shrinkage of epsilon of {name}: {value:.1f} % (SD)" for name, value in fit.epsilon_shrinkage.items()]
    return "\n".join([*lines, *_membership_lines(fit), *_remarks(file, fit)]) + "\n"


def _membership_lines(fit: MixedFit) -> list[str]:
    """Return how many subjects most probably belong to each subpopulation of a mixture, and the least probability."""
    lines = []
    for name, shares in fit.memberships.items():
        members = shares[fit.most_probable == name]
        number = "1 subject" if members.size == 1 else f"{members.size} subjects"
        least = f", each with a probability of at least {np.floor(1e3 * members.min()) / 1e3:g}" if members.size else ""
        lines.append(f"Subpopulation {name}: most probably that of {number}{least}")
    return lines


def _remarks(file: MixedFile, fit: MixedFit) -> list[str]:
    """Return remarks on subjects, and on their number."""
    mixed, lines = fit.placed, []
    subjects, count = int(fit.kept.sum()), len(mixed.names)
    if subjects <= count and not isinstance(file.covariance, Hessian):
        word = covariance_word(file.covariance)
        must = f'Standard errors of kind "{word}" are of no use with {subjects} subjects for {count} estimates'
        lines += ["", f'{must}: see those of "hessian".']
    several = int((mixed.censored & fit.kept).sum())
    if several and isinstance(fit.method, (FOCE, FOCEI)):
        affected = "the subject" if several == 1 else f"the {several} subjects"
        lines += [
            "",
            f"{type(fit.method).__name__} uses Laplace's curvature for {affected} with censored measurements.",
        ]
    if not fit.kept.all():
        names = [name for name, included in zip(mixed.subject_names, fit.kept, strict=True) if not included]
        lines += ["", f"Left out, since they have no likelihood at the start: {', '.join(names)}", *fit.reasons]
    unfinished = np.array(mixed.subject_names)[fit.kept & ~fit.found].tolist()
    if unfinished:
        lines += [
            "",
            f"Random effects for which the search for the mode did not converge: those of {', '.join(unfinished)}",
        ]
    return lines


def _printed(table: Mapping[str, np.ndarray]) -> list[str]:
    """Return the estimates as aligned columns."""
    rows = [["", "estimate", "RSE %", "95% interval", "SD", "CV %", "correlation"]]
    for k, name in enumerate(table["name"]):
        row = {column: values[k] for column, values in table.items()}
        interval = f"{row['lower']:.4g} to {row['upper']:.4g}" if np.isfinite(row["se"]) else ""
        error = "fixed" if row["fixed"] else f"{row['rse_percent']:.1f}"
        more = [f"{row[key]:.4g}" if np.isfinite(row[key]) else "" for key in ("sd", "cv_percent", "correlation")]
        rows.append([name, f"{row['estimate']:.5g}", error, interval, *more])
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
