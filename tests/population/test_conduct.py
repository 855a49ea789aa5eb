"""How trials are conducted: enrolment, dropout, adherence, visits, strata; drawn from keys, the same in every arm."""

import jax
import numpy as np
import pytest
from scipy import stats

import qspjax as qsp
from qspjax.population import (
    RECIST,
    Adherence,
    Dropout,
    Enrolment,
    Events,
    Stratified,
    Visits,
    event_times,
    follow_up,
    tumour_responses,
)

KEY = jax.random.key(5)
MODEL = qsp.models.OneCompartment(CL=3.0, V=30.0)
DAILY = qsp.bolus(100.0, to="central").every(24.0, doses=5)


def test_enrolment_and_dropout_have_their_distributions():
    enters = Enrolment(over=180.0).times(2000, key=KEY)
    assert stats.kstest(enters / 180.0, "uniform").pvalue > 0.01
    for shape in (0.7, 1.0, 2.0):
        leaves = Dropout(365.0, shape).times(2000, key=KEY)
        assert stats.kstest(leaves, stats.weibull_min(shape, scale=365.0).cdf).pvalue > 0.01
    np.testing.assert_array_equal(enters, Enrolment(over=180.0).times(2000, key=KEY))


def test_follow_up_censors_by_dropout_and_by_the_end_of_the_trial():
    times, events = [5.0, 9.0, 9.0, 9.0, 4.0], [True, True, False, True, True]
    seen, happened = follow_up(times, events, dropout=[9.0, 7.0, 20.0, 9.0, 20.0])
    assert (seen.tolist(), happened.tolist()) == ([5.0, 7.0, 9.0, 9.0, 4.0], [True, False, False, True, True])
    seen, happened = follow_up(times, events, entry=[0.0, 2.0, 5.0, 10.0, 6.0], cutoff=10.0)
    assert (seen.tolist(), happened.tolist()) == ([5.0, 8.0, 5.0, 4.0], [True, False, False, True])
    assert follow_up(times, events)[0].tolist() == times
    with pytest.raises(ValueError, match="`entry` must have one number for each patient .5."):
        follow_up(times, events, entry=[1.0])
    with pytest.raises(ValueError, match="`dropout` must have one number for each patient .5."):
        follow_up(times, events, dropout=[np.nan, 7.0, 20.0, 9.0, 20.0])
    for wrong in (["yes"] * 5, [True], True):
        with pytest.raises(ValueError, match="`events` must be true or false for each patient .5."):
            follow_up(times, wrong)
    with pytest.raises(ValueError, match="`times` must have a number for each patient"):
        follow_up([np.nan], [True])
    assert [x.size for x in follow_up([], [])] == [0, 0]  # all failed


def test_doses_are_missed_and_late_as_often_as_said():
    taken = Adherence(missed=0.2, late=0.3, delay=6.0).apply(DAILY, 4000, key=KEY)
    time = np.asarray(taken.time)
    assert np.isinf(time).mean() == pytest.approx(0.2, abs=0.01)
    delay = (time - np.asarray(DAILY.time))[np.isfinite(time)]
    assert (delay > 0.0).mean() == pytest.approx(0.3, abs=0.02)
    assert delay.min() == 0.0
    assert delay.max() == pytest.approx(6.0, abs=0.01)
    assert delay[delay > 0.0].mean() == pytest.approx(3.0, abs=0.1)
    np.testing.assert_array_equal(Adherence().apply(DAILY, 3, key=KEY).time, np.tile(DAILY.time, (3, 1)))
    reset = DAILY + qsp.reset(at=30.0)
    forgotten = Adherence(missed=1.0).apply(reset, 2, key=KEY)
    assert np.isfinite(forgotten.time).sum(axis=1).tolist() == [1, 1]  # nobody misses a reset
    with pytest.raises(ValueError, match="`regimen` must have single doses only"):
        Adherence(missed=0.1).apply(DAILY.every(120.0, doses=1).at_steady_state(), 2, key=KEY)


def trial(arms, **parts):
    endpoints = {"C": qsp.endpoints.Value("concentration", at=120.0)}
    return qsp.Trial([qsp.Arm(name, doses) for name, doses in arms.items()], [0.0, 120.0], endpoints=endpoints, **parts)


