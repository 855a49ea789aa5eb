"""Linear models by matrix exponentials, against closed forms and scipy, with every derivative."""

import functools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.linalg import expm

import qspjax as qsp
from qspjax._declared import AbstractAlgebraic
from qspjax.solve._exponential import MatrixExponential
from qspjax.solve._linear import is_linear
from tests.solve.test_closed_form import AMOUNT, DISPOSITION, DOSES, ORAL, TS, forward, reverse, setting
from tests.systems import linear_pk as exact

METHOD = MatrixExponential()
PK = {
    "OneCompartment": {"CL": 3.0, "V": 30.0},
    "TwoCompartment": {"CL": 3.0, "V1": 30.0, "Q": 6.0, "V2": 60.0},
    "ThreeCompartment": {"CL": 3.0, "V1": 30.0, "Q2": 6.0, "V2": 60.0, "Q3": 1.0, "V3": 100.0},
}
LINEAR = [
    *(getattr(qsp.models, name)(**values) for name, values in PK.items()),
    *(getattr(qsp.models, name + "Oral")(**values, ka=1.2) for name, values in PK.items()),
    qsp.models.TransitAbsorption(CL=3.0, V=30.0, ka=1.2, mtt=2.0, transits=3),
]
NONLINEAR = [
    qsp.models.Coupled(LINEAR[3], qsp.models.InhibitionOfProduction(kin=10.0, kout=0.5, Imax=0.8, IC50=2.0)),
    qsp.models.Coupled(LINEAR[3], qsp.models.StimulationOfLoss(kin=10.0, kout=0.5, Smax=0.8, SC50=2.0)),
    qsp.models.TMDD(CL=0.2, V1=3.0, Q=0.5, V2=3.0, kon=10.0, koff=1.0, kdeg=10.0, kint=5.0, R0=1.0),
]


class Matrix(qsp.AbstractModel):
    """y' = A y + b: any linear system, in one vector."""

    A: jax.Array = qsp.parameter(unit="1/h", doc="rates", above=None)
    b: jax.Array = qsp.parameter(unit="mg/h", doc="input", above=None)

    def initial(self):
        return {"y": jnp.zeros(self.b.shape)}

    def vector_field(self, t, y):
        return {"y": self.A @ y["y"] + self.b}

    def observe(self, t, y):
        return {"first": y["y"][0]}


class Pair(NamedTuple):
    x: jax.Array
    y: jax.Array


class Conserved(AbstractAlgebraic):
    """Two linear equations, of which the second holds at every time and gives no derivative."""

    def initial(self):
        return Pair(1.0, 0.0)

    def vector_field(self, t, y):
        return Pair(-y.x, y.x + y.y)

    def algebraic(self):
        return ("y",)

    def observe(self, t, y):
        return {"x": y.x}


class Field(qsp.AbstractModel):
    """Any vector field, for what is linear and what is not."""

    field: object = eqx.field(static=True)

    def initial(self):
        return Pair(0.0, 0.0)

    def vector_field(self, t, y):
        return self.field(t, y)

    def observe(self, t, y):
        return {"x": y.x}


def close(got, reference, tolerance, floor=1e-6):
    floor = floor * np.abs(reference).max()
    assert np.all(np.abs(np.asarray(got) - reference) <= tolerance * np.maximum(np.abs(reference), floor))


CASES = [
    *((exact.ONE_COMPARTMENT, DISPOSITION, route, "central") for route in ("infusion over", "infusion at a rate")),
    (exact.THREE_COMPARTMENT, DISPOSITION, "bolus", "central"),
    *((exact.ONE_COMPARTMENT_ORAL, ORAL, route, "depot") for route in ("infusion over", "infusion at a rate")),
    (exact.TWO_COMPARTMENT_ORAL, ORAL, "bolus", "depot"),
]


@pytest.mark.parametrize(
    ("system", "parameters", "route", "to"), [(system, of[system], *rest) for system, of, *rest in CASES]
)
def test_values(system, parameters, route, to):
    model, regimen, doses = setting(system, parameters, route, to)
    got = qsp.simulate(model, regimen, TS, method=METHOD)
    close(got.observed["concentration"], exact.concentration(system, parameters, doses, TS), 1e-12, floor=2e-3)
    assert int(got.stats["rejected"]) == 0
    assert "exact" in str(got)


GRADIENTS = [
    (exact.TWO_COMPARTMENT_ORAL, ORAL[exact.TWO_COMPARTMENT_ORAL], "bolus", "depot", forward),
    (exact.ONE_COMPARTMENT_ORAL, ORAL[exact.ONE_COMPARTMENT_ORAL], "infusion at a rate", "depot", reverse),
]


