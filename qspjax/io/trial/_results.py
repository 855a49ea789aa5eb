"""The results of a trial as a directory of files, written whole or not at all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qspjax._cohort import Cohort
from qspjax._extras import require, version
from qspjax._files import replaced_directory
from qspjax._model import AbstractModel
from qspjax._names import at
from qspjax.io._directory import check_destination, write_csv
from qspjax.io.trial._file import TrialFile
from qspjax.io.trial._judged import Judged
from qspjax.models import Network
from qspjax.population import ArmResult, Categorical, Population, SamePatients, TrialResult, summary_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRIAL_FILES = (
    "summary.txt",
    "patients.csv",
    "endpoints.csv",
    "trajectories.nc",
    "trial.toml",
    "trial.png",
    "trial.csv",
    "responses.csv",
    "events.csv",
    "curves.csv",
    "power.csv",
    "waterfall.png",
    "swimmer.png",
    "progression.png",
    "survival.png",
    "power.png",
)
"""The files that a directory of results may hold."""

TRIAL_MARKERS = ("summary.txt", "trial.toml")
"""The files that it always holds."""


def write_trial(
    directory: str | Path,
    file: TrialFile,
    result: TrialResult,
    *,
    figure: "Figure",
    bands: Sequence[Mapping[str, object]],
    judged: Judged | None = None,
    figures: "Mapping[str, Figure] | None" = None,
) -> Path:
    """Write the results of a trial; an earlier result in the directory is replaced at the very end.

    Args:
        directory: New, empty, or with an earlier result.
        file: The trial file that was run, with the number of patients and the seed that were used.
        result: The result.
        figure: The plot, a matplotlib Figure.
        bands: The numbers in the plot, one row each, from `qspjax.plot.bands`.
        judged: Responses, events and power, if the file asks for them.
        figures: Figures of these, by the names of their files.

    Returns:
        The directory.

    Raises:
        OSError: If it cannot be written. Nothing is left half-written.

    Example:
        >>> import pathlib, tempfile, jax, qspjax as qsp
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "trial.toml").write_text(
        ...     "patients = 2\\n"
        ...     'model = { name = "OneCompartment", parameters = { CL = 3, V = 30 } }\\n'
        ...     'arms = { treated = { dose = 30, to = "central" } }\\n'
        ...     'output = { times = [0, 8, 24] }\\n'
        ... )
        >>> file = qsp.io.read_trial(folder / "trial.toml")
        >>> result = qsp.simulate_trial(file.trial, file.sample(jax.random.key(file.seed)))
        >>> bands = qsp.plot.bands(result)
        >>> out = write_trial(folder / "results", file, result, figure=qsp.plot.trial(result), bands=bands)
        >>> sorted(path.name for path in out.iterdir())[:3]
        ['endpoints.csv', 'patients.csv', 'summary.txt']
    """
    path = check_destination(directory, TRIAL_FILES, TRIAL_MARKERS)

    def write(to: Path) -> None:
        (to / "trial.toml").write_bytes(file.text)
        (to / "summary.txt").write_text(summary(file, result, judged), encoding="utf-8")
        write_csv(to / "patients.csv", patients(file.population, result.cohort))
        write_csv(to / "endpoints.csv", endpoints(result))
        write_csv(to / "trial.csv", _columns(bands))
        _write_trajectories(to / "trajectories.nc", file, result)
        for name, table in ({} if judged is None else judged.tables()).items():
            write_csv(to / name, table)
        for name, drawn in {"trial.png": figure, **(figures or {})}.items():
            drawn.savefig(to / name, dpi=200, metadata={"Software": None})

    replaced_directory(path, write)
    return path


def summary(file: TrialFile, result: TrialResult, judged: Judged | None = None) -> str:
    """Return the summary of a trial as text, the same for the same file and seed.

    Example:
        >>> import pathlib, tempfile, jax, qspjax as qsp
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "trial.toml").write_text(
        ...     "patients = 2\\n"
        ...     'model = { name = "OneCompartment", parameters = { CL = 3, V = 30 } }\\n'
        ...     'arms = { treated = { dose = 30, to = "central" } }\\n'
        ...     'output = { times = [0, 8, 24] }\\n'
        ... )
        >>> file = qsp.io.read_trial(folder / "trial.toml")
        >>> result = qsp.simulate_trial(file.trial, file.sample(jax.random.key(file.seed)))
        >>> print(summary(file, result).splitlines()[0])
        Trial:    trial
    """
    members = "the same in every arm" if isinstance(file.trial.allocation, SamePatients) else "randomised"
    head = {
        "Trial": file.title,
        "Model": name_of(file.population.model),
        "Patients": f"{result.cohort.size}, {members}",
        "Seed": file.seed,
        "Method": result.arms[0].solution.labels.method,
        "Versions": ", ".join(f"{name} {version(name)}" for name in ("qspjax", "jax", "diffrax")),
    }
    lines = "\n".join(f"{key + ':':<10}{value}" for key, value in head.items())
    text = lines + "\n\n" + summary_text(result, units=file.endpoint_units)
    return text if judged is None or not str(judged) else f"{text}\n{judged}\n"


def name_of(model: AbstractModel) -> str:
    """Return the name of a model: that of a network, or that of its class."""
    return (isinstance(model, Network) and model.plan.definition.name) or type(model).__name__


def patients(population: Population, cohort: Cohort) -> dict[str, np.ndarray]:
    """Return a table of the patients: number, covariates (categories by name), parameters that vary."""
    columns: dict[str, np.ndarray] = {"patient": np.arange(cohort.size)}
    for name, distribution in zip(population.covariate_names, population.covariates, strict=True):
        values = np.asarray(cohort.covariates[name])
        is_category = isinstance(distribution, Categorical)
        columns[name] = np.asarray(distribution.categories)[values] if is_category else values
    for name in cohort.varying:
        values = np.asarray(at(cohort.model, name).get())
        if name not in columns:
            columns[name] = values
        elif not np.array_equal(columns[name], values):  # a covariate of the same name that is not the parameter
            columns[f"{name} (parameter)"] = values
    return columns


def endpoints(result: TrialResult) -> dict[str, np.ndarray]:
    """Return a table of the endpoints: one row per patient and arm, with the result of the simulation."""
    parts = [_arm_endpoints(arm) for arm in result.arms]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _arm_endpoints(arm: ArmResult) -> dict[str, np.ndarray]:
    reason = np.full(arm.members.size, "ok", dtype=object)
    state = np.full(arm.members.size, "", dtype=object)
    for failure in arm.solution.failures():
        reason[failure.patient], state[failure.patient] = failure.reason, failure.state
    return {
        "arm": np.full(arm.members.size, arm.name, dtype=object),
        "patient": arm.members,
        **{name: np.asarray(values) for name, values in arm.endpoints.items()},
        "result": reason,
        "last_time": np.asarray(arm.solution.stats["last_time"]),
        "state": state,
    }


def _write_trajectories(path: Path, file: TrialFile, result: TrialResult) -> None:
    xarray, pandas = require("xarray", extra="data"), require("pandas", extra="data")
    require("h5netcdf", extra="data")
    arms = [arm.solution.to_xarray().assign_coords(patient=arm.members) for arm in result.arms]
    names = pandas.Index([arm.name for arm in result.arms], name="arm")
    dataset = xarray.concat(
        arms, dim=names, join="outer", data_vars="all", coords="minimal", compat="override", combine_attrs="override"
    )
    dataset.attrs |= {"title": file.title, "seed": file.seed}
    dataset.to_netcdf(path, engine="h5netcdf")


def _columns(rows: Sequence[Mapping[str, object]]) -> dict[str, list[object]]:
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
