"""Times to events from a cumulative hazard: their distribution, the same luck in every arm, and the table."""

import jax
import numpy as np
import pytest
from scipy import stats

import qspjax as qsp
from qspjax.population import (
    RECIST,
    ArmEvents,
    Events,
    event_times,
    hazard_ratio,
    kaplan_meier,
    log_rank,
    progression_free,
    share,
    tumour_responses,
)

KEY = jax.random.key(2)
SIZE = 1000
COHORT = qsp.Cohort.of(qsp.models.OneCompartment(CL=1e-12, V=1.0), {"V": np.full(SIZE, 2.0)})


@pytest.fixture(scope="module")
def result():
    """Return a trial in which concentrations are cumulative hazards of 0.1 and 0.05 a day, for 30 days from day 10."""
    rates = {"control": 0.2, "drug": 0.1}
    arms = [qsp.Arm(name, qsp.infusion(100.0, to="central", rate=rate)) for name, rate in rates.items()]
    return qsp.simulate_trial(qsp.Trial(arms, np.linspace(10.0, 40.0, 4)), COHORT)


def test_times_have_the_distribution_of_the_hazard(result):
    found = event_times(result, "concentration", key=KEY)
    for name, hazard in (("control", 0.1), ("drug", 0.05)):
        arm = found.arms[name]
        seen = arm.times[arm.events]
        assert stats.kstest(seen, stats.truncexpon(30.0 * hazard, scale=1.0 / hazard).cdf).pvalue > 0.01
        assert arm.events.mean() == pytest.approx(1.0 - np.exp(-30.0 * hazard), abs=0.04)
        assert (arm.times[~arm.events] == 30.0).all()
        curve = found.curves()[name]
        assert curve.median.low < np.log(2.0) / hazard < curve.median.high
    both = found.arms["control"].events & found.arms["drug"].events
    np.testing.assert_allclose(found.arms["drug"].times[both], 2.0 * found.arms["control"].times[both], rtol=1e-5)
    ratio, p = found.compared("drug")
    assert ratio.low < 0.5 < ratio.high
    assert p < 1e-6
    assert found.compared("control", "drug")[0].ratio == pytest.approx(1.0 / ratio.ratio)
    treated = np.repeat([False, True], SIZE)
    times, events = (np.concatenate([arm[k] for arm in found.arms.values()]) for k in (1, 2))
    assert ratio == hazard_ratio(times, events, treated)
    assert p == log_rank(times, events, treated).p
    assert str(found).splitlines()[2].split()[:3] == ["drug", str(SIZE), str(found.arms["drug"].events.sum())]


def test_mistakes_are_named(result):
    falls = qsp.Trial([qsp.Arm("a", qsp.bolus(1.0, to="central"))], [0.0, 10.0])
    falling = qsp.simulate_trial(falls, qsp.Cohort.of(qsp.models.OneCompartment(CL=1.0, V=1.0), {"V": [2.0]}))
    with pytest.raises(ValueError, match="`cumulative_hazard` must never fall, but is `concentration`, which does"):
        event_times(falling, "concentration", key=KEY)
    with pytest.raises(ValueError, match="`cumulative_hazard` must name an observed value"):
        event_times(result, "hazard", key=KEY)
    with pytest.raises(ValueError, match="`arm` must name an arm of the trial"):
        event_times(result, "concentration", key=KEY).compared("placebo")


def test_progression_free_survival_is_that_of_the_responses(result):
    responses = tumour_responses(result, "concentration", RECIST(10.0, millimetre=0.01))
    found = progression_free(responses).arms["control"]
    np.testing.assert_array_equal(found.times, responses.arms["control"].assessment.time)
    assert found.curve().median == responses.arms["control"].progression_free().median


def test_an_arm_whose_patients_all_failed_has_no_numbers():
    some = ArmEvents(np.arange(2), np.array([5.0, 8.0]), np.array([True, True]))
    nobody = ArmEvents(np.arange(0), np.array([]), np.array([], bool))
    for arms, row in (({"a": some, "b": nobody}, 2), ({"b": nobody, "a": some}, 1)):
        assert str(Events(arms)).splitlines()[row].split() == ["b", "0", "0", "-", "-", "-", "-", "-"]


def test_weights_are_those_of_the_cohort(result):
    found, chosen = event_times(result, "concentration", key=KEY), np.arange(SIZE) < 100
    curve = found.curves(weights=2.0 * chosen)["drug"]
    alone = kaplan_meier(found.arms["drug"].times[:100], found.arms["drug"].events[:100])
    np.testing.assert_allclose(curve.survival, alone.survival, rtol=1e-12)
    responses = tumour_responses(result, "concentration", RECIST(10.0, millimetre=0.01)).arms["drug"]
    weighted, first = responses.progression_free(weights=chosen), responses.assessment.event[:100]
    assert weighted.at_risk[0] == 100
    assert weighted.events.sum() == first.sum()
    assert responses.response(weights=chosen) == share(responses.assessment.responded[:100])
    with pytest.raises(ValueError, match="`weights` must have a number for each patient of the cohort"):
        responses.response(weights=[1.0, 2.0])
