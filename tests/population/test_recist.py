"""RECIST 1.1: the vectors of the guideline and its FAQ, edges of every criterion, table 3, transformations."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.population import RECIST, Response, assess, tumour_responses

NAN = np.nan
WEEKS = 42.0 * np.arange(8)


def judged(sums, *, times=None, stable_after=42.0, confirmation=None, **options):
    """Return the best response, the visits by name, and the whole assessment."""
    times = WEEKS[: len(sums)] if times is None else times
    criteria = {name: options.pop(name) for name in ("detectable", "millimetre") if name in options}
    assessment = assess(times, sums, RECIST(stable_after, confirmation=confirmation, **criteria), **options)
    return name(assessment.best), " ".join(map(name, assessment.visits)), assessment


def name(code):
    return Response(int(code)).name


@pytest.mark.parametrize(
    ("sums", "best", "visits"),
    [
        ([100, 70, 70, 80, 80, 80], "PR", "NE PR PR SD SD SD"),  # 80 is 14 % above the nadir
        ([10, 12.5], "SD", "NE SD"),  # 25 %, but below 5 mm
        ([50, 30, 36.1], "PR", "NE PR PD"),
        ([50, 40, 44.9], "SD", "NE SD SD"),
        ([50, 60], "PD", "NE PD"),  # 20 % to the digit
        ([25, 30], "PD", "NE PD"),  # 5 mm to the digit
        ([25, 29.9], "SD", "NE SD"),
        ([90, 63], "PR", "NE PR"),  # 30 % to the digit, where 0.7 * 90 is rounded down
        ([90, 63.1], "SD", "NE SD"),
        ([100, 110, 120], "SD", "NE SD PD"),  # the baseline is the nadir
        ([100, 0, 0], "CR", "NE CR CR"),
        ([100, 0, 6], "CR", "NE CR PD"),  # regrowth from a nadir of zero
        ([100, 0, 1], "CR", "NE CR PD"),  # any disease after CR
        ([100, 0, NAN, 1], "CR", "NE CR NE PD"),
        ([100, NAN, 60, NAN], "PR", "NE NE PR NE"),
        ([100, 60, NAN, 72.1], "PR", "NE PR NE PD"),  # the nadir is before the missed visit
        ([100, 130, 60, 0], "PD", "NE PD PR CR"),  # what comes after progression does not count
        ([NAN, 60, 50], "NE", "NE NE NE"),
        ([NAN, NAN, NAN], "NE", "NE NE NE"),
        ([100, NAN, NAN], "NE", "NE NE NE"),
        ([0, 10, 20], "NE", "NE NE NE"),
        ([100], "NE", "NE"),
    ],
)
def test_responses(sums, best, visits):
    assert judged(np.array(sums, float))[:2] == (best, visits)


def test_new_lesions_are_progression_even_where_nothing_was_measured():
    new = np.array([False, False, True, False])
    best, visits, assessment = judged([100.0, 60.0, NAN, 60.0], new_lesion=new)
    assert (best, visits) == ("PR", "NE PR PD PR")
    assert (assessment.time, assessment.event, assessment.duration) == (84.0, True, 42.0)
    assert judged([NAN, NAN, NAN, NAN], new_lesion=new)[0] == "PD"
    assert judged([100.0, 0.0, 0.0, 0.0], new_lesion=new)[1] == "NE CR PD CR"


def test_nodes_may_stay_below_ten_millimetres():
    sums, nodes = np.array([80.0, 9.9, 9.0, 15.5]), np.array([[20.0], [9.9], [9.0], [15.5]])
    best, visits, _ = judged(sums, nodes=nodes)
    assert (best, visits) == ("CR", "NE CR CR PD")
    assert judged(sums)[1] == "NE PR PR PD"
    assert judged(sums / 10, nodes=nodes / 10, millimetre=0.1)[1] == "NE CR CR PD"
    assert judged([80.0, 10.0], nodes=[[20.0], [10.0]])[1] == "NE PR"  # a node of 10 mm is not gone
    assert judged([80.0, 4.0, 9.5], nodes=[[20.0], [4.0], [9.5]])[1] == "NE CR CR"  # nodes within the normal
    assert judged([80.0, 2.0, 2.4, 2.6], detectable=2.5)[1] == "NE CR CR PD"


@pytest.mark.parametrize(
    ("sums", "best"),
    [  # table 3: the first response, the next visit 6 weeks later
        ([100, 0, 0], "CR"),
        ([100, 0, 50], "SD"),  # disease after CR is PD; the duration of SD is met
        ([100, 0, NAN], "SD"),
        ([100, 60, 0], "PR"),
        ([100, 60, 60], "PR"),
        ([100, 60, 72], "SD"),
        ([100, 60, 130], "SD"),
        ([100, 60, NAN], "SD"),
        ([100, 60, NAN, 60], "PR"),  # a missed visit between
        ([100, 60, 71, 60], "SD"),  # a lesser response between
        ([100, 60, 71, 60, 60], "PR"),
        ([100, 60, 0, 0], "CR"),
        ([100, 130, 60, 60], "PD"),
    ],
)
def test_confirmation(sums, best):
    assert judged(np.array(sums, float), confirmation=28.0)[0] == best


def test_confirmation_before_the_least_duration_of_stable_disease():
    early = {"confirmation": 28.0, "stable_after": 80.0}
    assert judged([100.0, 60.0, 130.0], **early)[0] == "PD"
    assert judged([100.0, 60.0, NAN], **early)[0] == "NE"
    assert judged([100.0, 0.0, 50.0], **early)[0] == "PD"
    assert judged([100.0, 60.0, 71.0], **early)[0] == "SD"
    assert judged([100.0, 95.0, 130.0], stable_after=43.0)[0] == "PD"
    assert judged([100.0, 95.0], stable_after=43.0)[0] == "NE"
    assert judged([100.0, 60.0], stable_after=400.0)[0] == "PR"  # responses have no least duration
    close = [0.0, 42.0, 60.0, 70.0]
    assert judged([100.0, 60.0, 60.0, 60.0], times=close, confirmation=28.0)[0] == "PR"  # the third is 28 days later
    assert judged([100.0, 60.0, 60.0], times=close[:3], confirmation=28.0)[0] == "SD"


def test_times():
    _, _, assessment = judged([100.0, 95.0, 60.0, 60.0, 50.0, 62.0, 62.0], confirmation=28.0)
    assert (assessment.response_time, assessment.time, assessment.event) == (84.0, 210.0, True)
    assert assessment.duration == 126.0
    np.testing.assert_allclose(assessment.change[:3], [0.0, -0.05, -0.4], atol=1e-15)
    assert assessment.deepest == -0.5
    assert judged([100.0, 130.0, 60.0])[2].deepest == pytest.approx(0.3)  # nothing after progression counts
    _, _, assessment = judged([100.0, 95.0, 90.0, NAN], times=[10.0, 52.0, 94.0, 136.0])
    assert (assessment.time, assessment.event) == (84.0, False)  # censored at the last assessment, from baseline
    assert np.isnan(assessment.response_time)
    assert np.isnan(assessment.duration)
    for sums in ([100.0, NAN], [NAN, NAN], [NAN, 40.0]):
        assert judged(sums)[2].event == False  # noqa: E712
        assert np.isnan(judged(sums)[2].deepest)
    assert judged([100.0, NAN])[2].time == judged([NAN, NAN])[2].time == 0.0
    assert judged([NAN, 40.0, 30.0])[2].time == judged([0.0, 40.0, 30.0])[2].time == 0.0  # nothing to compare with


def test_death_ends_progression_free_survival():
    sums = np.array([[100.0, 60.0, 60.0], [100.0, 60.0, 130.0], [100.0, 60.0, 60.0], [100.0, NAN, NAN]])
    assessment = assess(WEEKS[:3], sums, RECIST(42.0), death=[100.0, 100.0, np.inf, 20.0])
    assert assessment.time.tolist() == [100.0, 84.0, 84.0, 20.0]
    assert assessment.event.tolist() == [True, True, False, True]
    assert assess(WEEKS[:3], sums, RECIST(42.0), death=[NAN] * 4).event.tolist() == [False, True, False, False]


def test_the_same_under_jit_vmap_and_for_one_patient():
    draw = np.random.default_rng(0)
    sums = 80.0 * np.exp(np.cumsum(0.25 * draw.normal(size=(200, 8)), axis=1))
    sums = np.where(draw.uniform(size=sums.shape) < 0.15, NAN, np.where(sums < 25.0, 0.0, sums))
    new, criteria = draw.uniform(size=sums.shape) < 0.03, RECIST(42.0, confirmation=28.0)
    whole = assess(WEEKS, sums, criteria, new_lesion=new)
    assert {name(code) for code in whole.best.tolist()} == set(Response.__members__)

    def one(sums, new):
        return assess(WEEKS, sums, criteria, new_lesion=new)

    for other in (jax.jit(jax.vmap(one))(sums, new), jax.jit(one)(sums, new)):
        jax.tree.map(np.testing.assert_array_equal, other, whole)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y[7]), one(sums[7], new[7]), whole)
    shifted = assess(WEEKS + np.arange(200.0)[:, None], sums, criteria, new_lesion=new)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12), shifted, whole)
    best, expected = whole.best, [slowly(*row) for row in zip(sums, new, strict=True)]
    assert [name(code) for code in best.tolist()] == expected


def slowly(sums, new):
    """Return the best response, written visit by visit: confirmed after 28 days, stable from 42."""
    nadir, gone, codes = sums[0], sums[0] == 0.0, []
    evaluable = sums[0] > 0.0
    for k in range(1, len(sums)):
        y = sums[k]
        if new[k] or (evaluable and (y >= 1.2 * nadir and y - nadir >= 5.0 or gone and y > 0.0)):
            codes.append((WEEKS[k], "PD"))
            break
        if evaluable and not np.isnan(y):
            codes.append((WEEKS[k], "CR" if y == 0.0 else "PR" if y <= 0.7 * sums[0] else "SD"))
            nadir, gone = min(nadir, y), gone or y == 0.0
    for level, enough in (("CR", {"CR"}), ("PR", {"CR", "PR"})):
        for (_, first), (_, second) in zip(codes[:-1], codes[1:], strict=True):  # visits are 42 days apart
            if first in enough and second in enough:
                return level
    if any(code != "PD" for _, code in codes):
        return "SD"
    return "PD" if codes else "NE"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: assess([0.0, 1.0], [1.0, -2.0], RECIST(1.0)), "`diameters` must be at least 0, but is -2"),
        (lambda: assess([0.0, 1.0], 3.0, RECIST(1.0)), "`diameters` must have shape .patients, visits."),
        (lambda: assess([0.0], [1.0, 2.0], RECIST(1.0)), "`times` must have one number per visit .2., but is of shape"),
        (lambda: assess([1.0, 0.0], [1.0, 2.0], RECIST(1.0)), "`times` must increase from visit to visit"),
        (lambda: assess([0.0, NAN], [1.0, 2.0], RECIST(1.0)), "`times` must increase from visit to visit"),
        (lambda: assess([0.0, 1.0], [1.0, 2.0], 42.0), "`criteria` must be criteria such as"),
        (lambda: assess([0.0, 1.0], [1.0, 2.0], RECIST(1.0), new_lesion=[True]), "`new_lesion` must have shape .2,."),
        (lambda: assess([0.0, 1.0], [1.0, 2.0], RECIST(1.0), nodes=[1.0, 2.0]), "`nodes` must have shape"),
        (lambda: assess([0.0, 1.0], [1.0, 2.0], RECIST(1.0), nodes=[[1.0], [3.0]]), "`nodes` must be part of the sums"),
        (lambda: RECIST(-1.0), "`stable_after` must be at least 0"),
        (lambda: RECIST("six weeks"), "`stable_after` must be a number"),
        (lambda: RECIST(42.0, millimetre=0.0), "`millimetre` must be positive"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def shrinking(rates):
    """Return the result of a trial of tumours of 80 or 40 mm that shrink by these rates a day."""
    tumour = qsp.models.OneCompartment(CL=1.0, V=1.0)
    cohort = qsp.Cohort.of(tumour, {"CL": np.ones(len(rates))})
    cohort = eqx.tree_at(lambda c: c.model.CL, cohort, jnp.array(rates))
    visits, criteria = [0.0, 42.0, 84.0], RECIST(42.0)
    best = qsp.endpoints.BestResponse("concentration", visits, criteria)
    endpoints = {"best": best, "response": qsp.endpoints.Responder(best, at_least=Response.PR)}
    arms = [qsp.Arm("drug", qsp.bolus(80.0, to="central")), qsp.Arm("half", qsp.bolus(40.0, to="central"))]
    trial = qsp.Trial(arms, [0.0, 21.0, 42.0, 84.0], endpoints=endpoints)
    return qsp.simulate_trial(trial, cohort), visits, criteria


def test_best_response_is_an_endpoint_and_a_table():
    result, visits, criteria = shrinking([0.001, 0.01, 0.02, np.nan])
    best = np.asarray(result.arm("drug").endpoints["best"])
    np.testing.assert_array_equal(best, [Response.SD, Response.PR, Response.PR, np.nan])
    rows = {(row.endpoint, row.arm): row for row in qsp.summarise(result)}
    assert rows["response", "drug"].mean == pytest.approx(2 / 3)
    responses = tumour_responses(result, "concentration", criteria, visits=visits)
    assert responses.arms["drug"].failed == 1
    assert [row.best for row in responses.patients()] == ["SD", "PR", "PR"] * 2
    assert [row.time for row in responses.patients()][:3] == [84.0] * 3
    assert responses.arms["drug"].counts() == {"CR": 0, "PR": 2, "SD": 1, "PD": 0, "NE": 0}
    assert str(responses).splitlines()[1].split()[:9] == ["drug", "3", "1", "0", "2", "1", "0", "0", "66.7"]
    with pytest.raises(ValueError, match="`visits` must be among the times of the trial, but is .50.0."):
        tumour_responses(result, "concentration", criteria, visits=[0.0, 50.0])
    with pytest.raises(ValueError, match="`output` must name an observed value of the trial"):
        tumour_responses(result, "diameter", criteria)
    with pytest.raises(ValueError, match="`visits` must be the times of the baseline and of at least one visit"):
        qsp.endpoints.BestResponse("concentration", [0.0], criteria)
    with pytest.raises(ValueError, match="`visits` must increase from visit to visit, but is .0.0, 0.0."):
        qsp.endpoints.BestResponse("concentration", [0.0, 0.0], criteria)


def test_visits_between_reported_times_are_solved_for():
    cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=1.0, V=1.0), {"CL": [0.002, 0.01]})
    best = qsp.endpoints.BestResponse("concentration", [0.0, 40.0, 60.0], RECIST(42.0))
    trial = qsp.Trial([qsp.Arm("drug", qsp.bolus(80.0, to="central"))], [0.0, 84.0], endpoints={"best": best})
    assert qsp.simulate_trial(trial, cohort).arms[0].endpoints["best"].tolist() == [Response.SD, Response.PR]