@pytest.mark.parametrize(("system", "parameters", "route", "to", "jacobian"), GRADIENTS)
def test_gradients(system, parameters, route, to, jacobian):
    model, regimen, doses = setting(system, parameters, route, to)
    columns = jax.tree.map(lambda _: False, regimen)
    columns = eqx.tree_at(lambda r: (r.time, r.amount, r.duration, r.rate), columns, (True,) * 4)
    differentiated, static = eqx.partition((model, regimen), (jax.tree.map(eqx.is_inexact_array, model), columns))
    d_model, d_regimen = jax.jit(lambda d: jacobian(d, static, METHOD))(differentiated)
    for name in parameters:
        close(getattr(d_model, name), exact.gradient(system, parameters, doses, TS, name), 1e-11, floor=1e-3)
    moved = ["amount", "time"] + (["rate"] if "rate" in route else [])
    for column in moved:
        for i in range(DOSES):
            close(
                getattr(d_regimen, column)[:, i],
                exact.gradient(system, parameters, doses, TS, (column, i)),
                1e-11,
                floor=1e-3,
            )


STIFF = {
    "decaying chain": np.array([[-1e4, 0, 0], [1e4, -0.3, 0], [0, 0.3, 0]]),
    "far from normal": np.array([[-1e5, 0, 1e-3], [1e5, -2.0, 0.1], [0.0, 1.0, -0.1]]),
    "ten states": np.diag(np.full(10, -7.0)) + np.diag(np.full(9, 7.0), -1),
}


@pytest.mark.parametrize("name", STIFF)
def test_stiff_and_far_from_normal(name):
    """Against scipy, for the matrix with one more column that holds b."""
    A = STIFF[name]
    n = len(A)
    b = np.linspace(0.5, 1.5, n)
    ts = np.array([0.0, 0.1, 1.0, 10.0])
    start = np.linspace(3.0, 1.0, n)
    got = qsp.simulate(Matrix(A, b), qsp.no_doses(), ts, initial={"y": start}, method=METHOD).states["y"]
    whole = np.block([[A, b[:, None]], [np.zeros((1, n + 1))]])
    for t, state in zip(ts, got, strict=True):
        close(state, (expm(t * whole) @ np.append(start, 1.0))[:-1], 1e-11, floor=1e-9)


def test_slow_and_fast_rates_keep_their_digits():
    """Rates from 1e-6 to 1e6 in one chain: each exponential to rounding, however small."""
    rates = np.array([1e6, 20.0, 1e-6])
    ts = np.array([0.0, 0.5, 1.0, 2.0])
    start = np.array([0.0, 1.0, 1.0])
    model = Matrix(np.diag(-rates), np.zeros(3))
    got = qsp.simulate(model, qsp.no_doses(), ts, initial={"y": start}, method=METHOD).states["y"]
    np.testing.assert_allclose(got, start * np.exp(-rates * ts[:, None]), rtol=2e-14, atol=0)


def test_transit_chain():
    """Against scipy, from the state just after the dose."""
    model, ts = LINEAR[-1], np.array([0.0, 0.5, 2.0, 7.0])
    states = qsp.simulate(model, qsp.bolus(1.0, to="oral"), ts, method=METHOD).states
    start, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], states))
    assert start.sum() == start.max() == 1.0
    A = jax.jacfwd(lambda y: ravel_pytree(model.vector_field(0.0, unravel(y)))[0])(start)
    want = np.stack([expm(t * np.asarray(A)) @ start for t in ts])
    got = np.stack([ravel_pytree(jax.tree.map(lambda leaf, i=i: leaf[i], states))[0] for i in range(len(ts))])
    np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("model", LINEAR, ids=lambda m: type(m).__name__)
def test_is_linear(model):
    assert is_linear(model)
    assert jax.jit(lambda m: jnp.asarray(is_linear(m)))(model)


@pytest.mark.parametrize("model", NONLINEAR, ids=lambda m: type(m).__name__)
def test_is_not_linear(model):
    assert not is_linear(model)


def test_algebraic_states_are_not_linear():
    assert not is_linear(Conserved())
    assert is_linear(Field(lambda t, y: Conserved().vector_field(t, y)))


