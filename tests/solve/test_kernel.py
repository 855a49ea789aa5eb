"""The ensemble kernel under the transformations of JAX, with failures, refilled lanes, segmented logs and float32.

Truth of a derivative is a replay of the recorded steps in plain JAX, which knows neither the primitives nor their
rules, and differences of that replay: its steps stay the same. The replay itself is compared with `Diffrax`.
"""

import dataclasses
import functools
import os
import subprocess
import sys
from typing import NamedTuple
from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import qspjax as qsp
from qspjax.solve import _ensemble
from qspjax.solve.dosing._schedule import schedule_of
from qspjax.solve.dosing._targets import with_targets
from qspjax.solve.kernel._lanes import End
from qspjax.solve.kernel._replay import replay
from qspjax.solve.kernel.primitives import _batch, _define
from qspjax.solve.kernel.primitives._define import Ensemble, sized, steps_p
from tests.systems.marks import slow_for

ROSENBROCK = qsp.solve.Rosenbrock(qsp.solve.Rodas3(), rtol=1e-4, max_steps=192)
METHODS = {
    "Rosenbrock": ROSENBROCK,
    "Explicit": qsp.solve.Explicit(rtol=1e-4, max_steps=192),
    "Automatic": qsp.solve.Automatic(rtol=1e-4, max_steps=192),
}


class Amounts(NamedTuple):
    depot: jax.Array
    central: jax.Array


class Saturable(qsp.AbstractDelivered):
    """Absorption with a lag, saturable elimination, and two weights that the kernel keeps as an array."""

    ka: jax.Array = qsp.parameter(unit="1/h", doc="absorption rate constant")
    vmax: jax.Array = qsp.parameter(unit="mg/h", doc="greatest rate of elimination")
    km: jax.Array = qsp.parameter(unit="mg", doc="amount at half of it")
    lag: jax.Array = qsp.parameter(unit="h", doc="lag")
    F: jax.Array = qsp.parameter(unit="", doc="bioavailability")
    weights: jax.Array = qsp.parameter(unit="", doc="two weights")

    def initial(self):
        return Amounts(0.1, 0.3)

    def vector_field(self, t, y):
        lost = self.vmax * y.central / (self.km + y.central) + jnp.dot(self.weights, jnp.stack(y))
        return Amounts(-self.ka * y.depot, self.ka * y.depot - lost * (1.0 + 0.1 * jnp.sin(t)))

    def observe(self, t, y):
        return {"concentration": y.central / self.km}

    def deliveries(self):
        return {"oral": qsp.Delivery("depot", lag=self.lag, bioavailability=self.F)}


INPUTS = {
    "parameters": {"ka": 1.1, "vmax": 2.0, "km": 3.0, "lag": 0.4, "F": 0.8, "weights": jnp.asarray([0.1, 0.05])},
    "initial": Amounts(0.1, 0.3),
    "amount": 10.0,
    "at": 1.0,
    "over": 1.5,
    "rate": 2.0,
    "ts": jnp.asarray([1.2, 3.1, 6.3]),
}
X, unravel = ravel_pytree(INPUTS)
C = jnp.asarray([1.0, -0.7, 0.4])
V = 0.3 * X * jnp.where(jnp.arange(X.size) % 2, -1.0, 1.0)
PATIENTS = X * (1.0 + 0.03 * jnp.sin(jnp.arange(3 * X.size).reshape(3, -1)))
SHARED = jnp.arange(X.size) < 7
"""The parameters of the model, in the calls where patients share them."""
MIXED = jnp.where(SHARED, X, PATIENTS)


def regimen_of(p):
    return (
        qsp.bolus(p["amount"], to="oral", at=p["at"])
        + qsp.infusion(4.0, to="central", over=p["over"], at=2.0)
        + qsp.infusion(3.0, to="central", rate=p["rate"], at=4.0)
    )


