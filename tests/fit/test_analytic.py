"""Scales, offsets and noise parameters that are solved for: the same optima as with a search, in fewer dimensions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.fit import (
    LBFGS,
    Additive,
    Analytic,
    DoubleExponential,
    Experiment,
    Free,
    LogNormalError,
    Measurements,
    MultiStart,
    Output,
    Poisson,
    Problem,
    Proportional,
    TrustRegion,
    estimate,
)
from qspjax.fit.search._search import quickly_compiled
from tests.systems.marks import slow_for

TIMES = np.array([0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 24.0])
CURVE = 10.0 * np.exp(-0.1 * TIMES)
NOISE = np.random.default_rng(1).normal(size=(2, TIMES.size))


def problem(outputs, data, **parameters):
    measured = Measurements(
        np.tile(TIMES, len(outputs)), np.concatenate(data), output=np.repeat([*outputs], TIMES.size).tolist()
    )
    model = qsp.models.OneCompartment(CL=3.0, V=30.0)
    free = {"CL": Free(2.0, bounds=(0.1, 100.0))} | parameters
    return Problem(model, Experiment(measured, qsp.bolus(300.0, to="central")), outputs, free)


SCALED = problem(
    {
        "a": Output("scale * concentration + offset", Additive("sigma")),
        "b": Output("scale_b * concentration", LogNormalError("2 * sigma_b")),
    },
    [2.0 * CURVE + 3.0 + 0.3 * NOISE[0], 5.0 * CURVE * np.exp(0.1 * NOISE[1])],
    scale=Free(1.0, bounds=(1e-3, 1e3)),
    offset=Free(0.0, bounds=(-50.0, 50.0)),
    sigma=Free(1.0, bounds=(1e-3, 1e3)),
    scale_b=Free(1.0, bounds=(1e-3, 1e3)),
    sigma_b=Free(1.0, bounds=(1e-3, 1e3)),
)


SOLVED = Analytic().solving(SCALED)


@pytest.mark.parametrize("method", slow_for([TrustRegion(), LBFGS()], LBFGS()), ids=lambda m: type(m).__name__)
def test_the_same_optimum_as_with_a_search(method):
    searched = estimate(SCALED, starts=MultiStart(6, key=jax.random.key(1)))
    solved = estimate(SCALED, method=method, starts=MultiStart(6, key=jax.random.key(1)), analytic=Analytic())
    assert solved.problem is SCALED
    assert solved.log_density == pytest.approx(searched.log_density, abs=1e-6)
    for name, value in searched.parameters.items():
        assert solved.parameters[name] == pytest.approx(value, rel=2e-3)
    if isinstance(method, TrustRegion):
        assert solved.reached() == 6
        assert solved.steps.mean() < searched.steps.mean()


def test_values_are_those_of_linear_regression():
    settle = quickly_compiled(SOLVED.settled)
    x = SCALED.point({"CL": 3.0, "scale": 100.0, "offset": -7.0, "sigma": 30.0, "scale_b": 0.1, "sigma_b": 0.01})
    value, settled = settle(x)
    found = {name: float(v) for name, v in SCALED.values(settled).items()}
    (scale, offset), (left, *_), *_ = np.polyfit(CURVE, 2.0 * CURVE + 3.0 + 0.3 * NOISE[0], 1, full=True)
    assert found["scale"] == pytest.approx(scale, rel=1e-5)
    assert found["offset"] == pytest.approx(offset, rel=1e-4)
    assert found["sigma"] == pytest.approx(np.sqrt(left / TIMES.size), rel=1e-4)
    assert found["scale_b"] == pytest.approx(5.0 * np.exp(0.1 * NOISE[1].mean()), rel=1e-5)
    assert found["sigma_b"] == pytest.approx(0.05 * NOISE[1].std(), rel=1e-4)
    assert found["CL"] == pytest.approx(3.0)
    assert float(value) == pytest.approx(float(quickly_compiled(SCALED.log_density)(settled)), abs=1e-9)
    moved = x.at[1:].add(0.3)  # the start of what is solved for changes nothing
    np.testing.assert_allclose(settle(moved)[1], settled, atol=1e-9)


@pytest.mark.slow
def test_the_slope_is_that_of_the_profile():
    x = SCALED.point({"CL": 4.0})
    step = jnp.zeros_like(x).at[0].set(1e-5)
    density = quickly_compiled(SOLVED.log_density)
    central = (density(x + step) - density(x - step)) / 2e-5
    found = quickly_compiled(SOLVED.quadratic)(x)
    gradient = quickly_compiled(jax.grad(SOLVED.log_density))(x)
    np.testing.assert_allclose(found.gradient, gradient.at[1:].set(found.gradient[1:]), rtol=1e-6)
    np.testing.assert_allclose(gradient, jnp.zeros_like(x).at[0].set(central), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.gradient[1:], 0.0, atol=1e-6)


def test_bounds_are_kept():
    tight = problem(
        {"a": Output("scale * concentration + offset", Additive("sigma"))},
        [2.0 * CURVE + 3.0 + 0.3 * NOISE[0]],
        scale=Free(1.0, bounds=(0.1, 1.5)),
        offset=Free(0.0, bounds=(-50.0, 50.0)),
        sigma=Free(3.0, bounds=(2.0, 10.0)),
        CL=3.0,
        V=Free(30.0, bounds=(29.0, 31.0)),
    )
    _, settled = quickly_compiled(Analytic().solving(tight).settled)(tight.start)
    found = {name: float(v) for name, v in tight.values(settled).items()}
    assert found["scale"] == pytest.approx(1.5)
    assert found["sigma"] == pytest.approx(2.0)
    assert found["offset"] == pytest.approx(np.mean(2.0 * CURVE + 3.0 + 0.3 * NOISE[0] - 1.5 * CURVE), rel=1e-4)


def test_laplace_noise_is_the_mean_absolute_deviation():
    one = problem(
        {"a": Output("concentration", Additive("sigma", DoubleExponential()))},
        [CURVE + NOISE[0]],
        sigma=Free(3.0, bounds=(0.01, 99)),
    )
    _, settled = quickly_compiled(Analytic().solving(one).settled)(one.point({"CL": 3.0}))
    assert float(one.values(settled)["sigma"]) == pytest.approx(np.abs(NOISE[0]).mean(), rel=1e-5)


def test_what_cannot_be_solved_for_is_searched():
    one = problem(
        {
            "a": Output("scale * (concentration + offset)^hill", Additive("sigma")),
            "b": Output("concentration", Proportional("cv")),
        },
        [CURVE, CURVE],
        scale=Free(1.0),
        offset=Free(1.0),
        hill=Free(1.0),
        sigma=Free(1.0, prior=qsp.LogNormal(1.0, cv=0.5)),
        cv=Free(0.3),
    )
    solver = Analytic().solving(one).solver
    assert [one.names[i] for i in solver.location] == ["scale"]
    assert [one.names[i] for i in solver.noise] == ["cv"]
    with pytest.raises(ValueError, match="`names` must be scales, offsets or noise parameters that can be solved for"):
        estimate(one, analytic=Analytic(["hill"]))
    with pytest.raises(ValueError, match="must name a free parameter"):
        estimate(one, analytic=Analytic(["nothing"]))
    counts = problem({"a": Output("scale * concentration", Poisson())}, [CURVE.round()], scale=Free(1.0))
    with pytest.raises(ValueError, match="but there are none"):
        estimate(counts, analytic=Analytic())
    with pytest.raises(ValueError, match="but there are none"):
        estimate(problem({"a": Output("concentration", Additive(1.0))}, [CURVE]), analytic=Analytic())
