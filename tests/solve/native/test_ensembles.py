"""Solves in native code: the same bits whatever the lanes, threads and neighbours, and the numbers of XLA."""

import contextlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.solve.native import _call, _engine, _system

TS = jnp.linspace(0.0, 20.0, 11)
ANTIBODY = qsp.models.TMDD(CL=0.2, V1=3.0, Q=0.5, V2=3.0, kon=1.0, koff=0.1, kdeg=0.5, kint=0.1, R0=10.0)
DOSES = qsp.bolus(150.0, to="central").every(5.0, doses=3) + qsp.infusion(60.0, to="central", over=2.0, at=3.0)


@contextlib.contextmanager
def compiled_again(monkeypatch, backend=None, **engine):
    """Compile anew within, with other settings of the engine, or for XLA."""
    jax.clear_caches()
    if backend is not None:
        monkeypatch.setenv("QSPJAX_BACKEND", backend)
    with contextlib.ExitStack() as stack:
        for name, value in engine.items():
            stack.enter_context(mock.patch.object(_engine, name, lambda *_, value=value: value))
        yield
    monkeypatch.delenv("QSPJAX_BACKEND", raising=False)
    jax.clear_caches()


def cohort(order, lost=()):
    """Return 40 patients in an order; those in `lost` cannot be solved."""
    rng = np.random.default_rng(0)
    names = ("CL", "kon", "R0", "kdeg")
    values = {name: getattr(ANTIBODY, name) * np.exp(0.4 * rng.normal(size=40)) for name in names}
    values["kon"] = np.where(np.isin(np.arange(40), lost), 1e308, values["kon"])
    return qsp.Cohort.of(ANTIBODY, {name: value[order] for name, value in values.items()})


def solved(order, lost=()):
    solution = qsp.simulate_cohort(cohort(order, lost), DOSES, TS, method=qsp.solve.Rosenbrock())
    back = np.argsort(order)
    results = [solution.observed["free"], solution.stats["steps"], solution.stats["last_time"], solution.failed]
    return [np.asarray(x)[back] for x in results]


def test_bits_depend_on_no_lane_thread_order_or_neighbour(monkeypatch):
    straight, lost = np.arange(40), [3, 17]
    expected = solved(straight)
    assert not expected[3].any()
    others = np.setdiff1d(straight, lost)
    settings = [{"lanes": 2}, {"lanes": 8}, {"threads": 1}, {"threads": 3}]
    for engine in settings:
        with compiled_again(monkeypatch, **engine), mock.patch.object(_call, "THREADED", 8):
            for order in (straight, np.random.default_rng(1).permutation(40)):
                for x, y in zip(solved(order), expected, strict=True):
                    assert x.tobytes() == y.tobytes(), engine
                results = solved(order, lost)
                assert results[3][lost].all()
                for x, y in zip(results, expected, strict=True):
                    assert x[others].tobytes() == y[others].tobytes(), engine


class Switching(qsp.AbstractEventful):
    """Growth that a treatment stops where it crosses a level, and starts again at a time."""

    k: jax.Array = qsp.parameter(unit="1/d", doc="growth")

    def initial(self):
        return {"tumour": 1.0, "drug": 0.0}

    def vector_field(self, t, y):
        rate = jnp.where(t > 7.3, 0.5, 1.0) * self.k
        return {"tumour": rate * y["tumour"] * (1.0 - y["tumour"] / 50.0) - y["drug"] * y["tumour"], "drug": -y["drug"]}

    def events(self):
        return [qsp.Event(lambda t, y: y["tumour"] > 10.0, lambda t, y: {"drug": y["drug"] + 2.0})]

    def observe(self, t, y):
        return y


CASES = {
    "doses": (ANTIBODY, DOSES, "free"),
    "reset and scale": (
        ANTIBODY,
        DOSES + qsp.reset(at=8.0) + qsp.scale("central", by=0.5, at=12.0),
        "free",
    ),
    "steady state": (ANTIBODY, qsp.bolus(50.0, to="central").every(2.0, doses=3).at_steady_state(), "free"),
    "events": (Switching(k=0.6), qsp.no_doses(), "tumour"),
    "other parameters": (ANTIBODY, DOSES + qsp.set_parameter("CL", 0.5, at=6.0), "free"),
}


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_xla(monkeypatch, name):
    model, regimen, output = CASES[name]
    for method in (qsp.solve.Rosenbrock(rtol=1e-9, atol=1e-12), qsp.solve.Automatic(rtol=1e-9, atol=1e-12)):
        native = qsp.simulate(model, regimen, TS, method=method)
        with compiled_again(monkeypatch, backend="xla"):
            other = qsp.simulate(model, regimen, TS, method=method)
        np.testing.assert_allclose(native.observed[output], other.observed[output], rtol=1e-7, atol=1e-10)
        assert abs(int(native.stats["steps"]) - int(other.stats["steps"])) <= 0.02 * int(other.stats["steps"])


class Sorted(qsp.AbstractModel):
    """A model that sorts."""

    k: jax.Array = qsp.parameter(unit="1/h", doc="rates")

    def initial(self):
        return {"a": 1.0, "b": 2.0}

    def vector_field(self, t, y):
        a, b = jnp.sort(jnp.stack([y["a"], y["b"]]))
        return {"a": -self.k * a * b, "b": -self.k * b}

    def observe(self, t, y):
        return y


def test_elimination_by_tables_has_the_same_bits(monkeypatch):
    def solve():
        return np.asarray(qsp.simulate(ANTIBODY, DOSES, TS, method=qsp.solve.Rosenbrock()).observed["free"])

    expected = solve()
    monkeypatch.setenv("QSPJAX_BACKEND", "native")
    with mock.patch.object(_system, "WRITTEN_OUT", 0), compiled_again(monkeypatch):
        np.testing.assert_array_equal(solve(), expected)
    with mock.patch.object(_system, "WRITTEN_OUT", 0), compiled_again(monkeypatch):
        assert "QSPJAX_BACKEND=native" in str(qsp.explain(ANTIBODY))
        assert qsp.explain(ANTIBODY, method=qsp.solve.Explicit()).native  # it factorises nothing
        with mock.patch.object(_call, "TERMS", 0):
            assert not qsp.explain(ANTIBODY, method=qsp.solve.Explicit()).native


def test_a_model_is_explained(monkeypatch):
    assert qsp.explain(ANTIBODY, DOSES, TS).native
    assert "native code" in str(qsp.explain(ANTIBODY))
    explanation = qsp.explain(Sorted(k=1.0))
    assert not explanation.native
    assert "`sort`" in str(explanation)
    assert "MatrixExponential" in str(qsp.explain(qsp.models.OneCompartment(CL=1.0, V=2.0)))
    with compiled_again(monkeypatch, backend="xla"):
        assert "QSPJAX_BACKEND" in str(qsp.explain(ANTIBODY))