def concentration(x, method=ROSENBROCK):
    p = unravel(x)
    solution = qsp.simulate(
        Saturable(**p["parameters"]), regimen_of(p), p["ts"], initial=p["initial"], method=method, throw=False
    )
    return solution.observed["concentration"]


class Replayed(qsp.solve.AbstractMethod):
    """The replay of recorded steps, in the place of the primitives."""

    method: qsp.solve.AbstractMethod = eqx.field(static=True)
    steps: jax.Array

    def solve(self, *arguments):
        def run(program, patients):
            zero = jnp.zeros((1,), jnp.int32)
            states = replay(sized(program), patients, self.steps, jnp.sum(~jnp.isnan(self.steps), axis=0))
            return states, End(jnp.zeros((1,)), patients.y0[None], zero, zero, zero), zero

        with mock.patch.object(_ensemble, "run", run):
            return self.method.solve(*arguments)

    def describe(self):
        return "replay"


@functools.cache
def recorder(method):
    def record(x):
        caught = []

        def run(program, patients):
            leaves, structure = jax.tree.flatten(patients)
            caught.extend(steps_p.bind(*leaves, ensemble=Ensemble(sized(program), structure)))
            zero = jnp.zeros((1,), jnp.int32)
            states = jnp.zeros((1, program.outputs, program.system.size))
            return states, End(jnp.zeros((1,)), patients.y0[None], zero, zero, zero), zero

        p = unravel(x)
        with mock.patch.object(_ensemble, "run", run):
            model = Saturable(**p["parameters"])
            doses = with_targets(model, regimen_of(p).padded(4), Amounts._fields)
            method.solve(model, schedule_of(model, doses), p["ts"], p["initial"], jnp.asarray(0.0))
        return caught[0]

    return jax.jit(record)


def recorded_steps(x, method):
    return recorder(method)(x)


@functools.cache
def replayed(method):
    """Return the Jacobian and the value of the replay, as a function of the inputs and the steps."""

    def twice(x, steps):
        value = concentration(x, Replayed(method, steps))
        return value, value

    return jax.jit(jax.jacfwd(twice, has_aux=True))


def second_of(x, direction, h=2e-3):
    """Return the second derivative along C and a direction: differences of the first."""
    steps = recorded_steps(x, ROSENBROCK)
    at = {k: C @ replayed(ROSENBROCK)(x + k * h * direction, steps)[0] for k in (-2, -1, 1, 2)}
    return (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)


class Truth(NamedTuple):
    value: np.ndarray
    jacobian: np.ndarray
    second: np.ndarray
    third: np.ndarray


@functools.cache
def truth(name="Rosenbrock", patient=None, mixed=False):
    """Return derivatives of one patient's replay: along C, the second is also along V and the third twice."""
    method = METHODS["Rosenbrock" if name == "Rosenbrock" else "Explicit"]
    x = X if patient is None else (MIXED if mixed else PATIENTS)[patient]
    steps = recorded_steps(x, method)
    jacobian = functools.partial(replayed(method), steps=steps)
    h = 2e-3
    at = {k: C @ jacobian(x + k * h * V)[0] for k in (-2, -1, 0, 1, 2)}
    second = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)
    third = (16 * (at[1] + at[-1]) - (at[2] + at[-2]) - 30 * at[0]) / (12 * h * h)
    first, value = jacobian(x)
    return Truth(*(np.asarray(part) for part in (value, first, second, third)))


def assert_close(got, expected, tolerance=1e-8):
    floor = 1e-3 * np.abs(expected).max()
    error = np.abs(np.asarray(got) - expected) / (np.abs(expected) + floor)
    assert error.max() <= tolerance, (error.max(), got, expected)


