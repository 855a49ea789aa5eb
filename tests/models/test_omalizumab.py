"""Omalizumab: the published typical patient, binding against high precision, and derivatives without drug."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from qspjax._model import as_state
from qspjax._names import names, state_names
from qspjax.models import Omalizumab
from qspjax.models._omalizumab import OmalizumabState, _bound

MODEL = Omalizumab()
TYPICAL = {  # dose in mg: total drug ug/mL, total IgE ng/mL, free IgE ng/mL on days 7, 98 and 112 (before any dose)
    150.0: [(21.2956, 1424.93, 19.0573), (29.2119, 2204.11, 21.3206), (18.8000, 2183.43, 31.4984)],
    300.0: [(42.3638, 1446.83, 10.6158), (59.6058, 2247.20, 11.5980), (38.8455, 2236.76, 16.7839)],
}


def paper(t, y):
    """The equations of Hayashi et al. in numpy, as printed: mL, hours, ug, the naive root and power."""
    depot, X, T = y
    V, VC, CL, dCL, CLE = 5900.0, 3630.0, 7.32, 5.86, 71.0
    Kd = 1.07e-3 * (X / T) ** 0.157  # nmol/mL
    S = X + T + Kd * V**2 / VC
    C = (S - np.sqrt(S * S - 4 * X * T)) / 2
    Cx, Ce, Cc = (X - C) / V, (T - C) / V, C / VC  # nmol/mL
    return [-0.02 * depot, 0.02 * depot - CL * Cx - (CL + dCL) * Cc, 30.3 / 190.0 - CLE * Ce - (CL + dCL) * Cc]


def course(field, initial, to_depot, period, at):
    """States at times `at`, with a dose into the depot at 0, 1, 2 and 3 periods."""
    y, reported, options = np.asarray(initial, float), {}, {"method": "LSODA", "rtol": 1e-9, "atol": 1e-9}
    for i in range(4):
        y = y + np.array([to_depot, 0.0, 0.0])
        start, end = i * period, (i + 1) * period
        here = [t for t in at if start < t <= end]
        solution = solve_ivp(field, (start, end), y, t_eval=sorted({*here, end}), **options)
        reported.update({t: solution.y[:, list(solution.t).index(t)] for t in here})
        y = solution.y[:, -1]
    return [reported[t] for t in at]


@pytest.mark.parametrize("dose", TYPICAL)
def test_the_typical_patient_of_the_trial(dose):
    field = jax.jit(lambda t, y: jnp.stack(MODEL.vector_field(t, OmalizumabState(*y))))
    scale = float(MODEL.deliveries()["depot"].scale)
    states = course(lambda t, y: np.asarray(field(t, y)), as_state(MODEL, None), dose * scale, 28.0, (7.0, 98.0, 112.0))
    for y, expected in zip(states, TYPICAL[dose], strict=True):
        observed = MODEL.observe(0.0, OmalizumabState(*y))
        found = [float(observed[name]) for name in ("total_drug", "total_ige", "free_ige")]
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        assert float(observed["suppression"]) == pytest.approx(1 - expected[2] / 482.4, rel=1e-4)
        assert float(observed["ige_ratio"]) == pytest.approx(expected[1] / 482.4, rel=1e-4)


def test_the_vector_field_is_that_of_the_paper_in_days():
    for y in ([500.0, 800.0, 60.0], [0.0, 3.0, 20.0], [100.0, 15.0, 15.0], [1.0, 1e-3, 15.0]):
        ours = np.array(MODEL.vector_field(0.0, OmalizumabState(*map(jnp.asarray, y))))
        np.testing.assert_allclose(ours, 24.0 * np.array(paper(0.0, y)), rtol=1e-9)
    assert state_names(as_state(MODEL, None)) == ("depot", "X", "T")


def test_before_the_first_dose_ige_is_at_its_baseline_and_drifts_to_production_over_clearance():
    y = as_state(MODEL, None)
    assert float(y.T) == pytest.approx(482.4 / 190.0 * 5.9, rel=1e-14)
    observed = {name: float(value) for name, value in MODEL.observe(0.0, y).items()}
    assert observed == pytest.approx(
        {"total_drug": 0.0, "total_ige": 482.4, "free_ige": 482.4, "suppression": 0.0, "ige_ratio": 1.0}, abs=1e-13
    )
    rest = as_state(Omalizumab(IgE0=1e3 * 30.3 / 71.0), None)
    assert float(MODEL.vector_field(0.0, rest).T) == pytest.approx(0.0, abs=1e-12)
    change = MODEL.vector_field(0.0, OmalizumabState(30.0, 0.0, 15.0))
    assert float(change.depot + change.X) == pytest.approx(0.0, abs=1e-12)


NANOMOLES = [(1e-30, 15.0), (1e-6, 15.0), (14.999, 15.0), (15.0, 15.0), (1e4, 15.0), (1e9, 1.0)]


@pytest.mark.parametrize(("X", "T"), NANOMOLES)
def test_binding_keeps_its_digits(X, T):
    with mpmath.workdps(60):
        K = mpmath.mpf("10.26")
        S = mpmath.mpf(X) + mpmath.mpf(T) + K * (mpmath.mpf(X) / mpmath.mpf(T)) ** mpmath.mpf(0.157)
        exact = (S - mpmath.sqrt(S * S - 4 * mpmath.mpf(X) * mpmath.mpf(T))) / 2
        assert float(_bound(X, T, 10.26, 0.157)) == pytest.approx(float(exact), rel=1e-13)


@pytest.mark.parametrize("X", [0.0, -1e-15, 1e-310, 1e-102, 1e-20])
def test_derivatives_without_drug_are_finite_in_both_modes_and_to_second_order(X):
    arguments = (X, 15.0, 10.26, 0.157)
    assert float(_bound(*arguments)) == pytest.approx(X, rel=0.05, abs=1e-30)
    for differentiate in (jax.grad, jax.jacfwd):
        gradient = np.array(differentiate(_bound, (0, 1, 2, 3))(*arguments))
        assert np.all(np.isfinite(gradient))
        if X == 0.0:
            np.testing.assert_array_equal(gradient, [1.0, 0.0, 0.0, 0.0])
    assert np.all(np.isfinite(np.array(jax.hessian(_bound, (1, 2, 3))(*arguments))))


def test_the_gradient_of_a_placebo_is_finite_in_every_parameter_and_state():
    def probe(model, y):
        change, observed = model.vector_field(0.0, y), model.observe(0.0, y)
        return sum(change) + sum(observed.values())

    for gradient in jax.grad(probe, (0, 1))(MODEL, as_state(MODEL, None)):
        assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(gradient))
    assert np.isfinite(_bound(0.0, 0.0, 10.26, 0.157))
    assert np.all(np.isfinite(np.array(jax.grad(_bound, (0, 1))(0.0, 0.0, 10.26, 0.157))))


def test_half_lives_are_those_of_the_paper():
    assert np.log(2) * float(MODEL.V / MODEL.CL) / 24.0 == pytest.approx(23.28, abs=0.005)
    assert np.log(2) * float(MODEL.V / MODEL.CLE) / 24.0 == pytest.approx(2.400, abs=0.0005)


def test_every_parameter_has_a_unit_a_meaning_and_its_source():
    for p in names(MODEL):
        assert p.doc
        assert "doi:10.1111/j.1365-2125.2006.02803.x" in p.source
        assert (p.unit == "") == (p.name == "alpha")
    assert [p.name for p in names(MODEL)] == ["ka", "CL", "dCL", "V", "VC", "CLE", "P", "IgE0", "Kd0", "alpha"]
    assert (MODEL.units.time, MODEL.units.dose, set(MODEL.units.states.values())) == ("d", "mg", {"nmol"})
    assert set(MODEL.units.observed) == {"total_drug", "total_ige", "free_ige"}


def test_wrong_numbers_are_refused_and_the_model_is_built_inside_jit_and_vmap():
    with pytest.raises(ValueError, match=r"^Argument `IgE0` must be positive, but is 0\.$"):
        Omalizumab(IgE0=0.0)
    starts = jax.jit(jax.vmap(lambda IgE0: Omalizumab(IgE0=IgE0).initial().T))(jnp.array([190.0, 380.0]))
    np.testing.assert_allclose(starts, [5.9, 11.8])
