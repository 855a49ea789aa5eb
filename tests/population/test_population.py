"""Populations: sampled moments, correlation, covariates, reproducibility, and errors in words."""

import jax
import numpy as np
import pytest

import qspjax as qsp

MODEL = qsp.models.OneCompartment(CL=3.0, V=30.0)
WEIGHT = {"WT": qsp.Truncated(qsp.Normal(70.0, sd=15.0), 40.0, 120.0)}


def sample(size=20_000, **parts):
    return qsp.Population(MODEL, **parts).sample(key=jax.random.key(3), size=size)


def test_lognormal_around_the_typical_value():
    cohort = sample(between={"CL": qsp.LogNormal(cv=0.3)})
    assert np.median(cohort.model.CL) == pytest.approx(3.0, rel=0.01)
    assert np.log(cohort.model.CL).var() == pytest.approx(np.log(1 + 0.3**2), rel=0.03)
    assert cohort.model.V.shape == ()
    assert cohort.varying == ("CL",)


def test_correlation_is_that_of_the_random_effects():
    cohort = sample(between={"CL": qsp.LogNormal(cv=0.3), "V": qsp.LogNormal(cv=0.2)}, correlation={("V", "CL"): -0.6})
    logs = np.log([cohort.model.CL, cohort.model.V])
    assert np.corrcoef(logs)[0, 1] == pytest.approx(-0.6, abs=0.02)
    whole = sample(
        between={"CL": qsp.LogNormal(cv=0.3), "V": qsp.LogNormal(cv=0.2)}, correlation=[[1.0, -0.6], [-0.6, 1.0]]
    )
    np.testing.assert_array_equal(whole.model.V, cohort.model.V)


def test_allometry_and_categories():
    cohort = sample(
        size=500,
        covariates=WEIGHT | {"SEX": qsp.Categorical({"male": 0.4, "female": 0.6})},
        effects=[
            qsp.Allometric(clearances=["CL"], volumes=["V"]),
            qsp.ByCategory("CL", "SEX", factors={"male": 1.0, "female": 0.8}),
        ],
    )
    ratio, female = np.asarray(cohort.covariates["WT"]) / 70.0, np.asarray(cohort.covariates["SEX"]) == 0
    np.testing.assert_allclose(cohort.model.CL, 3.0 * ratio**0.75 * np.where(female, 0.8, 1.0), rtol=1e-12)
    np.testing.assert_allclose(cohort.model.V, 30.0 * ratio, rtol=1e-12)
    assert female.mean() == pytest.approx(0.6, abs=0.07)
    assert ratio.min() >= 40 / 70


def test_a_parameter_set_by_a_covariate():
    cohort = sample(size=5, covariates={"volume": qsp.Uniform(20.0, 40.0)}, effects=[qsp.SetBy("V", "volume")])
    np.testing.assert_array_equal(cohort.model.V, cohort.covariates["volume"])


@pytest.mark.usefixtures("optimised")
def test_patients_do_not_depend_on_the_size():
    parts = {"between": {"CL": qsp.LogNormal(cv=0.3)}, "covariates": WEIGHT}
    few, many = sample(size=7, **parts), sample(size=100, **parts)
    np.testing.assert_array_equal(few.model.CL, many.model.CL[:7])
    np.testing.assert_array_equal(few.covariates["WT"], many.covariates["WT"][:7])


def test_the_typical_population_has_one_patient_many_times():
    cohort = sample(size=3)
    assert (cohort.size, cohort.varying) == (3, ())
    solution = qsp.simulate_cohort(cohort, qsp.bolus(30.0, to="central"), [0.0, 10.0])
    np.testing.assert_allclose(solution.observed["concentration"], [[1.0, np.exp(-1.0)]] * 3, rtol=1e-6)


