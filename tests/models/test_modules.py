"""Any equinox module in a model: functions and strings among its leaves are static, as if its numbers stood alone."""

from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp

TS = np.array([1.0, 4.0, 8.0])
DOSES = qsp.bolus(100.0, to="central")
NET = eqx.nn.MLP(1, 1, 4, 1, key=jax.random.key(0))  # the activation is a function


class Learnt(qsp.AbstractModel):
    """A clearance that is a network of the concentration, and a gate that is a function."""

    CL: jax.Array = qsp.parameter(unit="L/h", doc="clearance")
    net: eqx.nn.MLP
    gate: Callable = jax.nn.sigmoid
    unit: str = "L/h"

    def initial(self):
        return {"central": jnp.asarray(0.0)}

    def vector_field(self, t, y):
        C = y["central"] / 10.0
        return {"central": -self.CL * self.gate(self.net(C[None])[0]) * C}

    def observe(self, t, y):
        return {"concentration": y["central"] / 10.0}


class Plain(qsp.AbstractModel):
    """The same, of arrays only."""

    CL: jax.Array = qsp.parameter(unit="L/h", doc="clearance")
    into: jax.Array = qsp.parameter(unit="", doc="weights", above=None)
    shift: jax.Array = qsp.parameter(unit="", doc="biases", above=None)
    out: jax.Array = qsp.parameter(unit="", doc="weights", above=None)
    last: jax.Array = qsp.parameter(unit="", doc="bias", above=None)

    def initial(self):
        return {"central": jnp.asarray(0.0)}

    def vector_field(self, t, y):
        C = y["central"] / 10.0
        hidden = jax.nn.relu(self.into[:, 0] * C + self.shift)
        return {"central": -self.CL * jax.nn.sigmoid(self.out[0] @ hidden + self.last[0]) * C}

    def observe(self, t, y):
        return {"concentration": y["central"] / 10.0}


def numbers(net):
    return [x for layer in net.layers for x in (layer.weight, layer.bias)]


PAIR = (Learnt(CL=3.0, net=NET), Plain(3.0, *numbers(NET)))


def last(model, method=None):
    return qsp.simulate(model, DOSES, TS, method=method).observed["concentration"][-1]


@pytest.mark.parametrize(
    "method",
    [
        None,
        pytest.param(qsp.solve.Explicit(), marks=pytest.mark.slow),
        pytest.param(qsp.solve.Diffrax(diffrax.Tsit5()), marks=pytest.mark.slow),
    ],
    ids=["default", "Explicit", "Diffrax"],
)
def test_a_patient_and_its_gradient(method):
    (value, slope), (expected, known) = (
        eqx.filter_jit(eqx.filter_value_and_grad(lambda model: last(model, method)))(model) for model in PAIR
    )
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(slope.CL, known.CL, rtol=1e-9)
    for one, other in zip(numbers(slope.net), jax.tree.leaves(known)[1:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_a_cohort_and_names():
    learnt, plain = (qsp.Cohort.of(model, {"CL": np.array([2.0, 3.0, 4.0])}) for model in PAIR)
    found, expected = (qsp.simulate_cohort(c, DOSES, TS).observed["concentration"] for c in (learnt, plain))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert [name.name for name in qsp.names(PAIR[0])] == ["CL"]
    np.testing.assert_allclose(last(learnt.take([2]).patient(0)), found[2, -1], rtol=1e-12)
    np.testing.assert_allclose(last(qsp.at(PAIR[0], "CL").set(2.0)), found[0, -1], rtol=1e-12)


@pytest.mark.slow
def test_an_ensemble_of_networks_and_changes_of_a_parameter():
    nets = eqx.filter_vmap(lambda key: eqx.nn.MLP(1, 1, 4, 1, key=key))(jax.random.split(jax.random.key(1), 3))
    found = eqx.filter_vmap(lambda net: eqx.filter_grad(lambda net: last(Learnt(CL=3.0, net=net)))(net))(nets)
    one = jax.tree.map(lambda x: x[1] if eqx.is_array(x) else x, nets)
    alone = eqx.filter_grad(lambda net: last(Learnt(CL=3.0, net=net)))(one)
    for several, expected in zip(numbers(found), numbers(alone), strict=True):
        np.testing.assert_allclose(several[1], expected, rtol=1e-9, atol=1e-12)
    doses = DOSES + qsp.set_parameter("CL", 6.0, at=2.0)
    changed = (qsp.simulate(model, doses, TS).observed["concentration"] for model in PAIR)
    np.testing.assert_allclose(*changed, rtol=1e-12)
