"""From fits to new patients: the formulas, covariates and effects of the fit, and draws of what is not known."""

import jax
import numpy as np
import pytest

import qspjax as qsp
from qspjax.fit import (
    NUTS,
    Additive,
    Change,
    Experiment,
    Fit,
    Free,
    Measurements,
    MixedModel,
    Output,
    Problem,
    RandomEffects,
    Uncertainty,
)
from qspjax.fit.bayes._density import Density
from qspjax.fit.bayes._posterior import posterior_of
from qspjax.fit.bayes._sampler import Draws
from qspjax.fit.mixed._population import mixed_population
from tests.fit.test_mixtures import two_levels
from tests.fit.test_occasions import visits
from tests.fit.test_saved import decay
from tests.systems.mixed import decays

KEY = jax.random.key(0)

KEY = jax.random.key(0)


def population(mixed, covariates=None):
    """Return the population of a mixed-effects model at its start."""
    kept = np.ones(len(getattr(mixed, "people", mixed.subjects)), bool)
    return mixed_population(mixed, mixed.start, kept, covariates)


def known_of(cohort):
    return {name: np.asarray(value) for name, value in cohort.covariates.items()}


def test_a_population_has_the_formulas_and_covariates_of_the_fit():
    cohort = population(decays()).sample(key=KEY, size=4000)
    known = known_of(cohort)
    expected = 2.5 * np.exp(known["eta_CL"]) * known["WT"] / 70.0
    np.testing.assert_allclose(cohort.model.CL, expected, rtol=1e-12)
    np.testing.assert_allclose(cohort.model.V, 28.0)
    np.testing.assert_allclose(known["eta_CL"].var(), 0.05, rtol=0.1)
    assert set(known["WT"]) == {50.0, 60.0, 70.0, 80.0, 90.0}
    heavy = population(decays(), {"WT": qsp.Normal(100.0, sd=1.0)}).sample(key=KEY, size=10)
    assert (np.asarray(heavy.covariates["WT"]) > 90.0).all()


@pytest.mark.slow
def test_a_correlation_is_that_of_omega():
    mixed = decays(
        parameters={"tCL": Free(2.5), "tV": 30.0, "cv": Free(0.15)},
        individual={"CL": "tCL * exp(eta_CL)", "V": "tV * exp(eta_V)"},
        random=[RandomEffects(["eta_CL", "eta_V"], [[0.09, 0.03], [0.03, 0.04]])],
    )
    cohort = population(mixed).sample(key=KEY, size=20_000)
    found = np.cov(np.log([cohort.model.CL, cohort.model.V]))
    np.testing.assert_allclose(found, [[0.09, 0.03], [0.03, 0.04]], atol=2e-3)


def test_subpopulations_of_a_mixture():
    mixture, _ = two_levels()
    cohort = population(mixture).sample(key=KEY, size=4000)
    known = known_of(cohort)
    high = known["SUBPOPULATION"] == 0  # the first in the alphabet
    np.testing.assert_allclose(high.mean(), 0.4, atol=0.03)
    np.testing.assert_allclose(cohort.model.base, 4.5 + 2.5 * high + known["eta"], rtol=1e-12)


@pytest.mark.slow
def test_effects_of_occasions_are_drawn_anew():
    own = population(visits(4))
    assert own.individual.effects == ("eta_base", "kappa_base", "kappa_slope")
    assert own.individual.occasional == ("kappa_base", "kappa_slope")
    cohort = own.sample(key=KEY, size=3, occasions=2)
    known = known_of(cohort)
    np.testing.assert_allclose(cohort.model.base, 4.5 + known["eta_base"])
    np.testing.assert_allclose(cohort.model.slope, 0.4 + known["kappa_slope"])
    found = qsp.simulate_cohort(cohort, own.occasions(cohort, at=[2.0]), [2.0, 3.0]).observed["level"]
    np.testing.assert_allclose(found[:, 1] - found[:, 0], 0.4 + known["kappa_slope@2"], rtol=1e-6)


def one(**settings):
    """Return a population model of one subject that begins in its own way."""
    people = {"a": Experiment(Measurements([1.0], [8.0], output="y"), qsp.bolus(300.0, to="central"), **settings)}
    people["b"] = Experiment(Measurements([1.0], [8.0], output="y"), qsp.bolus(300.0, to="central"), set={"V": 20.0})
    return MixedModel(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        people,
        {"y": Output("concentration", Additive(0.1))},
        parameters={"tCL": Free(3.0)},
        individual={"CL": "tCL * exp(eta)"},
        random=[RandomEffects({"eta": 0.1})],
    )