def test_replay_against_differences_and_against_diffrax():
    """The truth of this file: with its steps held fixed, differences; and another implementation of the method."""
    steps, h = recorded_steps(X, ROSENBROCK), 1e-3
    jacobian = np.asarray(replayed(ROSENBROCK)(X, steps)[0])
    moved = [replayed(ROSENBROCK)(X + k * h * V, steps)[1] for k in (-2, -1, 1, 2)]
    assert_close((8 * (moved[2] - moved[1]) - (moved[3] - moved[0])) / (12 * h), jacobian @ V, 1e-9)
    got = jax.jit(jax.jacrev(lambda x: concentration(x, qsp.solve.Rosenbrock(max_steps=192))))(X)
    assert_close(got, jax.jit(jax.jacfwd(lambda x: concentration(x, qsp.solve.Diffrax(max_steps=192))))(X))


def along(f, x):
    return jnp.vdot(C, f(x))


def scanned(function, xs):
    return jax.lax.scan(lambda carry, x: (carry + 1.0, function(x)), 0.0, xs)[1]


def each_patient(part, *, mixed=False):
    return np.stack([getattr(truth(patient=i, mixed=mixed), part) for i in range(3)])


def gradients(*, mixed=False):
    return np.einsum("o,nok->nk", C, each_patient("jacobian", mixed=mixed))


def own_and_shared(own, shared):
    return concentration(jnp.where(SHARED, shared, own))


ONE = {
    "grad": (lambda f: jax.grad(lambda x: along(f, x)), lambda t: C @ t.jacobian),
    "jacfwd": (jax.jacfwd, lambda t: t.jacobian),
    "jacrev": (jax.jacrev, lambda t: t.jacobian),
    "jvp": (lambda f: lambda x: jax.jvp(f, (x,), (V,)), lambda t: (t.value, t.jacobian @ V)),
    "vjp": (lambda f: lambda x: jax.vjp(f, x)[1](C)[0], lambda t: C @ t.jacobian),
    "linearize": (
        lambda f: lambda x: jax.vmap(jax.linearize(f, x)[1])(jnp.stack([V, X])),
        lambda t: np.stack([V, X]) @ t.jacobian.T,
    ),
    "transposed linearize": (
        lambda f: lambda x: jax.linear_transpose(jax.linearize(f, x)[1], x)(C)[0],
        lambda t: C @ t.jacobian,
    ),
    "checkpoint": (lambda f: jax.grad(lambda x: along(jax.checkpoint(f), x)), lambda t: C @ t.jacobian),
    "value_and_grad in map": (
        lambda f: lambda x: jax.lax.map(jax.value_and_grad(lambda x: along(f, x)), x[None])[1][0],
        lambda t: C @ t.jacobian,
    ),
    "value_and_grad in scan": (
        lambda f: lambda x: scanned(jax.value_and_grad(lambda x: along(f, x)), x[None])[1][0],
        lambda t: C @ t.jacobian,
    ),
    "hessian": (
        lambda f: lambda x: jax.hessian(lambda e: along(f, x + e[0] * V + e[1] * x))(jnp.zeros(2))[0],
        lambda t: np.stack([V, X]) @ t.second,
    ),
    "forward over reverse": (
        lambda f: lambda x: jax.jvp(jax.grad(lambda x: along(f, x)), (x,), (V,))[1],
        lambda t: t.second,
    ),
    "reverse over reverse": (
        lambda f: jax.grad(lambda x: jnp.vdot(V, jax.grad(lambda x: along(f, x))(x))),
        lambda t: t.second,
    ),
    "reverse over forward": (
        lambda f: jax.grad(lambda x: jax.jvp(lambda x: along(f, x), (x,), (V,))[1]),
        lambda t: t.second,
    ),
    "forward over forward": (
        lambda f: lambda x: C @ jax.jvp(lambda x: jax.jvp(f, (x,), (V,))[1], (x,), (X,))[1],
        lambda t: X @ t.second,
    ),
    "forward over forward over forward": (
        lambda f: (
            lambda x: jax.jvp(
                lambda x: jax.jvp(lambda x: jax.jvp(lambda x: along(f, x), (x,), (V,))[1], (x,), (V,))[1], (x,), (X,)
            )[1]
        ),
        lambda t: X @ t.third,
    ),
    "reverse over forward over forward": (
        lambda f: jax.grad(lambda x: jax.jvp(lambda x: jax.jvp(lambda x: along(f, x), (x,), (V,))[1], (x,), (V,))[1]),
        lambda t: t.third,
    ),
}
SHORT = ("grad", "jacfwd")
LONGEST = (
    "reverse over forward",
    "reverse over forward over forward",
    "forward over forward over forward",
    "reverse over reverse",
    "hessian",
)


