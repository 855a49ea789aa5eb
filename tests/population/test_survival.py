"""Kaplan-Meier, log-rank and hazard ratios against lifelines, closed forms and permutations; weights are no counts."""

import importlib.util
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from qspjax.population import hazard_ratio, kaplan_meier, log_rank

STORED = json.loads(Path(__file__).with_name("survival.json").read_text())
"""By `survival_by_lifelines.py`."""
CASES = range(len(STORED["cases"]))


def case(k):
    stored = STORED["cases"][k]
    return {name: np.array(column) for name, column in stored["data"].items()}, stored["answers"]


@pytest.mark.parametrize("k", CASES)
def test_kaplan_meier_is_that_of_lifelines(k):
    data, answers = case(k)
    curve, wanted = kaplan_meier(data["times"], data["events"]), answers["curve"]
    for name in ("times", "survival", "low", "high", "at_risk", "events", "censored"):
        np.testing.assert_allclose(getattr(curve, name), wanted[name], rtol=1e-10, atol=1e-10, err_msg=name)
    assert list(curve.median) == wanted["median"]
    weighted = kaplan_meier(data["times"], data["events"], weights=data["weights"])
    np.testing.assert_allclose(weighted.survival, answers["weighted_survival"], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("k", CASES)
def test_log_rank_is_that_of_lifelines(k):
    data, answers = case(k)
    test = log_rank(data["times"], data["events"], data["groups"])
    np.testing.assert_allclose([test.statistic, test.p], answers["log_rank"], rtol=1e-10)
    two = data["groups"] < 2
    pair = log_rank(data["times"][two], data["events"][two], data["groups"][two])
    np.testing.assert_allclose([pair.statistic, pair.p], answers["pair"], rtol=1e-10)
    assert (test.degrees, pair.degrees) == (2, 1)
    assert sum(test.observed) == pytest.approx(sum(test.expected)) == data["events"].sum()


@pytest.mark.parametrize("k", CASES)
def test_hazard_ratio_is_that_of_lifelines(k):
    data, answers = case(k)
    two = data["groups"] < 2
    times, events, strata = (data[name][two] for name in ("times", "events", "strata"))
    treated = data["groups"][two] == 1
    np.testing.assert_allclose(hazard_ratio(times, events, treated), answers["cox"], rtol=1e-6)
    np.testing.assert_allclose(
        hazard_ratio(times, events, treated, strata=strata), answers["stratified_cox"], rtol=1e-6
    )


@pytest.mark.skipif(importlib.util.find_spec("lifelines") is None, reason="lifelines is not installed (pandas < 3)")
@pytest.mark.parametrize("seed", range(20))
def test_lifelines_agrees_where_it_is_installed(seed):
    from survival_by_lifelines import answers, data

    drawn = data(seed + 100, size=40)
    curve, wanted = kaplan_meier(drawn["times"], drawn["events"]), answers(drawn)
    np.testing.assert_allclose(curve.survival, wanted["curve"]["survival"], rtol=1e-10, atol=1e-10)
    test = log_rank(drawn["times"], drawn["events"], drawn["groups"])
    np.testing.assert_allclose([test.statistic, test.p], wanted["log_rank"], rtol=1e-10)


def test_weighted_hazard_ratios_are_those_of_lifelines():
    """Without ties, by which its sandwich differs from Efron's; lifelines 0.30, `CoxPHFitter(robust=True)`."""
    rng = np.random.default_rng(5)
    times = np.round(rng.exponential(10.0, 30) + np.arange(30) * 1e-3, 6)
    events, treated = rng.random(30) < 0.7, rng.random(30) < 0.5
    weights, strata = rng.integers(1, 24, 30) / 8.0, rng.integers(0, 2, 30)
    found = hazard_ratio(times, events, treated, weights=weights)
    np.testing.assert_allclose(found, (1.63351937, 0.640465434, 4.16632247, 0.304292994), rtol=1e-5)
    np.testing.assert_allclose(hazard_ratio(times, events, treated, weights=1e3 * weights), found, rtol=1e-12)
    found = hazard_ratio(times, events, treated, strata=strata, weights=weights)
    np.testing.assert_allclose(found, (1.76034406, 0.651497927, 4.75644063, 0.264816543), rtol=1e-5)


def test_the_sandwich_with_ties_is_that_of_patients_left_out():
    rng = np.random.default_rng(8)
    times, events = rng.integers(1, 9, 400).astype(float), rng.random(400) < 0.7
    treated, weights = rng.random(400) < 0.5, rng.uniform(0.2, 2.0, 400)
    found = hazard_ratio(times, events, treated, weights=weights)

    def without(k):
        columns = (np.delete(x, k) for x in (times, events, treated))
        return math.log(hazard_ratio(*columns, weights=np.delete(weights, k)).ratio)

    error = math.log(found.high / found.ratio) / 1.959963984540054
    jackknife = math.sqrt(sum((without(k) - math.log(found.ratio)) ** 2 for k in range(400)))
    assert error == pytest.approx(jackknife, rel=0.02)
    alike = hazard_ratio(times, events, treated, weights=np.ones(400)).ratio
    assert alike == pytest.approx(hazard_ratio(times, events, treated).ratio, rel=1e-12)


def test_greenwood_by_hand():
    curve = kaplan_meier([1.0, 2.0, 2.0, 3.0, 4.0], [1, 1, 0, 0, 1])
    np.testing.assert_allclose(curve.survival, [0.8, 0.6, 0.6, 0.0], atol=1e-15)
    np.testing.assert_allclose(curve.variance, [0.64 / 20, 0.36 * (1 / 20 + 1 / 12), 0.36 * (1 / 20 + 1 / 12), 0.0])
    assert curve.at([0.5, 1.0, 3.9, 4.0, 9.0]).tolist() == pytest.approx([1.0, 0.8, 0.6, 0.0, 0.0])
    assert curve.at_risk_at([0.0, 1.0, 1.5, 2.0, 4.0, 5.0]).tolist() == [5, 5, 4, 4, 1, 0]
    assert curve.median.estimate == 4.0


def test_a_median_that_is_not_reached_and_curves_without_events():
    curve = kaplan_meier([1.0, 2.0, 3.0], [1, 0, 0])
    assert curve.median.estimate == math.inf
    assert math.isnan(curve.at(4.0))
    assert str(curve).splitlines()[1].split() == ["3", "1", "-", "1", "-"]
    nothing = kaplan_meier([1.0, 2.0], [0, 0])
    assert nothing.survival.tolist() == nothing.low.tolist() == nothing.high.tolist() == [1.0, 1.0]
    half = kaplan_meier(np.arange(1.0, 11.0), np.ones(10))
    assert half.median.estimate == 5.0
    assert half.quantile(0.3).estimate == 3.0


def test_only_ratios_of_weights_matter():
    data, _ = case(0)
    times, events, groups, weights = (data[name] for name in ("times", "events", "groups", "weights"))
    plain, heavy = kaplan_meier(times, events), kaplan_meier(times, events, weights=np.full(times.size, 1e-3))
    for name in ("survival", "variance", "low", "high", "at_risk"):
        np.testing.assert_allclose(getattr(heavy, name), getattr(plain, name), rtol=1e-10, atol=1e-14)
    tests = [log_rank(times, events, groups, weights=w) for w in (weights, 1e3 * weights, np.ones(times.size), None)]
    np.testing.assert_allclose(tests[0].statistic, tests[1].statistic, rtol=1e-10)
    np.testing.assert_allclose(tests[2].statistic, tests[3].statistic, rtol=1e-12)
    absent = np.where(groups == 2, 0.0, weights)
    without = log_rank(*(x[groups < 2] for x in (times, events, groups)), weights=weights[groups < 2])
    assert log_rank(times, events, groups, weights=absent).statistic == pytest.approx(without.statistic, rel=1e-12)
    np.testing.assert_allclose(
        kaplan_meier(times, events, weights=absent).survival,
        kaplan_meier(times[groups < 2], events[groups < 2], weights=weights[groups < 2]).survival,
    )


def test_weighted_variance_of_the_log_rank_is_that_of_permutations():
    weights, groups = np.array([0.3, 1.0, 2.5, 0.7, 1.4]), np.array([0, 1, 0, 1, 1])
    excesses = []
    for pair in itertools.combinations(range(5), 2):  # any two of those at risk have the event at one time
        events = np.isin(np.arange(5), pair)
        test = log_rank(np.where(events, 1.0, 2.0), events, groups, weights=weights)
        excesses.append((test.observed[0] - test.expected[0], test.statistic))
    differences, statistics = np.array(excesses).T
    np.testing.assert_allclose(differences.mean(), 0.0, atol=1e-14)
    np.testing.assert_allclose(differences**2 / statistics, (differences**2).mean(), rtol=1e-10)


def test_weighted_intervals_cover_what_they_say():
    draw = np.random.default_rng(1)
    inside = []
    for _ in range(400):
        rates = np.where(draw.uniform(size=200) < 0.5, 0.5, 2.0)
        weights = np.where(rates < 1.0, 0.3, 1.7)  # to a population with 85 % of the fast
        curve = kaplan_meier(draw.exponential(1.0 / rates), np.ones(200), weights=weights)
        truth = 0.15 * math.exp(-0.25) + 0.85 * math.exp(-1.0)
        k = np.searchsorted(curve.times, 0.5, side="right") - 1
        inside.append(curve.low[k] <= truth <= curve.high[k])
    assert 0.92 < np.mean(inside) < 0.99


def test_strata_are_compared_within():
    times = np.concatenate([np.arange(1.0, 11.0), 10.0 * np.arange(1.0, 11.0)])
    strata, groups = np.repeat([0, 1], 10), np.tile([0, 1], 10)
    events = np.ones(20)
    parts = [log_rank(times[strata == k], events[strata == k], groups[strata == k]) for k in (0, 1)]
    test = log_rank(times, events, groups, strata=strata)
    assert test.expected[0] == pytest.approx(sum(part.expected[0] for part in parts))
    doubled = log_rank(times, events, groups, strata=["all"] * 20)
    assert doubled.statistic == pytest.approx(log_rank(times, events, groups).statistic)
    assert test.statistic == pytest.approx(2.0 * parts[0].statistic)  # both strata have the same order


def test_hazard_ratios_of_groups_without_events():
    assert hazard_ratio([1.0, 2.0, 3.0, 3.0], [1, 1, 0, 0], [True, True, False, False])[:3] == (math.inf, 0.0, math.inf)
    assert hazard_ratio([1.0, 2.0, 3.0, 3.0], [1, 1, 0, 0], [False, False, True, True])[:3] == (0.0, 0.0, math.inf)
    assert math.isnan(hazard_ratio([1.0, 2.0], [0, 0], [True, False]).ratio)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kaplan_meier([1.0, math.nan], [1, 0]), "`times` must be finite .leave patients who failed out."),
        (lambda: kaplan_meier([1.0, 2.0], [1]), "`events` must be true or false for each patient .2."),
        (lambda: kaplan_meier([1.0, 2.0], [1, 2]), "`events` must be true or false for each patient"),
        (lambda: kaplan_meier([], []), "`times` must have shape .patients,."),
        (lambda: kaplan_meier(["a"], [1]), "`times` must hold numbers"),
        (lambda: kaplan_meier([1.0], [1], weights=[-1.0]), "`weights` must have a number of at least 0"),
        (lambda: kaplan_meier([1.0], [1], weights=[0.0]), "`weights` must have a number of at least 0"),
        (lambda: kaplan_meier([1.0], [1], level=95), "`level` must be between 0 and 1, but is 95"),
        (lambda: log_rank([1.0, 2.0], [1, 1], ["a", "a"]), "`groups` must have at least two groups"),
        (lambda: log_rank([1.0, 2.0], [1, 1], ["a"]), "`groups` must have one label for each patient .2."),
        (lambda: kaplan_meier([1.0, 2.0], ["1", "0"]), "`events` must be true or false for each patient .2."),
        (lambda: kaplan_meier([1.0, 2.0], [1, 1], weights=["a", "b"]), "`weights` must have a number of at least 0"),
        (lambda: hazard_ratio([1.0, 2.0], [1, 1], ["drug", "none"]), "`treated` must be true or false for each"),
        (lambda: hazard_ratio([1.0, 2.0], [1, 1], [True, True]), "`treated` must be true or false for each patient"),
    ],
)
def test_wrong_data_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
