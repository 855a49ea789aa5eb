"""Training of a network within a model: groups, what counts, what is held out, penalties, failures, resuming."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import qspjax as qsp
from qspjax.fit import (
    After,
    Alternating,
    Collocation,
    Combined,
    Descent,
    Emphasis,
    Experiment,
    Free,
    HeldOut,
    Horizon,
    Magnitude,
    Measurements,
    Minibatches,
    Orthogonal,
    Output,
    Problem,
    Weights,
    estimate,
)
from qspjax.fit.search import _estimate
from qspjax.fit.training._losses import losses
from tests.fit.learned import Constant, Learned, problem, true_rate

NO = jnp.zeros((), bool)


@pytest.fixture(scope="module")
def learned():
    return problem()


def sloped(method, problem):
    """Return a program for the loss at a step and its gradient."""

    def loss(x, step):
        return method.loss(problem, x, step, NO)[0]

    return eqx.filter_jit(jax.value_and_grad(loss))


def test_the_mean_over_the_minibatches_of_an_order_is_the_loss_of_all(learned):
    """In the second order, too; it holds for the gradient to the last digits."""
    x = learned.start
    method = Descent(curriculum=[Minibatches(2, key=jax.random.key(3))])
    program = sloped(method, learned)
    values, gradients = zip(*(program(x, step) for step in range(3, 6)), strict=True)
    value, gradient = jax.jit(learned.value_and_gradient)(x)
    assert np.std(values) > 1.0
    np.testing.assert_allclose(np.mean(values), -value, rtol=1e-12)
    np.testing.assert_allclose(np.mean(gradients, axis=0), -gradient, rtol=1e-9, atol=1e-9)
    weights, _ = method.counted(learned, jnp.asarray(4), NO)
    np.testing.assert_array_equal(np.unique(np.concatenate(weights)), [0.0, 3.0])


def test_a_batch_of_more_than_there_are_is_refused(learned):
    with pytest.raises(ValueError, match=r"^Argument `size` must be at most the number of subjects .* \(6\), but is 7"):
        estimate(learned, method=Descent(curriculum=[Minibatches(7, key=jax.random.key(0))]))


def test_a_horizon_grows_until_all_counts(learned):
    method = Descent(curriculum=[Horizon(first=2.0, steps=10)])
    (rows,) = learned.layout.joined
    for step, until in ((0, 2.0), (5, np.sqrt(2.0 * rows.time.max())), (10, np.inf)):
        (weights,), _ = method.counted(learned, jnp.asarray(step), NO)
        np.testing.assert_array_equal(weights, rows.time <= until)
    assert not method.curriculum[0].is_whole(jnp.asarray(9))
    assert method.curriculum[0].is_whole(jnp.asarray(10))


def test_an_emphasis_grows(learned):
    growing = Emphasis(["c"], first=0.1, last=10.0, steps=4)
    (rows,) = learned.rows
    for step, factor in ((0, 0.1), (2, 1.0), (4, 10.0), (9, 10.0)):
        np.testing.assert_allclose(growing.weights(rows, np.arange(6), jnp.asarray(step)), factor, rtol=1e-12)
    np.testing.assert_array_equal(
        Emphasis(["d"], first=0.1, last=10.0, steps=4).weights(rows, np.arange(6), jnp.asarray(1)), 1.0
    )


def test_turns():
    """A group that does not move keeps its optimiser as it is."""
    late, turns = After(networks=2), Alternating(mechanism=1, networks=2)
    moving = [tuple(map(bool, late.moving(jnp.asarray(step)))) for step in range(3)]
    assert moving == [(True, False), (True, False), (True, True)]
    assert [bool(turns.moving(jnp.asarray(step))[0]) for step in range(6)] == [True, False, False] * 2


def test_a_frozen_group_does_not_move_and_the_other_does(learned):
    fit = estimate(learned, method=Descent(networks=optax.adam(0.01), max_steps=3, turns=After(networks=9), clip=1.0))
    start = np.asarray(learned.start)
    np.testing.assert_array_equal(fit.x[1:], start[1:])
    assert fit.x[0] != start[0]
    course = fit.course()
    assert course["step"].tolist() == [1, 2, 3, 4]
    assert (course["networks_slope"] > 0.0).all()
    with pytest.raises(ValueError, match=r"^A course has been noted by Descent\(\) only, but the method was L-BFGS"):
        dataclasses.replace(fit, notes=None, method="L-BFGS").course()


def test_early_stopping_returns_the_optimum_of_what_is_held_out_and_is_resumed_to_the_last_bit(
    learned, tmp_path, monkeypatch
):
    """A training with everything: two starts, batches, a horizon, held-out subjects; interrupted and resumed."""
    monkeypatch.setattr(_estimate, "SAVED_EVERY", 0.0)
    method = Descent(
        networks=optax.adam(optax.cosine_decay_schedule(0.1, 40)),
        max_steps=40,
        curriculum=[Minibatches(2, key=jax.random.key(1)), Horizon(first=5.0, steps=5)],
        held_out=HeldOut(["s1", "s3"], patience=6),
    )
    starts = np.stack([np.asarray(learned.start), np.asarray(learned.start) + 0.1])
    whole = estimate(learned, method=method, starts=starts)

    def interrupt(progress):
        if progress.figures["steps"] >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        estimate(learned, method=method, starts=starts, checkpoint=tmp_path / "state", progress=interrupt)
    resumed = estimate(learned, method=method, starts=starts, checkpoint=tmp_path / "state")
    for field in ("points", "values", "status", "steps", "history", "notes", "left_out"):
        np.testing.assert_array_equal(getattr(whole, field), getattr(resumed, field))
    assert whole.values[0] == pytest.approx(float(learned.log_density(whole.x)), rel=1e-9)
    course = whole.course()
    assert len(course["step"]) < 41
    held = np.isin([*learned.experiments], ["s1", "s3"])
    (rows,) = learned.layout.joined
    seen = [jnp.asarray(held[rows.experiment])]
    reached = losses(learned, jnp.asarray(whole.x), [jnp.zeros(rows.value.size)], seen).held_out
    assert reached == pytest.approx(course["held_out"][5:-1].min(), rel=1e-9)
    with pytest.raises(ValueError, match="must be the checkpoint of this estimation"):
        estimate(learned, method=Descent(max_steps=7), starts=starts, checkpoint=tmp_path / "state")


def test_held_out_subjects_are_checked(learned):
    with pytest.raises(ValueError, match=r"^Argument `held_out` must name an experiment of the problem"):
        estimate(learned, method=Descent(held_out=HeldOut(["nobody"])))
    with pytest.raises(ValueError, match=r"^Argument `held_out` must leave experiments to train on"):
        estimate(learned, method=Descent(held_out=HeldOut([*learned.experiments])))
    drawn = HeldOut.drawn(learned, 0.34, key=jax.random.key(0))
    assert len(drawn.subjects) == 2
    assert set(drawn.subjects) < set(learned.experiments)


def test_who_fails_is_left_out_counted_and_named():
    """Nobody else's contribution to the gradient changes; without leave to leave out, the start fails."""
    others = problem()
    failing = problem(traps=(2,))
    with pytest.raises(RuntimeError, match=r"The first: Experiment `s2` failed at time 0\."):
        estimate(failing, method=Descent(max_steps=2))
    value, gradient = sloped(Descent(leave_out=0.2), failing)(failing.start, 0)
    without = {name: experiment for name, experiment in others.experiments.items() if name != "s2"}
    rest = Problem(others.model, without, others.outputs, others.parameters)
    expected, slope = jax.jit(rest.value_and_gradient)(rest.start)
    np.testing.assert_allclose(value, -expected, rtol=1e-9)
    np.testing.assert_allclose(gradient, -slope, rtol=1e-7, atol=1e-7)
    fit = estimate(failing, method=Descent(max_steps=2, leave_out=0.2))
    assert fit.who_was_left_out() == {"s2": 3}
    assert "left out where they failed: s2 (3)" in str(fit)
    assert fit.course()["left_out"].tolist() == [1.0, 1.0, 1.0]