@pytest.mark.parametrize(
    ("name", "transformation"),
    [
        *(("Rosenbrock", t) for t in ONE if t not in LONGEST),
        *(pytest.param("Rosenbrock", t, marks=pytest.mark.slow) for t in LONGEST),
        *(("Explicit", t) for t in SHORT),
        pytest.param("Explicit", "forward over reverse", marks=pytest.mark.slow),
        ("Automatic", "grad"),
        pytest.param("Automatic", "jacfwd", marks=pytest.mark.slow),
    ],
)
def test_derivatives_of_one_patient(name, transformation):
    """With respect to parameters, initial state, amount and times of doses, duration and rate, lag, F and outputs."""
    transform, expected = ONE[transformation]
    reference = expected(truth(name))
    got = jax.jit(transform(lambda x: concentration(x, METHODS[name])))(X)
    tolerance = 1e-6 if "over" in transformation or transformation == "hessian" else 1e-8
    jax.tree.map(lambda got, reference: assert_close(got, reference, tolerance), got, reference)


def summed(x):
    return along(concentration, x)


MANY = {
    "vmap of grad": (lambda xs: jax.vmap(jax.grad(summed))(xs), gradients),
    "grad of vmap": (jax.grad(lambda xs: jax.vmap(summed)(xs).sum()), gradients),
    "vmap of jacfwd": (lambda xs: jax.vmap(jax.jacfwd(concentration))(xs), lambda: each_patient("jacobian")),
    "jacfwd of vmap": (
        lambda xs: jax.jacfwd(lambda e: jax.vmap(concentration)(xs + e * V))(0.0),
        lambda: each_patient("jacobian") @ V,
    ),
    "vmap of vmap": (
        lambda xs: jax.vmap(jax.vmap(jax.grad(summed)))(xs[None])[0],
        gradients,
    ),
    "grad in scan": (lambda xs: scanned(jax.grad(summed), xs), gradients),
    "vmap of grad of scan": (
        lambda xs: jax.vmap(jax.grad(lambda x: scanned(summed, x[None]).sum()))(xs),
        gradients,
    ),
    "vmap of forward over reverse": (
        lambda xs: jax.vmap(lambda x: jax.jvp(jax.grad(summed), (x,), (V,))[1])(xs),
        lambda: each_patient("second"),
    ),
    "vmap of forward over forward": (
        lambda xs: jax.vmap(lambda x: jax.jvp(lambda x: jax.jvp(summed, (x,), (V,))[1], (x,), (V,))[1])(xs),
        lambda: each_patient("second") @ V,
    ),
    "forward over forward of vmap": (
        lambda xs: jax.jacfwd(jax.jacfwd(lambda e: jax.vmap(summed)(xs + e * V)))(0.0),
        lambda: each_patient("second") @ V,
    ),
    "grad of shared parameters": (
        lambda xs: jax.grad(lambda shared: (jax.vmap(own_and_shared, (0, None))(xs, shared) @ C).sum())(X),
        lambda: np.where(SHARED, gradients(mixed=True).sum(0), 0.0),
    ),
    "vmap of grad of shared parameters": (
        lambda xs: jax.vmap(jax.grad(lambda shared, own: C @ own_and_shared(own, shared)), (None, 0))(X, xs),
        lambda: np.where(SHARED, gradients(mixed=True), 0.0),
    ),
    "forward over reverse of shared parameters": (
        lambda xs: jax.jvp(
            jax.grad(lambda shared: (jax.vmap(own_and_shared, (0, None))(xs, shared) @ C).sum()),
            (X,),
            (jnp.where(SHARED, V, 0.0),),
        )[1],
        lambda: sum(jnp.where(SHARED, second_of(x, jnp.where(SHARED, V, 0.0)), 0.0) for x in MIXED),
    ),
    "vmap of reverse over forward of shared parameters": (
        lambda xs: jax.vmap(
            jax.grad(
                lambda shared, own: jax.jvp(
                    lambda shared: C @ own_and_shared(own, shared), (shared,), (jnp.where(SHARED, V, 0.0),)
                )[1]
            ),
            (None, 0),
        )(X, xs),
        lambda: np.stack([jnp.where(SHARED, second_of(x, jnp.where(SHARED, V, 0.0)), 0.0) for x in MIXED]),
    ),
}