def test_what_subjects_set_of_the_model():
    cohort = population(one(set={"V": 40.0})).sample(key=KEY, size=50)
    assert set(np.asarray(cohort.model.V)) == {20.0, 40.0}
    with pytest.raises(ValueError, match="`covariates` must have `V` of new patients"):
        population(one())
    assert set(np.asarray(population(one(), {"V": [25.0]}).sample(key=KEY, size=5).model.V)) == {25.0}
    with pytest.raises(ValueError, match="subject `a` puts `central` where it begins"):
        population(one(set={"V": 40.0}, put={"central": 3.0}))
    with pytest.raises(ValueError, match="subject `a` begins in a steady state"):
        population(one(set={"V": 40.0}, equilibrated=Change(0.0)))


def found_at(problem):
    """Return a fit that ends where it starts."""
    x = np.asarray(problem.start)[None]
    zero = np.zeros(1, int)
    return Fit(problem, "none", x, x, np.zeros(1), zero, zero, zero, zero, np.zeros((1, 1)), 0.0)


def test_a_fit_predicts_with_what_is_not_known():
    fit = found_at(decay())
    draws = fit.draws(key=KEY, size=4000)
    assert all((values > 0).all() for values in draws.values())
    np.testing.assert_allclose(np.cov(np.log([*draws.values()])), fit._uncertainty.covariance, rtol=0.1)
    patients = fit.patients(key=KEY, size=300)
    table = fit.predict(qsp.bolus(100.0, to="central"), [0.0, 5.0], key=KEY, size=300, level=0.8)
    by_hand = 100.0 / patients.model.V * np.exp(-patients.model.CL / patients.model.V * np.array([[0.0], [5.0]]))
    edges = np.quantile(by_hand, [0.1, 0.5, 0.9], axis=1)
    np.testing.assert_allclose([table["LOWER"], table["MEDIAN"], table["UPPER"]], edges, rtol=1e-8)
    assert table["OUTPUT"].tolist() == ["concentration"] * 2
    assert qsp.plot.prediction(table, label="new").get_ylabel() == "concentration (mg/L)"
    single = fit.population().sample(key=KEY, size=2)
    np.testing.assert_allclose(single.model.CL, fit.parameters["CL"])
    with pytest.raises(ValueError, match="`level` must lie between 0 and 1, but is 90"):
        fit.predict(qsp.bolus(100.0, to="central"), [5.0], key=KEY, size=2, level=90)


def test_what_the_data_say_nothing_about_is_named():
    fit = found_at(decay())
    vars(fit)["_uncertainty"] = Uncertainty(fit.problem, fit.x, np.array([[1.0, 1.0], [1.0, 1.0]]))
    with pytest.raises(ValueError, match=r"say nothing about the direction (CL|V) [+-]0.71, (CL|V) [+-]0.71\."):
        fit.draws(key=KEY, size=2)


def test_settings_of_experiments():
    data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="y")
    experiments = {
        name: Experiment(data, qsp.bolus(300.0, to="central"), set={"CL": formula, "V": 20.0})
        for name, formula in {"wild": "fast", "mutant": "slow"}.items()
    }
    outputs = {"y": Output("concentration", Additive(0.1))}
    problem = Problem(
        qsp.models.OneCompartment(CL=1.0, V=50.0), experiments, outputs, {"fast": Free(3.0), "slow": Free(1.0)}
    )
    fit = found_at(problem)
    cohort = fit.population(experiment="mutant").sample(key=KEY, size=1)
    np.testing.assert_allclose([cohort.model.CL[0], cohort.model.V[0]], [1.0, 20.0])
    with pytest.raises(ValueError, match="`experiment` must name one of wild, mutant, but is None, and they set `CL`"):
        fit.population()
    with pytest.raises(ValueError, match="`experiment` must name an experiment of the problem"):
        fit.population(experiment="mutants")


def test_a_posterior_predicts_with_its_draws():
    density = Density(decay())
    z = np.asarray(density.start) + 0.1 * np.random.default_rng(0).normal(size=(2, 50, 2))
    found = posterior_of(density, NUTS(key=KEY), Draws(z, {"lp": z[..., 0]}, None), 0.0)
    draws = found.draws(key=KEY, size=100)
    np.testing.assert_allclose(np.sort(draws["CL"]), np.sort(found.parameters["CL"].ravel()), rtol=1e-12)
    assert found.draws(key=KEY, size=300)["V"].shape == (300,)
    patients = found.patients(key=KEY, size=100)
    assert np.isin(np.asarray(patients.model.CL).round(9), draws["CL"].round(9)).all()
    np.testing.assert_allclose(found.population().sample(key=KEY, size=1).model.V, 50.0, rtol=0.1)
