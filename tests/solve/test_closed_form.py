"""Values and gradients of linear pharmacokinetics against closed forms, in both modes of differentiation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from tests.systems import linear_pk as exact
from tests.systems.marks import slow_for

DOSES, INTERVAL, AMOUNT = 7, 12.0, 100.0
DISPOSITION = {
    exact.ONE_COMPARTMENT: {"CL": 3.7, "V": 12.5},
    exact.TWO_COMPARTMENT: {"CL": 3.7, "V1": 12.5, "Q": 5.1, "V2": 33.0},
    exact.THREE_COMPARTMENT: {"CL": 3.7, "V1": 12.5, "Q2": 5.1, "V2": 33.0, "Q3": 0.9, "V3": 110.0},
}
ABSORPTION = {"ka": 1.15, "tlag": 0.4, "F": 0.8}
ORAL = {
    exact.ONE_COMPARTMENT_ORAL: DISPOSITION[exact.ONE_COMPARTMENT] | ABSORPTION,
    exact.TWO_COMPARTMENT_ORAL: DISPOSITION[exact.TWO_COMPARTMENT] | ABSORPTION,
    exact.THREE_COMPARTMENT_ORAL: DISPOSITION[exact.THREE_COMPARTMENT] | ABSORPTION,
}
# outputs between doses, at doses (just after them) and long after the last one
TS = np.array([0.0, 0.25, 0.4, 1.0, 3.0, 6.0, 11.9, 12.0, 12.4, 13.7, 24.0, 30.0, 47.0, 60.5, 72.0, 75.0, 84.0, 96.0])

ROUTES = {
    "bolus": (lambda to: qsp.bolus(AMOUNT, to=to), {}),
    "infusion over": (lambda to: qsp.infusion(AMOUNT, to=to, over=3.0), {"duration": 3.0}),
    "infusion at a rate": (lambda to: qsp.infusion(AMOUNT, to=to, rate=40.0), {"rate": 40.0}),
}


CASES = [
    *((system, parameters, route, "central") for system, parameters in DISPOSITION.items() for route in ROUTES),
    *((system, parameters, "bolus", "depot") for system, parameters in ORAL.items()),
    *((exact.ONE_COMPARTMENT_ORAL, ORAL[exact.ONE_COMPARTMENT_ORAL], route, "depot") for route in list(ROUTES)[1:]),
]
IDS = [f"{system.name}-{route}" for system, _, route, _ in CASES]
cases = pytest.mark.parametrize(("system", "parameters", "route", "to"), CASES, ids=IDS)
LONGEST = [
    case
    for case in CASES
    if case[0].name.startswith("Three") or (case[0].name.startswith("Two") and case[2] != "bolus")
]


def setting(system, parameters, route, to):
    model = getattr(qsp.models, system.name)(**parameters)
    make, extra = ROUTES[route]
    regimen = make(to).every(INTERVAL, doses=DOSES)
    doses = [exact.Dose(AMOUNT, INTERVAL * i, **extra) for i in range(DOSES)]
    return model, regimen, doses


@eqx.filter_jit
def concentration(differentiated, static, method):
    model, regimen = eqx.combine(differentiated, static)
    return qsp.simulate(model, regimen, TS, method=method, throw=False).observed["concentration"]


@eqx.filter_jit
def forward(differentiated, static, method):
    return jax.jacfwd(lambda d: concentration(d, static, method))(differentiated)


@eqx.filter_jit
def reverse(differentiated, static, method):
    return jax.jacrev(lambda d: concentration(d, static, method))(differentiated)


def assert_close(got, reference, tolerance):
    floor = 1e-6 * np.abs(reference).max()
    assert np.all(np.abs(np.asarray(got) - reference) <= tolerance * np.maximum(np.abs(reference), floor))


@cases
def test_values(system, parameters, route, to, tight):
    model, regimen, doses = setting(system, parameters, route, to)
    got = qsp.simulate(model, regimen, TS, method=tight).observed["concentration"]
    assert_close(got, exact.concentration(system, parameters, doses, TS), 1e-8)


@pytest.mark.parametrize("jacobian", [forward, reverse])
@pytest.mark.parametrize("case", slow_for(CASES, *LONGEST), ids=IDS)
def test_gradients(case, jacobian, tight):
    system, parameters, route, to = case
    model, regimen, doses = setting(system, parameters, route, to)
    columns = jax.tree.map(lambda _: False, regimen)
    columns = eqx.tree_at(lambda r: (r.time, r.amount, r.duration, r.rate), columns, (True,) * 4)
    wanted = (jax.tree.map(eqx.is_inexact_array, model), columns)
    differentiated, static = eqx.partition((model, regimen), wanted)
    d_model, d_regimen = jacobian(differentiated, static, tight)

    for name in parameters:
        assert_close(getattr(d_model, name), exact.gradient(system, parameters, doses, TS, name), 1e-6)
    moved = {"amount": "amount", "time": "time"} | {name: name for name in ROUTES[route][1]}
    for column, field in moved.items():
        for i in range(DOSES):
            reference = exact.gradient(system, parameters, doses, TS, (field, i))
            assert_close(getattr(d_regimen, column)[:, i], reference, 1e-6)


def test_interval_is_differentiable(tight):
    """The derivative with respect to the dosing interval is the sum over doses of i times that of their times."""
    system, parameters = exact.ONE_COMPARTMENT_ORAL, ORAL[exact.ONE_COMPARTMENT_ORAL]
    model, _, doses = setting(system, parameters, "bolus", "depot")

    def last(interval):
        regimen = qsp.bolus(AMOUNT, to="depot").every(interval, doses=DOSES)
        return qsp.simulate(model, regimen, TS, method=tight).observed["concentration"]

    reference = sum(i * exact.gradient(system, parameters, doses, TS, ("time", i)) for i in range(DOSES))
    assert_close(jax.jacfwd(last)(jnp.asarray(INTERVAL)), reference, 1e-6)
