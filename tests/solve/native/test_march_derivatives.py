"""Derivatives of linear models in native code: those of XLA, of closed forms, and of the order below."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.solve.native import _march_adjoint
from tests.solve.native.test_ensembles import compiled_again
from tests.solve.native.test_march import CASES, ONE, cohort
from tests.solve.test_exponential import Matrix

METHOD = qsp.solve.MatrixExponential()


def derivatives(case, lost=()):
    """Return the gradient of a sum by parameters, doses and their times, and its derivatives in three directions."""
    model, regimen, ts = CASES[case]
    arguments = cohort(model, slice(None), lost), regimen
    chosen, rest = eqx.partition(arguments, eqx.is_inexact_array)
    weights = np.random.default_rng(1).normal(size=(21, len(ts)))
    directions = jax.tree.map(lambda x: np.random.default_rng(x.size).normal(size=(3, *x.shape)), chosen)
    directions = jax.tree.map(lambda d, x: jnp.where(jnp.isfinite(x), d, 0.0), directions, chosen)

    def total(chosen):
        patients, regimen = eqx.combine(chosen, rest)
        solution = qsp.simulate_cohort(patients, regimen, ts, method=METHOD)
        seen = solution.observed["concentration"]
        return jnp.sum(weights * jnp.where(jnp.isfinite(seen), seen, 0.0) ** 2)

    forward = jax.jit(jax.vmap(lambda direction: jax.jvp(total, (chosen,), (direction,))[1]))
    return jax.jit(jax.grad(total))(chosen), forward(directions), directions


def close(x, y):
    for one, other in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9 * np.abs(other).max(initial=0.0))


@pytest.mark.parametrize(
    "case",
    ["two, reset", "one, steady"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in ("a chain", "three, infusions")],
)
def test_numbers_are_those_of_xla(case, monkeypatch):
    with qsp.solve.native.compilations() as solves:
        gradient, along, directions = derivatives(case, lost=[2])
    assert {solve.reason for solve in solves} == {None}
    with compiled_again(monkeypatch, backend="xla"):
        by_xla, along_by_xla, _ = derivatives(case, lost=[2])
    close(gradient, by_xla)
    close(along, along_by_xla)
    products = jax.tree.map(lambda g, d: jnp.sum(g * d, axis=range(1, d.ndim)), gradient, directions)
    np.testing.assert_allclose(along, sum(jax.tree.leaves(products)), rtol=1e-9)


def test_bits_depend_on_no_lane_thread_or_neighbour(monkeypatch):
    (expected, _), *_ = derivatives("two, reset")
    for engine in ({"lanes": 2, "widest": 2}, {"lanes": 8, "widest": 4, "threads": 3}):
        with compiled_again(monkeypatch, **engine):
            (found, _), *_ = derivatives("two, reset", lost=[1])
            others = np.arange(21) != 1
            assert np.asarray(found.model.CL)[others].tobytes() == np.asarray(expected.model.CL)[others].tobytes(), (
                engine
            )


def test_a_way_in_segments(monkeypatch):
    """A log of few boundaries: what came before is gone again."""
    expected, *_ = derivatives("two, reset")
    monkeypatch.setattr(_march_adjoint, "LOG_BYTES", 2**14)
    with compiled_again(monkeypatch):
        found, *_ = derivatives("two, reset")
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_closed_form():
    """One compartment, a bolus and an infusion, by clearance, volume, amount, lag of the infusion and its duration."""
    x = jnp.array([3.0, 30.0, 100.0, 2.0, 1.5])
    ts = jnp.array([0.5, 1.0, 2.5, 3.5, 3.75, 9.0])

    def seen(x):
        CL, V, amount, at, over = x
        regimen = qsp.bolus(amount, to="central") + qsp.infusion(60.0, to="central", over=over, at=at)
        model = qsp.models.OneCompartment(CL=CL, V=V)
        return qsp.simulate(model, regimen, ts, method=METHOD, throw=False).observed["concentration"]

    def exact(x):
        CL, V, amount, at, over = x
        k, end = CL / V, jnp.minimum(ts, at + over)
        infused = 60.0 / over / k * (jnp.exp(-k * (ts - end)) - jnp.exp(-k * (ts - at)))
        # at its end the output is after the infusion, whose duration is then the later one
        return (amount * jnp.exp(-k * ts) + jnp.where(ts > at, infused, 0.0)) / V

    smooth = np.array([0, 1, 2, 4, 5])  # one output is at the end of the infusion
    want = jax.jacfwd(exact)(x)[smooth]
    for differentiate in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jax.jit(differentiate(seen))(x)[smooth], want, rtol=1e-11, atol=1e-13)


def test_an_infusion_of_nothing_has_a_derivative():
    def seen(amount):
        regimen = qsp.infusion(amount, to="central", over=2.0, at=1.0)
        return qsp.simulate(ONE, regimen, jnp.arange(5.0), method=METHOD).observed["concentration"]

    for differentiate in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(differentiate(seen)(0.0), seen(1.0), rtol=1e-12, atol=1e-15)


def test_transposes_of_transposes():
    """Reverse over reverse is forward over reverse, for all patients together."""
    xs = jnp.array([[3.0, 30.0], [2.0, 25.0]])

    def total(x):
        model = qsp.models.OneCompartment(CL=x[0], V=x[1])
        seen = qsp.simulate(model, qsp.bolus(9.0, to="central"), [1.0, 4.0], method=METHOD, throw=False)
        return jnp.sum(seen.observed["concentration"] ** 2)

    back = jax.jit(jax.vmap(jax.jacrev(jax.jacrev(total))))(xs)
    np.testing.assert_allclose(back, jax.jit(jax.vmap(jax.hessian(total)))(xs), rtol=1e-11, atol=1e-15)
    np.testing.assert_allclose(back, np.swapaxes(back, 1, 2), rtol=1e-11, atol=1e-15)


def test_what_is_set_anew_has_a_derivative():
    """The state is infinite meanwhile."""

    def last(value):
        model = Matrix([[300.0, 0.0], [1.0, -1.0]], [0.0, 0.0])
        regimen = qsp.reset(at=3.5) + qsp.bolus(value, to="y[0]", at=3.5)
        start = {"y": jnp.array([1.0, 0.0])}
        return qsp.simulate(model, regimen, jnp.arange(5.0), initial=start, method=METHOD).states["y"][-1, 0]

    assert jax.grad(last)(2.0) == pytest.approx(np.exp(150.0), rel=1e-12)
    assert jax.jacfwd(last)(2.0) == pytest.approx(np.exp(150.0), rel=1e-12)
