"""Linear models in native code: the numbers of XLA, and the same bits whatever the lanes, threads and neighbours."""

from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.solve.native import _call
from tests.solve.native.test_ensembles import compiled_again
from tests.solve.test_exponential import Matrix

ONE = qsp.models.OneCompartment(CL=3.0, V=30.0)
TWO = qsp.models.TwoCompartmentOral(CL=3.0, V1=30.0, Q=6.0, V2=60.0, ka=1.2, tlag=0.3)
THREE = qsp.models.ThreeCompartment(CL=3.0, V1=30.0, Q2=6.0, V2=60.0, Q3=1.0, V3=100.0)
CHAIN = qsp.models.TransitAbsorption(CL=3.0, V=30.0, ka=1.2, mtt=2.0, transits=8)
STEADY = qsp.bolus(100.0, to="central").every(12.0, doses=2).at_steady_state()
STEADY += qsp.infusion(80.0, to="central", over=3.0, at=5.0)
MIXED = (
    qsp.bolus(100.0, to="depot").every(7.0, doses=3)
    + qsp.infusion(60.0, to="central", rate=40.0, at=2.25)
    + qsp.reset(at=16.0)
    + qsp.bolus(50.0, to="central", at=16.0)
)
INFUSED = qsp.bolus(70.0, to="central") + qsp.infusion(60.0, to="central", over=1.5).every(6.0, doses=4)
RNG = np.random.default_rng(0)
IRREGULAR = np.sort(np.round(RNG.uniform(0.0, 24.0, 20), 2))
CASES = {
    "one, steady": (ONE, STEADY, np.arange(0.0, 24.0, 2.0)),
    "two, reset": (TWO, MIXED, IRREGULAR),
    "a chain": (CHAIN, INFUSED, np.arange(0.0, 30.0, 1.5)),
    "three, infusions": (THREE, INFUSED, np.append(np.arange(0.0, 30.0, 1.5), np.inf)),
}


def cohort(model, order, lost=()):
    """Return 21 patients in an order; those in `lost` cannot be solved."""
    clearance = 3.0 * np.exp(0.5 * np.random.default_rng(0).normal(size=21))
    clearance = np.where(np.isin(np.arange(21), lost), np.nan, clearance)
    return eqx.tree_at(lambda c: c.model.CL, qsp.Cohort.of(model, {"CL": np.ones(21)}), jnp.asarray(clearance[order]))


def solved(case, order=slice(None), lost=()):
    model, regimen, ts = CASES[case]
    method = qsp.solve.MatrixExponential()
    solution = qsp.simulate_cohort(cohort(model, order, lost), regimen, ts, method=method)
    back = np.argsort(np.arange(21)[order])
    results = [solution.observed, solution.states, solution.stats, solution.failed]
    return [np.asarray(x)[back] for x in jax.tree.leaves(results)]


@pytest.mark.parametrize(
    "case",
    [pytest.param(name, marks=pytest.mark.slow) for name in ("one, steady", "a chain")]
    + ["two, reset", "three, infusions"],
)
def test_numbers_are_those_of_xla(case, monkeypatch):
    with qsp.solve.native.compilations() as solves:
        native = solved(case, lost=[4, 9])
    assert {solve.reason for solve in solves} == {None}
    with compiled_again(monkeypatch, backend="xla"), qsp.solve.native.compilations() as solves:
        by_xla = solved(case, lost=[4, 9])
    assert {solve.reason for solve in solves} == {"QSPJAX_BACKEND is xla"}
    assert native[-1].nonzero()[0].tolist() == [4, 9]
    for x, y in zip(native, by_xla, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12 * np.nanmax(np.abs(y)))


def test_bits_depend_on_no_lane_thread_order_or_neighbour(monkeypatch):
    case, lost = "two, reset", [3, 17]
    expected, others = solved(case), np.setdiff1d(np.arange(21), lost)
    for engine in ({"lanes": 2}, {"lanes": 8, "threads": 3}, {"lanes": 1, "threads": 1}):
        with compiled_again(monkeypatch, **engine), mock.patch.object(_call, "THREADED", 4):
            results = solved(case, np.random.default_rng(1).permutation(21), lost)
            assert results[-1][lost].all()
            for x, y in zip(results, expected, strict=True):
                assert x[others].tobytes() == y[others].tobytes(), engine


def grown(rate, again=None):
    regimen = qsp.no_doses() if again is None else qsp.reset(at=again)
    model = Matrix([[rate, 0.0], [1.0, -1.0]], [1.0, 0.0])
    method = qsp.solve.MatrixExponential()
    return qsp.simulate(model, regimen, np.arange(5.0), method=method, throw=False)


def test_a_patient_who_is_set_anew_after_he_was_lost(monkeypatch):
    """What is not finite is missing, and he fails only if it is so at the end."""
    results = []
    for backend in (None, "xla"):
        with compiled_again(monkeypatch, backend=backend):
            results.append((grown(300.0), grown(300.0, again=3.5)))
    for lost, anew in results:
        (failure,) = lost.failures()
        assert (failure.time, failure.state) == (2.0, "y[0]")
        assert np.isfinite(lost.observed["first"]).tolist() == [True, True, True, False, False]
        assert not anew.failed
        assert np.isfinite(anew.observed["first"]).tolist() == [True, True, True, False, True]
        assert int(anew.stats["steps"]) == 6
    for native, by_xla in zip(*results, strict=True):
        np.testing.assert_allclose(native.states["y"], by_xla.states["y"], rtol=1e-12)


def test_the_derivative_of_what_was_reached(monkeypatch):
    """How far a patient gets, his derivative takes from native code."""

    def states(rate):
        return grown(rate).states["y"]

    found = []
    for backend in (None, "xla"):
        with compiled_again(monkeypatch, backend=backend):
            found.append(jax.jacrev(states)(300.0))
    native, by_xla = found
    assert np.isfinite(native[:3]).all()
    assert native[2, 0] == pytest.approx(np.exp(600.0) * 599.0 / 300.0**2, rel=1e-12)
    np.testing.assert_allclose(native, by_xla, rtol=1e-12)


def test_it_is_explained():
    assert str(qsp.explain(TWO)) == "MatrixExponential, exact; 3 states: native code."
    large = Matrix(-np.eye(9), np.ones(9))
    assert "products of matrices" in str(qsp.explain(large))