@pytest.mark.parametrize(
    "transformation",
    slow_for(
        MANY,
        "forward over reverse of shared parameters",
        "vmap of forward over reverse",
        "vmap of reverse over forward of shared parameters",
    ),
)
def test_derivatives_of_many_patients(transformation):
    function, expected = MANY[transformation]
    tolerance = 1e-6 if "over" in transformation else 1e-8
    assert_close(jax.jit(function)(PATIENTS), expected(), tolerance)


@pytest.mark.parametrize("mode", [jax.jacrev, jax.jacfwd])
def test_derivatives_of_a_cohort(mode):
    """ka, the first dose and the outputs differ, all else is shared: the weights, which the kernel sums over lanes."""
    p = unravel(X)
    rows = [
        dict(p, parameters=dict(p["parameters"], ka=own["parameters"]["ka"]), amount=own["amount"], ts=own["ts"])
        for own in map(unravel, PATIENTS)
    ]

    def together(z):
        own, weights, at, F = z
        model = Saturable(**p["parameters"] | {"weights": weights, "F": F})
        doses = regimen_of(p | {"amount": own["amount"], "at": jnp.broadcast_to(at, (3,))})
        solution = qsp.simulate_cohort(
            qsp.Cohort.of(model, {"ka": own["ka"]}), doses, own["ts"], initial=p["initial"], method=ROSENBROCK
        )
        return jnp.sum(solution.observed["concentration"] * C)

    own = {
        "ka": jnp.stack([row["parameters"]["ka"] for row in rows]),
        "amount": jnp.stack([row["amount"] for row in rows]),
        "ts": jnp.stack([row["ts"] for row in rows]),
    }
    q = p["parameters"]
    got = jax.jit(mode(together))((own, q["weights"], p["at"], q["F"]))
    expected = []
    for row in rows:
        x = ravel_pytree(row)[0]
        expected.append(unravel(C @ replayed(ROSENBROCK)(x, recorded_steps(x, ROSENBROCK))[0]))
    assert_close(got[0]["ka"], np.stack([e["parameters"]["ka"] for e in expected]))
    assert_close(got[0]["amount"], np.stack([e["amount"] for e in expected]))
    assert_close(got[0]["ts"], np.stack([e["ts"] for e in expected]))
    assert_close(got[1], np.sum([e["parameters"]["weights"] for e in expected], axis=0))
    assert_close(got[2], np.sum([e["at"] for e in expected]))
    assert_close(got[3], np.sum([e["parameters"]["F"] for e in expected]))


class Pair(NamedTuple):
    x: jax.Array
    z: jax.Array


class Fragile(qsp.AbstractModel):
    """x grows without bound at t = 1 / (growth x0); z oscillates, and a fast oscillation needs many steps."""

    growth: jax.Array = qsp.parameter(unit="1/h", doc="growth of x", above=None)
    speed: jax.Array = qsp.parameter(unit="1/h", doc="angular frequency of z")

    def initial(self):
        return Pair(1.0, 0.0)

    def vector_field(self, t, y):
        return Pair(self.growth * y.x * y.x, self.speed * jnp.cos(self.speed * t) - 0.1 * y.z * y.x)

    def observe(self, t, y):
        return {"x": y.x, "z": y.z}