def test_arms_of_the_same_patients_miss_the_same_doses():
    cohort = qsp.Cohort.of(MODEL, {"CL": np.linspace(1.0, 4.0, 12)})
    doubled = qsp.bolus(200.0, to="central").every(24.0, doses=5)
    adherence = Adherence(missed=0.4, late=0.5, delay=5.0)
    arms = {"100 mg": DAILY, "200 mg": doubled}
    result = qsp.simulate_trial(trial(arms, adherence=adherence), cohort, key=KEY)
    single, double = (np.asarray(arm.endpoints["C"]) for arm in result.arms)
    np.testing.assert_allclose(double, 2.0 * single, rtol=1e-9)
    taken = adherence.apply(DAILY, 12, key=jax.random.fold_in(KEY, 1)).time
    wanted = [
        sum(100.0 / 30.0 * np.exp(-cl / 30.0 * (120.0 - at)) for at in times if np.isfinite(at))
        for cl, times in zip(np.linspace(1.0, 4.0, 12), np.asarray(taken), strict=True)
    ]
    np.testing.assert_allclose(single, wanted, rtol=1e-9)
    apart = qsp.simulate_trial(trial(arms, adherence=adherence, allocation=qsp.Randomised()), cohort, key=KEY)
    for arm, whole in zip(apart.arms, (single, double), strict=True):
        np.testing.assert_allclose(arm.endpoints["C"], whole[arm.members], rtol=1e-9)
    with pytest.raises(ValueError, match="`key` must be a PRNG key"):
        qsp.simulate_trial(trial(arms, adherence=adherence), cohort)
    with pytest.raises(ValueError, match="`adherence` must be"):
        trial(arms, adherence=0.8)


@pytest.mark.parametrize("adherence", [None, Adherence(missed=0.4, late=0.5, delay=5.0)])
@pytest.mark.parametrize("allocation", [qsp.Randomised([2, 1]), Stratified(["a", "b", "b"] * 4)])
def test_doses_that_differ_between_patients_follow_them_into_their_arm(allocation, adherence):
    cohort = qsp.Cohort.of(MODEL, {"CL": np.linspace(1.0, 4.0, 12)})
    each = qsp.bolus(np.linspace(50.0, 160.0, 12), to="central").every(24.0, doses=5)
    arms = {"each": each, "twice": each + each}
    whole = qsp.simulate_trial(trial(arms, adherence=adherence), cohort, key=KEY)
    apart = qsp.simulate_trial(trial(arms, adherence=adherence, allocation=allocation), cohort, key=KEY)
    for arm, everyone in zip(apart.arms, whole.arms, strict=True):
        assert arm.members.size < 12
        np.testing.assert_allclose(arm.endpoints["C"], np.asarray(everyone.endpoints["C"])[arm.members], rtol=1e-9)
    for few in (4, 6, 8):  # the size of an arm is no size of the cohort
        doses = {"few": qsp.bolus(np.ones(few), to="central"), "daily": DAILY}
        with pytest.raises(ValueError, match="`regimen` must have one row per patient .12."):
            qsp.simulate_trial(trial(doses, allocation=allocation), cohort, key=KEY)


def test_strata_are_balanced():
    strata = np.array(["a"] * 31 + ["b"] * 9 + ["c"])
    allocation = Stratified(strata, ratio=[2, 1])
    first, second = allocation.members(41, 2, key=KEY)
    assert sorted([*first, *second]) == list(range(41))
    counts = [(strata[members] == "a").sum() for members in (first, second)]
    assert counts in ([20, 11], [21, 10])
    assert [(strata[members] == "b").sum() for members in (first, second)] == [6, 3]
    again = allocation.members(41, 2, key=KEY)
    np.testing.assert_array_equal(first, again[0])
    assert first.tolist() != allocation.members(41, 2, key=jax.random.key(6))[0].tolist()
    sizes = [len(Stratified(["a"] * 3).members(3, 2, key=jax.random.key(k))[0]) for k in range(40)]
    assert set(sizes) == {1, 2}  # the odd patient goes to either
    unknown = np.where(strata == "b", np.nan, np.where(strata == "c", 2.0, 1.0))
    groups = Stratified(unknown, ratio=[2, 1]).members(41, 2, key=KEY)
    assert [np.isnan(unknown[members]).sum() for members in groups] == [6, 3]  # those without a number are one stratum
    with pytest.raises(ValueError, match="`strata` must have one label for each patient .5., but has 41"):
        allocation.members(5, 2, key=KEY)
    with pytest.raises(ValueError, match="`ratio` must have one number per arm .3."):
        allocation.members(41, 3, key=KEY)
    with pytest.raises(ValueError, match="`key` must be"):
        allocation.members(41, 2, key=None)


