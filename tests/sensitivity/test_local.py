"""Local sensitivities: forward, by the adjoint, by central differences and in closed form."""

import numpy as np
import pytest

import qspjax as qsp
from qspjax.sensitivity import local

TIMES = np.array([0.0, 2.0, 6.0, 12.0])
PATIENT = qsp.models.OneCompartment(CL=3.0, V=30.0)
BOLUS = qsp.bolus(300.0, to="central")


def test_over_time_in_closed_form():
    found = {
        adjoint: local(PATIENT, BOLUS, TIMES, ["CL", "V"], ["concentration"], adjoint=adjoint)
        for adjoint in (False, True)
    }
    value = 10.0 * np.exp(-0.1 * TIMES)
    expected = np.stack([-TIMES / 30.0 * value, (-1 / 30.0 + 3.0 / 900.0 * TIMES) * value])
    for one in found.values():
        np.testing.assert_allclose(one.derivatives[:, 0], expected, rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(one.log_derivatives[0, 0], -0.1 * TIMES, rtol=1e-10, atol=1e-14)
    table = found[True].to_dataframe()
    assert list(table.columns) == ["parameter", "output", "time", "derivative", "log_derivative"]
    assert len(table) == 8


@pytest.mark.slow
def test_endpoints_against_central_differences():
    model = qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2)
    endpoints = {"AUC": qsp.endpoints.AUC("concentration"), "last": lambda s: s.observed["concentration"][-1]}
    dose, names = qsp.bolus(200.0, to="depot"), ["CL", "V", "ka"]
    grid = np.linspace(0.0, 24.0, 25)
    found = local(model, dose, grid, names, endpoints)

    def values(model):
        solution = qsp.simulate(model, dose, grid)
        return np.array([float(function(solution)) for function in endpoints.values()])

    for k, name in enumerate(names):
        value = float(qsp.at(model, name).get())
        ahead, behind = (values(qsp.at(model, name).set(value * (1 + sign * 1e-4))) for sign in (1, -1))
        np.testing.assert_allclose(found.derivatives[k], (ahead - behind) / (2e-4 * value), rtol=1e-5)


def test_what_is_refused():
    with pytest.raises(ValueError, match="`name` must name a parameter of the model"):
        local(PATIENT, BOLUS, TIMES, ["ka"], ["concentration"])
