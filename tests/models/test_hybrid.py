"""Families of hybrid models: closed forms where what is learned is linear, derivatives in both modes, training."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import qspjax as qsp
from qspjax.models.hybrid._low_dimensional import StateNetwork, TimeNetwork

METHOD = qsp.solve.Rosenbrock(rtol=1e-9, atol=1e-11)
TS = jnp.array([1.0, 4.0, 10.0])
TYPICAL = qsp.models.OneCompartment(CL=3.0, V=30.0)


class Slope(eqx.Module):
    """A linear function without intercept."""

    a: jax.Array

    def __call__(self, x):
        return jnp.sum(self.a * x)


class Matrix(eqx.Module):
    a: jax.Array

    def __call__(self, x):
        return jnp.sum(self.a * x, axis=1)


def check(found, exact, p):
    """Compare a function of an array with its closed form, and its derivatives in both modes."""
    value, forward, reverse = jax.jit(lambda p: (found(p), jax.jacfwd(found)(p), jax.jacrev(found)(p)))(p)
    derivative = jax.jacfwd(exact)(p)
    np.testing.assert_allclose(value, exact(p), rtol=1e-6)
    np.testing.assert_allclose(forward, derivative, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(reverse, derivative, rtol=1e-5, atol=1e-7)


def trained(loss, model, steps):
    """Return the losses on the way of a short training."""
    optimiser = optax.adam(0.02)
    state = optimiser.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state):
        value, gradient = eqx.filter_value_and_grad(loss)(model)
        updates, state = optimiser.update(gradient, state)
        return eqx.apply_updates(model, updates), state, value

    losses = []
    for _ in range(steps):
        model, state, value = step(model, state)
        losses.append(float(value))
    return losses


def test_a_universal_differential_equation_is_a_mechanism_and_a_remainder():
    def found(p):
        hybrid = qsp.models.UniversalDifferentialEquation(
            TYPICAL, Slope(p[:2]), of=("central", "concentration"), into=("central",), scales={"concentration": 10.0}
        )
        doses = qsp.bolus(p[2], to="central") + qsp.bolus(100.0, to="central", at=4.0)
        return qsp.simulate(hybrid, doses, TS, method=METHOD).observed["concentration"]

    def exact(p):
        k = 0.1 - p[0] - p[1] / 300.0
        first = p[2] / 30.0 * jnp.exp(-k * TS)
        return first + jnp.where(TS >= 4.0, 100.0 / 30.0 * jnp.exp(-k * (TS - 4.0)), 0.0)

    check(found, exact, jnp.array([-0.05, -3.0, 300.0]))


def test_a_remainder_in_several_states_and_of_time():
    typical = qsp.models.TwoCompartment(CL=3.0, V1=30.0, Q=6.0, V2=60.0)
    matrix = Matrix(jnp.array([[1.0, 2.0], [0.0, -1.0]]))
    hybrid = qsp.models.UniversalDifferentialEquation(typical, matrix, ("t", "central"), ("peripheral", "central"))
    state = typical.initial()._replace(central=5.0)
    slope, mechanism = hybrid.vector_field(2.0, type(hybrid.initial())(state)), typical.vector_field(2.0, state)
    assert float(slope.mechanism.peripheral - mechanism.peripheral) == pytest.approx(12.0)
    assert float(slope.mechanism.central - mechanism.central) == pytest.approx(-5.0)
    assert hybrid.units.states == {"mechanism.central": "mg", "mechanism.peripheral": "mg"}


def test_a_remainder_is_trained():
    data = 10.0 * jnp.exp(-0.16 * TS)
    network = eqx.nn.MLP("scalar", "scalar", width_size=3, depth=1, activation=jnp.tanh, key=jax.random.key(0))
    hybrid = qsp.models.UniversalDifferentialEquation(
        TYPICAL, network, ("central",), ("central",), scales={"central": 300.0}
    )
    dose = qsp.bolus(300.0, to="central")

    def loss(model):
        return jnp.mean((qsp.simulate(model, dose, TS).observed["concentration"] - data) ** 2)

    losses = trained(loss, hybrid, 15)
    assert losses[-1] < 0.8 * losses[0]


def test_parameters_that_vary_with_time():
    def found(p):
        varying = qsp.models.PiecewiseConstant(p, times=(0.4,))
        hybrid = qsp.models.TimeVarying(TYPICAL, ("CL",), varying, horizon=10.0)
        doses = qsp.bolus(300.0, to="central") + qsp.bolus(30.0, to="central", at=4.0)
        return qsp.simulate(hybrid, doses, TS, method=METHOD).observed["concentration"]

    def exact(p):
        k = 0.1 * jnp.exp(p)
        first = 10.0 * jnp.exp(-k[0] * jnp.minimum(TS, 4.0)) + jnp.where(TS >= 4.0, 1.0, 0.0)
        return first * jnp.exp(-k[1] * jnp.maximum(TS - 4.0, 0.0))

    check(found, exact, jnp.array([0.3, -0.5]))


def test_several_parameters_of_one_function_of_time_at_a_time():
    class Both(eqx.Module):
        def __call__(self, t):
            return jnp.stack([t, -2.0 * t])

    hybrid = qsp.models.TimeVarying(TYPICAL, ("CL", "V"), Both(), horizon=10.0)
    later = hybrid.at_time(5.0)
    assert (float(later.CL), float(later.V)) == pytest.approx((3.0 * np.exp(0.5), 30.0 * np.exp(-1.0)))
    state = hybrid.initial()._replace(model=TYPICAL.initial()._replace(central=30.0))
    assert float(hybrid.observe(5.0, state)["concentration"]) == pytest.approx(np.exp(1.0))


def test_what_is_learned_may_be_a_term():
    class Product(qsp.models.AbstractTerm):
        weight: jax.Array
        inputs: int = eqx.field(static=True, default=2)

        def __call__(self, first, second):
            return self.weight * first * second

    hybrid = qsp.models.UniversalDifferentialEquation(TYPICAL, Product(jnp.array(-1.0)), ("t", "central"), ("central",))
    state = hybrid.initial()._replace(mechanism=TYPICAL.initial()._replace(central=5.0))
    assert float(hybrid.vector_field(2.0, state).mechanism.central) == pytest.approx(-10.5)


def low_dimensional(p):
    """Elimination at p[0] per hour, and absorption that falls in a straight line from p[1] to 0 within 2 h."""
    bend = jnp.array([1.0, 0.0])
    disposition = StateNetwork(bend, jnp.zeros(2), -100.0 * p[0] * bend, jnp.zeros(()), size=100.0)
    absorption = TimeNetwork(bend, bend, p[1] * bend, size=2.0)
    return qsp.models.LowDimensionalNeuralODE(V=10.0, disposition=disposition, absorption=absorption)


def followed(p, ts):
    doses = qsp.bolus(p[2], to="depot").every(4.0, doses=2) + qsp.bolus(50.0, to="central", at=2.0)
    return qsp.simulate(low_dimensional(p), doses, ts, method=METHOD).observed["concentration"]


def followed_exactly(p, ts):
    def absorbed(p, since):
        """Amount after the absorption of 1 mg."""
        k, u = p[0], jnp.clip(since, 0.0, 2.0)
        inside = p[1] * ((1.0 - u / 2.0) / k - jnp.exp(-k * u) / k + (1.0 - jnp.exp(-k * u)) / (2.0 * k**2))
        return inside * jnp.exp(-k * jnp.maximum(since - 2.0, 0.0))

    oral = p[2] * (absorbed(p, ts) + absorbed(p, ts - 4.0))
    return (oral + jnp.where(ts >= 2.0, 50.0 * jnp.exp(-p[0] * (ts - 2.0)), 0.0)) / 10.0


def test_a_low_dimensional_neural_ode_follows_doses():
    p, ts = jnp.array([0.3, 0.9, 100.0]), jnp.array([1.0, 2.0, 4.0, 8.0])
    np.testing.assert_allclose(followed(p, ts), followed_exactly(p, ts), rtol=1e-6)


@pytest.mark.slow
def test_the_derivatives_of_a_low_dimensional_neural_ode():
    ts = jnp.array([1.0, 2.0, 4.0, 8.0])
    check(lambda p: followed(p, ts), lambda p: followed_exactly(p, ts), jnp.array([0.3, 0.9, 100.0]))


def test_a_low_dimensional_neural_ode_starts_with_all_of_a_dose_absorbed():
    model = qsp.models.LowDimensionalNeuralODE.of(V=10.0, largest=100.0, horizon=8.0, key=jax.random.key(0))
    times = jnp.linspace(0.0, 8.0, 2001)
    total = float(jnp.trapezoid(jax.vmap(model.absorption)(times), times))
    assert 0.8 < total < 1.2
    assert float(model.absorption(9.0)) == 0.0
    assert float(model.disposition(0.0)) == 0.0
    assert -100.0 < float(model.disposition(100.0)) < -10.0


LATENT = qsp.models.LatentHybrid(
    TYPICAL,
    slopes=Matrix(jnp.array([[0.5, 0.0, 0.0], [0.0, 0.2, 0.0]])),
    decoder=Matrix(jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0], [0.0, 1.0, 1.0]])),
    outputs=("a", "b", "c"),
    latent=2,
)


def test_latent_states_are_driven_by_the_expert():
    def found(p):
        model = eqx.tree_at(lambda m: m.slopes.a, LATENT, LATENT.slopes.a.at[0, 0].set(p[0]))
        start = model.starting(p[1:])
        observed = qsp.simulate(model, qsp.bolus(10.0, to="central"), TS, initial=start, method=METHOD).observed
        return jnp.stack([observed[name] for name in ("a", "b", "c")])

    def exact(p):
        amount = (p[1] + 10.0) * jnp.exp(-0.1 * TS)
        area = (p[1] + 10.0) * (1.0 - jnp.exp(-0.1 * TS)) / 0.1
        first = p[2] + p[0] * area
        twice = (p[1] + 10.0) * (TS / 0.1 - (1.0 - jnp.exp(-0.1 * TS)) / 0.01)  # the area of the area
        second = p[3] + 0.2 * (p[2] * TS + p[0] * twice)
        return jnp.stack([amount + first, 2.0 * second, first + second])

    check(found, exact, jnp.array([0.5, 5.0, 1.0, -1.0]))


def test_networks_see_the_states_of_the_expert_that_they_are_to_see():
    expert = qsp.models.TwoCompartment(CL=3.0, V1=30.0, Q=6.0, V2=60.0)
    model = qsp.models.LatentHybrid(
        expert, Matrix(jnp.ones((1, 2))), Matrix(2.0 * jnp.ones((1, 2))), ("x",), 1, ("peripheral",)
    )
    start = model.starting(jnp.array([3.0, 4.0]))
    assert start.expert == (0.0, 3.0)
    assert float(model.vector_field(0.0, start).latent[0]) == 7.0
    assert float(model.observe(0.0, start)["x"]) == 14.0
    assert model.units.observed == {"concentration": "mg/L"}


def test_an_encoder_reads_what_was_seen_backwards():
    encoder = qsp.models.RecurrentEncoder(2, 1, states=3, hidden=4, key=jax.random.key(0), horizon=10.0)
    times = jnp.array([0.0, 1.0, 3.0, 7.0])
    values = jax.random.normal(jax.random.key(1), (4, 2))
    seen = jnp.array([[True, False], [True, True], [False, False], [True, True]])
    inputs = jnp.zeros((4, 1))
    mean, log_sd = encoder(times, values, seen, inputs)
    hidden = jnp.zeros(4)
    for i in (3, 2, 1, 0):
        gap = (times[i + 1] - times[i]) / 10.0 if i < 3 else 0.0
        row = jnp.concatenate([jnp.where(seen[i], values[i], 0.0), seen[i] * 1.0, jnp.array([0.0, gap])])
        hidden = encoder.cell(row, hidden)
    np.testing.assert_allclose(jnp.concatenate([mean, log_sd]), encoder.head(hidden), rtol=1e-12)

    # neither what was not seen nor padding changes anything, and derivatives stay finite
    unseen = jnp.where(seen, values, jnp.nan)
    padded = [jnp.concatenate([a, b]) for a, b in ((times, jnp.full(2, jnp.inf)), (unseen, jnp.full((2, 2), jnp.nan)))]
    more = jnp.concatenate([seen, jnp.ones((2, 2), bool)])
    again = encoder(*padded, more.at[4:].set(False), jnp.zeros((6, 1)))
    np.testing.assert_allclose(again[0], mean, rtol=1e-12)
    gradient = eqx.filter_grad(lambda e: jnp.sum(e(*padded, more.at[4:].set(False), jnp.zeros((6, 1)))[0]))(encoder)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_an_encoder_and_a_latent_hybrid_are_trained_together():
    keys = jax.random.split(jax.random.key(2), 4)
    seen = jnp.ones((3, 1), bool)
    truth = jnp.array([20.0, 40.0, 60.0])[:, None] * jnp.exp(-0.2 * TS)
    doses = jnp.zeros((3, 3, 1))
    model = qsp.models.LatentHybrid(
        TYPICAL, eqx.nn.Linear(2, 1, key=keys[0]), eqx.nn.Linear(2, 1, key=keys[1]), ("x",), 1
    )
    encoder = qsp.models.RecurrentEncoder(1, 1, states=2, hidden=3, key=keys[2], horizon=10.0)

    def loss(both):
        model, encoder = both
        times = jnp.broadcast_to(TS, (3, 3))
        mean, _ = jax.vmap(encoder)(times, truth[:, :, None] / 40.0, jnp.broadcast_to(seen, (3, 3, 1)), doses)
        patients = qsp.Cohort.of(model, {}, size=3)
        solution = qsp.simulate_cohort(patients, qsp.no_doses(), TS, initial=jax.vmap(model.starting)(mean))
        return jnp.mean((solution.observed["x"] - truth / 40.0) ** 2)

    losses = trained(loss, (model, encoder), 15)
    assert losses[-1] < 0.7 * losses[0]


BAD = {
    "of": (
        lambda: qsp.models.UniversalDifferentialEquation(TYPICAL, Slope(jnp.ones(())), ("depot",), ("central",)),
        r"Argument `of` must name a state or an observed value of `mechanism`, or `t`",
    ),
    "into": (
        lambda: qsp.models.UniversalDifferentialEquation(TYPICAL, Slope(jnp.ones(())), ("central",), ("depot",)),
        r"Argument `into` must name a state of `mechanism`",
    ),
    "scales": (
        lambda: qsp.models.UniversalDifferentialEquation(
            TYPICAL, Slope(jnp.ones(())), ("central",), ("central",), {"t": 2.0}
        ),
        r"Argument `scales` must name an input in `of`",
    ),
    "remainder": (
        lambda: qsp.models.UniversalDifferentialEquation(TYPICAL, Matrix(jnp.ones((2, 1))), ("t",), ("central",)),
        r"Argument `remainder` must return one number for each name in `into` \(1\), but",
    ),
    "names": (
        lambda: qsp.models.TimeVarying(TYPICAL, ("ka",), Slope(jnp.ones(()))),
        r"Argument `name` must name a parameter of the model",
    ),
    "log_factor": (
        lambda: qsp.models.TimeVarying(TYPICAL, ("CL",), Matrix(jnp.ones((2, 1)))),
        r"Argument `log_factor` must return one number for each of `names` \(1\), but",
    ),
    "horizon": (
        lambda: qsp.models.TimeVarying(TYPICAL, ("CL",), Slope(jnp.ones(())), horizon=0.0),
        r"Argument `horizon` must be",
    ),
    "values": (
        lambda: qsp.models.PiecewiseConstant([1.0, 2.0], times=(1.0, 2.0)),
        r"Argument `values` must be one more than times \(3\), but is of shape \(2,\)",
    ),
    "decoder": (
        lambda: qsp.models.LatentHybrid(TYPICAL, LATENT.slopes, LATENT.decoder, ("a",), 2),
        r"Argument `decoder` must return shape \(1,\) for an input of shape \(3,\), but",
    ),
    "outputs": (
        lambda: qsp.models.LatentHybrid(TYPICAL, LATENT.slopes, LATENT.decoder, ("a", "b", "concentration"), 2),
        r"Argument `outputs` must be names that `expert` does not observe, but",
    ),
    "starting": (
        lambda: LATENT.starting(jnp.zeros((4, 3))),
        r"Argument `values` must be of shape \(3,\) \(for many patients use jax.vmap\), but",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_wrong_is_said_in_words(bad):
    make, message = BAD[bad]
    with pytest.raises(ValueError, match=message):
        make()


def test_what_varies_with_time_is_fitted_as_any_other_parameter():
    from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem, Weights

    truth = qsp.models.TimeVarying(TYPICAL, ("CL",), qsp.models.PiecewiseConstant([0.0, 1.0], times=(4.0,)))
    dose, ts = qsp.bolus(300.0, to="central"), np.array([1.0, 3.0, 4.0, 7.0, 10.0])
    data = Measurements(ts, qsp.simulate(truth, dose, ts).observed["concentration"], output="C")
    problem = Problem(
        eqx.tree_at(lambda m: m.log_factor.values, truth, jnp.zeros(2)),
        Experiment(data, dose),
        {"C": Output("concentration", Additive(0.1))},
        {"log_factor": Weights(prior=qsp.Normal(0.0, sd=10.0)), "model.V": Free(40.0)},
    )
    fit = qsp.fit.estimate(problem)
    np.testing.assert_allclose(fit.networks["log_factor"].values, [0.0, 1.0], atol=0.01)
    assert float(fit.parameters["model.V"]) == pytest.approx(30.0, rel=1e-3)
