"""Layers of networks in native code: loops over rows, weights that all patients share, gradients by weights."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import qspjax as qsp
from qspjax.solve.native import _call, compilations
from tests.solve.native.test_ensembles import compiled_again

ROSENBROCK = qsp.solve.Rosenbrock(rtol=1e-10, atol=1e-12)
TS = jnp.linspace(0.0, 36.0, 7)
DOSES = qsp.bolus(90.0, to="central").every(12.0, doses=2) + qsp.infusion(30.0, to="central", over=3.0, at=5.0)


class Cleared(qsp.AbstractModel):
    """One compartment with an elimination that a network describes."""

    CL: jax.Array = qsp.parameter(unit="L/h", doc="clearance")
    V: jax.Array = qsp.parameter(unit="L", doc="volume of distribution")
    net: eqx.nn.MLP

    def initial(self):
        return {"central": 0.0, "effect": 0.1}

    def vector_field(self, t, y):
        more = jax.nn.softplus(self.net(jnp.stack([y["central"] / self.V, y["effect"], 0.1 * t]))[0])
        rate = (self.CL / self.V + 0.2 * more) * y["central"]
        return {"central": -rate, "effect": rate / self.V - 0.1 * y["effect"]}

    def observe(self, t, y):
        return {"concentration": y["central"] / self.V, "effect": y["effect"]}


class Emptied(Cleared, qsp.AbstractEventful):
    """Half of what is there is lost where the effect crosses a level, whenever the network lets it."""

    def events(self):
        return (qsp.Event(lambda t, y: y["effect"] > 0.9, lambda t, y: {"central": 0.5 * y["central"]}),)


def network(width, depth=2, activation=jnp.tanh, outputs=1):
    return eqx.nn.MLP(3, outputs, width, depth, activation, key=jax.random.key(3))


def function_of_weights(net, model=Cleared, method=ROSENBROCK, patients=5):
    weights, static = eqx.partition(net, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(weights)

    def concentrations(flat, clearances):
        patient = model(CL=1.0, V=10.0, net=eqx.combine(unravel(flat), static))
        cohort = qsp.Cohort.of(patient, {"CL": clearances})
        solution = qsp.simulate_cohort(cohort, DOSES, TS, method=method)
        return jnp.stack([solution.observed["concentration"], solution.observed["effect"]])

    return flat, concentrations, jnp.linspace(0.5, 2.0, patients)


@pytest.mark.parametrize(
    "activation", [jnp.tanh, *(pytest.param(f, marks=pytest.mark.slow) for f in (jax.nn.softplus, jax.nn.silu))]
)
def test_values_are_those_of_xla(monkeypatch, activation):
    flat, simulated, clearances = function_of_weights(network(29, activation=activation))
    with compilations() as solves:
        native = jax.jit(simulated)(flat, clearances)
    assert [solve.reason for solve in solves] == [None]
    with compiled_again(monkeypatch, backend="xla"):
        np.testing.assert_allclose(native, jax.jit(simulated)(flat, clearances), rtol=1e-6, atol=1e-9)


def check_gradients(model, method):
    """Compare gradients in both modes with differences."""
    flat, simulated, clearances = function_of_weights(network(27), model, method)
    rng = np.random.default_rng(0)
    direction, seen = jnp.asarray(rng.normal(size=flat.size)), jnp.asarray(rng.normal(size=(2, 5, 7)))

    def loss(flat, clearances):
        return jnp.sum(seen * simulated(flat, clearances))

    with compilations() as solves:
        of_weights, of_clearances = jax.jit(jax.grad(loss, argnums=(0, 1)))(flat, clearances)
        _, along = jax.jit(lambda d: jax.jvp(lambda x: loss(x, clearances), (flat,), (d,)))(direction)
    assert {solve.reason for solve in solves} == {None}
    value, h = jax.jit(loss), 1e-4
    differences = (value(flat + h * direction, clearances) - value(flat - h * direction, clearances)) / (2 * h)
    np.testing.assert_allclose(of_weights @ direction, differences, rtol=1e-5)
    np.testing.assert_allclose(along, differences, rtol=1e-5)
    differences = (value(flat, clearances + h) - value(flat, clearances - h)) / (2 * h)
    np.testing.assert_allclose(of_clearances.sum(), differences, rtol=1e-5)


def test_gradients_with_respect_to_weights_in_both_modes():
    check_gradients(Cleared, qsp.solve.Explicit(rtol=1e-10, atol=1e-12))


@pytest.mark.slow
@pytest.mark.parametrize("model", [Cleared, Emptied])
@pytest.mark.parametrize("method", [ROSENBROCK, qsp.solve.Explicit(rtol=1e-10, atol=1e-12)])
def test_gradients_of_stiff_models_and_of_events(model, method):
    check_gradients(model, method)


@pytest.mark.slow
def test_gradients_of_many_patients_are_those_of_xla(monkeypatch):
    """Patients of several chunks, on several threads, with a sum of cotangents for each chunk."""
    method = qsp.solve.Rosenbrock()
    flat, simulated, clearances = function_of_weights(network(12), method=method, patients=300)
    gradient = jax.jit(jax.grad(lambda flat: jnp.sum(simulated(flat, clearances) ** 2)))
    with compilations() as solves:
        native = gradient(flat)
    assert {solve.reason for solve in solves} == {None}
    with compiled_again(monkeypatch, backend="xla"):
        np.testing.assert_allclose(native, gradient(flat), rtol=1e-5, atol=1e-7 * np.abs(native).max())


@pytest.mark.slow
def test_weights_that_differ_between_patients(monkeypatch):
    """Members of an ensemble, side by side in lanes."""
    nets = eqx.filter_vmap(lambda key: eqx.nn.MLP(3, 1, 14, 2, jnp.tanh, key=key))(
        jax.random.split(jax.random.key(0), 5)
    )

    def loss(nets):
        def one(net):
            model = Cleared(CL=1.0, V=10.0, net=net)
            return jnp.sum(qsp.simulate(model, DOSES, TS, method=ROSENBROCK, throw=False).observed["effect"] ** 2)

        return jnp.sum(eqx.filter_vmap(one)(nets))

    with compilations() as solves:
        native = eqx.filter_jit(eqx.filter_grad(loss))(nets)
    assert {solve.reason for solve in solves} == {None}
    with compiled_again(monkeypatch, backend="xla"):
        other = eqx.filter_jit(eqx.filter_grad(loss))(nets)
    arrays = (jax.tree.leaves(eqx.filter(x, eqx.is_inexact_array)) for x in (native, other))
    for x, y in zip(*arrays, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-8)


class Lost(Cleared):
    """A network of which a number is needed that is none: for some from the start on, for some after a while."""

    level: jax.Array = qsp.parameter(unit="mg/L", doc="where the network is not defined any more", default=100.0)

    def vector_field(self, t, y):
        known = jnp.sqrt(self.level - y["central"] / self.V)
        more = jax.nn.softplus(self.net(jnp.stack([y["central"] / self.V, y["effect"], known]))[0])
        rate = (self.CL / self.V + 0.02 * more) * y["central"]
        return {"central": -rate, "effect": rate / self.V - 0.1 * y["effect"]}


@pytest.mark.parametrize("backend", [None, pytest.param("xla", marks=pytest.mark.slow)])
def test_a_network_without_value_in_one_patient_changes_no_other_gradient(monkeypatch, backend):
    weights, static = eqx.partition(network(13), eqx.is_inexact_array)
    doses = qsp.bolus(50.0, to="central").every(12.0, doses=2)
    levels = jnp.array([100.0, -1.0, 100.0, 8.0, 100.0])  # lost at the start, and at the second dose
    lost = np.array([1, 3])
    method = qsp.solve.Rosenbrock()

    def squares(weights, levels, seen):
        model = Lost(CL=0.1, V=10.0, net=eqx.combine(weights, static))
        solution = qsp.simulate_cohort(qsp.Cohort.of(model, {"level": levels}), doses, TS, method=method)
        observed = jnp.where(seen[:, None], solution.observed["effect"], 0.0)
        return jnp.sum(jnp.where(jnp.isfinite(observed), observed, 0.0) ** 2), solution

    def gradients(levels, seen):
        (_, solution), reverse = jax.jit(jax.value_and_grad(squares, has_aux=True))(weights, levels, seen)
        forward = jax.jit(lambda d: jax.jvp(lambda x: squares(x, levels, seen)[0], (weights,), (d,))[1])(weights)
        return solution, [*jax.tree.leaves(reverse), forward]

    with compiled_again(monkeypatch, backend=backend):
        solution, with_lost = gradients(levels, ~jnp.isin(jnp.arange(5), lost))
        assert [failure.patient for failure in solution.failures()] == [1, 3]
        assert np.isfinite(solution.observed["effect"][3, :2]).all()
        _, alone = gradients(jnp.full(5, 100.0), ~jnp.isin(jnp.arange(5), lost))
        _, reached = gradients(levels, jnp.ones(5, bool))
    for x, y, z in zip(with_lost, alone, reached, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12)
        assert np.isfinite(z).all()


def test_code_does_not_grow_with_the_width(monkeypatch):
    lengths, register = [], _call.register
    monkeypatch.setenv("QSPJAX_CACHE", "off")

    def listened(text, *arguments):
        lengths.append(len(text.text.splitlines()))
        return register(text, *arguments)

    monkeypatch.setattr(_call, "register", listened)
    for width in (40, 80):
        flat, simulated, clearances = function_of_weights(network(width), method=qsp.solve.Explicit())
        jax.jit(jax.grad(lambda flat: jnp.sum(simulated(flat, clearances)))).lower(flat)  # noqa: B023
    half = len(lengths) // 2
    assert half
    assert sum(lengths[half:]) < 1.2 * sum(lengths[:half])
