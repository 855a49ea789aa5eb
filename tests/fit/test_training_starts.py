"""Where trainings start, and what many of them say: collocation, multiple shooting, ensembles, the last layer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import qspjax as qsp
from qspjax.fit import (
    Additive,
    After,
    Collocation,
    Descent,
    Ensemble,
    Experiment,
    Fit,
    Free,
    LastLayer,
    Measurements,
    Members,
    MultipleShooting,
    Output,
    Problem,
    estimate,
)
from qspjax.fit.training._curves import infusing
from qspjax.fit.training._smooth import smoothed
from tests.fit.learned import Constant, Learned, problem, true_rate


def fit_at(problem, points):
    """Return a fit that has ended at these points."""
    points = np.asarray(points)
    none = np.zeros(len(points), int)
    values = np.arange(len(points), 0.0, -1.0)
    return Fit(problem, "none", points, points, values, none + 1, none, none, none, values[:, None], 0.0)


def test_smooth_curves_and_their_slopes():
    random, t = np.random.default_rng(0), np.linspace(0.0, 10.0, 15)
    for value, slope in ((20.0 * np.exp(-0.3 * t), -6.0 * np.exp(-0.3 * t)), (np.sin(t / 2.0), np.cos(t / 2.0) / 2.0)):
        noisy = value * (1.0 + 0.02 * random.normal(size=t.size))
        curve, slopes = smoothed(t, noisy)
        assert np.max(np.abs(curve - value)) < 0.05 * np.ptp(value)
        assert np.max(np.abs(slopes - slope)) < 0.12 * np.ptp(slope)


def test_collocation_learns_the_rate_without_simulations():
    learned = problem(subjects=6, times=8, noise=0.02)
    (start,) = Collocation().points(learned)
    np.testing.assert_array_equal(start[0], learned.start[0])
    c = np.array([0.5, 2.0, 6.0, 15.0])
    rate = jax.vmap(learned.networks(start)["rate"])(jnp.asarray(c))
    np.testing.assert_allclose(rate, true_rate(c), rtol=0.3)


def test_collocation_needs_data_to_smooth():
    with pytest.raises(ValueError, match="must have three measurements of an output between doses"):
        Collocation().points(problem(times=2))


def linear(times=(1.0, 2.0, 4.0, 6.0, 9.0, 12.0)):
    """Return a problem with two doses, and a constant rate of the network's place."""
    regimen = qsp.bolus(100.0, to="central") + qsp.bolus(50.0, to="central", at=5.0)
    model = Learned(V=10.0, rate=Constant(0.3))
    values = qsp.simulate(model, regimen, times).observed["concentration"]
    data = Measurements(times, values, output="c")
    outputs = {"c": Output("concentration", Additive(0.1))}
    return Problem(model, {"one": Experiment(data, regimen)}, outputs, {"V": Free(10.0)})


def test_segments_that_continue_are_the_whole():
    """Doses lie inside segments; with states that continue each other the likelihood is that of the whole."""
    whole = linear()
    shooting = MultipleShooting(whole, segments=3)
    segments = shooting.problem
    assert shooting.cuts[0].tolist() == [4.0, 9.0]
    assert segments.names == ("V", "central_0_1", "central_0_2")
    assert [len(e.measurements.time) for e in segments.experiments.values()] == [3, 3, 2]
    sizes = shooting._begun[1]
    at_cuts = qsp.simulate(whole.model, whole.experiments["one"].regimen, [4.0, 9.0]).states["central"]
    x = segments.point({"central_0_1": at_cuts[0] / sizes[0], "central_0_2": at_cuts[1] / sizes[0]})
    gaps = 2 * -0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(segments.log_density(x) - gaps, whole.log_density(whole.start), rtol=1e-6)
    np.testing.assert_allclose(segments.start, x, rtol=0.01)  # the data have led there
    fit = fit_at(segments, [np.asarray(x)])
    np.testing.assert_array_equal(shooting.starts(fit), x[:1][None])
    with pytest.raises(ValueError, match="must be that of the problem of these segments"):
        shooting.starts(fit_at(whole, [np.asarray(whole.start)]))


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(ValueError, match=r"^Argument `segments` must be fewer than the times"):
        MultipleShooting(linear(times=(2.0,)))
    running = infusing(qsp.infusion(10.0, to="central", over=2.0, at=1.0), np.array([0.5, 1.0, 2.0, 3.0, 4.0]))
    assert running.tolist() == [False, False, True, False, False]


