"""Fits of data that others simulated, where they are there."""

import warnings

import numpy as np
import pytest

import qspjax as qsp
from qspjax.fit import M3, Experiment, Free, LogNormalError, Output, Problem, estimate
from tests.systems.data import data_folder, needs_data


@pytest.mark.slow
@needs_data
def test_censoring_a_fifth_of_the_data_hardly_moves_the_estimates():
    path = data_folder() / "nlmixr2data" / "Bolus_1CPT.csv"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = qsp.io.read_nonmem(path, accept=["SD.EQ.1"], recode={"SS": {"99": "0"}})
    model = qsp.models.OneCompartment(CL=4.0, V=70.0)
    subjects = {  # each with a clearance and a volume of its own
        id: Experiment(one.measurements, one.regimen, set={name: f"{name}_{id}" for name in ("CL", "V")})
        for id, one in list(qsp.io.experiments(data, "concentration").items())[:40]
    }
    values = np.concatenate([one.measurements.value for one in subjects.values()])
    limit = float(np.quantile(values, 0.2))
    free = {f"{name}_{id}": Free(start) for id in subjects for name, start in (("CL", 4.0), ("V", 70.0))}
    found = {}
    for name, below in (("whole", None), ("censored", M3(limit))):
        outputs = {"concentration": Output("concentration", LogNormalError("sd"), below=below)}
        problem = Problem(model, subjects, outputs, free | {"sd": Free(0.3)})
        assert sum(int(rows.censored.sum()) for rows in problem.rows) == (below is not None) * np.sum(values < limit)
        parameters = estimate(problem).parameters
        found[name] = {one: np.log([parameters[f"{one}_{id}"] for id in subjects]).mean() for one in ("CL", "V")}
    for name in ("CL", "V"):
        assert found["censored"][name] == pytest.approx(found["whole"][name], abs=0.05)
