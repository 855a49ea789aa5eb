"""Fits of data that others simulated, where they are there."""

import warnings

import numpy as np
import pytest

import qspjax as qsp
from qspjax.fit import M3, Free, LogNormalError, Output, Problem, estimate
from tests.systems.data import data_folder, needs_data


@needs_data
def test_censoring_a_fifth_of_the_data_hardly_moves_the_estimates():
    path = data_folder() / "nlmixr2data" / "Bolus_1CPT.csv"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = qsp.io.read_nonmem(path, accept=["SD.EQ.1"], recode={"SS": {"99": "0"}})
    model = qsp.models.OneCompartment(CL=4.0, V=70.0)
    subjects = qsp.io.experiments(data, "concentration")
    values = np.concatenate([one.measurements.value for one in subjects.values()])
    limit = float(np.quantile(values, 0.2))
    assert 0.19 < np.mean(values < limit) < 0.21
    free = {"CL": Free(3.0), "V": Free(50.0), "sd": Free(0.5)}
    found = {}
    for name, below in (("whole", None), ("censored", M3(limit))):
        outputs = {"concentration": Output("concentration", LogNormalError("sd"), below=below)}
        problem = Problem(model, subjects, outputs, free)
        found[name] = estimate(problem).parameters
    for name in ("CL", "V"):
        assert found["censored"][name] == pytest.approx(found["whole"][name], rel=0.05)
