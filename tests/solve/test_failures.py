"""Derivatives of simulations that fail on the way: what was reached keeps its own, the rest is NaN.

All against closed forms.
Growth without bound, x' = k w x^2 from 1: x = 1 / (1 - k w t) until t = 1 / (k w); and an infinite vector field from
t = 1.5 on, x' = -k w x / (t < 1.5): exp(-k w t) until then.
"""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from tests.systems.marks import slow_for

TS = jnp.array([0.5, 1.0, 2.0, jnp.inf])
K = jnp.array([0.1, 0.8, 0.2, jnp.nan])
W = jnp.array([0.25, 0.75])
PICKED = jnp.isfinite(K)[:, None] & (TS <= 1.0)
TOLERANCES = {"rtol": 1e-8, "atol": 1e-11, "max_steps": 400}
METHODS = {
    "Rosenbrock": qsp.solve.Rosenbrock(**TOLERANCES),
    "Explicit": qsp.solve.Explicit(**TOLERANCES),
    "Automatic": qsp.solve.Automatic(**TOLERANCES),
    "Diffrax": qsp.solve.Diffrax(diffrax.Dopri8(), **TOLERANCES),
}


class Growth(qsp.AbstractModel):
    k: jax.Array = qsp.parameter(unit="1/h", doc="growth", above=None)
    w: jax.Array = qsp.parameter(unit="", doc="an array that all patients share")

    def initial(self):
        return {"x": jnp.asarray(1.0)}

    def vector_field(self, t, y):
        return {"x": self.k * jnp.sum(self.w) * y["x"] ** 2}

    def observe(self, t, y):
        return {"x": y["x"]}


class Stops(Growth):
    def vector_field(self, t, y):
        return {"x": jnp.where(t < 1.5, -self.k * jnp.sum(self.w) * y["x"], jnp.inf)}


def seen(model, k, w, method):
    cohort = qsp.Cohort.of(model(k=0.1, w=W), {"k": np.ones(4)})
    cohort = eqx.tree_at(lambda c: (c.model.k, c.model.w), cohort, (k, w))
    return qsp.simulate_cohort(cohort, qsp.no_doses(), TS, method=method).observed["x"]


@pytest.mark.parametrize("name", slow_for(METHODS, "Explicit", "Automatic"))
def test_what_was_reached_keeps_its_derivative(name):
    def picked(k, w, weight):
        return jnp.sum(jnp.where(weight > 0.0, weight * seen(Growth, k, w, METHODS[name]), 0.0))

    @jax.jit
    def derivatives(k, w, weight):
        alone = jnp.zeros_like(weight).at[0, 2].set(1.0)
        failed = jnp.zeros_like(weight).at[1, 2].set(1.0)
        forward = jax.jvp(lambda k: seen(Growth, k, w, METHODS[name]), (k,), (jnp.ones(4),))
        gradient = jax.grad(picked, (0, 1))
        return forward, jax.vmap(gradient, (None, None, 0))(k, w, jnp.stack([weight, alone, failed]))

    (value, forward), (own, shared) = derivatives(K, W, jnp.where(PICKED, 1.0, 0.0))
    right = TS / (1.0 - K[:, None] * TS) ** 2
    reached = PICKED | (jnp.isfinite(K)[:, None] & (K[:, None] * TS < 1.0))
    np.testing.assert_array_equal(np.isfinite(value), reached)
    np.testing.assert_allclose(forward[reached], right[reached], rtol=1e-6)
    np.testing.assert_array_equal(np.isnan(forward), ~reached & jnp.isfinite(TS))  # padding is no output

    # in reverse mode only an output that is used, and that was not reached, makes a derivative NaN, and only its own
    np.testing.assert_allclose(own[0], jnp.where(PICKED, right, 0.0).sum(axis=1), rtol=1e-6)
    np.testing.assert_allclose(shared[0], jnp.where(PICKED, K[:, None] * right, 0.0).sum(), rtol=1e-6)
    np.testing.assert_allclose(own[1], [right[0, 2], 0.0, 0.0, 0.0], rtol=1e-6)
    np.testing.assert_array_equal(np.isnan(own[2]), [False, True, False, False])
    np.testing.assert_array_equal(own[2][jnp.array([0, 2, 3])], 0.0)
    assert np.isnan(shared[2]).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_second_derivatives(name):
    def total(k, w):
        return jnp.sum(jnp.where(PICKED, seen(Growth, k, w, METHODS[name]), 0.0))

    right = jnp.where(PICKED, 2.0 * TS**2 / (1.0 - K[:, None] * TS) ** 3, 0.0).sum(axis=1)
    ways = {"forward over reverse": jax.jacfwd(jax.grad(total)), "reverse over reverse": jax.jacrev(jax.grad(total))}
    for derivative in ways.values():
        np.testing.assert_allclose(jax.jit(derivative)(K, W), np.diag(right), rtol=1e-5, atol=1e-12)
    ones = jnp.ones(4)
    twice = jax.jit(lambda k: jax.jvp(lambda k: jax.jvp(lambda k: total(k, W), (k,), (ones,))[1], (k,), (ones,))[1])
    np.testing.assert_allclose(twice(K), right.sum(), rtol=1e-5)


@pytest.mark.parametrize("name", slow_for(METHODS, "Explicit", "Automatic", "Diffrax"))
def test_the_slope_at_the_failure_spoils_nothing(name):
    def second(k):
        model = Stops(k=k, w=W)
        return qsp.simulate(model, qsp.no_doses(), TS, method=METHODS[name], throw=False).observed["x"][1]

    for derivative in (jax.jacfwd, jax.grad):
        np.testing.assert_allclose(jax.jit(derivative(second))(0.4), -np.exp(-0.4), rtol=1e-7)


def test_a_linear_model_that_grows_without_bound():
    class Fast(Growth):
        def vector_field(self, t, y):
            return {"x": self.k * jnp.sum(self.w) * y["x"]}

    ts = jnp.array([0.0, 1.0, 2.0, 3.0])

    def course(k):
        return qsp.simulate(Fast(k=k, w=W), qsp.no_doses(), ts, throw=False).observed["x"]

    right = ts * jnp.exp(300.0 * ts)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(course))(300.0)[:3], right[:3], rtol=1e-10)
    back = jax.jit(jax.jacrev(course))(300.0)
    np.testing.assert_allclose(back[:3], right[:3], rtol=1e-10)
    assert np.isnan(back[3])