# --- penalties ----------------------------------------------------------------------------------------------------


def penalised(*penalties, k=0.2, c=0.1):
    model = Learned(V=10.0, rate=Constant(c), k=k)
    whole = problem(model=model)
    parameters = {"k": Free(k), **{name: value for name, value in whole.parameters.items() if name == "rate"}}
    return Problem(model, whole.experiments, whole.outputs, parameters, penalties=penalties)


def test_the_magnitude_of_a_term_in_closed_form():
    """With f0 = -k A and d = -c A the share of the term is c^2 / (k^2 + c^2), whatever the trajectory."""
    with_penalty, without = penalised(Magnitude("rate", weight=6.0)), penalised()
    x = with_penalty.start
    taken = without.log_density(x) - with_penalty.log_density(x)
    np.testing.assert_allclose(taken, 3.0 * 0.1**2 / (0.2**2 + 0.1**2), rtol=1e-9)
    _, slope = jax.jit(with_penalty.value_and_gradient)(x)
    _, bare = jax.jit(without.value_and_gradient)(x)
    k, c = 0.2, 0.1  # k on a logarithmic scale
    expected = [3.0 * 2 * k**2 * c**2 / (k**2 + c**2) ** 2, -3.0 * 2 * c * k**2 / (k**2 + c**2) ** 2]
    np.testing.assert_allclose(slope - bare, expected, rtol=1e-6, atol=1e-8)


def test_what_the_mechanism_could_do_is_penalised_and_nothing_else():
    """A constant rate does what k could do, all of it; one orthogonal to A is left alone."""
    x = penalised().start
    values = [
        float(penalised().log_density(x) - penalised(kind("rate", weight=2.0)).log_density(x))
        for kind in (Magnitude, Orthogonal)
    ]
    np.testing.assert_allclose(values[1], values[0], rtol=1e-6)


