"""`qspjax fit FILE`: calibrate a model to data and write the results."""

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import jax

from qspjax import fit, io, plot
from qspjax._extras import require
from qspjax.cli._console import ProgressBar
from qspjax.cli._fit_mixed import fit_mixed
from qspjax.io._directory import check_destination
from qspjax.io.fit._networks import given_networks, learned_curves
from qspjax.io.fit._results import FIT_FILES, FIT_MARKERS, fit_summary, write_fit

_NEEDED = ("rich", "pandas", "matplotlib")


def run_fit(arguments: argparse.Namespace) -> int:
    """Fit a model to data and write the results; return the exit code."""
    for package in _NEEDED:
        require(package, extra="cli")
    file = io.read_fit(arguments.file)
    if isinstance(file, io.MixedFile):
        return fit_mixed(file, arguments)
    if arguments.starts or arguments.seed is not None:
        defaults = file.starts or fit.MultiStart(arguments.starts or 1, key=jax.random.key(0))
        starts = fit.MultiStart(
            arguments.starts or defaults.starts,
            key=defaults.key if arguments.seed is None else jax.random.key(arguments.seed),
            sobol=defaults.sobol,
        )
        file = dataclasses.replace(file, starts=starts)
    if arguments.analytic:
        file = dataclasses.replace(file, analytic=fit.Analytic())
    if arguments.profiles:
        file = dataclasses.replace(file, profiles=file.problem.names)
    out = check_destination(arguments.out or f"{Path(arguments.file).stem}-fit", FIT_FILES, FIT_MARKERS)
    checkpoint = out.with_name(f"{out.name}.checkpoint.npz")
    if checkpoint.exists():
        print(f"Going on from {checkpoint.name}.", file=sys.stderr)
    total = 1 if file.starts is None else file.starts.starts
    with ProgressBar(total, things="starts", bad="failed", first="compiling", includes=" with compilation") as bar:
        result = fit.estimate(
            file.problem,
            method=file.method,
            starts=file.starts,
            analytic=file.analytic,
            lanes=arguments.lanes,
            checkpoint=checkpoint,
            progress=lambda progress: bar.update(
                progress.done,
                bad=0,
                description=_described(progress),
            ),
        )
    _write(file, result, out)
    checkpoint.unlink(missing_ok=True)
    return 0


def _described(progress: fit.Progress) -> str:
    """Return what goes on: what is compiled, or the best log density and the number of evaluations."""
    return progress.doing or f"best {progress.figures['best']:.6g}, {progress.figures['steps']} steps"


def _write(file: io.FitFile, result: fit.Fit, out: Path) -> None:
    problem, x = result.problem, result.x
    if problem.weights.blocks:
        problem, x = given_networks(problem, x), x[: len(problem.free)]
    uncertainty = fit.Uncertainty(problem, x, fit.fisher_information(problem, x))
    fits = plot.fits(problem, x, uncertainty=uncertainty)
    profiles, figures = {}, {"diagnostics.png": plot.diagnostics(result), "fits.png": fits}
    if file.profiles:
        start = time.perf_counter()
        profiles = fit.profiles(problem, x, file.profiles)
        print(f"{len(profiles)} profiles in {time.perf_counter() - start:.1f} s", file=sys.stderr)
        figures["profiles.png"] = plot.profile(profiles)
    curves = learned_curves(result) if result.problem.weights.blocks else {}
    if curves:
        figures["learned.png"] = plot.learned_rates(curves)
    write_fit(out, file, result, uncertainty, profiles, figures, curves)
    print(fit_summary(file, result, uncertainty, profiles), end="")
    print(f"\nResults: {out}")
