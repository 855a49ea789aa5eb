"""`qspjax trial [FILE]`: run a virtual trial and write its results."""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from qspjax import execute, io, plot, population
from qspjax._checks import ArgumentError
from qspjax._extras import require
from qspjax.cli._console import FAILED, Progress, say
from qspjax.cli._options import at_least

_NEEDED = ("pint", "rich", "pandas", "xarray", "h5py", "h5netcdf", "matplotlib")
"""Packages of the extra `cli`, looked for before anything is computed."""

_ARMS = 2**32 - 1
"""What is folded into the key to randomise; patients fold in their own numbers."""


def add_trial(commands: Any) -> None:
    """Add the command to the parser."""
    trial = commands.add_parser(
        "trial",
        help="run a virtual trial",
        description="Run a virtual trial and write patients, endpoints, trajectories, a summary and a picture.",
    )
    trial.add_argument("file", nargs="?", metavar="FILE", help="trial file in TOML (by default the bundled one)")
    trial.add_argument("--out", metavar="DIR", help="where to write (by default the name of the file with -trial)")
    patients = at_least(1, io.MOST_PATIENTS)
    trial.add_argument("--patients", type=patients, metavar="N", help="number of patients, instead of the file's")
    trial.add_argument("--seed", type=at_least(0), metavar="N", help="random seed, instead of the file's")
    trial.add_argument("--chunk", type=at_least(1), metavar="N", default=256, help="patients computed at a time (256)")
    trial.set_defaults(run=_trial)


def _trial(arguments: argparse.Namespace) -> int:
    for package in _NEEDED:
        require(package, extra="cli")
    file = _changed(io.read_trial(arguments.file or io.bundled_trial()), arguments)
    out = io.check_destination(arguments.out or f"{file.stem}-trial")
    try:
        return _run(file, out, arguments.chunk)
    except io.FileIssues:
        raise
    except ValueError as error:
        raise ValueError(f"{file.source}: {error}") from error


def _changed(file: io.TrialFile, arguments: argparse.Namespace) -> io.TrialFile:
    """Return the trial with the options of the command line in place of the file's own."""
    changed = {name: getattr(arguments, name) for name in ("patients", "seed")}
    try:
        return dataclasses.replace(file, **{name: value for name, value in changed.items() if value is not None})
    except ArgumentError as error:
        raise ValueError(f"argument --{error.argument}: {error.must}") from error


def _run(file: io.TrialFile, out: Path, chunk: int) -> int:
    key = jax.random.key(file.seed)
    cohort = file.sample(key)
    total = file.patients * len(file.trial.arms)
    with Progress(total, things="patients", bad="failed", first="compiling", includes=" with compilation") as progress:
        result = population.simulate_trial(
            file.trial,
            cohort,
            key=jax.random.fold_in(key, _ARMS),
            save=file.save,
            executor=lambda arm: execute.Chunked(chunk, progress=_of_arm(progress, arm)),
        )
    panels = [plot.Panel(**panel) for panel in file.panels]
    figure = plot.trial(result, panels=panels, title=file.title)
    io.write_trial(out, file, result, figure=figure, bands=plot.bands(result, panels=panels))
    print(io.summary(file, result), end="")
    print(f"\nPicture: {out / 'trial.png'}")
    return say("Every patient failed: see endpoints.csv for the reasons.", FAILED) if io.all_failed(result) else 0


def _of_arm(progress: Progress, name: str) -> Callable[[int, Any], None]:
    """Return the callback for the chunks of an arm."""
    before = progress.done

    def chunk_done(done: int, chunk: Any) -> None:
        progress.update(before + done, bad=int(chunk.failed.sum()), description=name)

    return chunk_done
