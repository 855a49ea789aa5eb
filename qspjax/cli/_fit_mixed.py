"""`qspjax fit FILE` where the file has random effects: nonlinear mixed effects."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qspjax import fit, io, plot
from qspjax.cli._console import Progress

_OTHERS = ("starts", "seed", "analytic", "profiles")
"""Options of fits without random effects."""


def fit_mixed(file: io.MixedFile, arguments: argparse.Namespace) -> int:
    """Run a mixed-effects fit and write its results."""
    for option in _OTHERS:
        if getattr(arguments, option) not in (None, False):
            raise ValueError(f"argument --{option}: must be left out for a fit with random effects")
    default = f"{Path(arguments.file).stem}-fit"
    out = io.check_destination(arguments.out or default, io.MIXED_FILES, io.MIXED_MARKERS)
    checkpoint = out.with_name(f"{out.name}.checkpoint.npz")
    if checkpoint.exists():
        print(f"Going on from {checkpoint.name}.", file=sys.stderr)
    found = _estimated(file, checkpoint)
    began = time.perf_counter()
    estimates = io.Estimates.of(found, file.covariance)
    print(f"Standard errors in {time.perf_counter() - began:.1f} s", file=sys.stderr)
    integrated = None if file.integral is None else fit.marginal(file.mixed, found.x, file.integral)
    summary = io.mixed_summary(file, found, estimates, integrated)
    tables, figures = _looked_at(file, found)
    io.write_mixed(out, summary, found, estimates, tables, figures)
    checkpoint.unlink(missing_ok=True)
    print(summary, end="")
    print(f"\nResults: {out}")
    return 0


def _estimated(file: io.MixedFile, checkpoint: Path) -> fit.MixedFit:
    options = {} if file.iterations is None else {"iterations": file.iterations}
    total = file.iterations or file.method.iterations
    try:
        with Progress(total, things="iterations", bad="", first="compiling", includes=" with compilation") as progress:
            return fit.nlme(
                file.mixed,
                method=file.method,
                tolerance=file.tolerance,
                checkpoint=checkpoint,
                progress=lambda standing: progress.update(standing.done, bad=0, description=_described(standing)),
                **options,
            )
    except KeyboardInterrupt:
        if checkpoint.exists():
            print(f"The same command goes on from {checkpoint.name}.", file=sys.stderr)
        raise


def _described(standing: fit.Progress) -> str:
    """Return the objective, and how much the next iteration should gain, as far as they are known."""
    objective, gain = standing.figures["objective"], standing.figures["gain"]
    if not np.isfinite(objective):
        return "sampling"
    return f"objective {objective:.4f}" + (f", next gain {gain:.2g}" if np.isfinite(gain) else "")


def _looked_at(file: io.MixedFile, found: fit.MixedFit) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return tables and figures, by the names of their files."""
    key = jax.random.key(file.seed)
    table = fit.diagnostics(found, replicates=file.replicates, key=key)
    individuals, iterations = found.individuals(), found.iterations()
    columns = _columns(file)
    checks = {}
    for output in dict.fromkeys(table["OUTPUT"]):
        checks[output] = fit.visual_predictive_check(
            found,
            output=output,
            replicates=file.replicates,
            key=key,
            corrected=file.corrected,
            bins=file.bins,
        )
    named = [{"OUTPUT": np.full(one["TIME"].size, name, dtype=object), **one} for name, one in checks.items()]
    tables = {
        "individuals.csv": individuals | {name: own for name, own in columns.items() if name not in individuals},
        "diagnostics.csv": table,
        "iterations.csv": iterations,
        "vpc.csv": {key: np.concatenate([one[key] for one in named]) for key in named[0]},
    }
    figures = {
        "goodness_of_fit.png": plot.goodness_of_fit(table),
        "random_effects.png": plot.random_effects(found),
        "vpc.png": plot.vpc_panels(*checks.values()),
        "convergence.png": plot.convergence(iterations),
        "individual_fits.png": plot.individual_fits(table, curves=_curves(found)),
    }
    if columns:
        kept = {name: own[found.kept] for name, own in (individuals | columns).items()}
        figures["covariates.png"] = plot.covariates(kept, list(columns))
    return tables, figures


def _curves(found: fit.MixedFit) -> dict[str, Any] | None:
    return None if found.memberships else fit.curves(found)


def _columns(file: io.MixedFile) -> dict[str, np.ndarray]:
    """Return the covariates of the data at the beginning of each subject, by label where they have any."""
    data = file.data
    found = dict(data.covariates) | {name: values[:, 0] for name, values in data.varying.items()}
    labels = {name: np.array([*own, ""], dtype=object) for name, own in data.labels.items() if name in found}
    return {
        name: labels[name][np.where(np.isfinite(own), own, -1).astype(int)] if name in labels else own
        for name, own in found.items()
        if len(np.unique(own)) > 1
    }
