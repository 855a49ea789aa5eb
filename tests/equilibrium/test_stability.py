"""The largest real part of the eigenvalues at steady states whose spectra are known."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.equilibrium import steady_state
from qspjax.models import MassAction, Network, Reaction

BINDING = Network(
    species={"A": 3.0, "B": 2.0, "C": 0.0},
    parameters={"kon": 2.0, "koff": 1.0},
    reactions={"r": Reaction("A + B -> C", MassAction("kon", reverse="koff"))},
)
KUZNETSOV = Network(
    parameters={"x": 1.6, "y": 0.0, "delta": 0.3743},
    rates={
        "x": "0.1181 + 1.131 * x * y / (20.19 + y) - 0.00311 * x * y - delta * x",
        "y": "1.636 * y * (1 - 0.002 * y) - x * y",
    },
)
"""Effector cells and a tumour (Kuznetsov et al., Bull Math Biol 1994;56:295, doi:10.1007/BF02460644)."""


def test_conserved_totals_are_left_out():
    found = steady_state(BINDING)  # A = 1.5, B = 0.5: -(kon (A + B) + koff), and two totals
    np.testing.assert_allclose(found.rightmost, -5.0, rtol=1e-12)


def test_only_totals_are_neutral():
    frozen = Network(parameters={"x": 1.0, "k": 0.0}, rates={"x": "-k * x"})
    assert float(steady_state(frozen).rightmost) == 0.0


@pytest.mark.parametrize(
    ("start", "state", "eigenvalue"),
    [
        ((1.5, 8.0), (1.609203280, 8.189706664), -0.05009353761),  # a focus
        ((0.17, 450.0), (0.1729768028, 447.1342290), -0.4526782375),
        ((0.1181 / 0.3743, 0.0), (0.3155223083, 0.0), 1.636 - 0.1181 / 0.3743),  # healthy: a saddle
    ],
)
def test_of_a_tumour_that_immune_cells_control(start, state, eigenvalue):
    model = qsp.at(qsp.at(KUZNETSOV, "x").set(start[0]), "y").set(start[1])
    found = steady_state(model)
    np.testing.assert_allclose([found.state["x"], found.state["y"]], state, rtol=1e-8)
    np.testing.assert_allclose(found.rightmost, eigenvalue, rtol=1e-8)
    assert found.culprit == 1 or found.rightmost < 0.0  # it is the tumour that grows


def test_delayed_feedback_of_neutrophils():
    # prol and three transits: lambda / ktr at gamma = 0.161 is -.1409556307 (Friberg et al. 2002)
    gain = "ktr * prol * (circ0 / circ)^gamma"
    chain = {"t1": "ktr * (prol - t1)", "t2": "ktr * (t1 - t2)", "t3": "ktr * (t2 - t3)", "circ": "ktr * (t3 - circ)"}
    start = dict.fromkeys(("prol", *chain), 5.0)
    model = Network(
        parameters=start | {"ktr": 0.5, "circ0": 5.0, "gamma": 0.161}, rates={"prol": f"{gain} - ktr * prol"} | chain
    )
    np.testing.assert_allclose(steady_state(model).rightmost, -0.1409556307 * 0.5, rtol=1e-8)


class Bound(NamedTuple):
    total: jax.Array
    free: jax.Array


class Binding(qsp.AbstractAlgebraic):
    """Production of a drug that is eliminated while it is free, and bound at once."""

    k: jax.Array = qsp.parameter(unit="1/h", doc="elimination of free drug")

    def initial(self):
        return Bound(0.0, 0.0)

    def vector_field(self, t, y):
        return Bound(1.0 - self.k * y.free, y.total - y.free - 2.0 * y.free / (1.0 + y.free))

    def observe(self, t, y):
        return {"free": y.free}

    def algebraic(self):
        return ("free",)


def test_algebraic_states_are_eliminated():
    found = steady_state(Binding(k=0.5))  # free = 2, d total / d free = 1 + 2 / (1 + free)^2
    np.testing.assert_allclose([found.state.free, found.rightmost], [2.0, -0.5 / (1.0 + 2.0 / 9.0)], rtol=1e-9)


def test_of_many_patients_at_once_and_beside_a_derivative():
    k = jnp.linspace(0.1, 2.0, 50)

    @jax.jit
    def of(k):
        found = jax.vmap(lambda k: steady_state(qsp.at(BINDING, "kon").set(k), throw=False))(k)
        return jnp.sum(found.state["C"]), found.rightmost

    (_, rightmost), slope = jax.value_and_grad(of, has_aux=True)(k)
    A, B = ((s + np.sqrt(s * s + 4.0 * t / k)) / 2.0 for s, t in ((1.0 - 1.0 / k, 3.0), (-1.0 - 1.0 / k, 2.0)))
    np.testing.assert_allclose(rightmost, -(k * (A + B) + 1.0), rtol=1e-9)
    assert np.isfinite(slope).all()
