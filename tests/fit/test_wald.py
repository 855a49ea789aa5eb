"""Wald intervals and draws: on scales that keep them in their domain, with the moments that they should have."""

import jax
import numpy as np
import pytest
from scipy import stats

import qspjax as qsp
from qspjax.fit import Free, RandomEffects
from qspjax.fit._wald import drawn_points, wald_intervals
from tests.fit.test_compare import fitted
from tests.fit.test_mixtures import two_levels


@pytest.mark.parametrize(
    ("free", "value", "scale"),
    [
        (Free(3.0), 3.0, qsp.Log()),
        (Free(3.0, bounds=(0.0, 9.0)), 3.0, qsp.Log()),
        (Free(3.0, bounds=(0.0, np.inf)), 0.0, qsp.Identity()),
        (Free(0.3, bounds=(0.0, 1.0)), 0.3, qsp.Logit()),
        (Free(0.3, bounds=(-1.0, 1.0)), 0.3, qsp.Identity()),
        (Free(3.0, transform=qsp.Identity()), 3.0, qsp.Identity()),
        (Free(2.0, transform=qsp.Logit(1.0, 4.0), bounds=(1.5, 3.5)), 2.0, qsp.Logit(1.0, 4.0)),
    ],
)
def test_scales_of_parameters(free, value, scale):
    assert free.scale(value) == scale


def test_intervals_are_those_of_the_delta_method():
    scales = [qsp.Identity(), qsp.Log(), qsp.Log(10.0), qsp.Logit(), qsp.Logit(-2.0, 2.0), qsp.Log(), qsp.Log()]
    values = np.array([-1.0, 2.0, 2.0, 0.3, 1.2, 1.0, 1.0])
    errors = np.array([3.0, 1.5, 1.5, 0.4, 0.9, np.inf, np.nan])
    low, high = wald_intervals(scales, values, errors, 0.9)
    z = stats.norm.ppf(0.95)
    np.testing.assert_allclose((low[0], high[0]), (-1.0 - 3.0 * z, -1.0 + 3.0 * z))
    for k in (1, 2):
        np.testing.assert_allclose((low[k], high[k]), 2.0 * np.exp([-0.75 * z, 0.75 * z]))
    logit = np.log(0.3 / 0.7) + np.array([-1.0, 1.0]) * z * 0.4 / 0.21
    np.testing.assert_allclose((low[3], high[3]), 1.0 / (1.0 + np.exp(-logit)))
    arc = np.arctanh(0.6) + np.array([-1.0, 1.0]) * z * 0.45 / (1.0 - 0.36)
    np.testing.assert_allclose((low[4], high[4]), 2.0 * np.tanh(arc))
    assert (low[5], high[5]) == (0.0, np.inf)
    assert np.isnan([low[6], high[6]]).all()
    with pytest.raises(ValueError, match="`level` must lie between 0 and 1, but is 95"):
        wald_intervals(scales, values, errors, 95)


def test_draws_have_the_covariance_and_stay_in_their_domain():
    free = [Free(2.0, bounds=(0.0, 9.0)), Free(1.0), Free(0.5, bounds=(0.0, 1.0))]
    x, C = np.array([2.0, 0.1, 0.5, -1.0]), np.diag([0.04, 0.01, 0.0025, 0.09])
    C[0, 1] = C[1, 0] = 0.01
    points = drawn_points(free, x, C, key=jax.random.key(0), size=40_000)
    np.testing.assert_allclose(points.mean(axis=0), x, atol=0.02)
    np.testing.assert_allclose(np.cov(points.T), C, atol=0.003)
    np.testing.assert_allclose(np.cov(np.log(points[:, 0]), points[:, 1]), [[0.01, 0.005], [0.005, 0.01]], atol=2e-4)
    wide = drawn_points(free, x, 1e4 * C, key=jax.random.key(0), size=1000)
    assert (wide[:, 0] >= 0.0).all()
    assert (wide[:, 0] <= 9.0).all()
    assert (np.abs(wide[:, 2] - 0.5) <= 0.5).all()
    np.testing.assert_array_equal(points[:3], drawn_points(free, x, C, key=jax.random.key(0), size=40_000)[:3])
    for bad in (np.diag([1.0, np.inf, 1.0, 1.0]), np.diag([1.0, 1.0, -1.0, 1.0])):
        with pytest.raises(ValueError, match="cannot be drawn: the data say nothing about some direction"):
            drawn_points(free, x, bad, key=jax.random.key(0), size=3)


def test_intervals_of_a_population_stay_in_their_domain():
    random = [RandomEffects(["eta", "zeta"], [[1.0, 0.1], [0.1, 0.08]])]
    fit = fitted(60.0, random=random, slope=Free(0.3), individual={"slope": "slope + zeta"})
    vars(fit).update(_hessian=2.0 * np.eye(6), _slopes_here=2.0 * np.eye(6))  # a standard error of 1 for all
    low, high = fit.intervals()
    table = fit.to_dataframe().set_index("name")
    np.testing.assert_array_equal(table["lower"], low)
    assert [*table.index][3:] == ["var(eta)", "var(zeta)", "cov(zeta, eta)"]
    values = np.array([*fit.parameters.values()])
    assert ((low < values) & (values < high)).all()
    z = stats.norm.ppf(0.975)
    expected = values[:3] * np.exp(z * np.array([[-1.0], [1.0]]))
    np.testing.assert_allclose([low[:3], high[:3]], expected)
    np.testing.assert_allclose(np.log([low[3], high[3]]), [-2.0 * z, 2.0 * z])  # of log var = 2 log sd
    np.testing.assert_allclose(low[4] * high[4], values[4] ** 2)
    most = np.sqrt(values[3] * values[4])
    assert -most < low[5] < high[5] < most
    draws = fit.draws(key=jax.random.key(0), size=4000)
    assert all((draws[name] > 0.0).all() for name in ("mu", "sigma", "var(eta)", "var(zeta)"))
    assert (draws["cov(zeta, eta)"] ** 2 < draws["var(eta)"] * draws["var(zeta)"]).all()


def test_scales_of_a_mixture():
    mixture, _ = two_levels()
    assert mixture.scales(mixture.start) == (qsp.Log(), qsp.Log(), qsp.Log(), qsp.Logit(), qsp.Log())
