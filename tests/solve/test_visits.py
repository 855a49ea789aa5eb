"""Adaptive dosing: against the same doses given by hand, in every method, with failures and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp

PATIENT = qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.0, tlag=0.5)
DAILY = qsp.bolus(300.0, to="depot").every(24.0, doses=5)
VISITS = [23.0, 48.0, 71.0]
TS = jnp.asarray([1.0, 24.0, 48.0, 50.0, 72.0, 96.0, 120.0])
METHODS = {
    "MatrixExponential": qsp.solve.MatrixExponential(),
    "Rosenbrock": qsp.solve.Rosenbrock(rtol=1e-9, atol=1e-11),
    "Diffrax": qsp.solve.Diffrax(rtol=1e-9, atol=1e-11),
}


def by_hand(factors):
    doses = qsp.no_doses()
    for i, factor in enumerate(factors):
        doses += qsp.bolus(300.0 * factor, to="depot", at=24.0 * i)
    return doses


class Scripted(qsp.AbstractRule):
    """Factors as written, whatever is observed; remembers how many visits there were."""

    factors: jax.Array

    def initial(self):
        return jnp.asarray(0)

    def __call__(self, t, observed, factor, memory):
        return self.factors[memory], memory + 1


@pytest.mark.parametrize("method", METHODS)
def test_doses_after_a_visit_are_multiplied(method):
    regimen = DAILY.adapted(Scripted(jnp.asarray([0.5, 2.0, 0.0])), at=VISITS)
    solution = qsp.simulate(PATIENT, regimen, TS, method=METHODS[method])
    np.testing.assert_array_equal(solution.stats["factors"], [0.5, 2.0, 0.0])
    # the dose at 48 h is given after the visit at that time
    expected = qsp.simulate(PATIENT, by_hand([1.0, 0.5, 2.0, 0.0, 0.0]), TS).observed["concentration"]
    np.testing.assert_allclose(solution.observed["concentration"], expected, rtol=1e-6)


def test_an_infusion_over_a_visit_keeps_its_factor_and_other_doses_are_not_adapted():
    long = qsp.infusion(300.0, to="central", over=20.0, at=10.0).every(24.0, doses=3)
    other = qsp.bolus(50.0, to="central", at=60.0) + qsp.reset(at=80.0) + qsp.bolus(70.0, to="central", at=90.0)
    regimen = long.adapted(Scripted(jnp.asarray([0.5, 2.0])), at=[20.0, 40.0]) + other
    by_hand = other
    for at, factor in ((10.0, 1.0), (34.0, 0.5), (58.0, 2.0)):
        by_hand += qsp.infusion(300.0 * factor, to="central", over=20.0, at=at)
    expected = qsp.simulate(PATIENT, by_hand, TS).observed["concentration"]
    np.testing.assert_allclose(qsp.simulate(PATIENT, regimen, TS).observed["concentration"], expected, rtol=1e-9)


def test_a_covariate_that_was_added_before_is_no_dose():
    """A straight line is an infusion into the parameter; the factor leaves it alone."""
    line = qsp.varying("CL", [0.0, 120.0], [3.0, 6.0], interpolation=qsp.LinearInterpolation())
    rule, method = Scripted(jnp.asarray([0.5])), METHODS["Rosenbrock"]
    before, after = (DAILY + line).adapted(rule, at=[30.0]), DAILY.adapted(rule, at=[30.0]) + line
    first, second = (qsp.simulate(PATIENT, one, TS, method=method).observed["concentration"] for one in (before, after))
    np.testing.assert_allclose(first, second, rtol=1e-12)


def test_rules_on_a_cohort():
    """Reduced on toxicity, by patient; the factors are those that a loop by hand decides on."""
    cohort = qsp.Cohort.of(PATIENT, {"CL": jnp.asarray([1.0, 3.0, 12.0])})
    regimen = DAILY.adapted(qsp.ReduceAbove("concentration", 4.0, at_least=0.3), at=[20.0, 44.0, 68.0])
    solution = qsp.simulate_cohort(cohort, regimen, TS)
    np.testing.assert_array_equal(solution.stats["factors"], [[0.5, 0.3, 0.3], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    chunked = qsp.simulate_cohort(cohort, regimen, TS, executor=qsp.execute.Chunked(2))
    np.testing.assert_array_equal(chunked.observed["concentration"], solution.observed["concentration"])


def test_treat_to_target_reaches_it():
    """Troughs of a linear model are proportional to the dose, so a few visits suffice; gradients pass."""
    visits = 24.0 * jnp.arange(1.0, 8.0) - 1e-3

    def troughs(CL):
        daily = qsp.bolus(100.0, to="depot").every(24.0, doses=9)
        regimen = daily.adapted(qsp.TreatToTarget("concentration", 2.0, most_change=4.0), at=visits)
        solution = qsp.simulate(qsp.at(PATIENT, "CL").set(CL), regimen, [100.0, 215.0])
        return solution.observed["concentration"]

    assert float(troughs(3.0)[1]) == pytest.approx(2.0, rel=0.15)
    difference = (troughs(3.0 + 1e-5) - troughs(3.0 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.jacfwd(troughs)(3.0), difference, rtol=1e-6)
    np.testing.assert_allclose(jax.jacrev(troughs)(3.0), difference, rtol=1e-6)


def test_a_rule_on_a_state():
    """The amount in the volume is the concentration; also where parameters are states of the solve."""
    changes = qsp.set_parameter("CL", 3.0, at=5.0)
    for other in (qsp.no_doses(), changes):
        on_state, on_observed = (
            qsp.simulate(PATIENT, DAILY.adapted(qsp.ReduceAbove(*rule), at=[20.0]) + other, TS).stats["factors"]
            for rule in (("central", 30.0), ("concentration", 1.0))
        )
        assert on_state.tolist() == on_observed.tolist() == [0.5]


def test_stop_on_progression_is_for_good():
    rule = qsp.StopOnProgression("size", share=0.2)
    memory, factor, factors = rule.initial(), jnp.asarray(1.0), []
    for size in (10.0, 8.0, 9.5, 9.7, 7.0):
        factor, memory = rule(0.0, {"size": jnp.asarray(size)}, factor, memory)
        factors.append(float(factor))
    assert factors == [1.0, 1.0, 1.0, 0.0, 0.0]


@pytest.mark.slow
def test_parameters_over_time_and_steady_state_go_with_it():
    steady = qsp.bolus(300.0, to="depot").every(24.0, doses=4).at_steady_state()
    rule = Scripted(jnp.asarray([0.5]))
    regimen = steady.adapted(rule, at=[30.0]) + qsp.set_parameter("CL", 6.0, at=60.0)
    before = qsp.bolus(300.0, to="depot", at=-24.0 * 20).every(24.0, doses=22)
    by_hand = before + qsp.bolus(150.0, to="depot", at=48.0).every(24.0, doses=2)
    by_hand += qsp.set_parameter("CL", 6.0, at=60.0)
    method = METHODS["Rosenbrock"]
    got = qsp.simulate(PATIENT, regimen, TS, method=method).observed["concentration"]
    expected = qsp.simulate(PATIENT, by_hand, TS, method=method).observed["concentration"]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_a_failure_at_a_visit_is_reported_and_the_others_go_on():
    class Bursting(qsp.AbstractRule):
        def initial(self):
            return ()

        def __call__(self, t, observed, factor, memory):
            return jnp.where(observed["concentration"] > 6.0, jnp.nan, factor), memory

    cohort = qsp.Cohort.of(PATIENT, {"CL": jnp.asarray([3.0, 0.1])})
    solution = qsp.simulate_cohort(cohort, DAILY.adapted(Bursting(), at=[20.0]), TS)
    (failure,) = solution.failures()
    assert failure.patient == 1
    alone = qsp.simulate(PATIENT, DAILY.adapted(Bursting(), at=[20.0]), TS).observed["concentration"]
    np.testing.assert_allclose(solution.observed["concentration"][0], alone, rtol=1e-12)
    assert np.isnan(solution.observed["concentration"][1, -1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DAILY.adapted(lambda *_: 1.0, at=[1.0]), "`rule` must be a rule such as ReduceAbove"),
        (lambda: DAILY.adapted(qsp.ReduceAbove("x", 1.0), at=[2.0, 1.0]), "Argument `at` must not decrease"),
        (
            lambda: DAILY.adapted(qsp.ReduceAbove("x", 1.0), at=[2.0]).adapted(qsp.ReduceAbove("x", 1.0), at=[2.0]),
            "can be adapted only once",
        ),
        (lambda: qsp.ReduceAbove("x", 1.0, by=-1.0), "Argument `by` must be at least 0, but is -1."),
        (lambda: qsp.TreatToTarget("x", 0.0), "Argument `target` must be positive, but is 0."),
        (
            lambda: qsp.simulate(PATIENT, DAILY.adapted(qsp.ReduceAbove("tox", 1.0), at=[2.0]), TS),
            r"Argument `name` must name an observed value or a state of the model \(depot, central, concentration\)",
        ),
    ],
)
def test_errors_in_words(make, message):
    with pytest.raises(ValueError, match=message):
        make()