ERRORS = {
    "parameter": (
        {"between": {"Vd": qsp.LogNormal(cv=0.3)}},
        "Argument `between` must name a parameter of the model (CL, V), but is `Vd`.",
    ),
    "effect on": (
        {"covariates": WEIGHT, "effects": [qsp.Allometric(clearances=["Q"])]},
        "Argument `effects` must name a parameter of the model (CL, V), but is `Q`.",
    ),
    "effect of": (
        {"effects": [qsp.Allometric(clearances=["CL"])]},
        "Argument `effects` must name a covariate of the population (it has none), but is `WT`.",
    ),
    "categories": (
        {
            "covariates": {"SEX": qsp.Categorical({"male": 0.5, "female": 0.5})},
            "effects": [qsp.ByCategory("CL", "SEX", factors={"male": 1.0, "woman": 0.8})],
        },
        "Argument `effects` must treat covariate `SEX` as categories ('female', 'male'), "
        "but is categories ('male', 'woman').",
    ),
    "number": (
        {
            "covariates": {"SEX": qsp.Categorical({"male": 0.5, "female": 0.5})},
            "effects": [qsp.Power("CL", "SEX", exponent=1.0, reference=1.0)],
        },
        "Argument `effects` must treat covariate `SEX` as categories ('female', 'male'), but is a number.",
    ),
    "correlation": (
        {"between": {"CL": qsp.LogNormal(cv=0.3), "V": qsp.LogNormal(cv=0.3)}, "correlation": {("CL", "V"): 1.2}},
        'Argument `correlation["CL", "V"]` must be a number between -1 and 1, but is 1.2.',
    ),
    "correlation with itself": (
        {"between": {"CL": qsp.LogNormal(cv=0.3)}, "correlation": {("CL", "CL"): 0.2}},
        "Argument `correlation` must be between two different parameters, but is of `CL` with itself.",
    ),
    "correlation twice": (
        {
            "between": {"CL": qsp.LogNormal(cv=0.3), "V": qsp.LogNormal(cv=0.3)},
            "correlation": {("CL", "V"): 0.2, ("V", "CL"): 0.3},
        },
        "Argument `correlation` must give each pair once, but is twice that of `V` and `CL`.",
    ),
    "correlation by name": (
        {"between": {"CL": qsp.LogNormal(cv=0.3)}, "correlation": {"CL": 0.2}},
        'Argument `correlation` must be by pairs of names, such as {("CL", "V"): 0.5}, but is `CL`.',
    ),
    "correlation as text": (
        {"between": {"CL": qsp.LogNormal(cv=0.3)}, "correlation": "high"},
        "Argument `correlation` must hold numbers, but is `high`.",
    ),
    "correlation matrix": (
        {
            "between": {"CL": qsp.LogNormal(cv=0.3), "V": qsp.LogNormal(cv=0.3)},
            "correlation": [[1.0, 1.2], [1.2, 1.0]],
        },
        "Argument `correlation` must be positive definite, but is not (smallest eigenvalue -0.2).",
    ),
    "between": (
        {"between": {"CL": 0.3}},
        'Argument `between["CL"]` must be a distribution, but is of type float.',
    ),
    "between of": (
        {"between": [qsp.LogNormal(cv=0.3)]},
        "Argument `between` must be a mapping of parameter names to distributions, but is of type list.",
    ),
    "covariates": (
        {"covariates": {"SEX": {"male": 0.5}}},
        'Argument `covariates["SEX"]` must be a distribution, `Categorical` or observed values, but is of type dict.',
    ),
    "effects": (
        {"effects": qsp.SetBy("CL", "clearance")},
        "Argument `effects` must be a list of covariate effects, but is of type SetBy.",
    ),
    "effects of": (
        {"effects": [qsp.LogNormal(cv=0.3)]},
        "Argument `effects[0]` must be a covariate effect, but is of type LogNormal.",
    ),
    "correlation of": (
        {"between": {"CL": qsp.LogNormal(cv=0.3)}, "correlation": {("CL", "V"): 0.2}},
        "Argument `correlation` must name parameters in `between` or effects in `random` (CL), but is `V`.",
    ),
    "size": ({"size": 0}, "Argument `size` must be a whole number of at least 1, but is "),
    "size of": ({"size": 10.0}, "Argument `size` must be a whole number of at least 1, but is 10 of type float."),
    "range": (
        {"size": 1000, "between": {"V": qsp.Normal(sd=30.0)}},
        "Argument `V` must be positive, but is ",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_in_words(case):
    parts, message = ERRORS[case]
    with pytest.raises(ValueError) as error:
        sample(**parts)
    assert str(error.value).startswith(message)


def test_probabilities_add_up():
    with pytest.raises(ValueError, match="Argument `probabilities` must be at least 0 and add up to 1, but is"):
        qsp.Categorical({"a": 0.5, "b": 0.6})


def test_a_sampled_patient_out_of_range_is_named_with_a_remedy():
    patient = r"Argument `V` must be positive, but is -[\d.]+: a sampled patient; truncate "
    with pytest.raises(ValueError, match=patient + r"its distribution in `between`\.$"):
        sample(size=1000, between={"V": qsp.Normal(sd=30.0)})
    with pytest.raises(ValueError, match=patient + r"its covariate\.$"):
        sample(size=1000, covariates={"volume": qsp.Normal(30.0, sd=30.0)}, effects=[qsp.SetBy("V", "volume")])


def test_a_population_has_a_model_and_is_sampled_with_a_key():
    with pytest.raises(ValueError, match=r"Argument `model` must be a model, but is the class OneCompartment\."):
        qsp.Population(qsp.models.OneCompartment)
    for key in (1, np.zeros(3)):
        with pytest.raises(
            ValueError, match=r"Argument `key` must be a PRNG key such as jax.random.key\(1\), but is of"
        ):
            qsp.Population(MODEL).sample(key=key, size=2)
    assert qsp.Population(MODEL).sample(key=jax.random.PRNGKey(1), size=2).size == 2


def test_allometry_of_one_name():
    effect = qsp.Allometric(clearances="CL", volumes="Vc")
    assert effect.parameters() == ("CL", "Vc")


def formulas(**changed):
    """Return a population whose parameters are formulas."""
    settings = {
        "individual": {"CL": "tCL * exp(eta_CL + kappa_CL) * (WT / 70)^power", "V": "30 / (1 + exp(-(1 + eta_V)))"},
        "parameters": {"tCL": 3.0, "power": 0.75},
        "random": {"eta_CL": 0.09, "eta_V": 0.04, "kappa_CL": 0.01},
        "covariates": {"WT": [50.0, 70.0, 90.0], "AGE": [20.0, 40.0, 60.0]},
        "correlation": {("eta_CL", "eta_V"): 0.5},
        "occasional": ["kappa_CL"],
    } | changed
    return qsp.Population(qsp.models.OneCompartment(CL=3.0, V=30.0), **settings)


def test_formulas_of_patients():
    cohort = formulas().sample(key=jax.random.key(0), size=20_000)
    known = {name: np.asarray(value) for name, value in cohort.covariates.items()}
    expected = 3.0 * np.exp(known["eta_CL"] + known["kappa_CL"]) * (known["WT"] / 70.0) ** 0.75
    np.testing.assert_allclose(cohort.model.CL, expected, rtol=1e-12)
    np.testing.assert_allclose(cohort.model.V, 30.0 / (1.0 + np.exp(-(1.0 + known["eta_V"]))), rtol=1e-12)
    etas = np.stack([known[name] for name in ("eta_CL", "eta_V", "kappa_CL")])
    expected = [[0.09, 0.03, 0.0], [0.03, 0.04, 0.0], [0.0, 0.0, 0.01]]
    np.testing.assert_allclose(np.cov(etas), expected, atol=2e-3)
    np.testing.assert_array_equal(known["AGE"], known["WT"] - 30.0)  # a subject at a time
    np.testing.assert_allclose([np.mean(known["WT"] == weight) for weight in (50.0, 70.0, 90.0)], 1 / 3, atol=0.02)


def test_occasions_change_what_depends_on_their_effects():
    population = formulas()
    cohort = population.sample(key=jax.random.key(0), size=5, occasions=3)
    again = population.sample(key=jax.random.key(0), size=5)
    np.testing.assert_array_equal(cohort.model.CL, again.model.CL)
    regimen = qsp.bolus(100.0, to="central") + population.occasions(cohort, at=[24.0, 48.0])
    found = qsp.simulate_cohort(cohort, regimen, [24.0, 48.0, 72.0]).observed["concentration"]
    known = {name: np.asarray(value) for name, value in cohort.covariates.items()}
    for k, name in enumerate(("kappa_CL@2", "kappa_CL@3")):
        CL = 3.0 * np.exp(known["eta_CL"] + known[name]) * (known["WT"] / 70.0) ** 0.75
        np.testing.assert_allclose(np.log(found[:, k] / found[:, k + 1]), 24.0 * CL / cohort.model.V, rtol=1e-6)
    with pytest.raises(ValueError, match="`cohort` must be drawn with occasions=4, but is one with 3"):
        population.occasions(cohort, at=[24.0, 48.0, 72.0])
    with pytest.raises(ValueError, match="Nothing changes between occasions"):
        formulas(occasional=[]).occasions(cohort, at=[24.0])


def test_formulas_are_differentiable_in_both_modes():
    def clearance(value):
        population = qsp.Population(
            qsp.models.OneCompartment(CL=3.0, V=30.0),
            individual={"CL": "tCL * exp(eta)"},
            parameters={"tCL": value},
            random={"eta": value / 30.0},
        )
        return population.draw(jax.random.key(1))[1]["CL"]

    central = (clearance(3.0 + 1e-5) - clearance(3.0 - 1e-5)) / 2e-5
    np.testing.assert_allclose([jax.grad(clearance)(3.0), jax.jacfwd(clearance)(3.0)], central, rtol=1e-8)


FORMULA_ERRORS = {
    "name": ({"individual": {"CLL": "tCL"}}, "`individual` must name a parameter of the model (CL, V), but is `CLL`"),
    "symbol": (
        {"individual": {"CL": "tCL * exp(eta_Q)"}},
        "`individual` must name a parameter, a random effect or a covariate, in the formula of `CL`",
    ),
    "constant": (
        {"individual": {"CL": "tCL * pi"}, "covariates": {"WT": [70.0], "pi": [2.0]}},
        "`individual` must write `pi` in backticks for what is declared with that name, or rename that",
    ),
    "text": ({"individual": {"CL": "tCL *"}}, '`individual["CL"]` must be a formula, but: '),
    "variance": ({"random": {"eta_CL": -0.1}}, '`random["eta_CL"]` must be positive, but is -0.1'),
    "twice": (
        {"random": {"WT": 0.1, "kappa_CL": 0.1}, "correlation": None},
        "`random` must have names that mean nothing else, and not that of a covariate",
    ),
    "both": (
        {"between": {"CL": qsp.LogNormal(cv=0.3)}},
        "`individual` must have formulas of parameters that are not in `between` or `effects`, but is `CL`",
    ),
    "occasional": ({"occasional": ["eta"]}, "`occasional` must name a random effect"),
    "correlation": (
        {"correlation": {("eta_CL", "kappa_CL"): 0.5}},
        "`correlation` must be 0 between effects of occasions and others",
    ),
    "column": (
        {"covariates": {"WT": [50.0, 70.0], "AGE": [20.0]}},
        '`covariates["AGE"]` must have one value per subject, as many as other covariates',
    ),
    "missing": ({"covariates": {"WT": [50.0, np.nan]}}, '`covariates["WT"]` must be finite'),
}


@pytest.mark.parametrize("case", FORMULA_ERRORS)
def test_errors_in_formulas(case):
    parts, message = FORMULA_ERRORS[case]
    with pytest.raises(ValueError) as error:
        formulas(**parts)
    assert message in str(error.value)


def test_a_formula_out_of_range_is_named_with_a_remedy():
    with pytest.raises(ValueError, match="write its formula so that it cannot be"):
        formulas(individual={"CL": "tCL + 30 * eta_CL"}).sample(key=jax.random.key(0), size=100)