GROWTH = jnp.asarray([0.1, jnp.nan, 0.2, 0.8, 0.15, 0.1])
SPEED = jnp.asarray([1.0, 1.0, 2.0, 1.0, 3000.0, 3.0])
FAILED = np.asarray([False, True, False, True, True, False])
FRAGILE_TS = [0.5, 1.0, 2.0]


def fragile(growth, speed, method=ROSENBROCK):
    model = eqx.tree_at(lambda m: (m.growth, m.speed), Fragile(0.1, 1.0), (growth, speed))
    cohort = qsp.Cohort(model, {}, ("growth", "speed"), growth.shape[0])
    return qsp.simulate_cohort(cohort, qsp.no_doses(), FRAGILE_TS, method=method)


def total(values):
    solution = fragile(*values)
    seen = solution.observed["x"] + 0.3 * solution.observed["z"]
    return jnp.sum(jnp.where(solution.failed[:, None], 0.0, seen))


@pytest.mark.parametrize("name", METHODS)
def test_failed_patients_say_why(name):
    solution = fragile(GROWTH, SPEED, METHODS[name])
    np.testing.assert_array_equal(np.asarray(solution.failed), FAILED)
    unknown, grown, fast = solution.failures()
    assert unknown.reason.startswith("The model or a dose gave NaN")
    assert unknown[2:] == (0.0, "x")
    assert grown.state == "x"
    np.testing.assert_allclose(grown.time, 1.25, rtol=1e-3)
    assert "maximum number of solver steps" in fast.reason
    assert fast.state == "z"
    assert 0.0 < fast.time < 2.0
    assert np.isfinite(solution.observed["x"][~FAILED]).all()
    assert np.isnan(solution.observed["x"][FAILED, -1]).all()


DERIVATIVES = {
    "reverse": lambda values: jax.grad(total)(values),
    "forward": lambda values: jax.jvp(total, (values,), ((jnp.ones(6), jnp.ones(6)),))[1],
    "second": lambda values: jax.jvp(jax.grad(total), (values,), ((jnp.ones(6), jnp.ones(6)),))[1],
    "forward twice": lambda values: jax.jvp(DERIVATIVES["forward"], (values,), ((jnp.ones(6), jnp.ones(6)),))[1],
}


@pytest.mark.parametrize("mode", DERIVATIVES)
def test_failed_patients_are_out_of_every_derivative(mode):
    derivative = jax.jit(DERIVATIVES[mode])
    got = derivative((GROWTH, SPEED))
    # the same patients, with copies of the first in the place of those that failed
    other = derivative((jnp.where(FAILED, GROWTH[0], GROWTH), jnp.where(FAILED, SPEED[0], SPEED)))
    if mode.startswith("forward"):
        one = derivative((jnp.full(6, GROWTH[0]), jnp.full(6, SPEED[0]))) / 6
        np.testing.assert_allclose(got, other - 3 * one, rtol=1e-12)
        return
    for part, fine in zip(got, other, strict=True):
        np.testing.assert_array_equal(np.asarray(part)[FAILED], 0.0)
        np.testing.assert_array_equal(np.asarray(part)[~FAILED], np.asarray(fine)[~FAILED])


SIZE = 1100
"""More than lanes, which are refilled."""


@functools.cache
def crowd():
    rng = np.random.default_rng(0)
    return {"ka": rng.lognormal(0.0, 0.5, SIZE), "vmax": rng.lognormal(1.0, 0.8, SIZE)}


def crowd_values(values, **settings):
    model = Saturable(**INPUTS["parameters"])
    size = len(values["ka"])
    cohort = qsp.Cohort(
        eqx.tree_at(lambda m: (m.ka, m.vmax), model, (jnp.asarray(values["ka"]), jnp.asarray(values["vmax"]))),
        {},
        ("ka", "vmax"),
        size,
    )
    solution = qsp.simulate_cohort(cohort, regimen_of(INPUTS), INPUTS["ts"], **settings)
    return np.asarray(solution.observed["concentration"]), jax.tree.map(np.asarray, solution.stats)


