"""Distributions against scipy, and errors in words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import qspjax as qsp

OMEGA = np.sqrt(np.log(1 + 0.4**2))
CASES = {
    "normal": (qsp.Normal(3.0, sd=2.0), stats.norm(3.0, 2.0)),
    "lognormal by cv": (qsp.LogNormal(3.0, cv=0.4), stats.lognorm(OMEGA, scale=3.0)),
    "lognormal by omega": (qsp.LogNormal(3.0, omega=0.7), stats.lognorm(0.7, scale=3.0)),
    "lognormal by mean": (
        qsp.LogNormal.from_mean(3.0, sd=1.2),
        stats.lognorm(OMEGA, scale=3.0 / np.sqrt(1 + 0.4**2)),
    ),
    "uniform": (qsp.Uniform(1.0, 4.0), stats.uniform(1.0, 3.0)),
    "log-uniform": (qsp.LogUniform(0.1, 40.0), stats.loguniform(0.1, 40.0)),
    "truncated normal": (qsp.Truncated(qsp.Normal(3.0, sd=2.0), 2.0, 9.0), stats.truncnorm(-0.5, 3.0, 3.0, 2.0)),
    "truncated below": (qsp.Truncated(qsp.Normal(3.0, sd=2.0), low=2.0), stats.truncnorm(-0.5, np.inf, 3.0, 2.0)),
}


@pytest.mark.parametrize("case", CASES)
def test_against_scipy(case):
    ours, reference = CASES[case]
    z = np.linspace(-5.0, 5.0, 101)
    x = ours.from_normal(z)
    np.testing.assert_allclose(x, reference.ppf(stats.norm.cdf(z)), rtol=1e-7, atol=1e-9)
    inside = np.abs(z) < 3
    np.testing.assert_allclose(ours.to_normal(x)[inside], z[inside], atol=1e-6)
    np.testing.assert_allclose(ours.log_prob(x[inside]), reference.logpdf(x[inside]), rtol=1e-9, atol=1e-12)
    assert np.isneginf(ours.log_prob(-100.0)) == np.isneginf(reference.logpdf(-100.0))


def test_lognormal_moments():
    x = qsp.LogNormal(1.0, cv=0.3).from_normal(jax.random.normal(jax.random.key(0), (400_000,)))
    assert float(x.std() / x.mean()) == pytest.approx(0.3, rel=0.01)
    assert float(jnp.median(x)) == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("tail", [(8.0, 9.0), (-9.0, -8.0), (30.0, 31.0)])
def test_far_tails_stay_exact(tail):
    x = qsp.Truncated(qsp.Normal(0.0, sd=1.0), *tail).from_normal(np.array([-1.0, 0.0, 1.0]))
    exact = stats.truncnorm(*tail).ppf(stats.norm.cdf([-1.0, 0.0, 1.0]))
    np.testing.assert_allclose(x, exact, rtol=1e-9)
    assert np.all(np.diff(x) > 0)


def test_truncated_lognormal_with_a_bound_below_its_support():
    both = [qsp.Truncated(qsp.LogNormal(1.0, cv=0.5), low, 2.0).from_normal(0.3) for low in (-jnp.inf, 0.0)]
    assert float(both[0]) == pytest.approx(float(both[1]), rel=1e-12)


@pytest.mark.parametrize("tail", [(9.0, 12.0), (-12.0, -9.0), (-9.0, 8.9), (30.0, 31.0)])
def test_far_tails_are_inverted_with_their_density(tail):
    distribution, z = qsp.Truncated(qsp.Normal(0.0, sd=1.0), *tail), np.array([-3.0, -1.0, 0.0, 1.0, 3.0])
    x = distribution.from_normal(z)
    np.testing.assert_allclose(distribution.to_normal(x), z, atol=1e-9)
    np.testing.assert_allclose(distribution.log_prob(x), stats.truncnorm(*tail).logpdf(x), rtol=1e-9)


NESTED = {
    "uniform inside": (qsp.Truncated(qsp.Uniform(0.0, 1.0), -1.0, 2.0), stats.uniform()),
    "uniform cut": (qsp.Truncated(qsp.Uniform(0.0, 1.0), low=0.2), stats.uniform(0.2, 0.8)),
    "truncated twice": (
        qsp.Truncated(qsp.Truncated(qsp.Normal(0.0, sd=1.0), -1.0, 1.0), -2.0, 0.5),
        stats.truncnorm(-1.0, 0.5),
    ),
    "lognormal above 0": (
        qsp.Truncated(qsp.Truncated(qsp.LogNormal(3.0, cv=0.4), low=0.0), -1.0, 1e9),
        stats.lognorm(OMEGA, scale=3.0),
    ),
}


@pytest.mark.parametrize("case", NESTED)
def test_a_truncated_distribution_with_ends_is_truncated_again(case):
    ours, reference = NESTED[case]
    z = np.linspace(-4.0, 4.0, 9)
    x = ours.from_normal(z)
    np.testing.assert_allclose(x, reference.ppf(stats.norm.cdf(z)), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(ours.to_normal(x), z, atol=1e-6)
    np.testing.assert_allclose(ours.log_prob(x[1:-1]), reference.logpdf(x[1:-1]), rtol=1e-8, atol=1e-12)


def test_outside_the_support_the_variate_is_infinite():
    for distribution in (qsp.Uniform(1.0, 2.0), qsp.Truncated(qsp.Normal(0.0, sd=1.0), 1.0, 2.0)):
        np.testing.assert_array_equal(
            distribution.to_normal(np.array([0.0, 1.0, 2.0, 3.0])), [-np.inf] * 2 + [np.inf] * 2
        )
    assert np.isneginf(qsp.LogNormal(1.0, cv=0.3).to_normal(0.0))


@pytest.mark.parametrize("case", CASES | NESTED)
def test_gradients_are_finite(case):
    distribution, _ = (CASES | NESTED)[case]
    x = jax.lax.stop_gradient(distribution.from_normal(jnp.array([-2.0, 0.0, 2.0])))
    for function in (lambda d: d.from_normal(jnp.array([-2.0, 0.0, 2.0])), lambda d: d.to_normal(x)):
        gradient = jax.grad(lambda d, function=function: function(d).sum())(distribution)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    gradient = jax.grad(lambda d: d.log_prob(x).sum())(distribution)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


ERRORS = {
    "sd": (lambda: qsp.Normal(1.0, sd=0.0), "Argument `sd` must be positive, but is 0."),
    "cv and omega": (
        lambda: qsp.LogNormal(1.0, cv=0.3, omega=0.3),
        "Exactly one of the arguments `cv` and `omega` must be given, but both are.",
    ),
    "cv": (lambda: qsp.LogNormal(1.0, cv=-0.3), "Argument `cv` must be positive, but is -0.3."),
    "median": (lambda: qsp.LogNormal(0.0, cv=0.3), "Argument `median` must be positive, but is 0."),
    "order": (lambda: qsp.Uniform(2.0, 1.0), "Argument `high` must be greater than `low` (2), but is 1."),
    "finite": (lambda: qsp.Uniform(0.0, np.inf), "Argument `high` must be finite, but is inf."),
    "text": (lambda: qsp.Uniform("0", 1.0), "Argument `low` must be a number, but is `0`."),
    "sd as text": (lambda: qsp.Normal(1.0, sd="2"), "Argument `sd` must be a number, but is `2`."),
    "cv as text": (lambda: qsp.LogNormal(1.0, cv="30 %"), "Argument `cv` must be a number, but is 30 %."),
    "nan": (
        lambda: qsp.Truncated(qsp.Normal(1.0, sd=1.0), np.nan),
        "Argument `low` must be a number or infinite, but is nan.",
    ),
    "distribution": (
        lambda: qsp.Truncated(3.0, 1.0),
        "Argument `distribution` must be a distribution, but is of type float.",
    ),
    "location": (
        lambda: qsp.LogNormal(cv=0.3).from_normal(0.0),
        "Argument `median` must be given where no model gives the typical value, but is left out.",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_in_words(case):
    call, message = ERRORS[case]
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message
