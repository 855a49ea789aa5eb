"""Mixtures: the closed form of a linear model with two subpopulations, gradients, memberships, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize

import qspjax as qsp
from qspjax.fit import (
    FO,
    FOCE,
    FOCEI,
    NUTS,
    SAEM,
    Additive,
    Experiment,
    Free,
    Laplace,
    Measurements,
    MixedModel,
    Mixture,
    Output,
    Proportional,
    Quadrature,
    RandomEffects,
    bootstrap,
    compare,
    diagnostics,
    marginal,
    nlme,
    sample,
    simulated,
)
from qspjax.fit.mixed._objective import objective_program
from tests.systems.marks import slow_for
from tests.systems.mixed import TIMES, Level, curve

KEY = jax.random.key(0)

METHODS = [FO(), FOCE(), FOCEI(), Laplace()]
HIGH = np.arange(24) % 3 == 0


def two_levels(**changed):
    """Return a population with a low and a high level, and its measurements, shape (subjects, times)."""
    rng = np.random.default_rng(7)
    values = 5.0 + 2.0 * HIGH[:, None] + 0.5 * rng.normal(size=(HIGH.size, 1)) + 0.3 * rng.normal(size=(HIGH.size, 3))
    settings = {
        "subpopulations": {"low": 0.6, "high": 0.4},
        "parameters": {"mu": Free(4.5), "more": Free(2.5), "sigma": Free(0.4)},
        "individual": {"base": "mu + more * high + eta"},
        "random": [RandomEffects({"eta": 0.3})],
        "method": qsp.solve.MatrixExponential(),
    } | changed
    people = {f"{i}": Experiment(Measurements(TIMES, row, output="level")) for i, row in enumerate(values)}
    return Mixture(
        Level(base=5.0, slope=0.0), people, {"level": Output("level", Additive("sigma"))}, **settings
    ), values


def closed(mixture, values, x):
    """Return log pi_k p_k(y_i), shape (subjects, 2), written out."""
    mu, more, sigma = np.exp(x[:3])
    low = 1.0 / (1.0 + np.exp(-x[3]))
    V = np.exp(2.0 * x[4]) + sigma**2 * np.eye(3)
    laws = [stats.multivariate_normal(np.full(3, level), V) for level in (mu, mu + more)]
    return np.stack([np.log(p) + law.logpdf(values) for p, law in zip((low, 1.0 - low), laws, strict=True)], axis=1)


def exact(mixture, values, x):
    total = np.logaddexp.reduce(closed(mixture, values, x), axis=1)
    return -2.0 * total.sum() - values.size * np.log(2.0 * np.pi)


@pytest.fixture(scope="module")
def population():
    """A mixture, its measurements, and its fit."""
    mixture, values = two_levels()
    return mixture, values, nlme(mixture, method=FO(), tolerance=1e-9)


@pytest.mark.parametrize("method", slow_for(METHODS, *METHODS[1:]), ids=lambda method: type(method).__name__)
def test_the_closed_form_and_its_gradient(method, population):
    mixture, values, _ = population
    assert mixture.names == ("mu", "more", "sigma", "P(low)", "var(eta)")
    x = mixture.start + 0.1
    one = objective_program(mixture, method)(jnp.asarray(x), jnp.zeros((mixture.copies.count, 1)))
    assert not one.failed.any()
    np.testing.assert_allclose(one.values.sum(), exact(mixture, values, x), rtol=1e-9)
    step = 1e-5 * np.eye(x.size)
    central = [(exact(mixture, values, x + h) - exact(mixture, values, x - h)) / 2e-5 for h in step]
    np.testing.assert_allclose(one.slopes.sum(axis=0), central, rtol=1e-5, atol=1e-5)


def test_estimates_and_memberships(population):
    mixture, values, fit = population
    truth = minimize(lambda x: exact(mixture, values, x), mixture.start, method="BFGS")
    assert fit.status == "converged"
    np.testing.assert_allclose(fit.objective, truth.fun, atol=1e-6)
    np.testing.assert_allclose(fit.x, truth.x, atol=2e-3)
    terms = closed(mixture, values, fit.x)
    posterior = np.exp(terms - np.logaddexp.reduce(terms, axis=1)[:, None])
    np.testing.assert_allclose(fit.memberships["high"], posterior[:, 1], rtol=1e-8)
    np.testing.assert_allclose(fit.memberships["low"] + fit.memberships["high"], 1.0)
    # at the maximum, a probability is the mean of the memberships
    assert fit.parameters["P(low)"] == pytest.approx(fit.memberships["low"].mean(), abs=1e-5)
    assert (fit.memberships["high"] > 0.5).mean() == pytest.approx(HIGH.mean(), abs=0.1)
    # standard errors are those of the closed form
    step = 1e-4 * np.eye(fit.x.size)

    def slope(x):
        return np.array([(exact(mixture, values, x + h) - exact(mixture, values, x - h)) / 2e-4 for h in step])

    hessian = np.array([(slope(fit.x + h) - slope(fit.x - h)) / 2e-4 for h in step])
    np.testing.assert_allclose(fit.hessian(), hessian, rtol=1e-3, atol=1e-3 * np.abs(hessian).max())


@pytest.mark.slow
def test_the_marginal_likelihood(population):
    mixture, values, fit = population
    for problem in (mixture, fit.mixed):
        found = marginal(problem, fit.x, Quadrature(2))
        np.testing.assert_allclose(found.objective, exact(mixture, values, fit.x))
        assert found.subject_objectives.shape == (24,)


def test_tables_have_a_subject_once_where_it_belongs(population):
    mixture, values, fit = population
    high = fit.memberships["high"] > 0.5
    table = fit.individuals()
    assert table["ID"].tolist() == [f"{i}" for i in range(24)]
    np.testing.assert_array_equal(table["high"], high)
    np.testing.assert_array_equal(table["P_high"], fit.memberships["high"])
    np.testing.assert_allclose(fit.subject_objectives.sum(), fit.objective)
    rows = diagnostics(fit)
    assert rows["ID"].size == values.size
    np.testing.assert_array_equal(rows["DV"], values.ravel())
    level = fit.parameters["mu"] + fit.parameters["more"] * high
    np.testing.assert_allclose(rows["PRED"].reshape(values.shape), np.repeat(level[:, None], 3, axis=1))


def test_simulated_subjects_are_drawn_from_the_subpopulations(population):
    _, values, fit = population
    (made,) = simulated(fit.mixed, fit.x, replicates=400, key=KEY)
    assert made.shape == (400, values.size)
    known, low = fit.parameters, fit.parameters["P(low)"]
    variance = known["var(eta)"] + known["sigma"] ** 2 + low * (1.0 - low) * known["more"] ** 2
    assert made.mean() == pytest.approx(known["mu"] + (1.0 - low) * known["more"], abs=0.05)
    assert made.var() == pytest.approx(variance, rel=0.05)
    # the measurements of a subject are of one subpopulation
    assert np.corrcoef(made[:, 0], made[:, 1])[0, 1] == pytest.approx(1.0 - known["sigma"] ** 2 / variance, abs=0.05)


def test_replicates_and_comparison(population):
    mixture, values, fit = population
    result = bootstrap(fit, replicates=1, tolerance=1e-9, key=KEY)
    sample = np.repeat(values, result.counts[0].astype(int), axis=0)
    truth = minimize(lambda x: exact(mixture, sample, x), fit.x, method="BFGS")
    np.testing.assert_allclose(result.objectives[0], truth.fun, atol=1e-5)
    assert compare({"two": fit}).table["ESTIMATES"].tolist() == [5]


@pytest.mark.slow
def test_the_gradient_of_a_nonlinear_mixture():
    people = {
        f"{i}": Experiment(
            Measurements(TIMES, curve(CL, 30.0) * (1.0 + 0.1 * np.cos(TIMES + i)), output="concentration"),
            qsp.bolus(300.0, to="central"),
        )
        for i, CL in enumerate([2.6, 3.3, 0.9, 2.8])
    }
    mixture = Mixture(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        people,
        {"concentration": Output("concentration", Proportional("cv"))},
        subpopulations={"extensive": 0.5, "intermediate": 0.2, "poor": 0.3},
        parameters={"tCL": Free(2.5), "V": 30.0, "cv": Free(0.15), "less": Free(0.3)},
        individual={"CL": "tCL * exp(eta) * piecewise(less, poor > 0, 0.6, intermediate > 0, 1)"},
        random=[RandomEffects({"eta": 0.05})],
        method=qsp.solve.MatrixExponential(),
    )
    program, x = objective_program(mixture, FOCEI()), mixture.start + 0.05
    u = program(jnp.asarray(x), jnp.zeros((mixture.copies.count, 1))).modes
    step = 1e-4 * np.eye(x.size)
    sums = [[float(program(jnp.asarray(x + s * h), u).values.sum()) for s in (1.0, -1.0)] for h in step]
    central = [(ahead - behind) / 2e-4 for ahead, behind in sums]
    np.testing.assert_allclose(program(jnp.asarray(x), u).slopes.sum(axis=0), central, rtol=1e-5, atol=1e-5)


WRONG = {
    "one": ({"subpopulations": {"low": 1.0}}, "must be at least two, but is 1."),
    "sum": (
        {"subpopulations": {"low": 0.6, "high": 0.5}},
        "must have probabilities that add up to 1, but is 1.1.",
    ),
    "taken": (
        {"subpopulations": {"mu": 0.6, "high": 0.4}},
        "must have names that mean nothing else, and not that of a parameter, but is `mu`.",
    ),
    "unused": (
        {"individual": {"base": "mu + more + eta"}},
        "must be distinguished by a formula, but no formula uses low, high.",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input(case):
    changed, message = WRONG[case]
    with pytest.raises(ValueError) as found:
        two_levels(**changed)
    assert str(found.value) == f"Argument `subpopulations` {message}"


def test_saem_and_posteriors_are_refused(population):
    with pytest.raises(ValueError, match="must be FOCEI, FOCE, FO or Laplace for a mixture, but is `SAEM`"):
        nlme(population[0], method=SAEM(key=KEY))
    for problem in (population[0], population[2].mixed):
        with pytest.raises(ValueError, match="must have no subpopulations, but is a mixture"):
            sample(problem, NUTS(key=KEY))
    again = nlme(population[2].mixed, method=FO(), iterations=0)  # what was fitted is the mixture
    np.testing.assert_allclose(again.objective, nlme(population[0], method=FO(), iterations=0).objective)
    assert again.mixed is population[0]
    assert isinstance(again.placed, MixedModel)
