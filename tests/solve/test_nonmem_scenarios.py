"""Dosing scenarios against NONMEM's own results (mrgsolve/nmtests), in one compiled program; stored steady states."""

import csv
import functools
import itertools
import json

import numpy as np
import pytest

import qspjax as qsp
from qspjax._dosing._regimen import stacked
from tests.systems.advan2 import COLUMNS, Advan2
from tests.systems.data import data_folder, needs_data
from tests.systems.marks import slow_for

METHODS = {
    "Rosenbrock": qsp.solve.Rosenbrock(rtol=1e-8, atol=1e-8),
    "Diffrax": qsp.solve.Diffrax(rtol=1e-8, atol=1e-8),
}


@functools.cache
def scenarios():
    folder = data_folder() / "nmtests"
    data = qsp.io.read_nonmem(folder / "doses_and_observations.csv")
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    reference = np.full(data.ts.shape, np.nan)
    for subject, identity in enumerate(data.ids):
        found = [float(row["NONMEM"]) for row in rows if int(row["ID"]) == identity]
        reference[subject, : len(found)] = found
    return data, reference


@functools.cache
def simulated(method):
    data, _ = scenarios()
    cohort, regimen = data.patients(Advan2(), COLUMNS)
    solution = qsp.simulate_cohort(cohort, regimen, data.ts, order=data.order, method=METHODS[method])
    assert not solution.failed.any()
    return np.asarray(solution.observed["CP"])


@needs_data
@pytest.mark.parametrize("method", slow_for(METHODS, "Diffrax"))
def test_every_scenario_agrees_with_nonmem(method):
    data, reference = scenarios()
    observed = data.evid == 0
    peak = np.nanmax(reference, axis=1, keepdims=True)
    error = np.abs(simulated(method) - reference) / (5e-5 * np.abs(reference) + 1e-6 * peak)
    worst = np.max(np.where(observed, error, 0.0), axis=1)
    assert observed.sum() > 2000
    assert worst.max() <= 1.0, dict(zip(data.ids, worst.round(2), strict=True))


@pytest.mark.slow
@needs_data
def test_scenarios_with_constant_parameters_are_exact():
    """One at a time, by matrix exponentials: what NONMEM rounds to five digits."""
    data, reference = scenarios()
    constant = [i for i in range(data.subjects) if all((np.ptp(x[i]) == 0) for x in data.varying.values())]
    assert len(constant) >= 15
    for i in constant:
        one = data.take([i])
        first = {**one.covariates, **{name: values[:, 0] for name, values in one.varying.items()}}
        model = Advan2(**{name: first[column][0] for name, column in COLUMNS.items()})
        solution = qsp.simulate_cohort(one.cohort(model), one.regimen, one.ts, order=one.order)
        assert solution.labels.method.startswith("MatrixExponential")
        here = one.evid[0] == 0
        got, want = np.asarray(solution.observed["CP"])[0][here], reference[i][: one.ts.shape[1]][here]
        assert np.all(np.abs(got - want) <= 5e-5 * np.abs(want) + 1e-6 * want.max()), one.ids


def stored_regimen(case, to):
    amount, rate = float(case.get("dose", case.get("amt"))), case.get("rate")
    regimen = qsp.bolus(amount, to=to) if rate is None else qsp.infusion(amount, to=to, rate=float(rate))
    if "ii" in case:
        regimen = regimen.every(float(case["ii"]), doses=case.get("addl", 0) + 1)
    return regimen.at_steady_state() if "ss" in case else regimen


@pytest.mark.slow
@needs_data
def test_stored_closed_forms():
    """One to three compartments; bolus, oral, infusion; single, repeated, at steady state; 17 digits."""
    stored = json.loads((data_folder() / "closed-form" / "pk_linear.json").read_text())
    values = {name: float(value) for name, value in stored["params"].items()}
    names = {"1": ["V"], "2": ["V1", "Q", "V2"], "3": ["V1", "Q2", "V2", "Q3", "V3"]}
    classes = {"1": "OneCompartment", "2": "TwoCompartment", "3": "ThreeCompartment"}
    values |= {"V": values["V1"], "Q": values["Q2"], "ka": values["KA"]}
    checked = 0
    for compartments, oral in itertools.product(classes, (False, True)):
        cases = [case for case in stored["cases"] if case["id"][1] == compartments and (case["id"][2] == "o") == oral]
        parameters = {name: values[name] for name in ("CL", *names[compartments], *(["ka"] if oral else []))}
        model = getattr(qsp.models, classes[compartments] + ("Oral" if oral else ""))(**parameters)
        regimens = [stored_regimen(case, "depot" if oral else "central") for case in cases]
        longest = max(len(case["time"]) for case in cases)
        ts, wanted = np.full((len(cases), longest), np.inf), np.full((len(cases), longest), np.nan)
        for row, case in enumerate(cases):
            ts[row, : len(case["time"])], wanted[row, : len(case["time"])] = case["time"], case["conc"]
        cohort = qsp.Cohort.of(model, {}, size=len(cases))
        got = np.asarray(qsp.simulate_cohort(cohort, stacked(regimens), ts).observed["concentration"])
        floor = 1e-6 * np.nanmax(wanted, axis=1, keepdims=True)
        error = np.abs(got - wanted) / np.maximum(np.abs(wanted), floor)
        assert np.nanmax(error) <= 1e-8, (model, np.nanmax(error, axis=1))
        checked += np.isfinite(error).sum()
    assert checked == sum(len(case["time"]) for case in stored["cases"])
