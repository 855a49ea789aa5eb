"""Derivatives by what enters only what is observed, only the vector field, only the doses, or both: closed forms.

x' = -k q x after a bolus of the amount A, and c = x / (q V) is observed: c = A exp(-k q t) / (q V).
"""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem, estimate
from tests.systems.marks import slow_for

TS = np.array([0.5, 2.0])
TOLERANCES = {"rtol": 1e-8, "atol": 1e-11}
METHODS = {
    "default": None,
    "Rosenbrock": qsp.solve.Rosenbrock(**TOLERANCES),
    "Explicit": qsp.solve.Explicit(**TOLERANCES),
    "Diffrax": qsp.solve.Diffrax(diffrax.Dopri8(), **TOLERANCES),
}
VALUES = {"k": 0.4, "V": 3.0, "q": 1.3, "A": 5.0}
CASES = [(name, method) for method in METHODS for name in VALUES]
TOGETHER = [(way, *case) for way in ("cohort", "vmap", "jit of vmap") for case in CASES]
QUICK = {("cohort", "V", "default"), ("cohort", "V", "Rosenbrock"), ("jit of vmap", "V", "default")}


class Eliminated(qsp.AbstractModel):
    k: jax.Array = qsp.parameter(unit="1/h", doc="only in the vector field")
    V: jax.Array = qsp.parameter(unit="L", doc="only in what is observed")
    q: jax.Array = qsp.parameter(unit="", doc="in both")

    def initial(self):
        return {"x": 0.0}

    def vector_field(self, t, y):
        return {"x": -self.k * self.q * y["x"]}

    def observe(self, t, y):
        return {"c": y["x"] / (self.q * self.V)}


def exactly(name, value):
    p = VALUES | {name: value}
    return p["A"] * jnp.exp(-p["k"] * p["q"] * TS) / (p["q"] * p["V"])


def observed(name, method):
    def of_one(value):
        p = VALUES | {name: value}
        regimen = qsp.bolus(p.pop("A"), to="x")
        return qsp.simulate(Eliminated(**p), regimen, TS, method=method, throw=False).observed["c"]

    return of_one


def observed_in_cohort(name, method):
    def of_all(values):
        p = VALUES | {name: values}
        regimen = qsp.bolus(p.pop("A"), to="x")
        varied = {name: values} if name in p else {"V": jnp.full(values.shape, VALUES["V"])}
        cohort = qsp.Cohort.of(Eliminated(**(p | {name: VALUES[name]} if name in p else p)), varied)
        return qsp.simulate_cohort(cohort, regimen, TS, method=method).observed["c"]

    return of_all


@pytest.mark.parametrize("case", slow_for(CASES, *(set(CASES) - {("V", "default")})), ids="-".join)
def test_of_one_patient_in_both_modes(case):
    name, method = case
    function = observed(name, METHODS[method])
    expected = jax.jacfwd(lambda x: exactly(name, x))(VALUES[name])
    for derivative in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jax.jit(derivative(function))(VALUES[name]), expected, rtol=1e-6)


@pytest.mark.parametrize("case", slow_for(TOGETHER, *(set(TOGETHER) - QUICK)), ids="-".join)
def test_of_several_patients_in_both_modes(case):
    way, name, method = case
    one = observed(name, METHODS[method])
    together = {
        "cohort": observed_in_cohort(name, METHODS[method]),
        "vmap": jax.vmap(one),
        "jit of vmap": jax.jit(jax.vmap(one)),
    }[way]
    values = VALUES[name] * jnp.array([1.0, 1.5])
    expected = jax.vmap(jax.jacfwd(lambda x: exactly(name, x)))(values)
    reverse = jax.grad(lambda x: jnp.sum(together(x)))(values)
    np.testing.assert_allclose(reverse, jnp.sum(expected, axis=1), rtol=1e-6)
    forward = jax.jvp(together, (values,), (jnp.ones(2),))[1]
    np.testing.assert_allclose(forward, expected, rtol=1e-6)


@pytest.mark.slow
def test_an_endpoint_of_a_cohort_has_a_derivative_by_what_enters_what_is_observed():
    def total(volumes):
        model = qsp.Cohort.of(Eliminated(k=0.4, V=3.0, q=1.0), {"V": volumes})
        reduce = qsp.endpoints.Cmax("c")
        return jnp.sum(qsp.simulate_cohort(model, qsp.bolus(5.0, to="x"), TS, reduce=reduce).reduced)

    volumes = jnp.array([3.0, 4.0])
    np.testing.assert_allclose(jax.grad(total)(volumes), -5.0 * np.exp(-0.2) / volumes**2, rtol=1e-6)


@pytest.mark.slow
def test_an_effect_is_estimated_on_exact_concentrations():
    pk = qsp.models.OneCompartment(CL=3.0, V=30.0)
    model = qsp.models.Coupled(pk, qsp.models.Emax(E0=0.0, Emax=10.0, EC50=2.0))
    regimen = qsp.bolus(300.0, to="central")
    ts = np.array([1.0, 4.0, 12.0])
    concentrations = 10.0 * np.exp(-0.1 * ts)
    effects = 10.0 * concentrations / (2.0 + concentrations)
    problem = Problem(
        model,
        Experiment(Measurements(ts, effects, output="effect"), regimen),
        {"effect": Output("effect", Additive(0.1))},
        {"pd.Emax": Free(5.0), "pd.EC50": Free(5.0)},
    )
    fit = estimate(problem)
    assert fit.parameters == pytest.approx({"pd.Emax": 10.0, "pd.EC50": 2.0}, rel=1e-4)
