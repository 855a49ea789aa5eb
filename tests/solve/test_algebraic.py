"""Algebraic states are solved again after whatever makes the others jump: as if the model were written without them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax._declared import AbstractAlgebraic
from qspjax.models import Network, NetworkEvent, Parameter, Reaction
from qspjax.solve._consistent import consistent
from qspjax.solve._near import Near


class Drug(NamedTuple):
    total: jax.Array
    free: jax.Array
    signal: jax.Array


class Total(NamedTuple):
    total: jax.Array
    signal: jax.Array


class Equilibrium(qsp.AbstractModel):
    """Free drug at binding equilibrium, from the formula of the quadratic equation; it drives a signal."""

    k: jax.Array = qsp.parameter(unit="1/h", doc="elimination of free drug")
    R: jax.Array = qsp.parameter(unit="nmol/L", doc="receptor")
    Kd: jax.Array = qsp.parameter(unit="nmol/L", doc="dissociation constant")
    limit: jax.Array = qsp.parameter(unit="nmol/L", doc="free drug at which more is given", default=0.4)

    def free(self, total):
        b = total - self.R - self.Kd
        root = jnp.sqrt(b * b + 4.0 * self.Kd * total)
        return jnp.where(b > 0, 0.5 * (b + root), 2.0 * self.Kd * total / (root - b))

    def initial(self):
        return Total(3.0, 0.0)

    def vector_field(self, t, y):
        free = self.free(y.total)
        return Total(-self.k * free, free - 0.5 * y.signal)

    def observe(self, t, y):
        return {"total": y.total, "free": self.free(y.total), "signal": y.signal}


class Binding(AbstractAlgebraic):
    """The same with an algebraic state: 0 = total - free - R free / (Kd + free)."""

    k: jax.Array = qsp.parameter(unit="1/h", doc="elimination of free drug")
    R: jax.Array = qsp.parameter(unit="nmol/L", doc="receptor")
    Kd: jax.Array = qsp.parameter(unit="nmol/L", doc="dissociation constant")
    limit: jax.Array = qsp.parameter(unit="nmol/L", doc="free drug at which more is given", default=0.4)

    def initial(self):
        return Drug(3.0, 0.0, 0.0)

    def vector_field(self, t, y):
        bound = self.R * y.free / (self.Kd + y.free)
        return Drug(-self.k * y.free, y.total - y.free - bound, y.free - 0.5 * y.signal)

    def observe(self, t, y):
        return {"total": y.total, "free": y.free, "signal": y.signal}

    def algebraic(self):
        return ("free",)


class EventfulEquilibrium(Equilibrium, qsp.AbstractEventful):
    def events(self):
        return (
            qsp.Event(
                trigger=lambda t, y: self.free(y.total) < self.limit, assign=lambda t, y: {"total": y.total + 6.0}
            ),
            qsp.Event(trigger=lambda t, y: self.free(y.total) > 1.0, assign=lambda t, y: {"signal": y.signal + 1.0}),
        )


class EventfulBinding(Binding, qsp.AbstractEventful):
    """More is given where free drug falls below a limit; what this makes of free drug fires the second event."""

    def events(self):
        return (
            qsp.Event(trigger=lambda t, y: y.free < self.limit, assign=lambda t, y: {"total": y.total + 6.0}),
            qsp.Event(trigger=lambda t, y: y.free > 1.0, assign=lambda t, y: {"signal": y.signal + 1.0}),
        )


TS = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0])
METHOD = qsp.solve.Rosenbrock(rtol=1e-9, atol=1e-12)
VALUES = jnp.asarray([0.2, 10.0, 0.5, 6.0, 1.0, 2.0])  # k, R, Kd, dose, its time, duration


def along(model):
    def observed(x):
        k, R, Kd, dose, at, over = x
        regimen = (
            qsp.bolus(dose, to="total", at=at)
            + qsp.infusion(20.0, to="total", over=over, at=2.0)
            + qsp.set_parameter("R", 3.0 * R, at=5.0)
            + qsp.bolus(500.0, to="total", at=6.0)
            + qsp.reset(at=7.0)
            + qsp.bolus(dose, to="total", at=8.0)
        )
        solution = qsp.simulate(model(k=k, R=R, Kd=Kd), regimen, TS, method=METHOD, throw=False)
        return jnp.stack([solution.observed[name] for name in ("total", "free", "signal")])

    return observed


def test_algebraic_states_follow_whatever_jumps():
    """Doses, infusions, a parameter, a reset, the start; at their own times too. A cotangent of all is drawn once."""
    weights = np.random.default_rng(0).normal(size=(3, TS.size))
    results = []
    for model in (Binding, Equilibrium):
        observed, pull = jax.vjp(along(model), VALUES)
        results.append((observed, pull(jnp.asarray(weights))[0]))
    (found, slopes), (expected, reference) = results
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(slopes, reference, rtol=1e-5)


@pytest.mark.slow
def test_derivatives_of_algebraic_states():
    """Forward mode, and the second derivative."""
    found, expected = (jax.jacfwd(along(model))(VALUES) for model in (Binding, Equilibrium))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    def slope(model):
        return jax.jacfwd(jax.grad(lambda x: along(model)(x)[1:, 1].sum()))(VALUES)[:, :3]

    np.testing.assert_allclose(slope(Binding), slope(Equilibrium), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_events_that_look_at_algebraic_states():
    """The time of an event moves with the algebraic state that decides it; one event makes another fire at once."""

    def observed(model):
        def run(x):
            patient = model(k=x[0], R=x[1], Kd=x[2], limit=x[3])
            regimen = qsp.bolus(x[4], to="total", at=1.0)
            ts = [0.5, 1.0, 4.0, 8.0, 12.0, 16.0, 20.0]
            solution = qsp.simulate(patient, regimen, ts, method=METHOD, throw=False)
            return jnp.stack([solution.observed[name] for name in ("total", "free", "signal")])

        return run

    x = jnp.asarray([0.8, 10.0, 0.5, 0.25, 9.0])
    for transform in (lambda f: f, jax.jacfwd, jax.jacrev):
        found, expected = (transform(observed(model))(x) for model in (EventfulBinding, EventfulEquilibrium))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_algebraic_rule_of_a_network():
    """0 = y^3 + y - S holds after a dose, an event and a change of a parameter, at their own times."""
    network = Network(
        species={"S": 10.0},
        parameters={"y": Parameter(constant=False), "k": 0.3, "a": 1.0},
        reactions={"out": Reaction("S ->", "k * y")},
        algebraic=["y^3 + a * y - S"],
        events=[NetworkEvent("y < 1", {"S": "S + 5"})],
    )
    assert network.algebraic() == ("y",)
    regimen = qsp.bolus(20.0, to="S", at=1.0) + qsp.set_parameter("a", 40.0, at=15.0)
    ts = np.array([0.0, 1.0, 5.0, 12.0, 15.0, 30.0, 60.0])
    seen = qsp.simulate(network, regimen, ts).observed
    a = np.where(ts < 15.0, 1.0, 40.0)
    np.testing.assert_allclose(seen["y"] ** 3 + a * seen["y"], seen["S"], rtol=1e-7)
    assert float(seen["S"][1] - seen["S"][0]) > 19.0 - 0.3 * 2.0


class Level(NamedTuple):
    x: jax.Array
    z: jax.Array
    w: jax.Array


class Circle(AbstractAlgebraic):
    """z on the unit circle over x, w its double: there is no z where x > 1."""

    def initial(self):
        return Level(0.0, 0.9, 0.0)

    def vector_field(self, t, y):
        return Level(-0.1 * y.x, y.x**2 + y.z**2 - 1.0, y.w - 2.0 * y.z)

    def observe(self, t, y):
        return {"z": y.z, "w": y.w}

    def algebraic(self):
        return ("z", "w")


def test_no_consistent_state_is_a_failure_that_names_it():
    """Other patients, on the branch that they began on, are the same to the last bit."""
    ts = np.array([0.0, 1.0, 2.0])

    def simulate(doses):
        cohort = qsp.Cohort.of(Circle(), {}, size=3)
        regimen = qsp.bolus(jnp.asarray(doses), to="x", at=1.0)
        return qsp.simulate_cohort(cohort, regimen, ts)

    solution = simulate([0.5, 1.5, 0.8])
    (failure,) = solution.failures()
    assert (failure.patient, failure.state, failure.time) == (1, "z", 1.0)
    assert failure.reason.startswith("The equations of the algebraic states have no solution near")
    others = simulate([0.5, 0.1, 0.8]).observed["z"]
    np.testing.assert_array_equal(solution.observed["z"][np.array([0, 2])], others[np.array([0, 2])])
    np.testing.assert_allclose(others[:, :2], np.sqrt(1.0 - np.array([[0.0, 0.5], [0.0, 0.1], [0.0, 0.8]]) ** 2))
    np.testing.assert_array_equal(solution.observed["z"][1, 1:], [np.nan, np.nan])


def test_doses_to_an_algebraic_state_are_refused():
    with pytest.raises(ValueError, match="Argument `regimen` must give doses to states that are not algebraic, but is"):
        qsp.simulate(Circle(), qsp.bolus(1.0, to="w"), [1.0])


@pytest.mark.parametrize(
    ("total", "guess", "expected"),
    [(0.0, 990.0, 0.0), (1e-12, 1e6, None), (1e6, 0.0, None), (6.0, 0.0, None), (0.3, 0.0, None)],
)
def test_solution_on_this_side_of_the_pole(total, guess, expected):
    """The equation of binding has a second root below -Kd, to which Newton's method leaps from large values."""
    R, Kd = 10.0, 0.5

    def slope(inputs, y):
        return jnp.stack([inputs - y[0] - R * y[0] / (Kd + y[0])])

    y, found = consistent(slope, jnp.asarray(total), jnp.asarray([guess]), np.array([0]), Near(1e-6, 1e-15))
    b = total - R - Kd
    root = np.sqrt(b * b + 4.0 * Kd * total)
    exact = 0.5 * (b + root) if b > 0 else 2.0 * Kd * total / (root - b)
    assert found
    assert float(y[0]) == pytest.approx(exact if expected is None else expected, rel=1e-9, abs=1e-14)
