"""Regimens: combining, repeating, amounts by covariate, padding, and errors in words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp


def rows(regimen):
    return list(zip(regimen.time.tolist(), regimen.amount.tolist(), strict=True))


def test_every_is_a_number_of_doses():
    assert rows(qsp.bolus(10.0, to="depot", at=2.0).every(24.0, doses=3)) == [(2.0, 10.0), (26.0, 10.0), (50.0, 10.0)]


def test_plus_joins_targets_by_name():
    both = qsp.bolus(1.0, to="depot") + qsp.infusion(2.0, to="central", over=3.0) + qsp.bolus(4.0, to="depot", at=5.0)
    assert both.targets == ("depot", "central")
    assert both.index.tolist() == [0, 1, 0]
    assert both.duration.tolist() == [1.0, 3.0, 1.0]


def test_then_begins_when_the_first_is_over():
    loading = qsp.infusion(100.0, to="central", over=2.0)
    assert rows(loading.then(qsp.bolus(10.0, to="central", at=1.0))) == [(0.0, 100.0), (3.0, 10.0)]
    daily = qsp.bolus(5.0, to="central").every(24.0, doses=2)
    assert rows(daily.then(daily))[2:] == [(48.0, 5.0), (72.0, 5.0)]
    twice = qsp.infusion(10.0, to="central", over=2.0).every(24.0, doses=2)
    assert rows(twice.then(qsp.bolus(1.0, to="central")))[-1] == (48.0, 1.0)
    mixed = (qsp.bolus(1.0, to="central") + qsp.infusion(10.0, to="central", over=2.0, at=6.0)).every(24.0, doses=2)
    assert rows(mixed.then(qsp.bolus(5.0, to="central")))[-1] == (48.0, 5.0)
    by_rate = qsp.infusion(100.0, to="central", rate=20.0)
    assert rows(by_rate.then(qsp.bolus(1.0, to="central")))[-1] == (5.0, 1.0)


def test_every_and_then_by_patient():
    starts, intervals = jnp.array([0.0, 1.0]), jnp.array([10.0, 20.0])
    first = qsp.bolus(1.0, to="central", at=starts).every(intervals, doses=2)
    np.testing.assert_array_equal(first.time, [[0.0, 10.0], [1.0, 21.0]])
    after = first.then(qsp.bolus(5.0, to="central", at=2.0))
    np.testing.assert_array_equal(after.time, [[0.0, 10.0, 22.0], [1.0, 21.0, 43.0]])


def test_every_of_a_combination():
    day = qsp.bolus(2.0, to="depot") + qsp.bolus(1.0, to="depot", at=8.0)
    assert rows(day.every(24.0, doses=2)) == [(0.0, 2.0), (8.0, 1.0), (24.0, 2.0), (32.0, 1.0)]


def test_no_doses_is_neutral():
    dose = qsp.bolus(1.0, to="depot", at=3.0)
    assert rows(qsp.no_doses() + dose) == rows(dose + qsp.no_doses()) == rows(dose)
    assert rows(qsp.no_doses().every(24.0, doses=3).then(dose)) == [(3.0, 1.0)]
    assert str(qsp.no_doses()) == "no doses"


def test_prints_as_a_table():
    regimen = qsp.bolus(200.0, to="depot") + qsp.infusion(qsp.Proportional(5.0, "WT"), to="central", over=2.0, at=24.0)
    assert str(regimen) == "at 0: 200 to depot\nat 24: Proportional to central over 2"


def test_arms_stack_and_batch():
    arms = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(qsp.bolus(x, to="depot") for x in (1.0, 2.0)))
    assert arms.amount.shape == (2, 1)


def test_padding_holds_no_doses():
    padded = qsp.bolus(1.0, to="depot").padded(4)
    assert padded.time.tolist() == [0.0, np.inf, np.inf, np.inf]
    assert padded.rows == 4


COVARIATES = {"WT": np.array([50.0, 80.0, 120.0]), "HT": np.array([160.0, 180.0, 190.0])}
AMOUNTS = {
    "per kilogram": (qsp.Proportional(2.0, "WT"), [100.0, 160.0, 240.0]),
    "per kilogram and centimetre": (qsp.Proportional(0.01, ("WT", "HT")), [80.0, 144.0, 228.0]),
    "per square metre": (qsp.PerSurfaceArea(100.0), 100.0 * np.sqrt([50 * 160 / 3600, 4.0, 120 * 190 / 3600])),
    "from a table": (qsp.Banded("WT", edges=[60.0, 100.0], amounts=[1.0, 2.0, 3.0]), [1.0, 2.0, 3.0]),
    "capped": (qsp.Limited(qsp.Proportional(2.0, "WT"), at_most=200.0), [100.0, 160.0, 200.0]),
    "at least": (qsp.Limited(qsp.Proportional(2.0, "WT"), at_least=150.0), [150.0, 160.0, 240.0]),
    "in whole vials": (qsp.RoundedUp(qsp.Proportional(2.0, "WT"), to=75.0), [150.0, 225.0, 300.0]),
    "exactly whole vials": (qsp.RoundedUp(qsp.Proportional(1.5, "WT"), to=25.0), [75.0, 125.0, 200.0]),
    "rounded": (qsp.Rounded(qsp.Proportional(2.0, "WT"), to=75.0), [75.0, 150.0, 225.0]),
    "computed": (qsp.Computed(lambda c: 100.0 + c["WT"]), [150.0, 180.0, 220.0]),
}


@pytest.mark.parametrize("case", AMOUNTS)
def test_amounts_by_covariate(case):
    amount, expected = AMOUNTS[case]
    regimen = qsp.bolus(7.0, to="depot") + qsp.bolus(amount, to="depot", at=1.0).every(12.0, doses=2)
    prescribed = regimen.prescribe(COVARIATES)
    np.testing.assert_allclose(prescribed.amount, np.stack([[7.0] * 3, expected, expected], axis=1), rtol=1e-12)
    one = regimen.prescribe({name: values[0] for name, values in COVARIATES.items()})
    np.testing.assert_allclose(one.amount, [7.0, expected[0], expected[0]], rtol=1e-12)


def test_amount_is_differentiable_through_a_rule():
    def total(dose):
        return qsp.bolus(qsp.Proportional(dose, "WT"), to="depot").prescribe({"WT": 70.0}).amount.sum()

    assert jax.grad(total)(2.0) == 70.0


ERRORS = {
    "negative amount": (
        lambda: qsp.bolus(-1.0, to="depot"),
        "Argument `amount` must be at least 0, but is -1.",
    ),
    "text amount": (
        lambda: qsp.bolus("5 mg", to="depot"),
        "Argument `amount` must be a number or an amount by covariates such as Proportional(5.0, 'WT'), but is 5 mg.",
    ),
    "infinite time": (lambda: qsp.bolus(1.0, to="depot", at=np.inf), "Argument `at` must be finite, but is inf."),
    "target": (
        lambda: qsp.bolus(1.0, to=None),
        "Argument `to` must be the name of a dose target or a compartment number, but is None.",
    ),
    "both": (
        lambda: qsp.infusion(1.0, to="central", over=1.0, rate=1.0),
        "Exactly one of the arguments `over` and `rate` must be given, but both are.",
    ),
    "neither": (
        lambda: qsp.infusion(1.0, to="central"),
        "Exactly one of the arguments `over` and `rate` must be given, but none is.",
    ),
    "no duration": (lambda: qsp.infusion(1.0, to="central", over=0.0), "Argument `over` must be positive, but is 0."),
    "interval": (
        lambda: qsp.bolus(1.0, to="depot").every(-1.0, doses=2),
        "Argument `interval` must be positive, but is -1.",
    ),
    "doses": (
        lambda: qsp.bolus(1.0, to="depot").every(1.0, doses=0),
        "Argument `doses` must be a whole number of at least 1, but is 0.",
    ),
    "doses as a float": (
        lambda: qsp.bolus(1.0, to="depot").every(1.0, doses=2.0),
        "Argument `doses` must be a whole number of at least 1, but is 2 of type float.",
    ),
    "time as text": (lambda: qsp.bolus(1.0, to=1, at="24 h"), "Argument `at` must be a number, but is 24 h."),
    "sum": (
        lambda: qsp.bolus(1.0, to=1) + 3,
        "Argument `other` must be a regimen, to be added to a regimen, but is of type int.",
    ),
    "unknown end": (
        lambda: qsp.infusion(qsp.Proportional(5.0, "WT"), to=1, rate=10.0).then(qsp.bolus(1.0, to=1)),
        "Argument `rate` must be replaced by `over` in a regimen that goes on with `then`, "
        "but is of an unknown duration.",
    ),
    "bands": (
        lambda: qsp.Banded("WT", edges=[50.0, 80.0], amounts=[1.0, 2.0]),
        "Argument `amounts` must have one element more than `edges` (3), but is 2.",
    ),
    "covariate": (
        lambda: qsp.bolus(qsp.Proportional(1.0, "weight"), to=1).prescribe({"WT": 70.0}),
        "Argument `covariate` must name a covariate of the patients (WT), but is `weight`.",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_in_words(case):
    call, message = ERRORS[case]
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message
