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
        'Argument `covariates["SEX"]` must be a distribution or `Categorical`, but is of type dict.',
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
        "Argument `correlation` must name parameters in `between` (CL), but is `V`.",
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
