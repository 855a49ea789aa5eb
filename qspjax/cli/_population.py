"""`qspjax population [FILE]`: find plausible patients, weigh and choose them, and write the results."""

import argparse
from typing import TYPE_CHECKING

import jax

from qspjax import execute, io, plot, population
from qspjax._checks import ArgumentError
from qspjax._extras import require
from qspjax._progress import Progress
from qspjax.cli._changed import with_options
from qspjax.cli._console import FAILED, ProgressBar, say
from qspjax.io._directory import check_destination
from qspjax.io.population._results import (
    POPULATION_FILES,
    POPULATION_MARKERS,
    population_summary,
    write_population,
)
from qspjax.plot._figures import figure_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NEEDED = ("pint", "rich", "pandas", "matplotlib")
"""Packages of the extra `cli`, checked before anything is computed."""

_SELECTION = 2**32 - 1
"""The number folded into the key for the choice of patients."""


def run_population(arguments: argparse.Namespace) -> int:
    """Find plausible patients and write them; return the exit code."""
    for package in (*_NEEDED, *(("pyarrow",) if arguments.parquet else ())):
        require(package, extra="cli")
    file = with_options(io.read_population_file(arguments.file or io.bundled_population()), arguments)
    out = check_destination(arguments.out or f"{file.stem}-population", POPULATION_FILES, POPULATION_MARKERS)
    try:
        return _run(file, arguments, str(out))
    except ArgumentError as error:
        raise ValueError(f"{file.source}: {error}") from error


def _run(file: io.PopulationFile, arguments: argparse.Namespace, out: str) -> int:
    key = jax.random.key(file.seed)
    with ProgressBar(file.patients, things="patients", bad="", first="compiling", includes=" with compilation") as bar:
        found = population.plausible(
            file.population,
            file.bounds,
            arms=file.arms,
            size=file.patients,
            key=key,
            ts=file.times,
            search=file.search.method,
            most=file.search.most,
            executor=None if arguments.chunk is None else execute.Chunked(arguments.chunk),
            progress=lambda progress: bar.update(progress.done, bad=0, description=_described(progress)),
        )
    if not found.size:
        return say(f"Nobody was found, and nothing written.\n{found}", FAILED)
    prevalence = {}
    if file.weighting is not None:
        prevalence["weights"] = population.weights(found, file.targets, method=file.weighting)
    if file.selection is not None:
        method, size = file.selection
        chosen = jax.random.fold_in(key, _SELECTION)
        prevalence["selection"] = population.select(found, file.targets, key=chosen, size=size, method=method)
    write_population(out, file, found, prevalence, figures=_figures(found, prevalence), parquet=arguments.parquet)
    print(population_summary(file, found, prevalence), end="")
    print(f"\nResults: {out}")
    return 0


def _figures(
    found: population.PlausiblePopulation, prevalence: dict[str, population.Prevalence]
) -> "dict[str, Figure]":
    """Return the pictures by the names of their files; those of a selection where there is one."""
    shown = prevalence.get("selection", prevalence.get("weights"))
    figures = {"coverage.png": plot.coverage(found, shown)}
    if shown is not None:
        figures["targets.png"] = figure_of(plot.targets(shown))
    return figures


def _described(progress: Progress) -> str:
    return progress.doing or f"{progress.figures['simulations']:.0f} simulated"
