"""Errors after a transform of both sides, Box-Cox and logit: densities, information, draws, fits and files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats
from scipy.integrate import quad

import qspjax as qsp
from qspjax.fit import (
    FOCEI,
    M3,
    Additive,
    BoxCoxError,
    Experiment,
    Free,
    LogitNormalError,
    LogNormalError,
    Measurements,
    MixedModel,
    Output,
    Problem,
    RandomEffects,
    StudentT,
    Uncertainty,
    diagnostics,
    estimate,
    fisher_information,
    nlme,
    visual_predictive_check,
)
from qspjax.fit.errors._box_cox import BoxCox
from qspjax.fit.mixed._diagnostics import simulated
from tests.systems.marks import slow_for

F, SD = 2.0, 0.2
SHAPES = (1.0, 0.5, -0.4, 1e-7, 0.0)


def box_cox(shape, sd=SD, f=F):
    error = BoxCoxError("sd", "shape")
    return error, error.predictors(jnp.asarray(f), {"sd": jnp.asarray(sd), "shape": jnp.asarray(shape)})


def logit(sd=0.5, f=30.0):
    error = LogitNormalError("sd", lower=10.0, upper=60.0)
    return error, error.predictors(jnp.asarray(f), {"sd": jnp.asarray(sd)})


def to_logit(y):
    return special.logit((y - 10.0) / 50.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_box_cox_error_has_the_density_of_a_change_of_variables(shape):
    error, own = box_cox(shape)
    law = stats.norm(special.boxcox(F, shape), SD)
    for y in (0.7, 1.9, 2.0, 3.1):
        exact = law.logpdf(special.boxcox(y, shape)) + (shape - 1.0) * np.log(y)
        np.testing.assert_allclose(error.log_density(y, own), exact, rtol=1e-11)
        np.testing.assert_allclose(error.log_between(0.0, y, own), law.logcdf(special.boxcox(y, shape)), rtol=1e-8)
        np.testing.assert_allclose(error.residual(y, own), (special.boxcox(y, shape) - law.mean()) / SD, rtol=1e-9)
    y = special.inv_boxcox(np.linspace(law.ppf(1e-9), law.isf(1e-9), 2001), shape)
    assert np.trapezoid(np.exp(error.log_density(y, own)), y) == pytest.approx(1.0, abs=1e-5)
    assert [float(error.log_density(y, own)) for y in (0.0, -1.0)] == [-np.inf] * 2
    drawn = error.draw(jax.random.key(0), tuple(jnp.full(20_000, part) for part in own))
    assert stats.kstest(special.boxcox(np.asarray(drawn), shape), law.cdf).pvalue > 0.01


def test_shape_0_is_the_logarithm_and_1_an_additive_error():
    for shape, other, fields in ((0.0, LogNormalError(SD), {"sd": SD}), (1.0, Additive(SD), {"sd": SD})):
        error, own = box_cox(shape)
        same = other.predictors(jnp.asarray(F), fields)
        np.testing.assert_allclose(error.log_density(2.3, own), other.log_density(2.3, same), rtol=1e-13)


def test_slopes_in_the_shape_are_stable_about_0():
    """h = sum over m of log(y)^(m+1) shape^m / (m+1)!, and its derivatives term by term."""
    log, shapes = np.log(5.0), np.array([0.0, 1e-9, 1e-4, 0.03, -0.05])

    def derivative(shape):
        return BoxCox(shape).forward(5.0)

    for k in range(4):
        m = np.arange(k, k + 14)
        weights = log ** (m + 1) / special.factorial(m + 1) * special.poch(m - k + 1, k)
        exact = (weights * shapes[:, None] ** (m - k)).sum(axis=1)
        np.testing.assert_allclose(jax.jit(jax.vmap(derivative))(shapes), exact, rtol=1e-11)
        derivative = jax.jacfwd(derivative) if k % 2 else jax.grad(derivative)


def test_what_lies_beyond_the_edge_of_a_transform_is_the_edge():
    assert float(BoxCox(0.5).inverse(-3.0)) == 0.0
    assert float(BoxCox(-0.5).inverse(3.0)) == np.inf
    y = jnp.array([0.2, 1.0, 7.0])
    for shape in SHAPES:
        np.testing.assert_allclose(BoxCox(shape).inverse(BoxCox(shape).forward(y)), y, rtol=1e-12)


def test_a_logit_error_has_the_density_of_a_change_of_variables():
    error, own = logit()
    law = stats.norm(to_logit(30.0), 0.5)
    for y in (11.0, 30.0, 52.0):
        jacobian = np.log(50.0 / ((y - 10.0) * (60.0 - y)))
        np.testing.assert_allclose(error.log_density(y, own), law.logpdf(to_logit(y)) + jacobian, rtol=1e-12)
        np.testing.assert_allclose(error.log_between(-np.inf, y, own), law.logcdf(to_logit(y)), rtol=1e-10)
        np.testing.assert_allclose(error.log_between(y, 70.0, own), law.logsf(to_logit(y)), rtol=1e-10, atol=1e-14)
    y = 10.0 + 50.0 * special.expit(np.linspace(law.ppf(1e-9), law.isf(1e-9), 2001))
    assert np.trapezoid(np.exp(error.log_density(y, own)), y) == pytest.approx(1.0, abs=1e-5)
    assert [float(error.log_density(y, own)) for y in (10.0, 61.0)] == [-np.inf] * 2
    certain = error.predictors(jnp.asarray(10.0), {"sd": 0.5})
    assert [float(error.log_between(-np.inf, y, certain)) for y in (9.0, 12.0)] == [-np.inf, 0.0]
    drawn = error.draw(jax.random.key(0), tuple(jnp.full(20_000, part) for part in own))
    assert stats.kstest(to_logit(np.asarray(drawn)), law.cdf).pvalue > 0.01


@pytest.mark.parametrize("shape", slow_for([0.5, -0.4, 0.0], -0.4, 0.0))
def test_the_information_on_the_shape_is_the_covariance_of_the_score(shape):
    error, own = box_cox(shape)
    score = jax.jit(jax.grad(lambda p, y: error.log_density(y, p)))
    law = stats.norm(special.boxcox(F, shape), SD)

    def moment(i, k):
        def inner(z):
            parts = score(own, special.inv_boxcox(law.mean() + SD * z, shape))
            return float(parts[i]) * float(parts[k]) * stats.norm.pdf(z)

        return quad(inner, -7.0, 7.0, epsabs=1e-8, limit=40)[0]

    information = error.information(own)
    L = np.eye(3)
    for place, element in information.lower.items():
        L[place] = element
    np.testing.assert_allclose(L[2] @ np.diag(information.weight) @ L.T, [moment(2, k) for k in range(3)], rtol=1e-6)
    slopes = tuple(jnp.asarray(row)[:, None] for row in np.arange(9.0).reshape(3, 3))
    terms = sum(float(w) * np.outer(d[:, 0], d[:, 0]) for w, d in information.terms(slopes))
    D = np.arange(9.0).reshape(3, 3).T
    np.testing.assert_allclose(terms, D @ L @ np.diag(information.weight) @ L.T @ D.T, rtol=1e-12)


# --- fits -------------------------------------------------------------------------------------------------------------

TIMES = np.linspace(0.25, 12.0, 60)


def curve(times=TIMES):
    return 10.0 * np.exp(-0.1 * times)


def problem(error, values, **parameters):
    return Problem(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        Experiment(Measurements(np.tile(TIMES, 4), values, output="c"), qsp.bolus(300.0, to="central")),
        {"c": Output("concentration", error)},
        {"CL": Free(2.5), "V": Free(33.0), **parameters},
        method=qsp.solve.MatrixExponential(),
    )


def test_a_shape_is_estimated_with_slopes_in_both_modes():
    rng = np.random.default_rng(5)
    values = special.inv_boxcox(special.boxcox(np.tile(curve(), 4), 0.5) + 0.3 * rng.normal(size=240), 0.5)
    free = {"sd": Free(0.5), "shape": Free(0.1, transform=qsp.Identity())}
    own = problem(BoxCoxError("sd", "shape"), values, **free)
    x, step = own.start, 1e-5 * jnp.eye(4)
    program = jax.jit(own.log_density)
    central = [(program(x + h) - program(x - h)) / 2e-5 for h in step]
    np.testing.assert_allclose(jax.jit(own.quadratic)(x).gradient, central, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.grad(own.log_density))(x), central, rtol=1e-5, atol=1e-5)
    fit = estimate(own)
    errors = Uncertainty(own, fit.x, fisher_information(own, fit.x)).natural_standard_errors
    for value, truth, error in zip(fit.parameters.values(), (3.0, 30.0, 0.3, 0.5), errors, strict=True):
        assert abs(value - truth) < 3.0 * error < 0.5 * max(1.0, truth)


def test_a_prediction_outside_the_bounds_has_a_cause():
    own = problem(LogitNormalError(0.3, upper=9.0), np.tile(np.minimum(curve(), 8.0), 4))
    (line,) = own.failures(own.point({"CL": 3.0, "V": 30.0}))
    assert "at time 0.25 (record 1), but with LogitNormalError it must be between 0 and 9: leave the record" in line


def population(error, invert, forward, **parameters):
    """Return subjects whose measurements have a transformed error, one of them with a value below a limit."""
    rng, times = np.random.default_rng(2), np.array([1.0, 4.0, 8.0, 12.0])
    people = {}
    for i in range(12):
        level = 10.0 * np.exp(-0.1 * np.exp(0.3 * stats.norm.ppf((i + 0.5) / 12)) * times)
        values = invert(forward(level) + 0.2 * rng.normal(size=times.size))
        people[f"{i}"] = Experiment(Measurements(times, values, output="c"), qsp.bolus(300.0, to="central"))
    return MixedModel(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        people,
        {"c": Output("concentration", error, below=M3(1.0))},
        parameters={"tCL": Free(2.5), "sd": Free(0.3), **parameters},
        individual={"CL": "tCL * exp(eta)"},
        random=[RandomEffects({"eta": 0.1})],
        method=qsp.solve.MatrixExponential(),
    )


POPULATIONS = {
    "Box-Cox": lambda: population(
        BoxCoxError("sd", "shape"),
        lambda h: special.inv_boxcox(h, 0.4),
        lambda f: special.boxcox(f, 0.4),
        shape=Free(0.5, transform=qsp.Identity()),
    ),
    "logit": lambda: population(
        LogitNormalError("sd", upper=12.0), lambda h: 12.0 * special.expit(h), lambda f: special.logit(f / 12.0)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", POPULATIONS)
def test_a_population_is_fitted_checked_and_simulated(name):
    mixed = POPULATIONS[name]()
    fit = nlme(mixed, method=FOCEI())
    assert fit.status == "converged"
    assert fit.parameters["tCL"] == pytest.approx(3.0, rel=0.25)
    assert fit.parameters["sd"] == pytest.approx(0.2, rel=0.5)
    key = jax.random.key(0)
    table = diagnostics(fit, key=key, replicates=500)
    for column in ("NPDE", "CWRES", "IWRES"):
        known = table[column][np.isfinite(table[column])]
        assert abs(known.mean()) < 0.4
        assert 0.6 < known.std() < 1.4
    check = visual_predictive_check(fit, key=key, replicates=200, corrected=False)
    inside = (check["LOWER"] <= check["OBSERVED"]) & (check["OBSERVED"] <= check["UPPER"])
    assert inside.mean() > 0.8
    (samples,) = simulated(mixed, fit.x, key=key, replicates=50)
    assert (samples > 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BoxCoxError(0.0, 1.0), "Argument `sd` must be positive, but is 0."),
        (lambda: BoxCoxError(0.1, "a +"), "Argument `shape` must be a formula, but"),
        (lambda: LogitNormalError(0.1, lower=2.0), "Argument `upper` must be greater than lower .2., but is 1"),
        (
            lambda: LogitNormalError(0.1, distribution="t"),
            "Argument `distribution` must be a distribution of residuals",
        ),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
    assert isinstance(BoxCoxError(0.1, 0.0, StudentT(5.0)).distribution, StudentT)
