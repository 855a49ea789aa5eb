"""Attainment of targets, differences between arms, and power: against closed forms."""

import equinox as eqx
import jax
import numpy as np
import pytest
from scipy import stats

import qspjax as qsp
from qspjax.population import difference, log_rank, power, target_attainment

KEY = jax.random.key(3)
MODEL = qsp.models.OneCompartment(CL=3.0, V=30.0)
CLEARANCES = np.linspace(1.0, 12.0, 45)
COHORT = qsp.Cohort.of(MODEL, {"CL": CLEARANCES})


def test_attainment_is_that_of_the_closed_form():
    doses = {f"{x:g} mg": qsp.bolus(x, to="central") for x in (30.0, 120.0, 480.0)}
    targets = {
        f"MIC {mic:g}": qsp.endpoints.Responder(
            qsp.endpoints.TimeAbove("concentration", threshold=mic, between=(0.0, 24.0)), at_least=12.0
        )
        for mic in (0.5, 2.0)
    }
    attained = target_attainment(COHORT, doses, targets, [0.0, 24.0])
    shares = {(row.dose, row.target): row.share.estimate for row in attained.rows}
    for dose in (30.0, 120.0, 480.0):
        for mic in (0.5, 2.0):
            wanted = np.mean(30.0 / CLEARANCES * np.log(dose / 30.0 / mic) >= 12.0)
            assert shares[f"{dose:g} mg", f"MIC {mic:g}"] == pytest.approx(wanted), (dose, mic)
    assert attained.least("MIC 2", share=0.3) == "480 mg"
    assert attained.least("MIC 2", share=0.999) is None
    both = (shares["120 mg", "MIC 0.5"] * 3 + shares["120 mg", "MIC 2"]) / 4
    assert attained.expected("120 mg", {"MIC 0.5": 0.3, "MIC 2": 0.1}) == pytest.approx(both)
    with pytest.raises(ValueError, match="`frequencies` must name targets of the dose `120 mg`, but name .'MIC 8'."):
        attained.expected("120 mg", {"MIC 8": 1.0})
    with pytest.raises(ValueError, match="`frequencies` must have a positive sum"):
        attained.expected("120 mg", {"MIC 2": 0.0})
    with pytest.raises(ValueError, match="`target` must name a target .*Did you mean `MIC 2`"):
        attained.least("mic 2")
    with pytest.raises(ValueError, match="`targets..a..` must be a `Responder`"):
        target_attainment(COHORT, doses, {"a": qsp.endpoints.Cmax("concentration")}, [0.0, 24.0])
    weights = np.where(CLEARANCES > 6.0, 0.0, 1.0)
    slow = target_attainment(COHORT, doses, targets, [0.0, 24.0], weights=weights).rows[1]
    assert slow.share.estimate == pytest.approx(np.mean(30.0 / CLEARANCES[CLEARANCES <= 6.0] * np.log(8.0) >= 12.0))


def test_tables_have_no_numbers_where_all_failed():
    failing = qsp.Cohort.of(MODEL, {"V": [1.0, 2.0]})
    failing = eqx.tree_at(lambda cohort: cohort.model.V, failing, np.full(2, np.nan))
    doses = {"120 mg": qsp.bolus(120.0, to="central")}
    target = {"peak": qsp.endpoints.Responder(qsp.endpoints.Cmax("concentration"), at_least=1.0)}
    attained = target_attainment(failing, doses, target, [0.0, 24.0])
    assert str(attained).splitlines()[1].split() == ["120", "mg", "peak", "2", "2", "-", "-"]


def result(**allocation):
    arms = [qsp.Arm(f"{x:g} mg", qsp.bolus(x, to="central")) for x in (60.0, 66.0)]
    endpoints = {"C6": qsp.endpoints.Value("concentration", at=6.0)}
    trial = qsp.Trial(arms, [0.0, 6.0], endpoints=endpoints, **allocation)
    return qsp.simulate_trial(trial, COHORT, key=KEY)


