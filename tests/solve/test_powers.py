"""Fields that are finite where their slope is infinite or undefined: roots and powers of a state that is zero."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import qspjax as qsp
from qspjax._jaxpr._regular import regular
from qspjax.models import Hill, Network, NetworkEvent, Reaction
from tests.systems.marks import slow_for

TOLERANCES = {"rtol": 1e-8, "atol": 1e-11}
METHODS = {
    "Rosenbrock": qsp.solve.Rosenbrock(**TOLERANCES),
    "Explicit": qsp.solve.Explicit(**TOLERANCES),
    "Automatic": qsp.solve.Automatic(**TOLERANCES),
    "Diffrax": qsp.solve.Diffrax(diffrax.Tsit5(), **TOLERANCES),
}

SATURABLE = Network(
    species={"S": 0.0},
    parameters={"kin": 1.0, "Vm": 2.5, "K": 1.5, "n": 0.7},
    reactions={"production": Reaction("-> S", "kin"), "loss": Reaction("S ->", Hill("Vm", "K", "n"))},
)
NAMES = ("kin", "Vm", "K", "n")
P = np.array([1.0, 2.5, 1.5, 0.7])
TS = np.array([0.1, 1.0, 10.0])


def reference(p):
    """S from 0, and its derivatives: dS'/dp = f_S dS/dp + f_p, where the singular f_S dS/dp is 0 at S = 0."""
    kin, Vm, K, n = p

    def field(t, y):
        S, own = max(y[0], 0.0), y[1:]
        if S == 0.0:
            return [kin, 1.0, 0.0, 0.0, 0.0]
        up, low = S**n, K**n
        share, slope = up / (low + up), up * low / (low + up) ** 2
        moved = -Vm * slope * np.array([0.0, 0.0, -n / K, np.log(S / K)]) + np.array([1.0, -share, 0.0, 0.0])
        return [kin - Vm * share, *(-Vm * slope * n / S * own + moved)]

    solved = solve_ivp(field, (0.0, 10.0), np.zeros(5), method="LSODA", t_eval=TS, rtol=1e-11, atol=1e-14).y
    return solved[0], solved[1:].T


def of_saturable(p, method):
    model = SATURABLE
    for name, value in zip(NAMES, p, strict=True):
        model = qsp.at(model, name).set(value)
    return qsp.simulate(model, qsp.no_doses(), TS, method=method, throw=False).observed["S"]


@pytest.mark.parametrize("name", slow_for(METHODS, "Explicit", "Automatic", "Diffrax"))
def test_a_hill_term_with_an_exponent_below_one(name):
    value, slopes = reference(P)

    @jax.jit
    def both(p):
        return jax.jacfwd(of_saturable)(p, METHODS[name]), *jax.vjp(lambda p: of_saturable(p, METHODS[name]), p)[:1]

    forward, found = both(jnp.asarray(P))
    np.testing.assert_allclose(found, value, rtol=1e-7)
    np.testing.assert_allclose(forward, slopes, rtol=1e-4, atol=1e-7)
    back = jax.jit(jax.grad(lambda p: jnp.sum(of_saturable(p, METHODS[name]))))(jnp.asarray(P))
    np.testing.assert_allclose(back, forward.sum(axis=0), rtol=1e-8)

    # K = 0 and n = 0: 0^0 / (0^0 + S^0) is a half, whatever K and S are
    forward, found = both(jnp.array([1.0, 0.3, 0.0, 0.0]))
    np.testing.assert_allclose(found, 0.85 * TS, rtol=1e-7)
    np.testing.assert_allclose(forward[:, :3], TS[:, None] * np.array([1.0, -0.5, 0.0]), rtol=1e-7, atol=1e-12)
    assert np.isfinite(forward).all()


class Root(qsp.AbstractModel):
    """x' = -k x^n from 1 empties at T = 1 / (k (1 - n)): x = (1 - t / T)^(1 / (1 - n)), then 0."""

    k: jax.Array = qsp.parameter(unit="1/h", doc="rate")
    n: jax.Array = qsp.parameter(unit="", doc="exponent")

    def initial(self):
        return {"x": jnp.asarray(1.0)}

    def vector_field(self, t, y):
        return {"x": -self.k * y["x"] ** self.n}

    def observe(self, t, y):
        return {"x": y["x"], "root": jnp.sqrt(y["x"])}


@pytest.mark.parametrize("name", slow_for(METHODS, "Explicit", "Automatic", "Diffrax"))
def test_what_a_root_empties_stays_empty(name):
    ts, k = np.array([0.0, 1.0, 1.9, 2.5, 5.0, 7.0]), 1.0

    def of(k, n):
        return qsp.simulate(Root(k=k, n=n), qsp.bolus(0.25, to="x", at=6.0), ts, method=METHODS[name]).observed

    found, slope = jax.jit(lambda k, n: (of(k, n), jax.jacfwd(lambda k: of(k, n)["x"])(k)))(k, 0.5)
    left = np.maximum(np.where(ts < 6.0, 1.0 - ts / 2.0, 0.5 - (ts - 6.0) / 2.0), 0.0)
    np.testing.assert_allclose(found["x"], left**2, rtol=1e-6, atol=1e-9)
    assert (found["x"] >= 0.0).all()
    assert np.isfinite(found["root"]).all()
    np.testing.assert_allclose(slope, np.where(ts < 6.0, -ts, -(ts - 6.0)) * left, rtol=1e-4, atol=1e-4)


def test_what_changes_by_an_event_only():
    """P is 0 until the event; S' = k P^n at rest with an infinite slope."""
    model = Network(
        parameters={"P": 0.0, "S": 0.0, "k": 2.0, "n": 0.5},
        rates={"S": "k * P^n", "P": "-0.1 * P"},
        events=[NetworkEvent("time > 1", {"P": "4"})],
    )

    def of(n):
        changed = qsp.at(model, "n").set(n)
        return qsp.simulate(changed, qsp.no_doses(), [0.5, 1.0, 3.0], method=METHODS["Rosenbrock"]).observed["S"]

    def right(n):
        return 2.0 * 4.0**n * (1.0 - jnp.exp(-0.2 * n)) / (0.1 * n)

    np.testing.assert_allclose(of(0.5), [0.0, 0.0, right(0.5)], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(jax.jacfwd(of)(0.5), [0.0, 0.0, jax.grad(right)(0.5)], rtol=1e-6, atol=1e-9)


def test_slopes_that_are_not_finite_count_as_zero():
    def field(x, n):
        return jnp.where(x > 2.0, 1.0, x**n / (1.0 + x**n)) + jnp.sqrt(x)

    for order in (jax.grad, jax.hessian):
        for x, n in ((0.7, 0.5), (1.0, 3.0)):
            got, expected = (order(f, (0, 1))(x, n) for f in (regular(field), field))
            jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-12), got, expected)
        assert all(np.isfinite(x) for x in jax.tree.leaves(order(regular(field), (0, 1))(0.0, 0.5)))
    assert regular(field)(0.0, 0.5) == 0.0
