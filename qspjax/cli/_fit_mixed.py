"""`qspjax fit FILE` for a file with random effects: nonlinear mixed effects."""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from qspjax import fit, io, plot
from qspjax.cli._console import ProgressBar
from qspjax.io._directory import check_destination
from qspjax.io.fit._mixed_results import MIXED_FILES, MIXED_MARKERS, Estimates, mixed_summary, write_mixed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Table: TypeAlias = dict[str, np.ndarray]
"""Columns by name."""

_WITHOUT_EFFECTS = ("starts", "seed", "analytic", "profiles")
"""Options of fits without random effects."""


def fit_mixed(file: io.MixedFile, arguments: argparse.Namespace) -> int:
    """Run a mixed-effects fit and write its results."""
    for option in _WITHOUT_EFFECTS:
        if getattr(arguments, option) not in (None, False):
            raise ValueError(f"argument --{option}: must be left out for a fit with random effects")
    default = f"{Path(arguments.file).stem}-fit"
    out = check_destination(arguments.out or default, MIXED_FILES, MIXED_MARKERS)
    checkpoint = out.with_name(f"{out.name}.checkpoint.npz")
    if checkpoint.exists():
        print(f"Going on from {checkpoint.name}.", file=sys.stderr)
    result = _estimated(file, checkpoint)
    start = time.perf_counter()
    estimates = Estimates.of(result, file.covariance)
    print(f"Standard errors in {time.perf_counter() - start:.1f} s", file=sys.stderr)
    integrated = None if file.integral is None else fit.marginal(file.mixed, jnp.asarray(result.x), file.integral)
    summary = mixed_summary(file, result, estimates, integrated)
    tables, figures = _tables_and_figures(file, result)
    write_mixed(out, summary, result, estimates, tables, figures)
    checkpoint.unlink(missing_ok=True)
    print(summary, end="")
    print(f"\nResults: {out}")
    return 0


def _estimated(file: io.MixedFile, checkpoint: Path) -> fit.MixedFit:
    total = file.iterations or file.method.iterations
    try:
        with ProgressBar(total, things="iterations", bad="", first="compiling", includes=" with compilation") as bar:
            return fit.nlme(
                file.mixed,
                method=file.method,
                tolerance=file.tolerance,
                checkpoint=checkpoint,
                progress=lambda progress: bar.update(progress.done, bad=0, description=_described(progress)),
                iterations=file.iterations,
            )
    except KeyboardInterrupt:
        if checkpoint.exists():
            print(f"The same command goes on from {checkpoint.name}.", file=sys.stderr)
        raise


def _described(progress: fit.Progress) -> str:
    """Return what is compiled; or the objective, and by how much the next iteration should lower it, if known."""
    if progress.doing:
        return progress.doing
    objective, gain = progress.figures["objective"], progress.figures["gain"]
    if not np.isfinite(objective):
        return "sampling"
    return f"objective {objective:.4f}" + (f", next gain {gain:.2g}" if np.isfinite(gain) else "")


def _tables_and_figures(file: io.MixedFile, result: fit.MixedFit) -> tuple[dict[str, Table], dict[str, "Figure"]]:
    """Return tables and figures, by the names of their files."""
    key = jax.random.key(file.seed)
    table = fit.diagnostics(result, replicates=file.replicates, key=key)
    individuals, iterations = result.individuals(), result.iterations()
    columns = _columns(file)
    checks = {}
    for output in dict.fromkeys(table["OUTPUT"]):
        checks[output] = fit.visual_predictive_check(
            result,
            output=output,
            replicates=file.replicates,
            key=key,
            corrected=file.corrected,
            bins=file.bins,
        )
    named = [{"OUTPUT": np.full(check["TIME"].size, name, dtype=object), **check} for name, check in checks.items()]
    tables = {
        "individuals.csv": individuals | {name: column for name, column in columns.items() if name not in individuals},
        "diagnostics.csv": table,
        "iterations.csv": iterations,
        "vpc.csv": {key: np.concatenate([check[key] for check in named]) for key in named[0]},
    }
    figures = {
        "goodness_of_fit.png": plot.goodness_of_fit(table, fit=result),
        "random_effects.png": plot.random_effects(result),
        "vpc.png": plot.vpc_panels(*checks.values(), fit=result),
        "convergence.png": plot.convergence(iterations),
        "individual_fits.png": plot.individual_fits(table, curves=_curves(result), fit=result),
    }
    if columns:
        fitted = {name: column[result.kept] for name, column in (individuals | columns).items()}
        figures["covariates.png"] = plot.covariates(fitted, list(columns))
    return tables, figures


def _curves(result: fit.MixedFit) -> Table | None:
    return None if result.memberships else fit.curves(result)


def _columns(file: io.MixedFile) -> Table:
    """Return the initial covariates of each subject in the data, as labels where there are any."""
    data = file.data
    columns = dict(data.covariates) | {name: values[:, 0] for name, values in data.varying.items()}
    labels = {name: np.array([*texts, ""], dtype=object) for name, texts in data.labels.items() if name in columns}
    return {
        name: labels[name][np.where(np.isfinite(codes), codes, -1).astype(int)] if name in labels else codes
        for name, codes in columns.items()
        if len(np.unique(codes)) > 1
    }
