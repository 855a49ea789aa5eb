"""Derivatives through declared events in native code: closed forms, those of XLA, and the same bits in any company."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.solve.native import _call, compilations
from tests.solve.native.test_ensembles import compiled_again

TS = jnp.array([2.0, 4.0, 5.5])


class Cascade(qsp.AbstractEventful):
    """Growth that is cut at a level: two changes at once, one that they cause, and one after a delay."""

    k: jax.Array = qsp.parameter(unit="1/d", doc="growth")
    level: jax.Array = qsp.parameter(unit="1", doc="where it is cut")
    cut: jax.Array = qsp.parameter(unit="1", doc="what is left")
    wait: jax.Array = qsp.parameter(unit="d", doc="the delay")
    late: jax.Array = qsp.parameter(unit="d", doc="a time")

    def initial(self):
        return {"x": 1.0, "y": 0.2, "z": 0.0, "u": 0.0}

    def vector_field(self, t, y):
        return {"x": self.k * y["x"], "y": -1.5 * y["y"], "z": jnp.zeros_like(t), "u": jnp.zeros_like(t)}

    def events(self):
        return [
            qsp.Event(lambda t, y: y["x"] > self.level, lambda t, y: {"y": y["y"] + y["x"]}, priority=lambda t, y: 1.0),
            qsp.Event(
                lambda t, y: y["x"] > self.level, lambda t, y: {"x": self.cut * y["x"]}, priority=lambda t, y: 2.0
            ),
            qsp.Event(lambda t, y: y["y"] > 1.0, lambda t, y: {"z": y["z"] + 2.0 * y["y"]}),
            qsp.Event(
                lambda t, y: y["z"] > 1.0,
                lambda t, y: {"u": y["x"] * y["z"]},
                delay=lambda t, y: self.wait,
                from_trigger_time=False,
                pending=2,
            ),
            qsp.Event(lambda t, y: t > self.late, lambda t, y: {"z": y["z"] + y["y"]}),
        ]

    def observe(self, t, y):
        return y


def states(p):
    """Return the states of a patient, who also has a dose at the time of an event."""
    dose, method = qsp.bolus(p[5], to="y", at=p[4]), qsp.solve.Rosenbrock(rtol=1e-10, atol=1e-13)
    found = qsp.simulate(
        Cascade(k=p[0], level=p[1], cut=p[2], wait=p[3], late=p[4]), dose, TS, method=method, throw=False
    ).states
    return jnp.stack([found[name] for name in "xyzu"], axis=1)


def in_closed_form(p):
    """Return the same: cut and marked in between the first two outputs, with the dose before the third."""
    k, level, cut, wait, late, dose = p
    at = jnp.log(level) / k
    after, before = at < TS, jnp.exp(-1.5 * TS)
    marked = 0.2 * jnp.exp(-1.5 * at) + level
    x = jnp.where(after, level * cut * jnp.exp(k * (TS - at)), jnp.exp(k * TS))
    y = jnp.where(after, marked * jnp.exp(-1.5 * (TS - at)), 0.2 * before)
    y = y + jnp.where(late < TS, dose * jnp.exp(-1.5 * (TS - late)), 0.0)
    z = jnp.where(after, 2.0 * marked, 0.0)
    u = jnp.where(at + wait < TS, level * cut * jnp.exp(k * wait) * 2.0 * marked, 0.0)
    z = z + jnp.where(late < TS, marked * jnp.exp(-1.5 * (late - at)) + dose, 0.0)
    return jnp.stack([x, y, z, u], axis=1)


P = jnp.array([0.6, 4.0, 0.1, 0.7, 5.0, 0.5])
WEIGHTS = jnp.array([[0.3, 1.0, -0.7, 0.4], [1.1, 0.9, -0.2, 1.3], [-0.5, 0.8, 1.2, 0.6]])


@pytest.fixture(scope="module")
def patients():
    """Return 11 patients."""
    return P * jnp.exp(0.05 * np.random.default_rng(0).normal(size=(11, P.size)))


@pytest.mark.parametrize("mode", ["backwards", "forwards"])
def test_a_cascade_in_closed_form(mode, patients):
    """Those who are lost have no derivative, and no influence on the bits of the others."""

    def squares(p):
        return jnp.sum(WEIGHTS * states(p) ** 2)

    def exact(p):
        return jnp.sum(WEIGHTS * in_closed_form(p) ** 2)

    if mode == "backwards":
        derivative, expected = jax.grad(squares), jax.grad(exact)
    else:
        derivative, expected = (lambda p, f=f: jax.jvp(f, (p,), (p,))[1] for f in (squares, exact))
    everyone = jax.jit(jax.vmap(derivative))
    with compilations() as solves:
        found = everyone(patients)
    assert {solve.reason for solve in solves} == {None}
    np.testing.assert_allclose(found, jax.vmap(expected)(patients), rtol=1e-7, atol=1e-7)
    order, lost = np.random.default_rng(1).permutation(11), [3, 7]
    others = np.setdiff1d(np.arange(11), lost)
    again = np.asarray(everyone(patients.at[np.array(lost), 0].set(1e308)[order]))[np.argsort(order)]
    assert np.isnan(again[lost]).any(axis=-1).all()
    assert again[others].tobytes() == np.asarray(found)[others].tobytes()


class Storm(qsp.AbstractEventful):
    """Events of every kind: at a level, at a time and one after another, delayed, and cancelled in time."""

    k: jax.Array = qsp.parameter(unit="1/d", doc="growth")
    level: jax.Array = qsp.parameter(unit="1", doc="where it is cut")
    wait: jax.Array = qsp.parameter(unit="d", doc="a delay")
    late: jax.Array = qsp.parameter(unit="d", doc="a time")
    share: jax.Array = qsp.parameter(unit="1", doc="what is left")

    def initial(self):
        return {"x": 1.0, "y": 0.5, "z": 0.2}

    def vector_field(self, t, y):
        return {
            "x": self.k * y["x"] * (1.0 - y["x"] / 50.0),
            "y": -0.3 * y["y"] + 0.05 * y["x"],
            "z": 0.02 * y["x"] - 0.2 * y["z"],
        }

    def events(self):
        return [
            qsp.Event(lambda t, y: y["x"] > self.level, lambda t, y: {"y": y["y"] + y["x"]}, priority=lambda t, y: 1.0),
            qsp.Event(
                lambda t, y: y["x"] > self.level, lambda t, y: {"x": self.share * y["x"]}, priority=lambda t, y: 2.0
            ),
            qsp.Event(lambda t, y: y["y"] > 5.0, lambda t, y: {"z": y["z"] + 2.0 * y["y"] * self.share}),
            qsp.Event(
                lambda t, y: y["z"] > 3.0,
                lambda t, y: {"z": 0.5 * y["z"], "y": y["y"] * y["y"] / 10.0},
                delay=lambda t, y: self.wait * (1.0 + 0.1 * y["z"]),
                from_trigger_time=False,
            ),
            qsp.Event(
                lambda t, y: y["z"] > 2.0,
                lambda t, y: {"z": 0.9 * y["z"]},
                delay=lambda t, y: 2.0 * self.wait,
                persistent=False,
            ),
            qsp.Event(lambda t, y: t > self.late, lambda t, y: {"x": 0.9 * y["x"] + self.share}),
        ]

    def observe(self, t, y):
        return y


@pytest.mark.slow
@pytest.mark.parametrize("mode", [jax.jacrev, jax.jacfwd])
def test_derivatives_are_those_of_xla(monkeypatch, mode):
    def stormed(p):
        model = Storm(k=p[0], level=p[1], wait=p[2], late=p[3], share=p[4])
        doses = qsp.bolus(p[5], to="x").every(6.0, doses=2) + qsp.bolus(0.3, to="y", at=p[3])
        method = qsp.solve.Rosenbrock(rtol=1e-9, atol=1e-12)
        return qsp.simulate(model, doses, jnp.linspace(0.0, 20.0, 11), method=method).states

    p, jacobian = jnp.array([0.6, 10.0, 0.7, 7.3, 0.6, 0.3]), jax.jit(mode(stormed))
    with compilations() as solves:
        native = jacobian(p)
    assert {solve.reason for solve in solves} == {None}
    with compiled_again(monkeypatch, backend="xla"):
        other = jacobian(p)
    for name, expected in other.items():
        np.testing.assert_allclose(native[name], expected, rtol=0.0, atol=1e-9 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("engine", [{"lanes": 2}, {"threads": 3}])
def test_bits_depend_on_no_lane_or_thread(monkeypatch, engine, patients):
    def both(patients):
        back = jax.vmap(jax.grad(lambda p: jnp.sum(WEIGHTS * states(p) ** 2)))(patients)
        return back, jax.vmap(lambda p: jax.jvp(states, (p,), (p,))[1])(patients)

    expected = jax.jit(both)(patients)
    with compiled_again(monkeypatch, **engine), mock.patch.object(_call, "THREADED", 4):
        found = jax.jit(both)(patients)
    for x, y in zip(found, expected, strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
