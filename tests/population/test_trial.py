"""Trials: allocation of patients, endpoints of arms, summaries, failures counted."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp

MODEL = qsp.models.OneCompartment(CL=3.0, V=30.0)
POPULATION = qsp.Population(MODEL, between={"CL": qsp.LogNormal(cv=0.3)})
COHORT = POPULATION.sample(key=jax.random.key(1), size=200)
TS = np.linspace(0.0, 24.0, 25)
ENDPOINTS = {
    "AUC": qsp.endpoints.AUC("concentration"),
    "above 1 mg/L at 12 h": qsp.endpoints.Responder(qsp.endpoints.Value("concentration", at=12.0), at_least=1.0),
}


def trial(endpoints=ENDPOINTS, **parts):
    arms = [qsp.Arm(f"{x:.0f} mg", qsp.bolus(x, to="central")) for x in (60.0, 120.0)]
    return qsp.Trial(arms, TS, endpoints=endpoints, **parts)


def test_same_patients_differ_by_treatment_alone():
    endpoints = ENDPOINTS | {"Cmax": qsp.endpoints.Cmax("concentration")}
    result = qsp.simulate_trial(trial(endpoints), COHORT)
    low, high = (result.arm(name).endpoints for name in ("60 mg", "120 mg"))
    np.testing.assert_allclose(high["AUC"], 2.0 * np.asarray(low["AUC"]), rtol=1e-6)
    exact = 60.0 / np.asarray(COHORT.model.CL) * (1 - np.exp(-np.asarray(COHORT.model.CL) / 30.0 * 24.0))
    np.testing.assert_allclose(low["AUC"], exact, rtol=1e-12)
    np.testing.assert_allclose(low["Cmax"], 60.0 / 30.0, rtol=1e-12)


@pytest.mark.parametrize("ratio", [None, (1, 3)])
def test_randomised_arms_share_no_patient(ratio):
    result = qsp.simulate_trial(trial(allocation=qsp.Randomised(ratio)), COHORT, key=jax.random.key(2))
    first, second = (arm.members for arm in result.arms)
    assert sorted([*first, *second]) == list(range(200))
    assert len(first) == (100 if ratio is None else 50)
    alone = qsp.simulate_cohort(COHORT.take(second), qsp.bolus(120.0, to="central"), TS)
    np.testing.assert_allclose(
        result.arms[1].solution.observed["concentration"], alone.observed["concentration"], rtol=1e-12
    )


def test_randomising_needs_a_key():
    with pytest.raises(ValueError, match="Argument `key` must be given to randomise patients, but is None."):
        qsp.simulate_trial(trial(allocation=qsp.Randomised()), COHORT)


def test_summary_counts_failures_and_labels_intervals():
    clearance = COHORT.model.CL.at[jnp.array([5, 7])].set(jnp.nan)
    sick = eqx.tree_at(lambda c: c.model.CL, COHORT, clearance)
    result = qsp.simulate_trial(trial(), sick)
    rows = qsp.summarise(result)
    assert [(row.arm, row.patients, row.failed, row.undefined) for row in rows[:2]] == [
        ("60 mg", 200, 2, 0),
        ("120 mg", 200, 2, 0),
    ]
    found = np.delete(np.asarray(result.arms[0].endpoints["AUC"]), [5, 7])
    row = next(row for row in rows if (row.arm, row.endpoint) == ("60 mg", "AUC"))
    assert (row.p5, row.median, row.p95) == pytest.approx(tuple(np.percentile(found, [5, 50, 95])))
    assert row.mean_low < found.mean() < row.mean_high
    text = qsp.summary_text(result)
    assert "60 mg   200 patients, 2 failed" in text
    assert "median   5th to 95th percentile of patients" in text
    assert "mean (95 % confidence interval of the mean)" in text
    assert "95 % confidence interval of the share" in text


def test_an_undefined_endpoint_is_counted():
    placebo = qsp.Trial(
        [qsp.Arm("placebo", qsp.no_doses())], TS, endpoints={"half-life": qsp.endpoints.HalfLife("concentration")}
    )
    (row,) = qsp.summarise(qsp.simulate_trial(placebo, COHORT))
    assert (row.failed, row.undefined) == (0, 200)
    assert np.isnan(row.median)


def test_arms_need_different_names():
    arms = [qsp.Arm("a", qsp.no_doses()), qsp.Arm("a", qsp.no_doses())]
    with pytest.raises(ValueError, match="Argument `arms` must have different names, but is a, a."):
        qsp.Trial(arms, TS)


ARM = qsp.Arm("a", qsp.no_doses())
END = qsp.endpoints
ERRORS = {
    "no arm": (lambda: qsp.Trial([], TS), "Argument `arms` must have at least one arm, but is empty."),
    "arms by name": (
        lambda: qsp.Trial({"a": qsp.no_doses()}, TS),
        "Argument `arms` must be a list of arms, but is of type dict.",
    ),
    "arm": (lambda: qsp.Trial([qsp.no_doses()], TS), "Argument `arms[0]` must be an arm, but is of type Regimen."),
    "arm name": (
        lambda: qsp.Arm(qsp.no_doses(), "a"),
        "Argument `name` must be a name in quotes, but is of type Regimen.",
    ),
    "arm regimen": (lambda: qsp.Arm("a", 100.0), "Argument `regimen` must be a regimen, but is of type float."),
    "endpoints": (
        lambda: qsp.Trial([ARM], TS, endpoints=[END.Cmax("concentration")]),
        "Argument `endpoints` must be a mapping of names to endpoints, but is of type list.",
    ),
    "endpoint": (
        lambda: qsp.Trial([ARM], TS, endpoints={"Cmax": "concentration"}),
        'Argument `endpoints["Cmax"]` must be an endpoint, but is of type str.',
    ),
    "times": (
        lambda: qsp.Trial([ARM], [1.0, 0.0]),
        "Argument `ts` must not decrease, but is 0 after 1, at position 1.",
    ),
    "times of": (
        lambda: qsp.Trial([ARM], [[0.0, 1.0]]),
        "Argument `ts` must have shape (times,), but is of shape (1, 2).",
    ),
    "times as text": (lambda: qsp.Trial([ARM], "1 h"), "Argument `ts` must hold numbers, but is 1 h."),
    "allocation": (
        lambda: qsp.Trial([ARM], TS, allocation=qsp.Randomised),
        "Argument `allocation` must be `SamePatients()` or `Randomised()`, but is the class Randomised.",
    ),
    "ratio": (
        lambda: qsp.Randomised((1, 0.5)),
        "Argument `ratio[1]` must be a whole number of at least 1, but is 0.5 of type float.",
    ),
    "ratio of": (
        lambda: qsp.Randomised(2),
        "Argument `ratio` must be a list of whole numbers, one per arm, but is of type int.",
    ),
    "empty arm": (
        lambda: qsp.simulate_trial(
            trial(allocation=qsp.Randomised([1, 9])), COHORT.take([0, 1, 2]), key=jax.random.key(1)
        ),
        "Argument `allocation` must put at least one patient in every arm, but is without one in arm `60 mg`.",
    ),
    "key": (
        lambda: qsp.simulate_trial(trial(allocation=qsp.Randomised()), COHORT, key=1),
        "Argument `key` must be a PRNG key such as jax.random.key(1), but is of type int.",
    ),
    "trial": (
        lambda: qsp.simulate_trial([ARM], COHORT),
        "Argument `trial` must be a trial, but is of type list.",
    ),
    "cohort": (
        lambda: qsp.simulate_trial(trial(), POPULATION),
        "Argument `cohort` must be a cohort (`Population.sample` draws one), but is of type Population.",
    ),
    "arm of": (
        lambda: qsp.simulate_trial(qsp.Trial([ARM], TS[:2]), COHORT.take([0])).arm("b"),
        "Argument `name` must name an arm of the trial (a), but is `b`.",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_in_words(case):
    call, message = ERRORS[case]
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message


def test_a_share_without_values_is_a_dash():
    late = END.Responder(END.Value("concentration", at=99.0), at_least=1.0)
    result = qsp.simulate_trial(qsp.Trial([ARM], TS[:2], endpoints={"late": late}), COHORT.take([0, 1]))
    assert qsp.summary_text(result).splitlines()[-1].split() == ["a", "-", "-", "2", "undefined"]


def test_a_trial_is_differentiable():
    """The mean AUC over a cohort by the dose: dose-proportional, so the gradient is the mean AUC per mg."""

    def mean_auc(dose):
        arms = [qsp.Arm("one", qsp.bolus(dose, to="central"))]
        result = qsp.simulate_trial(qsp.Trial(arms, TS, endpoints=ENDPOINTS), COHORT.take(jnp.arange(8)))
        return result.arms[0].endpoints["AUC"].mean()

    assert jax.grad(mean_auc)(60.0) == pytest.approx(float(mean_auc(60.0)) / 60.0, rel=1e-5)
