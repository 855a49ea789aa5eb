"""Information, intervals and profiles: where they are known exactly, and where the data say nothing."""

import numpy as np
import pytest
from scipy import stats

import qspjax as qsp
from qspjax.fit import (
    Additive,
    Experiment,
    Free,
    Measurements,
    Output,
    Problem,
    Uncertainty,
    estimate,
    fisher_information,
    observed_information,
    profiles,
)

TIMES = np.array([1.0, 2.0, 4.0, 8.0, 12.0])
VALUES = np.array([9.2, 8.1, 6.9, 4.4, 3.1])
MODEL = qsp.models.OneCompartment(CL=3.0, V=30.0)


def problem(output="concentration", transform=None, **parameters):
    experiment = Experiment(Measurements(TIMES, VALUES, output="y"), qsp.bolus(300.0, to="central"))
    free = {"CL": Free(3.0, bounds=(0.1, 50.0)), "V": Free(30.0, bounds=(3.0, 300.0))}
    return Problem(MODEL, experiment, {"y": Output(output, Additive(0.2))}, free | parameters)


def test_a_linear_problem_is_exact():
    # y = a + b t: the information is X'X / sd^2, and the profile a parabola
    linear = Problem(
        MODEL,
        Experiment(Measurements(TIMES, VALUES, output="y")),
        {"y": Output("a + b * time", Additive(0.5))},
        {name: Free(start, bounds=(-99.0, 99.0), transform=qsp.Identity()) for name, start in (("a", 1.0), ("b", 0.5))},
    )
    x = estimate(linear).x
    design = np.column_stack([np.ones(5), TIMES])
    best, information = np.linalg.lstsq(design, VALUES)[0], design.T @ design / 0.25
    np.testing.assert_allclose(x, best, rtol=1e-8)
    np.testing.assert_allclose(fisher_information(linear, x), information, rtol=1e-10)
    np.testing.assert_allclose(observed_information(linear, x), information, rtol=1e-5)
    known = Uncertainty(linear, x, fisher_information(linear, x))
    np.testing.assert_allclose(known.covariance, np.linalg.inv(information), rtol=1e-9)
    low, high = known.intervals()
    for i, (name, profile) in enumerate(profiles(linear, x).items()):
        np.testing.assert_allclose(profile.interval, (low[i], high[i]), rtol=2e-3)
        assert profile.name == name
        assert profile.identifiable
    assert not known.open_directions
    curves = known.curves(points=5)
    at = np.column_stack([np.ones(5), curves["time"]])
    variance = np.sum((at @ np.linalg.inv(information)) * at, axis=1)
    for name, width in (("upper", variance), ("upper_measured", variance + 0.25)):
        np.testing.assert_allclose(curves[name] - curves["prediction"], 1.959964 * np.sqrt(width), rtol=1e-6)
    np.testing.assert_allclose(curves["lower"] + curves["upper"], 2 * curves["prediction"], rtol=1e-9)
    table = known.to_dataframe()
    np.testing.assert_allclose(table["upper"] - table["lower"], 2 * 1.959964 * table["standard_error"], rtol=1e-5)
    np.testing.assert_allclose(np.diag(known.correlation), 1.0)


@pytest.mark.slow
def test_a_profile_of_a_curved_problem():
    one = problem()
    x = estimate(one).x
    found = profiles(one, x, ["CL"])["CL"]
    best = float(one.log_density(x))
    threshold = best - stats.chi2.ppf(0.95, 1) / 2
    assert found.threshold == pytest.approx(threshold, abs=1e-6)
    held = problem(CL=float(found.interval[1]))  # at the end the other parameter, fitted anew, gives the threshold
    assert estimate(held).log_density == pytest.approx(threshold, abs=5e-3)


@pytest.mark.slow
def test_a_scale_times_an_amount_is_not_identifiable():
    scale, W = Free(1.0, bounds=(1e-3, 1e3)), Free(30.0, bounds=(1e-4, 1e7))
    one = problem("scale * central / W", scale=scale, W=W, V=30.0)
    x = estimate(one).x
    known = Uncertainty(one, x, fisher_information(one, x))
    (direction,) = known.open_directions
    assert set(direction) == {"scale", "W"}
    assert direction["scale"] == pytest.approx(direction["W"], rel=1e-3)
    errors = dict(zip(one.names, known.standard_errors, strict=True))
    assert np.isinf(errors["scale"])
    assert np.isfinite(errors["CL"])
    found = profiles(one, x, ["scale", "CL"], max_points=40)
    assert not found["scale"].identifiable
    assert found["scale"].open == (True, True)
    assert found["CL"].identifiable
    assert np.ptp(found["scale"].log_density) < 1e-3


def test_what_is_refused():
    one = problem()
    with pytest.raises(ValueError, match=r"`information` must be a matrix of shape \(2, 2\)"):
        Uncertainty(one, np.zeros(2), np.eye(3))
    with pytest.raises(ValueError, match="`names` must name a free parameter"):
        profiles(one, one.start, ["ka"])
