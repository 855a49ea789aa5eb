"""A trial file as a sensitivity analysis: parameters that vary between patients are inputs, endpoints are outputs."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import jax.numpy as jnp

from qspjax._checks import check_one_of, refuse
from qspjax._extras import require
from qspjax._files import replaced_directory
from qspjax._names import at
from qspjax.execute import Chunked
from qspjax.io._directory import write_csv
from qspjax.io.trial._file import TrialFile
from qspjax.population import Categorical
from qspjax.sensitivity import Inputs, OfModel

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

SENSITIVITY_FILES = ("summary.txt", "sensitivity.csv", "sensitivity.png")
SENSITIVITY_MARKERS = ("summary.txt", "sensitivity.csv")


def sensitivity_problem(file: TrialFile, arm: str | None = None, *, chunk: int = 1024) -> tuple[OfModel, Inputs]:
    """Return the endpoints of an arm of a trial as a function of the parameters that vary between patients.

    Covariates are those of the median patient.

    Args:
        file: A trial file.
        arm: The name of the arm; by default the last.
        chunk: Number of patients that are simulated at a time.

    Raises:
        ValueError: If nothing varies between patients, there is no endpoint, or no such arm.

    Example:
        >>> import qspjax as qsp
        >>> function, inputs = sensitivity_problem(qsp.io.read_trial(qsp.io.bundled_trial()))
        >>> inputs.names[:3]
        ('ka', 'CL', 'dCL')
    """
    population, trial = file.population, file.trial
    if not population.between_names:
        refuse("population", "have parameters that vary (`[population.between]`)", "without any")
    if not trial.endpoints:
        refuse("endpoints", "have at least one", "without any")
    regimens = {arm.name: arm.regimen for arm in trial.arms}
    name = list(regimens)[-1] if arm is None else arm
    check_one_of("arm", name, regimens, "an arm of the trial")
    covariates = {}
    for key, distribution in zip(population.covariate_names, population.covariates, strict=True):
        median = 0 if isinstance(distribution, Categorical) else distribution.from_normal(0.0)
        covariates[key] = jnp.asarray(median)
    regimen = regimens[name].prescribe(covariates)
    endpoints = dict(zip(trial.endpoint_names, trial.endpoints, strict=True))
    varied = dict(zip(population.between_names, population.between, strict=True))
    inputs = Inputs(varied, typical={key: at(population.model, key).get() for key in varied})
    function = OfModel(population.model, regimen, trial.ts, inputs.names, endpoints, executor=Chunked(chunk))
    return function, inputs


def write_sensitivity(
    path: Path, text: str, table: "Mapping[str, Collection[object]] | pandas.DataFrame", figure: "Figure"
) -> None:
    """Write the results of an analysis, whole or not at all.

    Example:
        >>> import pathlib, tempfile
        >>> from matplotlib.figure import Figure
        >>> folder = pathlib.Path(tempfile.mkdtemp()) / "sensitivity"
        >>> write_sensitivity(folder, "Morris", {"parameter": ["CL"], "mu_star": [1.5]}, Figure())
        >>> (folder / "sensitivity.csv").read_text().split()
        ['parameter,mu_star', 'CL,1.5']
    """
    require("pandas", extra="data")

    def write(to: Path) -> None:
        (to / "summary.txt").write_text(text, encoding="utf-8")
        write_csv(to / "sensitivity.csv", table)
        figure.savefig(to / "sensitivity.png", dpi=200, metadata={"Software": None})

    replaced_directory(path, write)
