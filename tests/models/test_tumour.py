"""Tumour growth inhibition: closed forms, the published survival model, and patients at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import qspjax as qsp

WEEKS = np.array([0.0, 3.0, 7.0, 12.0, 20.0, 30.0, 52.0])
SIZES = [71.0, 63.06687163, 55.47424402, 49.20394419, 43.72408836, 41.40659631, 45.47711781]  # mm, at 1 g/d
FLUOROURACIL = qsp.models.TumourGrowthInhibition(KL=0.015, KD=0.058, resistance=0.042, y0=71.0)


def at_once(model, exposure, ts, **options):
    """Simulate a constant exposure, which is there from the beginning."""
    start = model.initial()._replace(drug=exposure / model.ke)
    infusion = qsp.infusion(400.0 * exposure, to="drug", rate=exposure)
    return qsp.simulate(model, infusion, ts, initial=start, **options)


def test_sizes_under_a_constant_exposure():
    """The sizes of shared tables, and the closed form y0 exp(KL t - (KD E / lambda) (1 - exp(-lambda t)))."""
    observed = at_once(FLUOROURACIL, 1.0, 7.0 * WEEKS, method=qsp.solve.Rosenbrock(rtol=1e-10, atol=1e-12)).observed
    closed = 71.0 * np.exp(0.015 * WEEKS - 0.058 / 0.042 * (1.0 - np.exp(-0.042 * WEEKS)))
    np.testing.assert_allclose(closed, SIZES, rtol=1e-9)
    np.testing.assert_allclose(observed["diameters"], SIZES, rtol=1e-7)
    np.testing.assert_allclose(observed["change"], np.array(SIZES) / 71.0 - 1.0, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(observed["exposure"], 1.0, rtol=1e-7)


def test_survival_is_that_of_the_paper():
    """Median 573.79 d and 0.74124 alive after a year, but for the deaths before the landmark (below 0.1 %)."""
    observed = at_once(FLUOROURACIL, 1.0, np.array([49.0, 365.0, 573.7896795])).observed["survival"]
    assert float(observed[0]) > 0.999
    np.testing.assert_allclose(observed[1:], [0.7412361367, 0.5], atol=1e-3)


def test_the_hazard_is_that_of_the_log_normal_distribution():
    """Without growth and drug the mean is constant, so that survival is the distribution function itself."""
    still = qsp.models.TumourGrowthInhibition(KL=0.0, KD=0.0, resistance=0.0, y0=100.0)
    ts = np.array([0.0, 30.0, 100.0, 365.0, 1000.0, 4000.0])
    tight = qsp.solve.Rosenbrock(rtol=1e-10, atol=1e-13)
    found = qsp.simulate(still, qsp.no_doses(), ts, method=tight).observed["survival"]
    with np.errstate(divide="ignore"):
        expected = norm.sf((np.log(ts) - (6.27 - 0.38)) / 0.699)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_effect_is_that_of_the_dose_however_it_is_given():
    """Without resistance a bolus and an infusion of the same amount leave the same tumour, log y = log y0 - KD A."""
    model = qsp.models.TumourGrowthInhibition(KL=0.0, KD=0.07, resistance=0.0, y0=50.0)
    for dose in (qsp.bolus(14.0, to="drug"), qsp.infusion(14.0, to="drug", over=10.0)):
        size = qsp.simulate(model, dose, [0.0, 30.0]).observed["diameters"][-1]
        np.testing.assert_allclose(size, 50.0 * np.exp(-0.14), rtol=1e-6)


def test_shrinkage_counts_until_the_landmark():
    model = qsp.models.TumourGrowthInhibition(KL=0.05, KD=0.0, resistance=0.0, y0=20.0, landmark=2.0)
    states = qsp.simulate(model, qsp.no_doses(), [14.0, 28.0]).states
    np.testing.assert_allclose(states.shrinkage, 1.0 - np.exp(0.1), rtol=1e-4)
    mean = 6.27 - 0.0038 * 20.0 + 1.61 * (1.0 - np.exp(0.1))

    later = norm.logsf((np.log([14.0, 28.0]) - mean) / 0.699)
    np.testing.assert_allclose(states.hazard[1] - states.hazard[0], later[0] - later[1], rtol=1e-3)


@pytest.mark.parametrize("KL", [0.0, 0.2, 1.0])
def test_extreme_patients_die_but_do_not_fail(KL):
    model = qsp.models.TumourGrowthInhibition(KL=KL, KD=1.0, resistance=0.042, y0=300.0)
    solution = qsp.simulate(model, qsp.no_doses(), [0.0, 60.0, 700.0], throw=False)
    assert not bool(solution.failed)
    assert np.isfinite(solution.observed["cumulative_hazard"]).all()


def test_derivatives():
    def log_size(KD):
        model = qsp.at(FLUOROURACIL, "KD").set(KD)
        return jnp.log(at_once(model, 1.0, [0.0, 84.0]).observed["diameters"][-1])

    np.testing.assert_allclose(jax.grad(log_size)(0.058), -(1.0 - np.exp(-0.042 * 12.0)) / 0.042, rtol=1e-4)