@pytest.mark.slow
def test_penalties_differentiate(learned):
    whole = Problem(
        learned.model,
        learned.experiments,
        learned.outputs,
        learned.parameters,
        penalties=[Magnitude("rate", weight=50.0), Orthogonal("rate", weight=50.0)],
        method=qsp.solve.Rosenbrock(rtol=1e-9, atol=1e-12),
    )
    value, gradient = jax.jit(whole.value_and_gradient)(whole.start)
    direction = jnp.asarray(np.random.default_rng(0).normal(size=gradient.size))
    program = jax.jit(lambda x: whole.log_density(x))
    up, down = (program(whole.start + sign * 1e-5 * direction) for sign in (1.0, -1.0))
    np.testing.assert_allclose(gradient @ direction, (up - down) / 2e-5, rtol=1e-5)
    assert value < learned.log_density(learned.start)
    with pytest.raises(ValueError, match="must have no penalties where curvature is needed"):
        whole.quadratic(whole.start)
    with pytest.raises(ValueError, match=r"^Argument `term` must name weights that are estimated \(rate\)"):
        penalised(Magnitude("rat")).log_density(penalised().start)


# --- recovery -----------------------------------------------------------------------------------------------------


def test_a_saturable_elimination_is_learned_from_sparse_noisy_data():
    learned = problem(subjects=6, times=5, noise=0.03, volume=Free(8.0))
    method = Descent(networks=optax.adam(0.02), mechanism=optax.adam(0.02), max_steps=120)
    fit = estimate(learned, method=method, starts=Collocation())
    c = np.array([0.5, 2.0, 6.0, 15.0, 25.0])
    rate = np.asarray(jax.vmap(fit.networks["rate"])(jnp.asarray(c)))
    np.testing.assert_allclose(rate, true_rate(c), rtol=0.15)
    assert fit.parameters["V"] == pytest.approx(10.0, rel=0.05)


class Binding(qsp.AbstractModel):
    """Target-mediated disposition, full binding (stiff), with a rate of uptake of the complex."""

    uptake: eqx.Module
    kel: jax.Array = qsp.parameter(unit="1/d", doc="elimination of the free drug", default=0.15)

    def initial(self):
        return {"drug": 0.0, "target": 10.0, "complex": 0.0}

    def vector_field(self, t, y):
        bound = 200.0 * y["drug"] * y["target"] - 200.0 * y["complex"]
        return {
            "drug": -self.kel * y["drug"] - bound,
            "target": 0.3 * (10.0 - y["target"]) - bound,
            "complex": bound - self.uptake(y["complex"]),
        }

    def observe(self, t, y):
        return {"free": y["drug"], "total": y["target"] + y["complex"]}


class Uptake(eqx.Module):
    """The truth: 4 c / (2 + c)."""

    def __call__(self, c):
        return 4.0 * c / (2.0 + c)


@pytest.mark.slow
def test_a_rate_of_stiff_binding_is_learned():
    """Binding is a thousand times faster than everything else."""
    random, experiments = np.random.default_rng(0), {}
    truth = Binding(uptake=Uptake())
    for i, dose in enumerate((10.0, 30.0, 100.0, 300.0) * 2):
        ts = np.sort(random.uniform(0.1, 14.0, 5))
        exact = qsp.simulate(truth, qsp.bolus(dose, to="drug"), ts).observed
        values = np.concatenate([np.asarray(exact[name]) for name in ("free", "total")])
        noisy = values * np.exp(0.03 * random.normal(size=10))
        data = Measurements(np.tile(ts, 2), noisy, output=["free"] * 5 + ["total"] * 5)
        experiments[f"s{i}"] = Experiment(data, qsp.bolus(dose, to="drug"))
    inputs = {"complex": qsp.models.Input(5.0, logarithmic=True, zero=True)}
    rate = qsp.models.NeuralRate.mlp(inputs, width=5, output=qsp.models.Positive(3.5), key=jax.random.key(0))
    hybrid = Problem(
        Binding(uptake=rate, kel=0.3),
        experiments,
        {name: Output(name, Combined(0.01, 0.05)) for name in ("free", "total")},
        {"kel": Free(0.3), "uptake": Weights(prior=qsp.Normal(0.0, sd=1.0))},
    )
    method = Descent(mechanism=optax.adam(0.03), networks=optax.adam(0.03), max_steps=250, clip=1e3)
    fit = estimate(hybrid, method=method)
    c = jnp.array([1.0, 2.0, 4.0, 6.0])
    np.testing.assert_allclose(jax.vmap(fit.networks["uptake"])(c), Uptake()(c), rtol=0.1)
    assert fit.parameters["kel"] == pytest.approx(0.15, rel=0.05)
