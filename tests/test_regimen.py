"""Regimens: combining, repeating, amounts by covariate, padding, and errors in words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax._dosing._regimen import table


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


def test_prints_what_is_not_a_dose():
    regimen = (
        qsp.bolus(1.0, to="depot").every(12.0, doses=2).at_steady_state()
        + qsp.reset(at=20.0)
        + qsp.infusion(2.0, to="central", rate=qsp.MODELLED, at=30.0)
        + qsp.infusion(2.0, to="central", over=qsp.MODELLED, at=31.0)
        + qsp.set_parameter("CL", 5.0, at=40.0)
        + qsp.bolus(3.0, to="depot", at=50.0).every(6.0, doses=1).at_steady_state(added=True)
    )
    assert str(regimen).splitlines() == [
        "at 0: 1 to depot, at steady state every 12",
        "at 12: 1 to depot",
        "at 20: reset",
        "at 30: 2 to central at the model's rate",
        "at 31: 2 to central over the model's duration",
        "at 40: CL = 5",
        "at 50: 3 to depot, with its steady state added every 6",
    ]
    assert regimen.parameters == ("CL",)


def test_repetitions_are_ordered_with_the_first():
    """What `reset` and steady states cancel: in a pattern of a pattern, all of it."""
    daily = qsp.bolus(1.0, to=1, at=2.0).every(12.0, doses=2).every(24.0, doses=2)
    assert daily.time.tolist() == [2.0, 14.0, 26.0, 38.0]
    assert daily.ordered.tolist() == [2.0] * 4
    assert daily.then(daily).ordered.tolist() == [2.0] * 4 + [52.0] * 4
    resets = qsp.reset(at=1.0).every(10.0, doses=2)
    assert resets.ordered.tolist() == resets.time.tolist() == [1.0, 11.0]
    assert resets.static_shape.resets == 2


def test_a_pattern_is_one_interval_of_doses():
    day = qsp.bolus(2.0, to="depot", at=8.0) + qsp.infusion(1.0, to="central", over=1.0)
    steady = day.every(24.0, doses=3).at_steady_state()
    assert steady.steady.tolist() == [1, 1, 0, 0, 0, 0]
    assert steady.group.tolist() == [1, 0, 0, 0, 0, 0]  # the infusion at 0 comes first
    assert (steady.static_shape.steady, steady.static_shape.members) == (1, 2)
    both = qsp.bolus(1.0, to="depot") + steady
    assert both.group.tolist() == [0, 1, 0, 0, 0, 0, 0]
    assert both.static_shape.merged(both.static_shape).steady == 2


def test_the_default_target_is_the_first_that_the_model_declares():
    patient = qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2)
    default, depot = (
        qsp.simulate(patient, qsp.bolus(100.0, to=to), [1.0, 5.0]).observed["concentration"] for to in (0, "depot")
    )
    np.testing.assert_array_equal(default, depot)
    one = qsp.models.OneCompartment(CL=3.0, V=30.0)
    assert float(qsp.simulate(one, qsp.bolus(30.0, to=0), [0.0]).observed["concentration"][0]) == 1.0


def test_the_order_of_records_at_equal_times():
    """A sample drawn before the dose of its own time does not see it."""
    patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
    columns = {"time": np.array([0.0, 10.0, 10.0]), "amount": np.array([30.0, 60.0, 90.0])}
    regimen = table((1,), **columns, order=np.array([1.0, 3.0, 5.0]))
    ts, order = [0.0, 10.0, 10.0, 10.0, 10.0], [2.0, 2.5, 4.0, 6.0, 7.0]
    for method in (None, qsp.solve.Rosenbrock(), qsp.solve.Diffrax()):
        seen = qsp.simulate(patient, regimen, ts, order=order, method=method).observed["concentration"]
        np.testing.assert_allclose(np.diff(seen)[1:], [2.0, 3.0, 0.0], atol=1e-9)
    after = qsp.simulate(patient, regimen, ts).observed["concentration"]
    np.testing.assert_allclose(after[1:], after[-1], rtol=1e-12)


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
    "steady state of one dose": (
        lambda: qsp.bolus(1.0, to=1).at_steady_state(),
        "A regimen at steady state must be repeated with `.every(interval, doses=)` first.",
    ),
    "steady state of an infusion of an amount": (
        lambda: qsp.infusion(1.0, to=1, rate=2.0).at_steady_state(),
        "A regimen at steady state must be repeated with `.every(interval, doses=)` first.",
    ),
    "steady state of two intervals": (
        lambda: (
            qsp.bolus(1.0, to=1).every(12.0, doses=2) + qsp.bolus(1.0, to=1).every(24.0, doses=2)
        ).at_steady_state(),
        "Doses at steady state must have one interval: use one regimen for each, and `+`.",
    ),
    "steady state repeated": (
        lambda: qsp.bolus(1.0, to=1).every(12.0, doses=2).at_steady_state().every(24.0, doses=2),
        "A regimen at steady state cannot be repeated: call `at_steady_state` last.",
    ),
    "steady state of a reset": (
        lambda: (qsp.bolus(1.0, to=1) + qsp.reset(at=1.0)).every(12.0, doses=2).at_steady_state(),
        "Only doses, repeated with `every`, can be at steady state.",
    ),
    "reset as text": (lambda: qsp.reset(at="noon"), "Argument `at` must be a number, but is `noon`."),
    "parameter by number": (
        lambda: qsp.set_parameter(1, 2.0, at=0.0),
        "Argument `name` must be the name of a parameter, but is 1.",
    ),
    "covariate in no order": (
        lambda: qsp.varying("CL", [1.0, 0.0], [1.0, 2.0], interpolation=qsp.NOCB()),
        "Argument `time` must not decrease, but is 0 after 1, at position 1.",
    ),
    "no interpolation": (
        lambda: qsp.varying("CL", [0.0, 1.0], [1.0, 2.0], interpolation="NOCB"),
        "Argument `interpolation` must be NOCB(), LOCF() or LinearInterpolation(), but is of type str.",
    ),
    "modelled by nobody": (
        lambda: qsp.simulate(
            qsp.models.OneCompartment(CL=1.0, V=1.0), qsp.infusion(1.0, to=1, over=qsp.MODELLED), [1.0]
        ),
        "Argument `model` must have a delivery with a `duration` for the target of an infusion that leaves it to the "
        "model, but is one that has none for `central`.",
    ),
    "parameter of another model": (
        lambda: qsp.simulate(qsp.models.OneCompartment(CL=1.0, V=1.0), qsp.set_parameter("ka", 2.0, at=0.0), [1.0]),
        "Argument `name` must name a parameter of the model (CL, V), but is `ka`.",
    ),
    "order": (
        lambda: qsp.simulate(qsp.models.OneCompartment(CL=1.0, V=1.0), qsp.no_doses(), [1.0], order=[1.0, 2.0]),
        "Argument `order` must have the shape of `ts`, (1,), but is of shape (2,).",
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