def test_visits_are_within_windows_and_measured_with_error():
    visits = Visits([0.0, 42.0, 84.0], window=7.0, missed=0.1, error=0.1)
    times, values = visits.measured([0.0, 100.0], np.tile([100.0, 50.0], (3000, 1)), key=KEY)
    assert (times[:, 0] == 0.0).all()
    assert np.abs(times - [0.0, 42.0, 84.0]).max() == pytest.approx(7.0, abs=0.01)
    assert np.isnan(values).mean(axis=0) == pytest.approx([0.0, 0.1, 0.1], abs=0.02)
    relative = values / (100.0 - 0.5 * times) - 1.0
    assert np.nanstd(relative, axis=0) == pytest.approx([0.1] * 3, abs=0.005)
    assert np.nanmean(relative, axis=0) == pytest.approx([0.0] * 3, abs=0.01)
    exact, true = Visits([0.0, 50.0, 120.0]).measured([0.0, 100.0], [[80.0, 40.0]], key=KEY)
    np.testing.assert_array_equal(exact, [[0.0, 50.0, 120.0]])
    np.testing.assert_array_equal(true, [[80.0, 60.0, np.nan]])  # the last is after the simulation


def test_responses_at_visits_that_are_not_on_time():
    cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=1.0, V=1.0), {"CL": np.linspace(0.001, 0.02, 30)})
    shrinks = qsp.Trial([qsp.Arm("drug", qsp.bolus(80.0, to="central"))], np.arange(0.0, 100.0, 2.0))
    result = qsp.simulate_trial(shrinks, cohort)
    visits = Visits([0.0, 42.0, 84.0], window=5.0)
    found = tumour_responses(result, "concentration", RECIST(42.0), visits=visits, key=KEY).arms["drug"]
    assert found.times.shape == (30, 3)
    np.testing.assert_allclose(found.assessment.time, found.times[:, -1])
    assert 0 < found.counts()["PR"] < 30
    with pytest.raises(ValueError, match="`key` must be a PRNG key"):
        tumour_responses(result, "concentration", RECIST(42.0), visits=visits)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Enrolment(over=-1.0), "`over` must be at least 0"),
        (lambda: Dropout(scale=0.0), "`scale` must be positive"),
        (lambda: Adherence(missed=1.5), "`missed` must be a share between 0 and 1"),
        (lambda: Adherence(delay=-1.0), "`delay` must be at least 0"),
        (lambda: Adherence(missed=[0.1, 0.2]), "`missed` must be one number, but is of shape .2,."),
        (lambda: Adherence(missed=0.1).apply(DAILY.time, 2, key=KEY), "`regimen` must be a regimen"),
        (lambda: Enrolment(over=[1.0, 2.0]), "`over` must be one number"),
        (lambda: Dropout(scale=[1.0, 2.0]), "`scale` must be one number"),
        (lambda: Visits([0.0, 10.0], missed=2.0), "`missed` must be a share between 0 and 1, but is 2"),
        (lambda: Visits([0.0]), "`at` must be the times of the baseline and of at least one visit"),
        (lambda: Visits([0.0, 0.0]), "`at` must increase from visit to visit"),
        (lambda: Visits([0.0, 10.0], window=5.0), "`window` must be less than half the time between visits"),
        (lambda: Visits([0.0, 10.0]).measured([0.0], [1.0], key=KEY), "`values` must have shape .patients, times."),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_nobody_has_data_after_he_left_died_or_the_trial_ended():
    """A tumour that halves every 42 days, in patients who enter over 100 days of a trial of 200."""
    tumour = qsp.models.OneCompartment(CL=np.log(2.0) / 42.0, V=1.0)
    cohort = qsp.Cohort.of(tumour, {"V": np.ones(400)})
    arms = [qsp.Arm(name, qsp.bolus(100.0, to="central")) for name in ("a", "b")]
    visits = np.array([0.0, 42.0, 84.0, 126.0, 168.0])
    conduct = {"enrolment": Enrolment(over=100.0), "dropout": Dropout(scale=120.0), "cutoff": 200.0}
    trial = qsp.Trial(arms, visits, **conduct)
    result = qsp.simulate_trial(trial, cohort, key=jax.random.key(0))
    again = qsp.simulate_trial(qsp.Trial(arms[:1], visits, **conduct), cohort, key=jax.random.key(0))
    np.testing.assert_array_equal(result.until, again.until)
    assert 100.0 < np.max(result.until) <= 200.0
    responses = tumour_responses(result, "concentration", RECIST(stable_after=42.0))
    for arm in responses.arms.values():
        seen = np.isfinite(np.asarray(arm.assessment.change))
        np.testing.assert_array_equal(seen, visits <= result.until[arm.patients][:, None])
        assert not np.asarray(arm.assessment.event).any()
        np.testing.assert_array_equal(arm.assessment.time, visits[seen.sum(1) - 1])

    death = np.where(np.arange(400) % 2 == 0, 50.0, np.inf)
    responses = tumour_responses(result, "concentration", RECIST(stable_after=42.0), death={"b": death})
    alive, dying = (responses.arms[name].assessment for name in "ab")
    died = (np.arange(400) % 2 == 0) & (result.until >= 50.0)
    np.testing.assert_array_equal(dying.event, died)
    np.testing.assert_array_equal(np.asarray(dying.time)[died], 50.0)
    np.testing.assert_array_equal(np.asarray(dying.time)[~died], np.asarray(alive.time)[~died])
    with pytest.raises(ValueError, match="Argument `death..b..` must have a number for each patient"):
        tumour_responses(result, "concentration", RECIST(stable_after=42.0), death={"b": death[:3]})


