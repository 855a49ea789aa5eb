"""The results of a trial as a directory of files, written whole or not at all."""

import importlib.metadata
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qspjax._cohort import Cohort
from qspjax._extras import require
from qspjax._files import replaced_directory
from qspjax._model import AbstractModel
from qspjax._names import at
from qspjax.io.trial._file import TrialFile
from qspjax.models import Network
from qspjax.population import ArmResult, Categorical, Population, SamePatients, TrialResult, summary_text

FILES = (
    "summary.txt",
    "patients.csv",
    "endpoints.csv",
    "trajectories.nc",
    "trial.toml",
    "trial.png",
    "trial.csv",
)
"""What a directory of results holds."""

_MARKERS = {"summary.txt", "trial.toml"}


def check_destination(
    directory: str | Path, files: Collection[str] = FILES, markers: Collection[str] = _MARKERS
) -> Path:
    """Return the directory as a path, if results can be written there.

    Args:
        directory: New, empty, or with an earlier result.
        files: What a directory of results may hold.
        markers: What it holds at least.

    Raises:
        OSError: If it holds something that is not an earlier result, or cannot be written.

    Example:
        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> check_destination(folder / "results") == folder.resolve() / "results"
        True
    """
    path = Path(directory).resolve()
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{directory} must be a directory, but is a file.")
    if path.is_mount():
        raise PermissionError(f"{directory} must not be a mount point: name a directory inside it.")
    held = {entry.name for entry in path.iterdir()} if path.exists() else set()
    if held and not held >= {*markers}:
        raise FileExistsError(f"{directory} must be new, empty or hold an earlier result, but holds other files.")
    if held - {*files}:
        others = ", ".join(sorted(held - {*files})[:3])
        raise FileExistsError(
            f"{directory} must hold nothing but an earlier result to be replaced, but holds {others}."
        )
    above = next(parent for parent in path.parents if parent.exists())
    try:  # permissions do not tell: nobody can write in /proc
        with tempfile.TemporaryDirectory(prefix=".qspjax.", dir=above):
            return path
    except OSError:
        must = "must be in a directory that can be written"
        raise PermissionError(f"{directory} {must}, but {above} cannot.") from None


def write_trial(
    directory: str | Path, file: TrialFile, result: TrialResult, *, figure: Any, bands: Sequence[dict[str, Any]]
) -> Path:
    """Write the results of a trial; an earlier result in the directory is replaced at the very end.

    Args:
        directory: New, empty, or with an earlier result.
        file: The trial file that was run, with the number of patients and the seed that were used.
        result: The result.
        figure: The picture, a matplotlib Figure.
        bands: The numbers in the picture, a row each, as `qspjax.plot.bands` gives them.

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
    path = check_destination(directory)

    def write(to: Path) -> None:
        (to / "trial.toml").write_bytes(file.text)
        (to / "summary.txt").write_text(summary(file, result), encoding="utf-8")
        write_csv(to / "patients.csv", patients(file.population, result.cohort))
        write_csv(to / "endpoints.csv", endpoints(result))
        write_csv(to / "trial.csv", _columns(bands))
        _write_trajectories(to / "trajectories.nc", file, result)
        figure.savefig(to / "trial.png", dpi=200, metadata={"Software": None})

    replaced_directory(path, write)
    return path


def summary(file: TrialFile, result: TrialResult) -> str:
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
    return lines + "\n\n" + summary_text(result, units=file.endpoint_units)


def name_of(model: AbstractModel) -> str:
    """Return what a model is called: a network by its own name, any other by its class."""
    return (isinstance(model, Network) and model.plan.definition.name) or type(model).__name__


def version(package: str = "qspjax") -> str:
    """Return the version of a package as it is installed.

    Example:
        >>> version("no-such-package")
        '(not installed)'
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def patients(population: Population, cohort: Cohort) -> dict[str, np.ndarray]:
    """Return a table of the patients: number, covariates (categories by name), parameters that vary."""
    columns: dict[str, np.ndarray] = {"patient": np.arange(cohort.size)}
    for name, own in zip(population.covariate_names, population.covariates, strict=True):
        values = np.asarray(cohort.covariates[name])
        columns[name] = np.asarray(own.categories)[values] if isinstance(own, Categorical) else values
    for name in cohort.varying:
        values = np.asarray(at(cohort.model, name).get())
        if name not in columns:
            columns[name] = values
        elif not np.array_equal(columns[name], values):  # a covariate of the same name that is not the parameter
            columns[f"{name} (parameter)"] = values
    return columns


def endpoints(result: TrialResult) -> dict[str, Any]:
    """Return a table of the endpoints: a row for each patient in each arm, and how its simulation went."""
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


def all_failed(result: TrialResult) -> bool:
    """Return whether no patient of any arm was simulated to the end.

    Example:
        >>> import qspjax as qsp
        >>> cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": [30.0, 60.0]})
        >>> trial = qsp.Trial([qsp.Arm("30 mg", qsp.bolus(30.0, to="central"))], [0.0])
        >>> all_failed(qsp.simulate_trial(trial, cohort))
        False
    """
    return all(bool(np.all(arm.solution.failed)) for arm in result.arms)


def _write_trajectories(path: Path, file: TrialFile, result: TrialResult) -> None:
    xarray, pandas = require("xarray", extra="data"), require("pandas", extra="data")
    require("h5netcdf", extra="data")
    arms = [arm.solution.to_xarray().assign_coords(patient=arm.members) for arm in result.arms]
    names = pandas.Index([arm.name for arm in result.arms], name="arm")
    everything = xarray.concat(
        arms, dim=names, join="outer", data_vars="all", coords="minimal", compat="override", combine_attrs="override"
    )
    everything.attrs |= {"title": file.title, "seed": file.seed}
    everything.to_netcdf(path, engine="h5netcdf")


def write_csv(path: Path, columns: Any) -> None:
    """Write a table: columns by name, or a data frame."""
    require("pandas", extra="data").DataFrame(columns).to_csv(path, index=False, lineterminator="\n")


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, list]:
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
