"""Derivatives of solves in native code: those of XLA, with the same bits whatever the lanes, threads and neighbours."""

from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.solve.native import _adjoint, _call, _record, compilations
from qspjax.solve.native._values import UnsupportedError
from tests.solve.native.test_ensembles import ANTIBODY, DOSES, TS, compiled_again

ROSENBROCK = qsp.solve.Rosenbrock(rtol=1e-8, atol=1e-11)
X = jnp.array([0.2, 0.1, 10.0, 150.0, 0.3, 2.0, 0.9])


def regimen(x, steady=False):
    """Return doses of which amount, lag, duration and time are numbers of x."""
    first = qsp.bolus(x[3], to="central").every(5.0, doses=3)
    if steady:
        return first.at_steady_state()
    doses = first + qsp.infusion(60.0, to="central", over=x[5], at=3.0 + x[4])
    return doses + qsp.reset(at=11.0) + qsp.scale("central", by=x[6], at=2.0 + x[4])


def outputs(x, method=ROSENBROCK, steady=False):
    model = eqx.tree_at(lambda m: (m.CL, m.koff, m.R0), ANTIBODY, (x[0], x[1], x[2]))
    return qsp.simulate(model, regimen(x, steady), TS, method=method).observed["free"]


@pytest.mark.parametrize("steady", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", [jax.jacrev, jax.jacfwd])
def test_derivatives_are_those_of_xla(monkeypatch, mode, steady):
    methods = [ROSENBROCK] if steady else [ROSENBROCK, qsp.solve.Explicit(rtol=1e-8, atol=1e-11)]
    for method in methods:
        jacobian = jax.jit(mode(lambda x, method=method: outputs(x, method, steady)))
        with compilations() as solves:
            native = jacobian(X)
        assert all(solve.reason is None for solve in solves)
        with compiled_again(monkeypatch, backend="xla"):
            other = jacobian(X)
        scale = np.abs(other).max(axis=0)
        np.testing.assert_allclose(native / scale, other / scale, atol=1e-7)


def test_a_reason_is_given_for_what_xla_compiles():
    def eliminated(CL):
        patient = qsp.models.OneCompartment(CL=CL, V=30.0)
        return qsp.simulate(patient, qsp.bolus(9.0, to="central"), TS, method=ROSENBROCK).observed["concentration"]

    with compilations() as solves:
        jax.jit(jax.jacfwd(jax.jacfwd(jax.jacfwd(eliminated)))).lower(3.0)
    assert {solve.reason for solve in solves} == {None, "a derivative of third order"}


@pytest.mark.parametrize("steady", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_second_derivatives_are_those_of_xla(monkeypatch, steady):
    hessian = jax.jit(jax.jacfwd(jax.jacfwd(lambda x: outputs(x, steady=steady))))
    with compilations() as solves:
        native = np.asarray(hessian(X))
    assert all(solve.reason is None for solve in solves)
    with compiled_again(monkeypatch, backend="xla"):
        other = np.asarray(hessian(X))
    scale = np.abs(other).max(axis=0)
    assert (scale > 0).any(axis=0)[: 4 if steady else 7].all()  # in steady state the others are no part of the doses
    np.testing.assert_allclose(native / np.maximum(scale, 1e-12), other / np.maximum(scale, 1e-12), atol=1e-6)


def test_second_derivatives_of_a_closed_form():
    """exp(-(CL / V) t) by Rosenbrock, differentiated twice."""
    t = jnp.array([1.0, 4.0, 9.0])

    def amounts(x):
        model = qsp.models.OneCompartment(CL=x[0], V=x[1])
        doses = qsp.bolus(x[2], to="central")
        return qsp.simulate(model, doses, t, method=ROSENBROCK).observed["concentration"]

    def exact(x):
        return x[2] / x[1] * jnp.exp(-x[0] / x[1] * t)

    x = jnp.array([3.0, 30.0, 300.0])
    found, expected = (jax.jit(jax.jacfwd(jax.jacfwd(f)))(x) for f in (amounts, exact))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


class Saturating(qsp.AbstractModel):
    """Growth that slows down at a time, and where the state crosses a level."""

    k: jax.Array = qsp.parameter(unit="1/d", doc="growth")
    late: jax.Array = qsp.parameter(unit="d", doc="when it slows down")

    def initial(self):
        return {"x": 1.0}

    def vector_field(self, t, y):
        rate = jnp.where(t > self.late, 0.5, 1.0) * self.k
        return {"x": rate * y["x"] * (1.0 - y["x"] / 50.0) - jnp.where(y["x"] > 10.0, 0.2, 0.0) * y["x"]}

    def observe(self, t, y):
        return y


@pytest.mark.parametrize("mode", [jax.jacrev, jax.jacfwd])
def test_derivatives_through_comparisons(monkeypatch, mode):
    def grown(x):
        doses = qsp.bolus(x[2], to="x").every(6.0, doses=2)
        return qsp.simulate(Saturating(k=x[0], late=x[1]), doses, TS, method=ROSENBROCK).observed["x"]

    x, jacobian = jnp.array([0.6, 7.3, 0.3]), jax.jit(mode(grown))
    with compilations() as solves:
        native = jacobian(x)
    assert all(solve.reason is None for solve in solves)
    with compiled_again(monkeypatch, backend="xla"):
        np.testing.assert_allclose(native, jacobian(x), rtol=1e-6, atol=1e-6)


class Learned(qsp.AbstractModel):
    """Elimination that a network describes, whose weights all patients share."""

    k: jax.Array = qsp.parameter(unit="1/h", doc="elimination")
    net: eqx.nn.MLP

    def initial(self):
        return {"x": 3.0, "z": 0.5}

    def vector_field(self, t, y):
        rate = self.k + 0.1 * self.net(jnp.stack([y["x"], y["z"]]))
        return {"x": -rate * y["x"], "z": rate * y["x"] - 0.3 * y["z"]}

    def observe(self, t, y):
        return y


def test_weights_that_patients_share(monkeypatch):
    net = eqx.nn.MLP(2, "scalar", 4, 1, jnp.tanh, key=jax.random.key(0))
    weights, rest = eqx.partition(net, eqx.is_inexact_array)
    rates = jnp.linspace(0.2, 0.9, 11)

    def loss(weights, rates):
        cohort = qsp.Cohort.of(Learned(k=0.5, net=eqx.combine(weights, rest)), {"k": rates})
        solution = qsp.simulate_cohort(cohort, qsp.no_doses(), TS, method=ROSENBROCK)
        return jnp.sum(solution.observed["x"] ** 2)

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    native = gradient(weights, rates)
    with compiled_again(monkeypatch, backend="xla"):
        other = gradient(weights, rates)
    for x, y in zip(jax.tree.leaves(native), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-7, atol=1e-9)


def gradients(order, lost=()):
    """Return the gradients of 40 patients in an order, and their derivatives along a direction."""
    rng = np.random.default_rng(0)
    values = {name: getattr(ANTIBODY, name) * np.exp(0.4 * rng.normal(size=40)) for name in ("CL", "kon", "kdeg")}
    values["kon"] = np.where(np.isin(np.arange(40), lost), 1e308, values["kon"])
    values = {name: jnp.asarray(value[order]) for name, value in values.items()}

    def squares(values):
        cohort = qsp.Cohort.of(ANTIBODY, values)
        solution = qsp.simulate_cohort(cohort, DOSES, TS, method=qsp.solve.Rosenbrock())
        return jnp.sum(solution.observed["free"] ** 2, axis=1)

    gradient = jax.jit(jax.grad(lambda values: jnp.sum(squares(values))))(values)
    along = jax.jit(lambda values: jax.jvp(squares, (values,), (values,))[1])(values)
    back = np.argsort(order)
    return [np.asarray(x)[back] for x in (*gradient.values(), along)]


def test_bits_depend_on_no_lane_thread_order_or_neighbour(monkeypatch):
    straight, lost = np.arange(40), [3, 17]
    expected = gradients(straight)
    others = np.setdiff1d(straight, lost)
    for engine in ({"lanes": 2}, {"threads": 3}):
        with compiled_again(monkeypatch, **engine), mock.patch.object(_call, "THREADED", 8):
            order = np.random.default_rng(1).permutation(40)
            for x, y in zip(gradients(order), expected, strict=True):
                assert x.tobytes() == y.tobytes(), engine
            for x, y in zip(gradients(order, lost), expected, strict=True):
                assert x[others].tobytes() == y[others].tobytes(), engine
                assert np.isnan(x[lost]).all()


def test_steps_that_xla_wrote_down_are_not_read_natively(monkeypatch):
    expected = gradients(np.arange(40))[:3]
    refused = mock.patch.object(_record.RecordText, "_chunk", side_effect=UnsupportedError("a reason"))
    with compiled_again(monkeypatch), refused, compilations() as solves:
        found = gradients(np.arange(40))[:3]
    assert "a reason" in {solve.reason for solve in solves}
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3)


def test_what_is_not_recorded_is_computed_again(monkeypatch):
    expected = gradients(np.arange(40))[:3]

    def without(*arguments, layout=_record.layout):
        return layout(*arguments)._replace(room=0)

    def little(*arguments, layout=_record.layout):
        return layout(*arguments)._replace(room=_record.SPARE + 70)

    for plan in (without, little):
        with (
            compiled_again(monkeypatch),
            mock.patch.object(_adjoint.AdjointText, "iterations", 50),
            mock.patch.object(_record, "layout", plan),
            mock.patch.object(_call, "layout", plan),
        ):
            for x, y in zip(gradients(np.arange(40))[:3], expected, strict=True):
                assert x.tobytes() == y.tobytes(), plan
