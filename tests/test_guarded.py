"""A value that is not finite spoils no derivative but its own."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax._model import observe
from tests.systems.marks import slow_for


class Amounts(NamedTuple):
    """A depot and a central amount."""

    depot: jax.Array
    central: jax.Array


class Absorption(qsp.AbstractModel):
    """First-order absorption, of which the absorbed share of what is there is observed: 0/0 before the dose."""

    ka: jax.Array = qsp.parameter(unit="1/h", doc="absorption rate constant")
    k: jax.Array = qsp.parameter(unit="1/h", doc="elimination rate constant")

    def initial(self):
        return Amounts(0.0, 0.0)

    def vector_field(self, t, y):
        return Amounts(-self.ka * y.depot, self.ka * y.depot - self.k * y.central)

    def observe(self, t, y):
        return {
            "central": y.central,
            "share": y.central / (y.central + y.depot) * self.k,
            "log": jnp.log(self.k * y.central) + jax.nn.relu(y.central),
            "inverse": self.k / y.central**2 + y.central**-0.5,
        }


TS = jnp.asarray([0.0, 1.0, 2.0])


def measured(p):
    """The first output at all times, the others after the dose."""
    solution = qsp.simulate(Absorption(*p), qsp.bolus(1.0, to="depot", at=0.5), TS)
    seen = solution.observed
    later = seen["share"] ** 2 + seen["log"] + seen["inverse"]
    return jnp.where(TS > 0.5, later, 0.0).sum() + jnp.prod(1.0 + seen["central"])


@pytest.mark.parametrize("derivative", slow_for([jax.grad, jax.jacfwd, jax.hessian], jax.hessian))
def test_derivatives_of_what_is_measured_are_finite(derivative):
    p = jnp.asarray([0.7, 0.2])

    def truth(p):
        ka, k = p
        t = TS[1:] - 0.5
        depot, central = jnp.exp(-ka * t), ka / (ka - k) * (jnp.exp(-k * t) - jnp.exp(-ka * t))
        seen = Absorption(ka, k).observe(t, Amounts(depot, central))
        return (seen["share"] ** 2 + seen["log"] + seen["inverse"]).sum() + jnp.prod(1.0 + central)

    np.testing.assert_allclose(measured(p), truth(p), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(derivative(measured))(p), derivative(truth)(p), rtol=1e-5)


def test_values_are_those_of_the_model():
    model, states = Absorption(0.7, 0.2), Amounts(jnp.zeros(3), jnp.asarray([0.0, 1.0, 2.0]))
    each = jax.vmap(lambda y: observe(model, 0.0, y))(states)
    assert jax.tree.all(
        jax.tree.map(
            lambda a, b: np.array_equal(a, b, equal_nan=True), each, jax.vmap(lambda y: model.observe(0.0, y))(states)
        )
    )
    slopes = jax.jacrev(lambda central: observe(model, 0.0, Amounts(0.0, central)))(0.0)
    assert {name: float(slope) for name, slope in slopes.items()} == {
        "central": 1.0,
        "share": 0.0,
        "log": 0.0,
        "inverse": 0.0,
    }
