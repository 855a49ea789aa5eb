"""Steady states in closed form: values and derivatives of both modes, with and without conserved quantities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.equilibrium import steady_state
from qspjax.models import MassAction, Network, Reaction

CONVERSION = Network(
    species={"A": 1.0, "B": 0.0},
    parameters={"k1": 0.8, "k2": 0.6},
    reactions={"r": Reaction("A -> B", MassAction("k1", reverse="k2"))},
)


def of_conversion(p):
    model = CONVERSION
    for name, value in zip(("k1", "k2", "A"), p, strict=True):
        model = qsp.at(model, name).set(value)
    return steady_state(model).state["A"]


def closed(p):
    return p[2] * p[1] / (p[0] + p[1])


def test_what_is_conserved_stays():
    p = jnp.array([0.8, 0.6, 2.0])
    np.testing.assert_allclose(of_conversion(p), closed(p), rtol=1e-12)
    for mode in (jax.jacfwd, jax.grad, jax.hessian):
        np.testing.assert_allclose(jax.jit(mode(of_conversion))(p), mode(closed)(p), rtol=1e-8, atol=1e-10)
    several = jnp.stack([p, 2.0 * p])
    np.testing.assert_allclose(jax.vmap(of_conversion)(several), [closed(one) for one in several], rtol=1e-12)


def test_very_different_speeds():
    # 1e-4 to 1e6: the slow state is as exact as the fast one
    chain = Network(
        species={"X": 0.0, "Y": 0.0},
        parameters={"in": 3.0, "fast": 1e6, "slow": 1e-4},
        reactions={
            "source": Reaction("-> X", "in"),
            "on": Reaction("X -> Y", "fast * X"),
            "out": Reaction("Y ->", "slow * Y"),
        },
    )
    found = steady_state(chain)
    np.testing.assert_allclose([found.state["X"], found.state["Y"]], [3e-6, 3e4], rtol=1e-9)
    assert bool(found.result == qsp.RESULTS.successful)


def test_the_steady_state_that_is_reached():
    # x' = x (1 - x) (3 - x): to 1 from below 3
    model = Network(parameters={"x": 0.5}, rates={"x": "x * (1 - x) * (3 - x)"})
    for start, expected in ((0.5, 1.0), (2.5, 1.0)):
        found = steady_state(qsp.at(model, "x").set(start))
        np.testing.assert_allclose(found.state["x"], expected, rtol=1e-9)


def test_no_steady_state():
    growth = Network(species={"N": 1.0}, parameters={"r": 0.1}, reactions={"growth": Reaction("-> N", "r * N")})
    found = steady_state(growth)
    assert bool(found.result != qsp.RESULTS.successful)
    derivative = jax.grad(lambda r: steady_state(qsp.at(growth, "r").set(r)).state["N"])(0.1)
    assert np.isfinite(derivative)


@pytest.mark.parametrize(
    "method", [qsp.solve.Rosenbrock(rtol=1e-8, atol=1e-12), qsp.solve.Diffrax()], ids=["kernel", "diffrax"]
)
def test_both_solver_paths(method):
    found = steady_state(CONVERSION, method=method)
    np.testing.assert_allclose(found.state["A"], 0.6 / 1.4, rtol=1e-9)