FIELDS = {
    "rotation": (lambda t, y: Pair(-y.y, y.x), True),
    "constant": (lambda t, y: Pair(1.0, 0.0), True),
    "quotient": (lambda t, y: Pair(y.x / 3.0 - 1.0, jnp.where(jnp.exp(2.0) > 1.0, y.x, 2.0 * y.y)), True),
    "matrix": (lambda t, y: Pair(*jnp.unstack(jnp.ones((2, 2)) @ jnp.stack([y.x, y.y]))), True),
    "time": (lambda t, y: Pair(-y.y + jnp.cos(t), y.x), False),
    "rate in time": (lambda t, y: Pair(-t * y.y, y.x), False),
    "product": (lambda t, y: Pair(-y.y * y.x, y.x), False),
    "reciprocal": (lambda t, y: Pair(1.0 / (1.0 + y.y), y.x), False),
    "switch": (lambda t, y: Pair(jnp.where(y.x > 1.0, -y.x, 0.0), y.x), False),
    "clipped": (lambda t, y: Pair(jnp.maximum(y.x, 0.0), y.x), False),
    "rounded": (lambda t, y: Pair(jnp.floor(y.x), y.x), False),
    "stopped": (lambda t, y: Pair(jax.lax.stop_gradient(y.x), y.x), False),
}


@pytest.mark.parametrize("name", FIELDS)
def test_is_linear_reads_the_equations(name):
    field, linear = FIELDS[name]
    assert is_linear(Field(field)) == linear


@pytest.mark.parametrize("model", [NONLINEAR[-1], Conserved()], ids=lambda m: type(m).__name__)
def test_a_model_that_is_not_linear_is_refused(model):
    with pytest.raises(ValueError, match="Argument `model` must be linear with constant coefficients"):
        qsp.simulate(model, qsp.no_doses(), [0.0, 1.0], method=METHOD)


X = jnp.array([3.0, 0.4, 1.7])


def test_derivatives_of_second_and_third_order():
    """Forward over forward under reverse mode, against central differences of the order below, in every direction."""

    def total(x):
        regimen = qsp.bolus(100.0 * x[0], to="central", at=x[1]) + qsp.infusion(50.0, to="central", over=x[2], at=2.0)
        model = qsp.models.OneCompartment(CL=x[0], V=20.0)
        seen = qsp.simulate(model, regimen, [0.0, 1.0, 2.5, 3.5, 4.5, 5.5], method=METHOD, throw=False)
        return jnp.sum(seen.observed["concentration"] ** 2)

    def course(x, v):
        """Return the total and its first and second derivative along v."""
        (value, first), (_, second) = jax.jvp(lambda x: jax.jvp(total, (x,), (v,)), (x,), (v,))
        return value, first, second

    gradients = jax.jit(jax.jacrev(course))
    e = 1e-4
    for v in np.concatenate([np.eye(3), 1.0 - np.eye(3)]):  # with the sums of two, all entries
        _, hessian, third = gradients(X, v)
        ahead, back = gradients(X + e * v, v), gradients(X - e * v, v)
        np.testing.assert_allclose(hessian, (ahead[0] - back[0]) / (2 * e), rtol=2e-6, atol=1e-5)
        np.testing.assert_allclose(third, (ahead[1] - back[1]) / (2 * e), rtol=2e-6, atol=1e-4)


@pytest.mark.slow
def test_batches_and_derivatives_commute():
    """For a parameter, a lag, a dose's time and amount, and an infusion's duration."""
    xs = jnp.stack([X, X * 1.1, X * 0.9])

    def total(x):
        model = qsp.models.OneCompartmentOral(CL=x[0], V=20.0, ka=1.3, tlag=x[1])
        regimen = qsp.bolus(100.0 * x[0], to="depot") + qsp.infusion(50.0, to="central", over=x[2], at=2.0)
        seen = qsp.simulate(model, regimen, [0.0, 1.0, 2.5, 3.5, 4.5, 5.5], method=METHOD, throw=False)
        return jnp.sum(seen.observed["concentration"] ** 2)

    each = jax.jit(jax.vmap(jax.grad(total)))(xs)
    whole = jax.jit(jax.grad(lambda xs: jnp.sum(jax.vmap(total)(xs))))(xs)
    ahead = jax.jit(jax.vmap(jax.jacfwd(total)))(xs)
    gradient = jax.jit(jax.jacfwd(total))
    alone = jnp.stack([gradient(x) for x in xs])
    for other in (whole, ahead, alone):
        np.testing.assert_allclose(other, each, rtol=1e-11)


@functools.cache
def clearances():
    return np.exp(0.3 * np.random.default_rng(0).normal(size=32)) * 3.0


