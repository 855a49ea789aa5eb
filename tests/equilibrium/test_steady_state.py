"""Steady states in closed form: values and derivatives of both modes, with and without conserved quantities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.equilibrium import steady_state
from qspjax.equilibrium._oscillation import period_of
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
    found = steady_state(growth, throw=False)
    assert bool(found.result != qsp.RESULTS.successful)
    assert np.isnan(found.state["N"])
    derivative = jax.grad(lambda r: steady_state(qsp.at(growth, "r").set(r), throw=False).state["N"])(0.1)
    assert np.isnan(derivative)


BRUSSELATOR = Network(
    parameters={"A": 1.0, "B": 3.0, "X": 1.0, "Y": 1.0},
    rates={"X": "A + X^2 * Y - (B + 1) * X", "Y": "B * X - X^2 * Y"},
)
"""At rest in X = A, Y = B / A while B < 1 + A^2; beyond, a limit cycle (Prigogine and Lefever 1968)."""


def test_a_model_that_oscillates_says_so():
    text = r"state `[XY]` was still moving at time \d+.*, with a period of about 7\.16\. The model oscillates"
    with pytest.raises(RuntimeError, match=text):
        steady_state(BRUSSELATOR)

    def of(B):
        return steady_state(qsp.at(BRUSSELATOR, "B").set(B), throw=False)

    @jax.jit
    def several(B):
        gradient = jax.grad(lambda B: jnp.sum(jnp.where(B < 2.0, jax.vmap(of)(B).state["Y"], 0.0)))
        return jax.vmap(of)(B), gradient(B)

    found, gradient = several(jnp.array([1.5, 3.0, 1.2]))
    np.testing.assert_allclose(found.state["Y"], [1.5, np.nan, 1.2], rtol=1e-9)
    np.testing.assert_allclose(gradient, [1.0, 0.0, 1.0], rtol=1e-8)  # the one that oscillates is not used
    assert (found.result == qsp.RESULTS.oscillates).tolist() == [False, True, False]
    assert np.isnan(found.period).tolist() == [True, False, True]


def test_a_model_that_has_not_come_to_rest():
    slow = Network(parameters={"x": 1.0}, rates={"x": "1e-12 * (3 - x)"})
    with pytest.raises(RuntimeError, match=r"`x` was still moving at time 1e\+10\. The model has not come to a steady"):
        steady_state(slow)


def test_periods():
    times = np.linspace(0.0, 100.0, 257)
    waves = np.stack(
        [np.sin(times), times, np.exp(-0.05 * times) * np.sin(times), 3.0 + np.sin(2 * times) ** 3], axis=1
    )
    for columns, period in (([0, 1], 2 * np.pi), ([1, 2], np.nan), ([1, 3], np.pi)):
        found = period_of(jnp.asarray(times), jnp.asarray(waves[:, columns]), jnp.full(2, 1e-6))
        np.testing.assert_allclose(found, period, rtol=1e-3)


@pytest.mark.parametrize(
    "method", [qsp.solve.Rosenbrock(rtol=1e-8, atol=1e-12), qsp.solve.Diffrax()], ids=["kernel", "diffrax"]
)
def test_both_solver_paths(method):
    found = steady_state(CONVERSION, method=method)
    np.testing.assert_allclose(found.state["A"], 0.6 / 1.4, rtol=1e-9)
