"""Exposure of simulations against closed forms, whatever the times that are reported: values and derivatives."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

import qspjax as qsp
from qspjax._exposure import together
from qspjax.population.endpoints import (
    AUC,
    Average,
    ChangeFromBaseline,
    Cmax,
    Cmin,
    RelativeChange,
    TimeAbove,
    TimeBelow,
    Tmax,
    Trough,
    Value,
)

CL, V, KA, LAG = 3.0, 30.0, 1.2, 0.25
AMOUNT, EVERY, DOSES, END, LEVEL = 100.0, 24.0, 14, 336.0, 1.0
GRIDS = {"6 h": np.arange(0.0, END + 1.0, 6.0), "2 h": np.arange(0.0, END + 1.0, 2.0), "last": np.array([END])}
REGIMEN = qsp.bolus(AMOUNT, to="depot").every(EVERY, doses=DOSES)
LAST = (END - EVERY, END)
ASKED = (
    AUC("concentration", between=(0.0, END)),
    AUC("concentration", between=LAST),
    Average("concentration", between=LAST),
    Cmax("concentration", between=(0.0, END)),
    Tmax("concentration", between=(0.0, END)),
    Cmin("concentration", between=LAST),
    TimeAbove("concentration", LEVEL, between=(0.0, END)),
    TimeBelow("concentration", LEVEL, between=(100.0, END)),
    Trough("concentration", between=LAST),
)


def padded(ts, size=170):
    return np.concatenate([ts, np.full(size - len(ts), np.inf)])


def closed(theta):
    """Return the same by the closed form, extremes and crossings by bisection."""
    CL, V, ka, lag = theta
    k = CL / V

    def concentration(t):
        since = t - lag - EVERY * np.arange(DOSES)
        since = since[since > 0.0]
        return np.sum(AMOUNT * ka / (V * (ka - k)) * (np.exp(-k * since) - np.exp(-ka * since)))

    def area(t):
        since = t - lag - EVERY * np.arange(DOSES)
        since = since[since > 0.0]
        rest = np.exp(-k * since) / k - np.exp(-ka * since) / ka
        return np.sum(AMOUNT * ka / (V * (ka - k)) * (1 / k - 1 / ka - rest))

    def slope(t):
        since = t - lag - EVERY * np.arange(DOSES)
        since = since[since > 0.0]
        return np.sum(ka * np.exp(-ka * since) - k * np.exp(-k * since))

    def crossings():
        for dose in range(DOSES):
            begin = lag + EVERY * dose
            peak = brentq(slope, begin + 1e-3, begin + 20.0, xtol=1e-13)
            yield brentq(lambda t: concentration(t) - LEVEL, begin, peak, xtol=1e-13)
            yield brentq(lambda t: concentration(t) - LEVEL, peak, min(begin + EVERY, END), xtol=1e-13)

    times = np.array(list(crossings()))
    above = np.sum(times[1::2] - times[::2])
    late = np.clip(times, 100.0, None)
    peak = brentq(slope, END - EVERY + lag + 1e-3, END - 1.0, xtol=1e-13)
    trough = concentration(END - EVERY + lag)
    last = area(END) - area(END - EVERY)
    return np.array(
        [
            *(area(END), last, last / EVERY),
            *(concentration(peak), peak, trough),
            *(above, END - 100.0 - np.sum(late[1::2] - late[::2]), concentration(END)),
        ]
    )


def asked(theta, ts):
    patient = qsp.models.OneCompartmentOral(*theta[:3], tlag=theta[3])
    solution = qsp.simulate(patient, REGIMEN, ts, throw=False)
    return together(lambda one: jnp.stack([endpoint(one) for endpoint in ASKED]), solution)


THETA = np.array([CL, V, KA, LAG])
values = jax.jit(asked)


@pytest.mark.parametrize("grid", GRIDS)
def test_repeated_doses_have_the_exposure_of_the_closed_form_on_any_grid(grid):
    np.testing.assert_allclose(values(THETA, padded(GRIDS[grid])), closed(THETA), rtol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_derivatives_are_those_of_the_closed_form(mode):
    found = jax.jit(mode(asked))(THETA, padded(GRIDS["last"]))
    steps = 1e-5 * THETA
    apart = [(closed(THETA + row) - closed(THETA - row)) / (2 * row.max()) for row in np.diag(steps)]
    np.testing.assert_allclose(found, np.transpose(apart), rtol=1e-5, atol=1e-6)


def test_values_between_reported_times_are_those_of_the_model():
    """Before, at and after the second of two doses, reported or not, with the slope in the time."""
    ts, k, regimen = np.array([0.0, 24.0]), CL / V, qsp.bolus(60.0, to="central").every(6.0, doses=2)

    def right(at):
        return 2.0 * np.exp(-k * at) + np.where(at >= 6.0, 2.0 * np.exp(-k * (at - 6.0)), 0.0)

    asked = [Value("concentration", at=at) for at in (0.0, 4.0, 6.0, 10.0, 24.0)]
    asked += [ChangeFromBaseline("concentration", at=10.0, baseline=4.0), RelativeChange("concentration", at=10.0)]
    solved = qsp.simulate(qsp.models.OneCompartment(CL=CL, V=V), regimen, ts)
    found = together(lambda one: jnp.stack([endpoint(one) for endpoint in asked]), solved)
    exact = right(np.array([0.0, 4.0, 6.0, 10.0, 24.0]))
    np.testing.assert_allclose(found, [*exact, exact[3] - exact[1], exact[3] / exact[0] - 1.0], rtol=1e-12)
    slopes = [jax.grad(lambda at: Value("concentration", at=at)(solved))(at) for at in (10.0, 24.0)]
    np.testing.assert_allclose(slopes, [-k * exact[3], -k * exact[4]], rtol=1e-10)
    assert np.isnan(Value("concentration", at=24.5)(solved))
    cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=CL, V=V), {"CL": np.array([CL, CL])})
    trial = qsp.Trial([qsp.Arm("a", regimen)], ts, endpoints={"C4": asked[1], "C24": asked[4]})
    values = qsp.simulate_trial(trial, cohort).arm("a").endpoints
    np.testing.assert_allclose([values["C4"][1], values["C24"][1]], exact[[1, 4]], rtol=1e-12)


def test_a_failed_patient_of_a_cohort_has_no_exposure_and_changes_nothing_for_others():
    clearance = np.array([2.0, np.nan, 4.0])
    cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=V), {"CL": np.ones(3)}, size=3)
    cohort = eqx.tree_at(lambda c: c.model.CL, cohort, jnp.asarray(clearance))
    area = AUC("concentration", between=(0.0, 24.0))
    found = qsp.simulate_cohort(cohort, qsp.bolus(60.0, to="central"), [24.0], save=(), reduce=area)
    np.testing.assert_array_equal(found.failed, [False, True, False])
    np.testing.assert_allclose(found.reduced, 60.0 / clearance * (1.0 - np.exp(-clearance / V * 24.0)), rtol=1e-12)


def test_a_window_beyond_the_simulation_is_nan_and_samples_alone_say_so():
    solution = qsp.simulate(qsp.models.OneCompartment(CL=CL, V=V), qsp.bolus(60.0, to="central"), [0.0, 24.0])
    assert np.isnan(AUC("concentration", between=(0.0, 30.0))(solution))
    with pytest.raises(ValueError, match=r"`output` must name an observed value \(concentration\), but is `d`"):
        AUC("d")(solution)
    samples = qsp.Solution(solution.ts, solution.observed, None, solution.result, {}, None, solution.labels)
    with pytest.warns(
        UserWarning, match="`Cmax` is computed from the samples alone: this solution does not know its model"
    ):
        assert Cmax("concentration")(samples) == 2.0


@pytest.mark.slow
def test_a_nonlinear_model_has_the_exposure_of_a_fine_grid_with_its_derivative():
    method, end = qsp.solve.Rosenbrock(rtol=1e-9, atol=1e-12), 84.0
    regimen = qsp.bolus(150.0, to="central").every(21.0, doses=4)
    window = (10.0, 80.0)
    questions = AUC("free", between=window), Cmin("free", between=window), TimeAbove("free", 50.0, between=window)

    def patient(CL):
        return qsp.models.TMDD(CL=CL, V1=3.0, Q=0.5, V2=3.0, kon=1.0, koff=0.1, kdeg=0.5, kint=0.1, R0=10.0)

    def exposure(CL, ts):
        solution = qsp.simulate(patient(CL), regimen, ts, method=method, throw=False)
        return together(lambda one: jnp.stack([question(one) for question in questions]), solution)

    def fine(CL):
        doses = 21.0 * np.arange(1, 4)
        ts = np.sort(np.concatenate([np.linspace(*window, 40_001), doses, doses - 1e-9]))
        free = np.asarray(qsp.simulate(patient(CL), regimen, ts, method=method).observed["free"])
        beyond = free - 50.0
        first, last = np.maximum(beyond[:-1], 0.0), np.maximum(beyond[1:], 0.0)
        sizes = np.where(beyond[:-1] * beyond[1:] < 0.0, np.abs(beyond[:-1]) + np.abs(beyond[1:]), np.inf)
        shares = np.where(np.isinf(sizes), beyond[:-1] > 0.0, (first + last) / sizes)
        return np.array([np.trapezoid(free, ts), free.min(), np.sum(shares * np.diff(ts))])

    for ts in (np.arange(0.0, end + 1.0, 6.0), np.array([end])):
        np.testing.assert_allclose(jax.jit(exposure)(0.2, padded(ts)), fine(0.2), rtol=1e-6)
    slope = jax.jit(jax.jacfwd(exposure))(0.2, padded(np.array([end])))
    np.testing.assert_allclose(slope, (fine(0.2002) - fine(0.1998)) / 0.0004, rtol=1e-3)
