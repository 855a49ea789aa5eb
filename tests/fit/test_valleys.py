"""Searches through curved valleys: Rosenbrock's function as a fit, with a bound in its way, and with noise to find."""

import numpy as np
import pytest

import qspjax as qsp
from qspjax.fit import (
    Additive,
    Experiment,
    Free,
    LevenbergMarquardt,
    Measurements,
    MultiStart,
    Output,
    Problem,
    TrustRegion,
    estimate,
)

METHODS = pytest.mark.parametrize("method", [TrustRegion(), LevenbergMarquardt()], ids=lambda m: type(m).__name__)
STEEPNESS = (10.0, 1000.0)
"""The square of the second is the condition of the curvature at the optimum, about."""


def valley(steepness, *, sd: float | Free = 1.0, upper=2.0):
    """The residuals are steepness (b - a^2) and 1 - a, two records each."""
    data = Measurements([1.0, 2.0, 1.0, 2.0], [0.0] * 4, output=["across", "across", "along", "along"])
    outputs = {
        "across": Output(f"{steepness} * (b - a * a)", Additive("sd")),
        "along": Output("1 - a", Additive("sd")),
    }
    free = {
        "a": Free(-1.2, bounds=(-2.0, upper), transform=qsp.Identity()),
        "b": Free(1.0, bounds=(-2.0, 2.0), transform=qsp.Identity()),
        "sd": sd,
    }
    model = qsp.models.OneCompartment(CL=3.0, V=30.0)
    return Problem(model, Experiment(data, qsp.bolus(1.0, to="central")), outputs, free)


@METHODS
@pytest.mark.parametrize("steepness", STEEPNESS)
def test_the_end_of_a_valley_is_reached(method, steepness):
    found = estimate(valley(steepness), method=method)
    np.testing.assert_allclose([found.parameters["a"], found.parameters["b"]], 1.0, atol=1e-3)
    assert found.log_density == pytest.approx(-2.0 * np.log(2 * np.pi), abs=1e-5)


@METHODS
def test_the_valley_is_followed_to_a_bound_in_its_way(method):
    found = estimate(valley(10.0, upper=0.7), method=method)
    np.testing.assert_allclose([found.parameters["a"], found.parameters["b"]], [0.7, 0.49], atol=2e-3)


@METHODS
@pytest.mark.parametrize("start", [1e-3, 1e3])
def test_noise_is_found_from_far_below_and_far_above(method, start):
    """Records differ from each other by 2, so that the best standard deviation is 1 where the curve fits best."""
    sd = Free(start, bounds=(1e-4, 1e4))
    problem = valley(10.0, sd=sd)
    data = Measurements([1.0, 2.0, 1.0, 2.0], [-1.0, 1.0, -1.0, 1.0], output=["across", "across", "along", "along"])
    noisy = Problem(problem.model, Experiment(data, qsp.bolus(1.0, to="central")), problem.outputs, problem.parameters)
    found = estimate(noisy, method=method)
    np.testing.assert_allclose([found.parameters[name] for name in ("a", "b", "sd")], 1.0, atol=2e-3)


@METHODS
def test_all_starts_reach_the_end_of_a_valley(method):
    import jax

    found = estimate(valley(10.0), method=method, starts=MultiStart(8, key=jax.random.key(0)), lanes=3)
    assert found.reached(1e-3) == 8
