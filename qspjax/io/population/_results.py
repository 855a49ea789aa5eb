"""The results of a search for plausible patients as a directory of files, written whole or not at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qspjax._extras import require, version
from qspjax._files import replaced_directory
from qspjax.io._directory import check_destination, write_csv
from qspjax.io.population._file import PopulationFile
from qspjax.io.trial._results import name_of
from qspjax.population import PlausiblePopulation, Prevalence

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

POPULATION_FILES = (
    "summary.txt",
    "patients.csv",
    "patients.parquet",
    "targets.csv",
    "population.toml",
    "coverage.png",
    "targets.png",
)
"""The files that a directory of results may hold."""

POPULATION_MARKERS = ("summary.txt", "population.toml")
"""The files that it always holds."""

Found = Mapping[str, Prevalence]
"""What `weights` and `select` returned, as `weights` and `selection`."""


def write_population(
    directory: str | Path,
    file: PopulationFile,
    patients: PlausiblePopulation,
    found: Found,
    *,
    figures: Mapping[str, "Figure"],
    parquet: bool = False,
) -> Path:
    """Write plausible patients with their weights; an earlier result in the directory is replaced at the very end.

    Args:
        directory: New, empty, or with an earlier result.
        file: The population file.
        patients: The patients.
        found: Their prevalence: `weights`, `selection`, both or none.
        figures: Figures of matplotlib, by the names of their files.
        parquet: Whether the table of patients is also written in Parquet.

    Returns:
        The directory.

    Raises:
        OSError: If it cannot be written. Nothing is left half-written.
    """
    path = check_destination(directory, POPULATION_FILES, POPULATION_MARKERS)
    table = patients_table(patients, found)

    def write(to: Path) -> None:
        (to / "population.toml").write_bytes(file.text)
        (to / "summary.txt").write_text(population_summary(file, patients, found), encoding="utf-8")
        write_csv(to / "patients.csv", table)
        if parquet:
            table.to_parquet(to / "patients.parquet", index=False)
        if found:
            parts = [each.to_dataframe().assign(population=name) for name, each in found.items()]
            write_csv(to / "targets.csv", require("pandas", extra="data").concat(parts))
        for name, figure in figures.items():
            figure.savefig(to / name, dpi=200, metadata={"Software": None})

    replaced_directory(path, write)
    return path


def patients_table(patients: PlausiblePopulation, found: Found) -> "pandas.DataFrame":
    """Return one row per patient: number, parameters, covariates, statistics, and the weight or whether selected."""
    columns: dict[str, np.ndarray] = {"patient": np.arange(patients.size), **patients.values, **patients.statistics}
    if "weights" in found:
        columns["weight"] = found["weights"].weights
    if "selection" in found:
        columns["selected"] = found["selection"].weights > 0.0
    return require("pandas", extra="data").DataFrame(columns)


def population_summary(file: PopulationFile, patients: PlausiblePopulation, found: Found) -> str:
    """Return the summary as text: patients, cost, and how well the targets are met."""
    head = {
        "Title": file.title,
        "Model": name_of(file.population.model),
        "Arms": ", ".join(arm.name for arm in file.arms),
        "Search": type(file.search.method).__name__,
        "Seed": file.seed,
        "Versions": ", ".join(f"{name} {version(name)}" for name in ("qspjax", "jax")),
    }
    lines = "\n".join(f"{key + ':':<10}{value}" for key, value in head.items())
    blocks = [f"{name.capitalize()}\n{each}" for name, each in found.items()]
    return "\n\n".join([lines, str(patients), *blocks]) + "\n"