def run(CL, executor=None):
    cohort = eqx.tree_at(lambda c: c.model.CL, qsp.Cohort.of(LINEAR[3], {"CL": jnp.ones_like(CL)}), jnp.asarray(CL))
    regimen = qsp.bolus(100.0, to="depot").every(12.0, doses=3)
    return qsp.simulate_cohort(cohort, regimen, np.arange(0.0, 40.0, 0.1), method=METHOD, executor=executor)


@pytest.mark.usefixtures("optimised")
def test_same_bits_in_every_batch():
    """A batch of 8 to 1e-15 only: on some versions of jax, code for so few lanes rounds one of them differently."""
    whole = run(clearances()).observed["concentration"]
    np.testing.assert_array_equal(run(clearances(), qsp.execute.Chunked(16)).observed["concentration"], whole)
    eights = run(clearances(), qsp.execute.Chunked(8)).observed["concentration"]
    np.testing.assert_allclose(eights, whole, rtol=1e-15, atol=0)
    for i in (0, 7, 19):
        np.testing.assert_array_equal(run(clearances()[i : i + 1]).observed["concentration"][0], whole[i])


@pytest.mark.usefixtures("optimised")
def test_a_failed_patient_changes_nothing_for_the_others():
    bad = jnp.asarray(clearances()).at[3].set(jnp.nan)
    solution, fine = run(bad), run(clearances())
    (failure,) = solution.failures()
    assert (failure.patient, failure.time, failure.state) == (3, 0.0, "central")
    others = np.arange(32) != 3
    np.testing.assert_array_equal(
        np.asarray(solution.observed["concentration"])[others], np.asarray(fine.observed["concentration"])[others]
    )
    assert np.isnan(solution.observed["concentration"][3, 1:]).all()


def test_a_failed_patient_changes_no_derivative_of_the_others():
    def total(CL, ka, weight):
        cohort = qsp.Cohort.of(qsp.at(LINEAR[3], "ka").set(ka), {"CL": CL})
        regimen = qsp.bolus(100.0, to="depot")
        seen = qsp.simulate_cohort(cohort, regimen, jnp.arange(4.0), method=METHOD).observed["concentration"]
        return jnp.sum(weight[:, None] * jnp.where(jnp.isfinite(seen), seen, 0.0))

    @jax.jit
    def gradients(CL, ka, weight):
        """Return the gradients of the total and of its derivative by the shared parameter."""

        def both(CL, ka):
            return jax.jvp(lambda ka: total(CL, ka, weight), (ka,), (jnp.ones_like(ka),))

        return jax.jacrev(both, (0, 1))(CL, ka)

    good, ka, everyone, others = jnp.asarray(clearances()[:4]), jnp.asarray(1.2), jnp.ones(4), np.arange(4) != 3
    (each, shared), (mixed, second) = gradients(good.at[3].set(jnp.nan), ka, everyone)
    (without, shared_without), (mixed_without, second_without) = gradients(good, ka, everyone * others)
    assert each[3] == mixed[3] == 0.0
    np.testing.assert_allclose(each[others], without[others], rtol=1e-12)
    np.testing.assert_allclose(mixed[others], mixed_without[others], rtol=1e-11)
    np.testing.assert_allclose([shared, second], [shared_without, second_without], rtol=1e-11)


@pytest.mark.parametrize("column", ["amount", "time"])
def test_a_dose_that_is_not_a_number_is_reported(column):
    regimen = qsp.bolus(AMOUNT, to="depot").every(12.0, doses=3)
    regimen = eqx.tree_at(lambda r: getattr(r, column), regimen, getattr(regimen, column).at[1].set(jnp.nan))
    solution = qsp.simulate(LINEAR[3], regimen, [0.0, 20.0], method=METHOD, throw=False)
    assert solution.failures()[0].state == "depot"
    assert np.isnan(solution.observed["concentration"]).all()


def test_growth_without_bound_is_reported_with_its_time():
    solution = qsp.simulate(
        Matrix([[300.0]], [1.0]), qsp.no_doses(), [0.0, 1.0, 2.0, 3.0, 4.0], method=METHOD, throw=False
    )
    assert solution.failures()[0].time == 2.0
    assert np.isfinite(solution.observed["first"]).tolist() == [True, True, True, False, False]


def test_padded_times_are_missing():
    solution = qsp.simulate(LINEAR[0], qsp.bolus(1.0, to="central"), [0.0, 1.0, jnp.inf], method=METHOD)
    assert np.isnan(solution.observed["concentration"]).tolist() == [False, False, True]
