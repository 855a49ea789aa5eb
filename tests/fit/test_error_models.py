"""Densities, distribution functions and Fisher information of the error models, against scipy and by quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from qspjax.fit import (
    M3,
    M4,
    Additive,
    Binary,
    Combined,
    DoubleExponential,
    Gaussian,
    LogNormalError,
    Ordinal,
    Output,
    Poisson,
    Proportional,
    StudentT,
    TimeToEvent,
)
from qspjax.fit.data._output_data import OutputData

F = 2.0
EXACT = {
    "additive": (Additive(0.3), {"sd": 0.3}, stats.norm(F, 0.3)),
    "proportional": (Proportional(0.2), {"cv": 0.2}, stats.norm(F, 0.4)),
    "combined": (Combined(0.3, 0.2), {"sd": 0.3, "cv": 0.2}, stats.norm(F, 0.5)),
    "student": (Additive(0.3, distribution=StudentT(5.0)), {"sd": 0.3}, stats.t(5.0, F, 0.3)),
    "laplace": (Additive(0.3, distribution=DoubleExponential()), {"sd": 0.3}, stats.laplace(F, 0.3)),
    "log-normal": (LogNormalError(0.3), {"sd": 0.3}, stats.lognorm(0.3, scale=F)),
    "log10-normal": (LogNormalError(0.2, base=10.0), {"sd": 0.2}, stats.lognorm(0.2 * np.log(10.0), scale=F)),
    "log-laplace": (
        LogNormalError(0.3, distribution=DoubleExponential()),
        {"sd": 0.3},
        stats.loglaplace(1 / 0.3, scale=F),
    ),
}


def predictors(error, given, f=F):
    return error.predictors(jnp.asarray(f), {name: jnp.asarray(value) for name, value in given.items()})


@pytest.mark.parametrize("name", EXACT)
def test_densities_and_distribution_functions(name):
    error, given, exact = EXACT[name]
    own = predictors(error, given)
    for y in (1.1, 1.9, 2.0, 2.6, 3.5):
        np.testing.assert_allclose(error.log_density(y, own), exact.logpdf(y), rtol=1e-12)
        np.testing.assert_allclose(error.log_between(-jnp.inf, y, own), exact.logcdf(y), rtol=1e-9)


@pytest.mark.parametrize("name", EXACT)
def test_information_is_the_variance_of_the_score(name):
    error, given, exact = EXACT[name]
    own = predictors(error, given)
    score = jax.jit(jax.grad(lambda p, y: error.log_density(y, p)))
    for k in range(2):
        edges = [exact.ppf(1e-12), F, exact.ppf(1 - 1e-12)]
        parts = [
            quad(lambda y, k=k: float(score(own, y)[k]) ** 2 * exact.pdf(y), a, b, limit=200)[0]
            for a, b in zip(edges, edges[1:], strict=False)
        ]
        np.testing.assert_allclose(error.information(own).weight[k], sum(parts), rtol=2e-3)


def test_a_tail_far_out_has_a_log_probability():
    own = predictors(Additive(0.01), {"sd": 0.01})
    assert np.isfinite(Additive(0.01).log_between(-jnp.inf, 0.0, own))
    assert float(Gaussian().log_cdf(-40.0)) == pytest.approx(stats.norm.logcdf(-40.0))


def test_counts():
    own = predictors(Poisson(), {})
    for y in range(6):
        np.testing.assert_allclose(Poisson().log_density(y, own), stats.poisson(F).logpmf(y), rtol=1e-12)
        np.testing.assert_allclose(Poisson().log_between(-jnp.inf, y, own), stats.poisson(F).logcdf(y), rtol=1e-10)


def test_yes_or_no_and_categories():
    own = predictors(Binary(), {}, 0.3)
    np.testing.assert_allclose([Binary().log_density(y, own) for y in (0, 1)], np.log([0.7, 0.3]), rtol=1e-12)
    ordinal = Ordinal(-1.0, 0.5, 2.0)
    given = {"thresholds[0]": -1.0, "thresholds[1]": 0.5, "thresholds[2]": 2.0}
    own = predictors(ordinal, given, 0.7)
    found = np.exp([float(ordinal.log_density(y, own)) for y in range(4)])
    cumulative = 1 / (1 + np.exp(0.7 - np.array([-1.0, 0.5, 2.0])))
    np.testing.assert_allclose(found, np.diff([0.0, *cumulative, 1.0]), rtol=1e-12)
    np.testing.assert_allclose(np.exp(ordinal.log_between(-jnp.inf, 1, own)), cumulative[1], rtol=1e-12)
    assert np.isfinite(jax.grad(lambda p: ordinal.log_density(0, p))(own)).all()


def test_time_to_event():
    error = TimeToEvent("H")
    own = predictors(error, {"cumulative": 1.2}, 0.4)
    np.testing.assert_allclose(error.log_density(1, own), np.log(0.4) - 1.2)
    np.testing.assert_allclose(error.log_density(0, own), -1.2)
    assert np.isfinite(error.log_density(0, predictors(error, {"cumulative": 0.0}, 0.4)))


def rows(output, value, side, lower=-np.inf, upper=np.inf):
    """Return one measurement, censored or not."""
    several = (np.array([one]) for one in (0, 0, 0, 0.0, 0.0, value, side, lower, upper))
    return OutputData("y", output, *several, given={})


def test_below_the_limit_of_quantification():
    error, normal = Additive(0.5), stats.norm(F, 0.5)
    own = predictors(error, {"sd": 0.5})
    m3, m4 = (Output("f", error, below=one) for one in (M3(1.5), M4(1.5)))
    below, known = {"value": np.nan, "side": 1, "upper": 1.5}, {"value": 1.8, "side": 0}
    np.testing.assert_allclose(rows(m3, **below).log_density(own), normal.logcdf(1.5))
    np.testing.assert_allclose(rows(m3, **known).log_density(own), normal.logpdf(1.8))
    above = normal.sf(0.0)
    expected = np.log((normal.cdf(1.5) - normal.cdf(0.0)) / above)
    np.testing.assert_allclose(rows(m4, **below).log_density(own), expected, rtol=1e-12)
    np.testing.assert_allclose(rows(m4, **known).log_density(own), normal.logpdf(1.8) - np.log(above))
    assert np.isfinite(jax.grad(lambda p: rows(m3, **below).log_density(p)[0])(own)).all()


INTERVALS = [(1.0, 1.5), (-np.inf, 1.1), (2.9, np.inf), (2.6, 2.9), (-np.inf, np.inf), (1.999, 2.001)]


@pytest.mark.parametrize("name", EXACT)
def test_probabilities_between_two_bounds(name):
    error, given, exact = EXACT[name]
    own = predictors(error, given)
    for low, high in INTERVALS:
        expected = np.log(exact.cdf(high) - exact.cdf(low))
        np.testing.assert_allclose(error.log_between(low, high, own), expected, rtol=1e-9, atol=1e-14)
        found = jax.grad(lambda p, low=low, high=high: error.log_between(low, high, p))(own)
        forward = [
            jax.jvp(lambda p, low=low, high=high: error.log_between(low, high, p), (own,), (way,))[1]
            for way in ((jnp.ones(()), jnp.zeros(())), (jnp.zeros(()), jnp.ones(())))
        ]
        steps = [
            (
                error.log_between(low, high, tuple(p + 1e-6 * (i == k) for i, p in enumerate(own)))
                - error.log_between(low, high, tuple(p - 1e-6 * (i == k) for i, p in enumerate(own)))
            )
            / 2e-6
            for k in range(2)
        ]
        np.testing.assert_allclose(found, steps, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(found, forward, rtol=1e-10, atol=1e-12)


def test_bounds_far_out_in_either_tail():
    own = predictors(Additive(0.5), {"sd": 0.5})
    for low, high in ((40.0, 41.0), (-37.0, -36.0)):  # 76 standard deviations away
        near = stats.norm.logsf(76.0)
        np.testing.assert_allclose(Additive(0.5).log_between(low, high, own), near, rtol=1e-10)
        slope = jax.grad(lambda p, low=low, high=high: Additive(0.5).log_between(low, high, p))(own)
        np.testing.assert_allclose(slope[0], np.sign(low) * 2.0 * 76.0, rtol=1e-3)


def test_bounds_of_counts_and_categories():
    counts = stats.poisson(F)
    own = predictors(Poisson(), {})
    for low, high in ((-np.inf, np.inf), (0, 2), (1.5, 4), (-np.inf, 1), (5, np.inf), (12, 14), (3, np.inf), (-2, 0)):
        expected = np.log(counts.cdf(high) - counts.cdf(low)) if low < 3 else np.log(counts.sf(low) - counts.sf(high))
        np.testing.assert_allclose(Poisson().log_between(low, high, own), expected, rtol=1e-9, atol=1e-14)
        assert np.isfinite(jax.grad(lambda p, low=low, high=high: Poisson().log_between(low, high, p))(own)).all()
    one, own = Binary(), predictors(Binary(), {}, 0.3)
    pairs = ((-np.inf, 0), (0, np.inf), (-np.inf, np.inf))
    np.testing.assert_allclose(np.exp([one.log_between(*pair, own) for pair in pairs]), [0.7, 0.3, 1.0])
    ordinal = Ordinal(-1.0, 0.5)
    own = predictors(ordinal, {"thresholds[0]": -1.0, "thresholds[1]": 0.5}, 0.7)
    first, second = 1 / (1 + np.exp(0.7 - np.array([-1.0, 0.5])))
    pairs = ((-np.inf, 0), (0, 1), (0, np.inf), (1, np.inf), (-np.inf, np.inf))
    expected = [first, second - first, 1 - first, 1 - second, 1.0]
    np.testing.assert_allclose(np.exp([ordinal.log_between(*pair, own) for pair in pairs]), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Additive(0.0), "Argument `sd` must be positive, but is 0."),
        (lambda: Additive("a +"), "Argument `sd` must be a formula, but: In `a +` there must be"),
        (lambda: StudentT(-1.0), "Argument `df` must be positive, but is -1."),
        (lambda: LogNormalError(0.1, base=1.0), "Argument `base` must be greater than 1, but is 1."),
        (lambda: M4(0.0), "Argument `limit` must be positive, but is 0."),
        (lambda: Ordinal(), "Argument `thresholds` must have one for each step between categories, but is `empty`."),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match="^" + message.replace("(", r"\(").replace("+", r"\+")):
        make()