@functools.cache
def crowd_together():
    return crowd_values(crowd())


@pytest.mark.usefixtures("optimised")
def test_a_failure_changes_no_bit_of_the_others():
    values = {name: np.where(np.arange(SIZE) == 3, np.nan, value) for name, value in crowd().items()}
    got = crowd_values(values)
    assert np.isnan(got[0][3]).all()

    def same(one, other):
        np.testing.assert_array_equal(np.delete(one, 3, axis=0), np.delete(other, 3, axis=0))

    jax.tree.map(same, got, crowd_together())


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("chunk", [8, 128, 300, 600])
def test_chunks_have_the_same_bits(chunk):
    """Chunks have other numbers of lanes, and are computed on one core or on several."""
    few = {name: value[: max(chunk * 2, 40)] for name, value in crowd().items()}
    got, stats = crowd_values(few, executor=qsp.execute.Chunked(chunk))
    for name, values in stats.items():
        np.testing.assert_array_equal(values, crowd_together()[1][name][: len(values)])
    np.testing.assert_array_equal(got, crowd_together()[0][: len(got)])


@pytest.mark.usefixtures("optimised")
def test_one_patient_is_as_in_the_cohort():
    """To rounding: where all constants are shared, a newer XLA rounds otherwise than where some have lanes."""
    for i in (0, 17, 700):
        model = Saturable(**INPUTS["parameters"] | {name: value[i] for name, value in crowd().items()})
        solution = qsp.simulate(model, regimen_of(INPUTS), INPUTS["ts"])
        np.testing.assert_allclose(solution.observed["concentration"], crowd_together()[0][i], rtol=1e-13)


def oscillation(values, memory):
    method = qsp.solve.Rosenbrock(qsp.solve.Rodas3(), rtol=1e-5, memory=memory)
    return fragile(*values, method).observed["z"].sum(1)


@pytest.mark.parametrize(("memory", "speed"), [(20_000, 60.0), (1 << 29, 200.0)], ids=["memory", "steps"])
def test_derivatives_over_several_segments(memory, speed):
    """A log of 2 blocks; and one as long as expected, for patients who need more: against one long log."""
    values = (jnp.asarray([0.1, 0.2, 0.15]), jnp.asarray([1.0, 0.5, 1.0]) * speed)

    def derivatives(values, memory):
        value, pull = jax.vjp(lambda v: oscillation(v, memory), values)

        def forward(v):
            return jax.jvp(lambda v: oscillation(v, memory), (v,), (values,))[1]

        return value, pull(jnp.ones_like(value)), *jax.jvp(forward, (values,), (values,))

    segments = []

    def whole(program):
        return noted(dataclasses.replace(program, expected=program.max_steps))

    def noted(program):
        program = original(program)
        segments.append(program.segments)
        return program

    original = _define.sized
    with mock.patch.object(_define, "sized", noted), mock.patch.object(_batch, "sized", noted):
        several = jax.jit(functools.partial(derivatives, memory=memory))(values)
    assert min(segments) > 1
    segments.clear()
    with mock.patch.object(_define, "sized", whole), mock.patch.object(_batch, "sized", whole):
        one = jax.jit(functools.partial(derivatives, memory=(1 << 40) + memory))(values)
    assert segments[-1] == 1
    for got, expected in zip(jax.tree.leaves(several), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-13 * np.abs(expected).max())


TRACES = []


class Counted(qsp.AbstractModel):
    k: jax.Array = qsp.parameter(unit="1/h", doc="rate constant")

    def initial(self):
        return (0.0,)

    def vector_field(self, t, y):
        TRACES.append(t)
        return (-self.k * y[0] * y[0],)

    def observe(self, t, y):
        return {"x": y[0]}