@pytest.mark.slow
def test_multiple_shooting_learns_the_rate():
    learned = problem(subjects=6, times=6, noise=0.03)
    shooting = MultipleShooting(learned, segments=3)
    method = Descent(
        networks=optax.adam(0.03), turns=After(mechanism=100), curriculum=[shooting.emphasis(steps=200)], max_steps=300
    )
    starts = shooting.starts(estimate(shooting.problem, method=method))
    assert learned.log_density(starts[0]) > learned.log_density(learned.start)
    fit = estimate(learned, method=Descent(networks=optax.adam(0.03), max_steps=200), starts=starts)
    c = np.array([0.5, 2.0, 6.0, 15.0])
    rate = jax.vmap(fit.networks["rate"])(jnp.asarray(c))
    np.testing.assert_allclose(rate, true_rate(c), rtol=0.2)


def test_members_have_weights_of_their_own():
    learned = problem()
    points = Members(4, key=jax.random.key(0)).points(learned)
    np.testing.assert_array_equal(points[0], learned.start)
    np.testing.assert_array_equal(points[:, 0], learned.start[0])
    assert len(np.unique(points[:, 1:], axis=0)) == 4
    spread = Members(4, key=jax.random.key(0), spread=0.1).points(learned)
    assert np.ptp(spread[:, 0]) > 0.01


def test_an_ensemble_predicts_with_a_band():
    """Its members differ by their weights; a constant rate has a band in closed form."""
    whole = problem(rate=Constant(0.1))
    ensemble = Ensemble.of(fit_at(whole, [[np.log(10.0), rate] for rate in (0.3, 0.2, 0.1)]), within=1.5)
    assert ensemble.size == 2
    band = ensemble.predict(qsp.bolus(100.0, to="central"), [5.0], level=1.0 - 1e-9, experiment="s0")
    np.testing.assert_allclose([band["LOWER"][0], band["UPPER"][0]], 10.0 * np.exp([-1.5, -1.0]), rtol=1e-5)
    assert band["COUNT"].tolist() == [2]
    rates = ensemble.rate("rate", np.array([1.0, 2.0]))
    np.testing.assert_allclose(rates["MEDIAN"], 0.25, rtol=1e-12)
    with pytest.raises(ValueError, match=r"^Argument `points` must have shape \(members, 2\)"):
        Ensemble(whole, np.zeros((3, 1)))


def test_the_last_layer_of_a_linear_regression_in_closed_form():
    """With log c = log(dose / V) - k t known to s, k has the precision sum t^2 / s^2, and that of its prior."""
    model = Learned(V=10.0, rate=Constant(0.2))
    whole = problem(model=model, subjects=2)
    x = np.array([np.log(10.0), 0.2])
    layer = LastLayer(fit_at(whole, [x]), layers=["rate.value"])
    times = np.concatenate([e.measurements.time for e in whole.experiments.values()])
    precision = np.sum(times**2) / 0.2**2 + 1.0
    np.testing.assert_allclose(layer.uncertainty.information, [[precision]], rtol=1e-5)
    drawn = layer.draws(4000, key=jax.random.key(0))
    np.testing.assert_allclose(np.std(drawn.points[:, 1]), precision**-0.5, rtol=0.05)
    np.testing.assert_array_equal(drawn.points[:, 0], x[0])
    with pytest.raises(ValueError, match=r"must be that of a problem with Weights\(\) of a linear layer"):
        LastLayer(fit_at(whole, [x]))


def test_the_last_layer_of_a_network_is_found():
    learned = problem()
    layer = LastLayer(fit_at(learned, [np.asarray(learned.start)]), numbers=True)
    assert layer.layers == ("rate.network.layers[1]",)
    assert layer.problem.names[0] == "V"
    assert len(layer.problem.names) == 1 + 5 + 1
    assert set(layer.problem.names) <= set(learned.names)