def test_events_are_seen_until_patients_leave():
    model = qsp.models.OneCompartment(CL=1e-9, V=1.0)  # what is infused adds up to the cumulative hazard
    cohort = qsp.Cohort.of(model, {"V": np.ones(300)})
    arms, ts = [qsp.Arm("0.02 a day", qsp.infusion(8.0, to="central", rate=0.02))], [0.0, 200.0, 400.0]
    whole = qsp.simulate_trial(qsp.Trial(arms, ts), cohort)
    left = qsp.simulate_trial(qsp.Trial(arms, ts, dropout=Dropout(scale=60.0)), cohort, key=jax.random.key(2))
    all_of_them, seen = (
        event_times(x, "concentration", key=jax.random.key(1)).arms["0.02 a day"] for x in (whole, left)
    )
    expected = follow_up(all_of_them.times, all_of_them.events, dropout=left.until)
    np.testing.assert_array_equal(seen.times, expected[0])
    np.testing.assert_array_equal(seen.events, expected[1])
    deaths = Events({"a": seen}).deaths(300)["a"]
    np.testing.assert_array_equal(np.isfinite(deaths), seen.events)


def test_a_late_patient_never_enters():
    cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=0.01, V=1.0), {"V": np.ones(50)})
    arms = [qsp.Arm("a", qsp.bolus(100.0, to="central"))]
    trial = qsp.Trial(arms, [0.0, 42.0], enrolment=Enrolment(over=100.0), cutoff=50.0)
    result = qsp.simulate_trial(trial, cohort, key=jax.random.key(0))
    arm = tumour_responses(result, "concentration", RECIST(stable_after=42.0)).arms["a"]
    np.testing.assert_array_equal(arm.patients, np.flatnonzero(result.until > 0.0))
    assert (0 < arm.patients.size < 50, arm.failed) == (True, 0)
    with pytest.raises(ValueError, match="Argument `cutoff` must be positive"):
        qsp.Trial(arms, [0.0], cutoff=0.0)