@pytest.mark.parametrize("name", METHODS)
def test_another_call_traces_nothing(name):
    @eqx.filter_jit
    def gradient(model, regimen, ts):
        return eqx.filter_grad(
            lambda m: qsp.simulate(m, regimen, ts, method=METHODS[name], throw=False).observed["x"].sum()
        )(model)

    def call(k, amount, doses, ts):
        regimen = qsp.bolus(amount, to=1).every(1.0, doses=doses)
        solution = qsp.simulate(Counted(k), regimen, ts, method=METHODS[name])
        cohort = qsp.Cohort.of(Counted(k), {"k": jnp.asarray([k, 2 * k])})
        many = qsp.simulate_cohort(cohort, regimen, ts, method=METHODS[name])
        return solution.observed["x"][-1], many.observed["x"][1, -1]

    def exact(k, amount, doses, ts):
        x = 0.0
        for i in range(doses):
            x = x + amount
            after = ts[-1] - i if i == doses - 1 else 1.0
            x = x / (1.0 + k * x * after)
        return x

    def slope(k, amount, ts):
        return gradient(Counted(k), qsp.bolus(amount, to=1), jnp.asarray(ts)).k

    call(0.3, 2.0, 3, [1.0, 4.0])
    slope(0.3, 2.0, [1.0, 4.0])
    assert TRACES
    # checks of arguments may look at the model; a compiled solve may not
    TRACES.clear()
    one, other = call(0.2, 5.0, 2, [0.5, 3.0])
    np.testing.assert_allclose(one, exact(0.2, 5.0, 2, [0.5, 3.0]), rtol=1e-3)
    np.testing.assert_allclose(other, exact(0.4, 5.0, 2, [0.5, 3.0]), rtol=1e-3)
    expected = sum(-25.0 * t / (1.0 + t) ** 2 for t in (0.5, 3.0))
    np.testing.assert_allclose(slope(0.2, 5.0, [0.5, 3.0]), expected, rtol=2e-3)
    assert not TRACES


FLOAT32 = """
import jax, jax.numpy as jnp, qspjax as qsp
from tests.systems.marks import slow_for

def derivative(amount):
    model = qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2)
    regimen = qsp.bolus(amount, to="depot") + qsp.infusion(50.0, to="central", over=2.0, at=1.0)
    method = qsp.solve.Rosenbrock(rtol=1e-4, atol=1e-6)
    value = qsp.simulate(model, regimen, [0.5, 2.0, 12.0, 24.0], method=method, throw=False).observed["concentration"]
    return value, value

slope, value = jax.jit(jax.jacrev(derivative, has_aux=True))(200.0)
"""


def test_float32_agrees_with_float64():
    code = FLOAT32 + "print(value.dtype, slope.dtype, *value.tolist(), *slope.tolist())"
    settings = os.environ | {"JAX_ENABLE_X64": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, check=True)
    first, second, *single = done.stdout.split()
    assert (first, second) == ("float32", "float32")
    double = {}
    exec(FLOAT32, double)
    assert double["value"].dtype == double["slope"].dtype == np.float64
    np.testing.assert_allclose(np.asarray(single, float), [*double["value"], *double["slope"]], rtol=1e-3)


def test_reductions_to_a_place_in_the_same_program():
    """`argmax` returns two arrays; XLA's fusions of several results stop the process on several of them."""

    def places(solution):
        seen = solution.observed["concentration"]
        return jnp.argmax(seen), jnp.argmax(seen**2), jnp.argmin(seen + 1.0)

    cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"CL": jnp.linspace(2.0, 4.0, 16)})
    regimen, ts = qsp.bolus(1.0, to="central", at=2.0), jnp.arange(6.0)
    found = qsp.simulate_cohort(cohort, regimen, ts, method=qsp.solve.Rosenbrock(), reduce=places).reduced
    assert [x.tolist() for x in found] == [[2] * 16, [2] * 16, [0] * 16]