def test_differences_of_the_same_patients_are_paired():
    found = difference(result(), "C6", arm="66 mg", reference="60 mg", key=KEY)
    each = 0.2 * np.exp(-CLEARANCES / 30.0 * 6.0)
    error = stats.sem(each)
    assert found.paired
    assert found.patients == (45, 45)
    np.testing.assert_allclose(found.difference.estimate, each.mean(), rtol=1e-9)
    width = found.difference.high - found.difference.low
    assert width == pytest.approx(2 * 1.96 * error, rel=0.1)
    again = difference(result(), "C6", arm="66 mg", reference="60 mg", key=KEY)
    assert again == found
    apart = difference(result(allocation=qsp.Randomised()), "C6", arm="66 mg", reference="60 mg", key=KEY)
    assert not apart.paired
    assert apart.difference.high - apart.difference.low > 5.0 * width
    middle = difference(result(), "C6", arm="66 mg", reference="60 mg", key=KEY, statistic=np.median)
    np.testing.assert_allclose(middle.difference.estimate, np.median(each), rtol=1e-9)
    with pytest.raises(ValueError, match="`arm` must name an arm of the trial"):
        difference(result(), "C6", arm="70 mg", reference="60 mg", key=KEY)
    with pytest.raises(ValueError, match="`endpoint` must name an endpoint of the trial"):
        difference(result(), "C8", arm="66 mg", reference="60 mg", key=KEY)


def test_power_is_that_of_the_formula():
    draw = np.random.default_rng(0)
    placebo, drug = draw.normal(0.0, 1.0, 20000), draw.normal(0.5, 1.0, 20000)

    def test(a, b):
        z = (b.mean() - a.mean()) / np.sqrt(a.var(ddof=1) / a.size + b.var(ddof=1) / b.size)
        return 2.0 * stats.norm.sf(abs(z))

    said = []
    curve = power({"placebo": placebo, "drug": drug}, test, [30, 64, 130], key=KEY, progress=said.append)
    for size, found in zip(curve.sizes, curve.power, strict=True):
        wanted = stats.norm.sf(stats.norm.ppf(0.975) - 0.5 * np.sqrt(size / 2.0))
        assert found.low - 0.01 < wanted < found.high + 0.01
    assert curve.size(0.75) == 64
    assert curve.size(0.999) is None
    assert (said[-1].done, said[-1].total, len(said)) == (3000, 3000, 30)
    none = power([placebo, placebo], test, [50], key=KEY)
    assert none.power[0].estimate == pytest.approx(0.05, abs=0.025)
    alone = power([placebo, drug], test, [64], key=KEY)
    assert alone.power[0] == curve.power[1]  # other sizes change nothing
    pairs = power(
        [placebo, placebo + 0.1], lambda a, b: 1.0 - float((b > a).all()), [20], key=KEY, paired=True, replicates=10
    )
    assert pairs.power[0].estimate == 1.0


def test_power_of_survival():
    draw = np.random.default_rng(1)
    arms = [np.stack([draw.exponential(scale, 4000), np.ones(4000)], axis=1) for scale in (1.0, 2.0)]

    def test(a, b):
        both = np.concatenate([a, b])
        return log_rank(both[:, 0], both[:, 1], np.repeat([0, 1], [len(a), len(b)])).p

    found = power(arms, test, [33], key=KEY, replicates=150).power[0]
    wanted = stats.norm.sf(stats.norm.ppf(0.975) - np.log(2.0) * np.sqrt(66 / 4))  # Schoenfeld
    assert found.low < wanted < found.high


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patients": [[1.0, np.nan]]}, "`patients` must have numbers of patients in every arm"),
        ({"patients": [[1.0], [1.0, 2.0]], "paired": True}, "`patients` must have the same patients in every arm"),
        ({"patients": [[1.0]], "sizes": []}, "`sizes` must be numbers of patients, one at least"),
        ({"patients": [[1.0]], "sizes": 30}, "`sizes` must be numbers of patients, one at least, but is 30"),
        ({"patients": [[1.0]], "sizes": [0]}, "`sizes.0.` must be a whole number of at least 1"),
        ({"patients": [[1.0]], "significance": 5}, "`significance` must be between 0 and 1"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        power(**{"test": lambda *_: 1.0, "sizes": [3], "key": KEY, **arguments})
