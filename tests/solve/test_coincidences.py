"""Doses that coincide: with each other, with outputs, with the interval. Gradients against differences, in both modes.

At a steady state a lag or a duration may be the interval, or a multiple of it; an infusion may end as a dose is given,
and an output may fall on any of these. Where the concentration is smooth all differences agree; where it jumps or has a
kink, the derivative is that of one side.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp

NAMES = ("CL", "V", "ka", "tlag", "F", "amount", "at", "interval", "over", "rate")
OUTPUTS = 8
EXACT = qsp.solve.MatrixExponential()
ADAPTIVE = qsp.solve.Rosenbrock(rtol=1e-10, atol=1e-12)


def oral(p):
    return qsp.models.OneCompartmentOral(**{name: p[name] for name in NAMES[:5]})


class Amounts(NamedTuple):
    depot: jax.Array
    central: jax.Array


class Saturable(qsp.AbstractDelivered):
    """Absorption with a lag and saturable elimination, of which the doses here ask for up to a half."""

    CL: jax.Array = qsp.parameter(unit="L/h", doc="intrinsic clearance")
    V: jax.Array = qsp.parameter(unit="L", doc="volume")
    ka: jax.Array = qsp.parameter(unit="1/h", doc="absorption")
    tlag: jax.Array = qsp.parameter(unit="h", doc="lag", minimum=0.0)
    F: jax.Array = qsp.parameter(unit="", doc="bioavailability")

    def initial(self):
        return Amounts(0.0, 0.0)

    def vector_field(self, t, y):
        lost = self.CL * y.central / (self.V + 0.02 * y.central)
        return Amounts(-self.ka * y.depot, self.ka * y.depot - lost)

    def observe(self, t, y):
        return {"concentration": y.central / self.V}

    def deliveries(self):
        return {"depot": qsp.Delivery("depot", lag=self.tlag, bioavailability=self.F)}


def by_duration(p):
    """A bolus with a lag and an infusion over a duration, in each interval."""
    doses = qsp.bolus(p["amount"], to="depot", at=p["at"])
    doses += qsp.infusion(p["amount"], to="central", over=p["over"], at=p["at"] + p["rate"] / 12.0)
    return doses.every(p["interval"], doses=2).at_steady_state()


def by_rate(p):
    """An infusion with a lag, of which bioavailability scales the duration; then a steady state that is added."""
    begun = qsp.infusion(p["amount"], to="depot", rate=p["rate"], at=p["at"]).every(p["interval"], doses=3)
    later = qsp.infusion(p["amount"], to="depot", over=p["over"], at=p["at"] + 2.0 * p["interval"])
    return begun.at_steady_state() + later.every(p["interval"], doses=2).at_steady_state(added=True)


SHAPES = {
    "by duration": (oral, by_duration, EXACT),
    "by rate": (oral, by_rate, EXACT),
    "saturable": (lambda p: Saturable(**{name: p[name] for name in NAMES[:5]}), by_duration, ADAPTIVE),
}


def drawn(seed):
    """Return values by name, and outputs, that coincide in many ways."""
    draw = np.random.default_rng(seed)
    interval = float(draw.choice([6.0, 8.0, 12.0]))
    p = dict(zip(NAMES, [3.7, 12.5, 1.15, 0.4, 0.8, 50.0, 1.0, interval, 3.0, 6.0], strict=True))
    for name in ("CL", "V", "ka", "F"):
        p[name] *= float(draw.uniform(0.7, 1.4))
    if draw.random() < 0.3:
        p["F"] = 1.0
    p["at"] = float(draw.choice([0.0, 1.0, 0.3]))
    times = np.array([0.25, 0.5, 1.0, 1.0, 2.0, 2.0]) * interval
    p["tlag"] = float(draw.choice([*times[1:], draw.uniform(0.1, 5.0)]))
    p["over"] = float(draw.choice([*times, draw.uniform(0.5, 20.0)]))
    p["rate"] = p["F"] * p["amount"] / float(draw.choice([*times, draw.uniform(2.0, 20.0)]))
    first = p["at"]
    marks = first + np.array([0.0, interval, p["over"] % interval, p["tlag"] % interval, p["tlag"] % interval + 1.0])
    ts = np.concatenate([marks, first + draw.uniform(0.0, 2.0 * interval, OUTPUTS - marks.size)])
    return jnp.asarray([p[name] for name in NAMES]), jnp.asarray(np.sort(ts))


@functools.cache
def programs(shape):
    """Return the concentration at outputs and its Jacobian in both modes, each one program for all cases."""
    model, regimen, method = SHAPES[shape]

    def concentration(x, ts):
        p = dict(zip(NAMES, x, strict=True))
        return qsp.simulate(model(p), regimen(p), ts, t0=0.0, method=method, throw=False).observed["concentration"]

    def both(x, ts):
        return jax.jacfwd(concentration)(x, ts), jax.jacrev(concentration)(x, ts)

    return jax.jit(jax.vmap(concentration, in_axes=(0, None))), jax.jit(both)


def sides(values, h):
    """Return the derivative from below and from above, from f(x - 3 h), ..., f(x + 3 h), of third order each."""
    weights = np.array([-11.0, 18.0, -9.0, 2.0]) / 6.0
    return -weights @ values[3::-1] / h, weights @ values[3:] / h


def check(shape, seed, rtol):
    value, jacobians = programs(shape)
    x, ts = drawn(seed)
    forward, reverse = (np.asarray(jacobian) for jacobian in jacobians(x, ts))
    steps = 3e-4 * np.maximum(np.abs(x), 0.1)
    points = x + steps[:, None, None] * np.arange(-3, 4)[None, :, None] * np.eye(x.size)[:, None, :]
    values = np.asarray(value(jnp.asarray(points.reshape(-1, x.size)), ts)).reshape(x.size, 7, -1)
    assert np.isfinite(forward).all()
    np.testing.assert_allclose(reverse, forward, rtol=1e-8, atol=1e-8 * np.abs(forward).max())
    size = np.abs(values[0, 3]).max()
    for i, h in enumerate(steps):
        if x[i] < 3 * h:  # a time that cannot be below zero
            continue
        below, above = sides(values[i], h)
        off = np.minimum(np.abs(forward[:, i] - below), np.abs(forward[:, i] - above))
        assert (off <= rtol * np.maximum(np.abs(forward[:, i]), size / np.abs(x[i]))).all(), (NAMES[i], seed)


def test_gradient_of_coinciding_doses():
    for seed in range(10):
        check("by duration", seed, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "seeds"), [("by duration", range(10, 50)), ("by rate", range(50))])
def test_gradient_of_many_coinciding_doses(shape, seeds):
    for seed in seeds:
        check(shape, seed, 1e-5)


def test_infusion_that_ends_as_the_next_begins():
    """dC/dD of C = A / (D CL) (1 + (e^{-k (II - D)} - 1) / (1 - e^{-k II}) e^{-k t}), t <= D <= II, at D = II.

    An output at the end itself, where C has a kink, has the derivative of a duration that is shorter.
    """
    A, CL, V, II = 100.0, 3.0, 30.0, 12.0
    ts, k = np.array([0.0, 2.0, 11.0, 12.0]), CL / V

    def concentration(duration):
        regimen = qsp.infusion(A, to="central", over=duration).every(II, doses=2).at_steady_state()
        return qsp.simulate(qsp.models.OneCompartment(CL=CL, V=V), regimen, ts).observed["concentration"]

    right = A / (II * CL) * (-1.0 / II + k * np.exp(-k * (ts % II)) / (1.0 - np.exp(-k * II)))
    np.testing.assert_allclose(jax.jacfwd(concentration)(II), right, rtol=1e-10)


@pytest.mark.slow
def test_lag_that_is_an_interval():
    """dC/dlag = -dC/dt of the periodic solution."""
    k, ka, V, II, ts = 0.1, 1.0, 30.0, 12.0, np.array([2.0, 11.0])
    regimen = qsp.bolus(100.0, to="depot").every(II, doses=2).at_steady_state()

    def concentration(lag):
        patient = qsp.models.OneCompartmentOral(CL=k * V, V=V, ka=ka, tlag=lag)
        return qsp.simulate(patient, regimen, ts).observed["concentration"]

    slow, fast = (rate * np.exp(-rate * ts) / (1.0 - np.exp(-rate * II)) for rate in (k, ka))
    np.testing.assert_allclose(jax.jacfwd(concentration)(II), 100.0 * ka / (V * (ka - k)) * (slow - fast), rtol=1e-10)


@pytest.mark.slow
def test_gradient_of_coinciding_doses_of_a_saturable_model():
    for seed in range(10):
        check("saturable", seed, 1e-4)
