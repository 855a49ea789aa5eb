"""`qspjax trial [FILE]`: run a virtual trial and write its results."""

import argparse
from collections.abc import Callable
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from qspjax import execute, io, plot, population
from qspjax._extras import require
from qspjax._files import as_file_name
from qspjax._solution import Outcome
from qspjax.cli._changed import with_options
from qspjax.cli._console import FAILED, ProgressBar, say
from qspjax.io._directory import check_destination
from qspjax.io.trial._file import BUNDLED
from qspjax.io.trial._judged import Judged, judged
from qspjax.io.trial._results import TRIAL_FILES, TRIAL_MARKERS, summary, write_trial
from qspjax.plot._figures import figure_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NEEDED = ("pint", "rich", "pandas", "xarray", "h5py", "h5netcdf", "matplotlib")
"""Packages of the extra `cli`, checked before anything is computed."""

_KEEPING = ("zarr", "pyarrow")
"""Packages that a folder of results needs."""

_SWIMMERS = 30
"""The number of patients of each arm in the picture of swimmers."""

_LABELS = {"progression": "share without progression", "survival": "share alive"}

_ARMS = 2**32 - 1
"""The number folded into the key for randomisation; patients fold in their own numbers."""


def run_trial(arguments: argparse.Namespace) -> int:
    """Run a virtual trial and write its results; return the exit code."""
    for package in _NEEDED:
        require(package, extra="cli")
    file = with_options(io.read_trial(_named(arguments.file)), arguments)
    out = check_destination(arguments.out or f"{file.stem}-trial", TRIAL_FILES, TRIAL_MARKERS)
    store = _store(arguments)
    try:
        return _run(file, out, arguments.chunk, store)
    except io.FileIssues:
        raise
    except ValueError as error:
        raise ValueError(f"{file.source}: {error}") from error


def _named(file: str | None) -> str | Traversable:
    """Return the file of a name: that of a file, or of a trial that comes with qspjax."""
    if file in BUNDLED and not Path(file).exists():
        return io.bundled_trial(file)
    return file or io.bundled_trial()


def _store(arguments: argparse.Namespace) -> Path | None:
    """Return the folder that keeps what is simulated, None for none."""
    if arguments.store is None:
        if arguments.resume:
            raise ValueError("argument --resume: must be with --store DIR, the folder to go on with.")
        return None
    for package in _KEEPING:
        require(package, extra="data")
    folder = Path(arguments.store)
    if not arguments.resume and folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"argument --store: {folder} must be new or empty without --resume, but holds something.")
    return folder


def _run(file: io.TrialFile, out: Path, chunk: int, store: Path | None) -> int:
    key = jax.random.key(file.seed)
    cohort = file.sample(key)
    total = file.patients * len(file.trial.arms)
    with ProgressBar(total, things="patients", bad="failed", first="compiling", includes=" with compilation") as bar:
        result = population.simulate_trial(
            file.protocol(cohort),
            cohort,
            key=jax.random.fold_in(key, _ARMS),
            save=file.save,
            executor=lambda arm: _executor(execute.Chunked(chunk, progress=_of_arm(bar, arm)), arm, store),
        )
    panels = [plot.Panel(**panel) for panel in file.panels]
    found = judged(file, result, key)
    write_trial(
        out,
        file,
        result,
        figure=plot.trial(result, panels=panels, title=file.title),
        bands=plot.bands(result, panels=panels),
        judged=found,
        figures=_figures(found, unit=file.population.model.units.time),
    )
    print(summary(file, result, found), end="")
    print(f"\nPicture: {out / 'trial.png'}")
    if all(np.all(arm.solution.failed) for arm in result.arms):
        return say("Every patient failed: see endpoints.csv for the reasons.", FAILED)
    return 0


def _figures(found: Judged, unit: str) -> "dict[str, Figure]":
    """Return the pictures of responses, events and power, by the names of their files."""
    figures = {}
    if found.responses is not None and any(arm.patients.size for arm in found.responses.arms.values()):
        figures["waterfall.png"] = figure_of(plot.waterfall(found.responses))
        figures["swimmer.png"] = figure_of(plot.swimmer(found.responses.first(_SWIMMERS), unit=unit))
    for name, events in found.events.items():
        curves = {arm: each.curve() for arm, each in events.arms.items() if each.patients.size}
        if curves:
            figures[f"{name}.png"] = plot.kaplan_meier(curves, label=_LABELS[name], unit=unit)
    if found.power is not None:
        figures["power.png"] = figure_of(plot.power(found.power))
    return figures


def _executor(chunks: execute.Chunked, arm: str, store: Path | None) -> execute.AbstractExecutor:
    """Return what computes an arm, and keeps it in a folder of its name if there is one to keep it in."""
    return chunks if store is None else execute.Stored(store / as_file_name(arm), chunks)


def _of_arm(bar: ProgressBar, name: str) -> Callable[[int, Outcome], None]:
    """Return the callback for the chunks of an arm."""
    before = bar.done

    def chunk_done(done: int, chunk: Outcome) -> None:
        bar.update(before + done, bad=int(chunk.failed.sum()), description=name)

    return chunk_done
